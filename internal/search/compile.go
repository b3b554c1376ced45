package search

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ncruces/go-sqlite3"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/index"
)

// maxExpansion is how many words a wildcard may stand for in one year.
const maxExpansion = 1000

// plan is a query compiled for one year.
type plan struct {
	match    string      // FTS5 expression; "" for none
	from, to catalog.Row // rows, to exclusive
	where    []string    // further conditions on docs d
	args     []any
	ids      []string // conditions on the id alone
	idArgs   []any
	never    bool // cannot match
}

// compiler turns an expression into plans.
type compiler struct {
	s     *Searcher
	ctx   context.Context
	req   *Request
	names *names
	ids   map[string][]catalog.Row
	r     *index.Reader // of the year at hand, for wildcards
}

// names resolves folders and mailboxes that the scope can see.
type names struct {
	folders   []catalog.Folder
	mailboxes []catalog.Mailbox
}

// compile makes the plan of one year.
func (c *compiler) compile(e *Expr) (*plan, error) {
	p := &plan{from: 0, to: math.MaxInt64}
	var fts []string
	var negative []string
	kids := []*Expr{e}
	if e.Op == OpAnd {
		kids = e.Kids
	}
	for _, k := range kids {
		if k.Op == OpTerm && c.bound(p, k.Term) {
			continue
		}
		if k.Op == OpNot && c.textual(k.Kids[0]) {
			m, err := c.match(k.Kids[0])
			if err != nil {
				return nil, err
			}
			if m != "" {
				negative = append(negative, m)
			}
			continue
		}
		if c.textual(k) {
			m, err := c.match(k)
			if err != nil {
				return nil, err
			}
			if m == "" {
				p.never = true
			}
			fts = append(fts, m)
			continue
		}
		if err := c.condition(p, k); err != nil {
			return nil, err
		}
	}
	if k := c.scopeKey(); k != "" {
		fts = append(fts, k)
	}
	if len(fts) == 0 && len(negative) > 0 {
		fts = append(fts, quote(index.KeyAll))
	}
	p.match = strings.Join(fts, " AND ")
	if len(negative) > 0 {
		p.match = "(" + p.match + ") NOT (" + strings.Join(negative, " OR ") + ")"
	}
	if p.from > 0 || p.to < math.MaxInt64 {
		cond, args, err := c.r.Between(p.id(), p.from, p.to)
		if err != nil {
			return nil, err
		}
		p.bound(cond, args...)
	}
	return p, nil
}

// bound adds a condition on the id.
func (p *plan) bound(cond string, args ...any) {
	p.ids = append(slices.Clone(p.ids), cond)
	p.idArgs = append(slices.Clone(p.idArgs), args...)
}

// scopeKey narrows to the mailboxes of the scope.
func (c *compiler) scopeKey() string {
	if c.req.Scope.All {
		return ""
	}
	var ks []string
	for _, m := range c.req.Scope.Mailboxes {
		ks = append(ks, quote(index.KeyMailbox(m)))
	}
	if len(ks) == 0 {
		return quote("\x01none")
	}
	return "(" + strings.Join(ks, " OR ") + ")"
}

// bound takes a date or size at the top into the plan.
func (c *compiler) bound(p *plan, t Term) bool {
	from, to, ok := c.rows(t)
	if ok {
		p.from, p.to = max(p.from, from), min(p.to, to)
		return true
	}
	return false
}

// rows is the range of rows that a date operator stands for.
func (c *compiler) rows(t Term) (from, to catalog.Row, ok bool) {
	to = math.MaxInt64
	switch t.Field {
	case "before":
		day, _, _ := parseDay(t.Text, c.req.Zone)
		return 0, catalog.RowAt(day), true
	case "after":
		day, _, _ := parseDay(t.Text, c.req.Zone)
		return catalog.RowAt(day), to, true
	case "on":
		a, b, _ := parseDay(t.Text, c.req.Zone)
		return catalog.RowAt(a), catalog.RowAt(b), true
	case "older_than":
		at, _ := ago(t.Text, c.req.Now.In(c.req.Zone))
		return 0, catalog.RowAt(at), true
	case "newer_than":
		at, _ := ago(t.Text, c.req.Now.In(c.req.Zone))
		return catalog.RowAt(at), to, true
	}
	return 0, 0, false
}

// textual tells whether an expression can be put to FTS5 alone.
func (c *compiler) textual(e *Expr) bool {
	switch e.Op {
	case OpTerm:
		switch e.Term.Field {
		case "larger", "smaller", "before", "after", "on", "older_than", "newer_than", "id":
			return false
		}
		return true
	case OpNot:
		return c.textual(e.Kids[0])
	}
	for _, k := range e.Kids {
		if !c.textual(k) {
			return false
		}
	}
	return len(e.Kids) > 0
}

