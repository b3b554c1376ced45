// Package search is the query language and its execution.
//
// A query is words, "phrases", prefix*, wildcards inside words, OR, -, and
// parentheses, with the operators of Gmail. Parse makes an expression of it;
// a Searcher compiles the expression for each year's index and lets the catalog
// decide every hit. An unknown operator is searched as text, and a warning says
// so; it is never ignored.
package search

import (
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxQuery is the longest query in bytes, and maxTerms the most terms: far
// beyond what a person types, and little enough to compile.
const (
	MaxQuery = 4000
	maxTerms = 200
	maxDepth = 50
)

// Op is the kind of an expression.
type Op int

// The kinds of expressions.
const (
	OpTerm Op = iota
	OpAnd
	OpOr
	OpNot
)

// Expr is a parsed query. An OpAnd without kids matches everything.
type Expr struct {
	Op   Op
	Kids []*Expr
	Term Term
}

// Term is one condition.
type Term struct {
	Field  string // "" for any text
	Text   string
	Phrase bool // was quoted
	Prefix bool // ended in *
	Wild   bool // contains * or ? inside
	Pos    int  // in characters
}

// String is the term as it could be typed.
func (t Term) String() string {
	s := t.Text
	if t.Phrase || strings.ContainsAny(s, " ()") {
		s = `"` + s + `"`
	}
	if t.Prefix {
		s += "*"
	}
	if t.Field != "" {
		return t.Field + ":" + s
	}
	return s
}

// fields maps operators to what they search; aliases share a value.
var fields = map[string]string{
	"from": "from", "to": "to", "cc": "cc", "bcc": "bcc", "subject": "subject", "in": "in", "folder": "in", "label": "in", "mailbox": "mailbox", "has": "has",
	"filename": "filename", "larger": "larger", "smaller": "smaller", "size": "larger", "before": "before", "older": "before", "after": "after", "newer": "after",
	"older_than": "older_than", "newer_than": "newer_than", "list": "list", "id": "id", "rfc822msgid": "id", "on": "on",
}

// Parse parses a query. Warnings are for people: what was taken otherwise than
// they may have meant it.
func Parse(q string) (e *Expr, warnings []Warning, err error) {
	if len(q) > MaxQuery {
		return nil, nil, &SyntaxError{utf8.RuneCountInString(strings.ToValidUTF8(q[:MaxQuery], "")), TooLong, ""}
	}
	if !utf8.ValidString(q) {
		q = strings.ToValidUTF8(q, "\uFFFD")
	}
	// Control characters separate words; none reaches the index as a key.
	q = strings.Map(func(r rune) rune {
		if r < ' ' || r == 127 {
			return ' '
		}
		return r
	}, q)
	p := &parser{q: q}
	e, err = p.or(0)
	if err == nil && p.pos < len(p.q) {
		err = p.problem(p.pos, NotOpened, "")
	}
	if err != nil {
		return nil, p.warnings, err
	}
	return e, p.warnings, nil
}

type parser struct {
	q        string
	pos      int
	terms    int
	braces   int // open: a closing one ends a word
	warnings []Warning
}

// char is a byte offset in characters, which is what people count.
func (p *parser) char(at int) int { return utf8.RuneCountInString(p.q[:at]) }

func (p *parser) problem(at int, what Problem, fragment string) error {
	return &SyntaxError{p.char(at), what, fragment}
}

func (p *parser) space() {
	for p.pos < len(p.q) && (p.q[p.pos] == ' ' || p.q[p.pos] == '\t' || p.q[p.pos] == '\n' || p.q[p.pos] == '\r') {
		p.pos++
	}
	if strings.HasPrefix(p.q[p.pos:], "\u3000") { // the space of Japanese keyboards
		p.pos += len("\u3000")
		p.space()
	}
}

// keyword consumes OR or AND as a word of its own.
func (p *parser) keyword(w string) bool {
	rest := p.q[p.pos:]
	if !strings.HasPrefix(rest, w) {
		return false
	}
	if rest = rest[len(w):]; rest != "" && !strings.ContainsAny(rest[:1], " \t\n\r(\"") {
		return false
	}
	p.pos += len(w)
	return true
}

// closes tells whether a character ends what a parenthesis or brace began.
func (p *parser) closes(c byte) bool { return c == ')' || c == '}' && p.braces > 0 }

func (p *parser) or(depth int) (*Expr, error) {
	if depth > maxDepth {
		return nil, p.problem(p.pos, TooDeep, "")
	}
	first, err := p.and(depth)
	if err != nil {
		return nil, err
	}
	kids := []*Expr{first}
	for {
		p.space()
		at := p.pos
		if !p.keyword("OR") && !p.keyword("|") {
			break
		}
		next, err := p.and(depth)
		if err != nil {
			return nil, err
		}
		if len(next.Kids) == 0 && next.Op == OpAnd || len(kids[len(kids)-1].Kids) == 0 && kids[len(kids)-1].Op == OpAnd {
			return nil, p.problem(at, EmptyOr, "")
		}
		kids = append(kids, next)
	}
	if len(kids) == 1 {
		return first, nil
	}
	return &Expr{Op: OpOr, Kids: kids}, nil
}

func (p *parser) and(depth int) (*Expr, error) {
	kids, err := p.list(depth)
	if err != nil || len(kids) != 1 {
		return &Expr{Op: OpAnd, Kids: kids}, err
	}
	return kids[0], nil
}

// list parses what stands side by side.
func (p *parser) list(depth int) (kids []*Expr, err error) {
	for {
		p.space()
		if p.pos >= len(p.q) || p.closes(p.q[p.pos]) {
			return kids, nil
		}
		at := p.pos
		if p.keyword("OR") || p.keyword("|") {
			if p.braces > 0 && len(kids) > 0 {
				continue // said twice
			}
			p.pos = at
			return kids, nil
		}
		if p.keyword("AND") {
			continue
		}
		k, err := p.unary(depth)
		if err != nil {
			return nil, err
		}
		kids = append(kids, k)
	}
}

func (p *parser) unary(depth int) (*Expr, error) {
	at := p.pos
	if p.q[p.pos] == '-' && !p.dash() || p.keyword("NOT") {
		if p.q[p.pos:] != "" && p.q[p.pos] == '-' {
			p.pos++
		}
		p.space()
		if p.pos >= len(p.q) || p.closes(p.q[p.pos]) {
			return nil, p.problem(at, EmptyMinus, "")
		}
		k, err := p.unaryOnce(depth)
		if err != nil {
			return nil, err
		}
		return &Expr{Op: OpNot, Kids: []*Expr{k}}, nil
	}
	return p.unaryOnce(depth)
}

// dash tells whether there is a dash between words, which excludes nothing.
func (p *parser) dash() bool {
	rest := p.q[p.pos+1:]
	return p.pos > 0 && p.q[p.pos-1] == ' ' && strings.HasPrefix(rest, " ") && strings.TrimLeft(rest, " ") != ""
}

func (p *parser) unaryOnce(depth int) (*Expr, error) {
	switch p.q[p.pos] {
	case '{':
		return p.anyOf(depth)
	case '(':
		at, braces := p.pos, p.braces
		p.pos++
		p.braces = 0
		e, err := p.or(depth + 1)
		p.braces = braces
		if err != nil {
			return nil, err
		}
		p.space()
		if p.pos >= len(p.q) || p.q[p.pos] != ')' {
			return nil, p.problem(at, NotClosed, "")
		}
		p.pos++
		return e, nil
	}
	return p.term(depth)
}

// anyOf parses {a b}, which is (a OR b).
func (p *parser) anyOf(depth int) (*Expr, error) {
	at := p.pos
	p.pos++
	p.braces++
	defer func() { p.braces-- }()
	if depth++; depth > maxDepth {
		return nil, p.problem(at, TooDeep, "")
	}
	kids, err := p.list(depth)
	if err != nil {
		return nil, err
	}
	if p.pos >= len(p.q) || p.q[p.pos] != '}' {
		return nil, p.problem(at, NotClosed, "")
	}
	p.pos++
	if len(kids) == 0 {
		return &Expr{Op: OpAnd}, nil // like ()
	}
	return &Expr{Op: OpOr, Kids: kids}, nil
}

func (p *parser) term(depth int) (*Expr, error) {
	if p.terms++; p.terms > maxTerms {
		return nil, p.problem(p.pos, TooManyTerms, "")
	}
	at := p.pos
	word, phrase, err := p.word(true)
	if err != nil {
		return nil, err
	}
	t := Term{Text: word, Phrase: phrase, Pos: p.char(at)}
	if !phrase && p.pos < len(p.q) && p.q[p.pos] == ':' {
		name := strings.ToLower(word)
		if f, ok := fields[name]; ok {
			p.pos++
			return p.field(f, at, depth)
		}
		// Not an operator: the colon is part of the text.
		rest, _, err := p.word(false)
		if err != nil {
			return nil, err
		}
		t.Text += rest
		if isName(name) && !strings.HasPrefix(rest, "://") {
			p.warnings = append(p.warnings, Warning{name})
		}
	}
	return leaf(t), nil
}

func isName(s string) bool {
	for _, c := range s {
		if (c < 'a' || c > 'z') && c != '_' {
			return false
		}
	}
	return s != ""
}

// field parses what stands behind an operator: a word, a phrase, or words in
// parentheses that all get the operator.
func (p *parser) field(f string, at, depth int) (*Expr, error) {
	if p.pos < len(p.q) && (p.q[p.pos] == '(' || p.q[p.pos] == '{') {
		e, err := p.unaryOnce(depth)
		if err != nil {
			return nil, err
		}
		return e, distribute(e, f)
	}
	word, phrase, err := p.word(false)
	if err != nil {
		return nil, err
	}
	if word == "" {
		return nil, p.problem(at, EmptyField, f)
	}
	t := Term{Field: f, Text: word, Phrase: phrase, Pos: p.char(at)}
	if err := t.check(time.Time{}); err != nil {
		return nil, err
	}
	return leaf(t), nil
}

func distribute(e *Expr, f string) error {
	if e.Op == OpTerm {
		if e.Term.Field == "" {
			e.Term.Field = f
		}
		return e.Term.check(time.Time{})
	}
	for _, k := range e.Kids {
		if err := distribute(k, f); err != nil {
			return err
		}
	}
	return nil
}

func leaf(t Term) *Expr {
	if !t.Phrase {
		if strings.HasSuffix(t.Text, "*") {
			t.Prefix = true
			t.Text = strings.TrimRight(t.Text, "*")
		}
		t.Wild = strings.ContainsAny(t.Text, "*?") && t.Field != "id" && t.Field != "in" && t.Field != "mailbox"
		if t.Wild && t.Prefix {
			t.Text, t.Prefix = t.Text+"*", false
		}
	}
	return &Expr{Op: OpTerm, Term: t}
}

// word reads up to a space or parenthesis; up to a colon too if asked. A quote
// at the beginning makes a phrase.
func (p *parser) word(colon bool) (string, bool, error) {
	if p.pos < len(p.q) && p.q[p.pos] == '"' {
		at := p.pos
		end := strings.IndexByte(p.q[p.pos+1:], '"')
		if end < 0 {
			return "", false, p.problem(at, QuoteOpen, "")
		}
		p.pos += end + 2
		return p.q[at+1 : at+1+end], true, nil
	}
	at := p.pos
	for p.pos < len(p.q) {
		switch c := p.q[p.pos]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '(' && p.pos > at || p.closes(c):
			return p.q[at:p.pos], false, nil
		case c == '"' && p.pos > at:
			return p.q[at:p.pos], false, nil
		case c == ':' && colon && p.pos > at:
			return p.q[at:p.pos], false, nil
		case strings.HasPrefix(p.q[p.pos:], "\u3000"):
			return p.q[at:p.pos], false, nil
		}
		p.pos++
	}
	return p.q[at:], false, nil
}