// match compiles a textual expression to FTS5. "" matches nothing.
func (c *compiler) match(e *Expr) (string, error) {
	switch e.Op {
	case OpTerm:
		return c.term(e.Term)
	case OpNot:
		m, err := c.match(e.Kids[0])
		if err != nil || m == "" {
			return quote(index.KeyAll), err
		}
		return "(" + quote(index.KeyAll) + " NOT " + m + ")", nil
	case OpOr:
		var ms []string
		for _, k := range e.Kids {
			m, err := c.match(k)
			if err != nil {
				return "", err
			}
			if m != "" {
				ms = append(ms, m)
			}
		}
		if len(ms) == 0 {
			return "", nil
		}
		return "(" + strings.Join(ms, " OR ") + ")", nil
	}
	var pos, neg []string
	for _, k := range e.Kids {
		not := k.Op == OpNot
		if not {
			k = k.Kids[0]
		}
		m, err := c.match(k)
		switch {
		case err != nil:
			return "", err
		case m == "" && !not:
			return "", nil
		case not && m != "":
			neg = append(neg, m)
		case !not:
			pos = append(pos, m)
		}
	}
	if len(pos) == 0 {
		pos = []string{quote(index.KeyAll)}
	}
	m := "(" + strings.Join(pos, " AND ") + ")"
	if len(neg) > 0 {
		m = "(" + m + " NOT (" + strings.Join(neg, " OR ") + "))"
	}
	return m, nil
}

// columnsOf maps an operator to columns of the index.
var columnsOf = map[string]string{
	"from": "sender", "to": "recipients", "cc": "cc", "bcc": "bcc", "subject": "subject", "list": "list", "filename": "names",
}

func quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// term compiles one textual condition.
func (c *compiler) term(t Term) (string, error) {
	switch t.Field {
	case "has":
		return quote(index.KeyAttachment), nil
	case "in":
		return c.folders(t), nil
	case "mailbox":
		return c.mailboxes(t), nil
	}
	if t.Wild {
		return c.wildcard(t)
	}
	n, single := 0, ""
	index.Tokens(t.Text, true, func(token string, start, end int, same bool) error {
		if !same {
			n++
			single = t.Text[start:end]
		}
		return nil
	})
	if n == 0 {
		if t.Field == "" {
			return quote(index.KeyAll), nil // nothing but punctuation restricts nothing
		}
		return "", nil
	}
	m := quote(strings.TrimLeft(t.Text, "\x01"))
	if t.Prefix || n == 1 && utf8.RuneCountInString(single) == 1 && single > "\u1100" {
		m += " *" // a single character of Chinese is the first of a pair
	}
	return c.inColumn(t.Field, m), nil
}

func (c *compiler) inColumn(field, m string) string {
	if col := columnsOf[field]; col != "" {
		return "{" + col + "} : " + m
	}
	return m
}

// folders compiles in:NAME.
func (c *compiler) folders(t Term) string {
	var ks []string
	for _, f := range c.names.folders {
		if t.inFolder(f.Name) && c.req.Scope.Allows(f.Mailbox) {
			ks = append(ks, quote(index.KeyFolder(f.ID)))
		}
	}
	return oneOf(ks)
}

func (c *compiler) mailboxes(t Term) string {
	var ks []string
	for _, m := range c.names.mailboxes {
		if t.inMailbox(m.Name) && c.req.Scope.Allows(m.ID) {
			ks = append(ks, quote(index.KeyMailbox(m.ID)))
		}
	}
	return oneOf(ks)
}

func oneOf(ks []string) string {
	switch len(ks) {
	case 0:
		return ""
	case 1:
		return ks[0]
	}
	return "(" + strings.Join(ks, " OR ") + ")"
}

// wildcard compiles words with * and ? in them. Punctuation separates them, as it
// does in the index: *@example.org is example and org, in one field.
func (c *compiler) wildcard(t Term) (string, error) {
	var all []string
	for _, w := range wildWords(t.Text) {
		m, err := c.wildWord(t, w)
		if err != nil || m == "" {
			return "", err
		}
		all = append(all, m)
	}
	if len(all) == 0 {
		return quote(index.KeyAll), nil
	}
	return c.inColumn(t.Field, "("+strings.Join(all, " AND ")+")"), nil
}

// wildWords returns the words of a pattern, without those that stand for any.
// Question marks alone are words of so many letters.
func wildWords(pattern string) []string {
	words := strings.FieldsFunc(pattern, func(r rune) bool { return r != '*' && r != '?' && !index.IsWord(r) })
	return slices.DeleteFunc(words, func(w string) bool { return strings.Trim(w, "*") == "" })
}

// wildWord looks up the words of this year that a pattern stands for.
func (c *compiler) wildWord(t Term, text string) (string, error) {
	at := strings.IndexAny(text, "*?")
	if at < 0 {
		return quote(text), nil
	}
	if rest := strings.TrimRight(text, "*"); !strings.ContainsAny(rest, "*?") {
		return quote(rest) + " *", nil
	}
	prefix, _ := index.Fold(text[:at])
	var pattern strings.Builder
	for _, r := range text {
		s := string(r)
		if r != '*' && r != '?' {
			s, _ = index.Fold(s)
		}
		pattern.WriteString(s)
	}
	var words []string
	args := []any{prefix, prefix + "\U0010FFFF", pattern.String(), int64(maxExpansion + 1)}
	err := c.r.Query(`SELECT term FROM words WHERE term >= ? AND term < ? AND term GLOB ? LIMIT ?`, args, func(s *sqlite3.Stmt) bool {
		if w := s.ColumnText(0); !strings.HasPrefix(w, "\x01") {
			words = append(words, quote(w))
		}
		return true
	})
	if err != nil {
		return "", err
	}
	if len(words) > maxExpansion {
		return "", &SyntaxError{t.Pos, TooWide, t.Text}
	}
	return oneOf(words), nil
}

// condition compiles an expression that FTS5 cannot decide alone.
func (c *compiler) condition(p *plan, e *Expr) error {
	sql, err := c.sql(p, e)
	if err == nil {
		p.where = append(p.where, sql)
	}
	return err
}

func (c *compiler) sql(p *plan, e *Expr) (string, error) {
	if c.textual(e) {
		m, err := c.match(e)
		if err != nil {
			return "", err
		}
		if m == "" {
			return "0", nil
		}
		p.args = append(p.args, m)
		return "d.id IN (SELECT rowid FROM f WHERE f MATCH ?)", nil
	}
	switch e.Op {
	case OpNot:
		s, err := c.sql(p, e.Kids[0])
		return "NOT " + s, err
	case OpAnd, OpOr:
		var ss []string
		for _, k := range e.Kids {
			s, err := c.sql(p, k)
			if err != nil {
				return "", err
			}
			ss = append(ss, s)
		}
		if len(ss) == 0 {
			return "1", nil
		}
		return "(" + strings.Join(ss, map[Op]string{OpAnd: " AND ", OpOr: " OR "}[e.Op]) + ")", nil
	}
	t := e.Term
	if from, to, ok := c.rows(t); ok {
		p.args = append(p.args, int64(from), int64(to))
		return "(d.row >= ? AND d.row < ?)", nil
	}
	switch t.Field {
	case "larger", "smaller":
		n, err := parseSize(t.Text)
		if err != nil {
			return "", err
		}
		p.args = append(p.args, n)
		return map[string]string{"larger": "d.size > ?", "smaller": "d.size < ?"}[t.Field], nil
	case "id":
		rows, err := c.messageID(t.Text)
		if err != nil {
			return "", err
		}
		var ss []string
		for _, r := range rows {
			ss = append(ss, fmt.Sprint(int64(r)))
		}
		return "d.row IN (" + strings.Join(ss, ",") + ")", nil
	}
	return "", fmt.Errorf("operator %q", t.Field)
}

// messageID returns the rows with a Message-ID.
func (c *compiler) messageID(id string) ([]catalog.Row, error) {
	id = strings.Trim(id, "<>")
	if rows, ok := c.ids[id]; ok {
		return rows, nil
	}
	rows, err := c.s.a.Catalog().ByMessageID(c.ctx, id)
	c.ids[id] = rows
	return rows, err
}

// source is the FROM and WHERE of a plan, with its arguments.
func (p *plan) source() (string, []any) {
	where := append([]string(nil), p.where...)
	args := append([]any(nil), p.args...)
	from := "docs d"
	if p.match != "" {
		from = "f"
		if len(p.where) > 0 {
			from = "f CROSS JOIN docs d ON d.id = f.rowid"
		}
		where = append(where, "f MATCH ?")
		args = append(args, p.match)
	}
	where = append(where, p.ids...)
	args = append(args, p.idArgs...)
	s := " FROM " + from
	if len(where) > 0 {
		s += " WHERE " + strings.Join(where, " AND ")
	}
	return s, args
}

// id is the column of the id.
func (p *plan) id() string {
	if p.match != "" {
		return "f.rowid"
	}
	return "d.id"
}

// row is the row that the id stands for.
func (p *plan) row() string { return "(SELECT row FROM docs WHERE docs.id = " + p.id() + ")" }

// touches tells whether a year can have rows of the plan.
func (p *plan) touches(year int) bool {
	from := catalog.RowAt(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC))
	to := catalog.RowAt(time.Date(year+1, 1, 1, 0, 0, 0, 0, time.UTC))
	return !p.never && p.from < to && p.to > from
}