// check looks at the value of an operator. now is for relative dates.
func (t Term) check(time.Time) error {
	var err error
	switch t.Field {
	case "larger", "smaller":
		_, err = parseSize(t.Text)
	case "before", "after", "on":
		_, _, err = parseDay(t.Text, time.UTC)
	case "older_than", "newer_than":
		_, err = ago(t.Text, time.Unix(0, 0))
	case "has":
		if s := strings.ToLower(t.Text); s != "attachment" && s != "attachments" {
			err = errValue
		}
	}
	if err != nil {
		return &SyntaxError{t.Pos, valueProblems[t.Field], t.Text}
	}
	return nil
}

// errValue is the error of a value that its operator does not understand.
var errValue = errors.New("not understood")

// valueProblems are what is wrong then.
var valueProblems = map[string]Problem{
	"larger": BadSize, "smaller": BadSize, "before": BadDate, "after": BadDate, "on": BadDate, "older_than": BadAge, "newer_than": BadAge, "has": BadHas,
}

// parseSize reads "10M", "500k", "1G" or bytes; 1K is 1,024 bytes.
func parseSize(s string) (int64, error) {
	num := strings.TrimSuffix(strings.ToLower(s), "b")
	unit := int64(1)
	for suffix, u := range map[string]int64{"k": 1 << 10, "m": 1 << 20, "g": 1 << 30} {
		if rest, ok := strings.CutSuffix(num, suffix); ok {
			num, unit = rest, u
			break
		}
	}
	n, err := strconv.ParseFloat(num, 64)
	if err != nil || !(n >= 0 && n <= 1<<40) { // not NaN either
		return 0, errValue
	}
	return int64(n * float64(unit)), nil
}

// parseDay reads 2026-03-12, 2026/03/12, 2026-03 or 2026 as a day, month or
// year, and returns its beginning and its end.
func parseDay(s string, tz *time.Location) (from, to time.Time, err error) {
	norm := strings.NewReplacer("/", "-", ".", "-").Replace(s)
	for _, l := range []struct {
		layout  string
		y, m, d int
	}{{"2006-1-2", 0, 0, 1}, {"2006-1", 0, 1, 0}, {"2006", 1, 0, 0}, {"2-1-2006", 0, 0, 1}} {
		if t, perr := time.ParseInLocation(l.layout, norm, tz); perr == nil {
			return t, t.AddDate(l.y, l.m, l.d), nil
		}
	}
	return from, to, errValue
}

// ago reads "7d", "2w", "3m", "1y" and counts back from now.
func ago(s string, now time.Time) (time.Time, error) {
	bad := errValue
	if len(s) < 2 {
		return now, bad
	}
	n, err := strconv.Atoi(s[:len(s)-1])
	if err != nil || n < 0 || n > 100_000 {
		return now, bad
	}
	switch s[len(s)-1] | 0x20 {
	case 'h':
		return now.Add(-time.Duration(n) * time.Hour), nil
	case 'd':
		return now.AddDate(0, 0, -n), nil
	case 'w':
		return now.AddDate(0, 0, -7*n), nil
	case 'm':
		return now.AddDate(0, -n, 0), nil
	case 'y':
		return now.AddDate(-n, 0, 0), nil
	}
	return now, bad
}
