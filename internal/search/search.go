package search

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/index"
)

// Sort is the order of hits.
type Sort string

// The orders.
const (
	Newest    Sort = "date"
	Oldest    Sort = "oldest"
	Relevance Sort = "relevance"
	Size      Sort = "size"
)

// ParseSort reads an order; "" is Newest.
func ParseSort(s string) (Sort, error) {
	switch Sort(s) {
	case "", Newest, "newest":
		return Newest, nil
	case Oldest, Relevance, Size:
		return Sort(s), nil
	}
	return "", fmt.Errorf("order %q: it is date, oldest, relevance or size", s)
}

// CountLimit is up to where hits are counted exactly.
const CountLimit = 10_000

// rankWindow is how many of the newest candidates of each year are ranked.
const rankWindow = 2000

// MaxLimit is the most hits of one request.
const MaxLimit = 500

// Request is what to search, for whom.
type Request struct {
	Query string
	Scope catalog.Scope
	Sort  Sort
	Limit int    // default 50
	After string // Result.Next of the page before
	Zone  *time.Location
	Now   time.Time
	Count bool // count all hits, exactly up to CountLimit
}

// Result is a page of hits.
type Result struct {
	Hits     []catalog.Hit
	Total    int
	Exact    bool // Total is all; else there are more
	Next     string
	Took     time.Duration
	Behind   int64 // changes that the index has not followed yet
	Warnings []Warning
	Expr     *Expr
}

// Searcher searches an archive.
type Searcher struct {
	a *archive.Archive
	x *index.Index
}

// New returns a searcher.
func New(a *archive.Archive, x *index.Index) *Searcher { return &Searcher{a, x} }

// Search runs a query. What the scope may not see is in no hit and no count.
func (s *Searcher) Search(ctx context.Context, req Request) (*Result, error) {
	start := time.Now()
	if req.Limit <= 0 {
		req.Limit = 50
	}
	req.Limit = min(req.Limit, MaxLimit)
	if req.Zone == nil {
		req.Zone = time.UTC
	}
	if req.Now.IsZero() {
		req.Now = s.a.Now()
	}
	if req.Sort == "" {
		req.Sort = Newest
	}
	res := &Result{Exact: true}
	var err error
	if res.Expr, res.Warnings, err = Parse(req.Query); err != nil {
		return nil, err
	}
	after, err := parseCursor(req.After)
	if err != nil {
		return nil, err
	}
	if res.Behind, err = s.x.Behind(ctx); err != nil {
		return nil, err
	}
	c := &compiler{s: s, ctx: ctx, req: &req, ids: map[string][]catalog.Row{}}
	if c.names, err = s.names(ctx, res.Expr); err != nil {
		return nil, err
	}
	years, err := s.x.Years(ctx)
	if err != nil {
		return nil, err
	}
	if req.Sort == Oldest {
		slices.Reverse(years)
	}
	switch req.Sort {
	case Newest, Oldest:
		err = s.byDate(c, res, years, after)
	default:
		err = s.byValue(c, res, years, after)
	}
	if err == nil && req.Count {
		err = s.count(c, res, years)
	}
	res.Took = time.Since(start)
	return res, err
}

// names loads folders and mailboxes if the query asks for them.
// Each calls fn for all hits of a query, page by page.
func (s *Searcher) Each(ctx context.Context, req Request, fn func(catalog.Hit) error) error {
	req.Limit = MaxLimit
	for {
		r, err := s.Search(ctx, req)
		if err != nil {
			return err
		}
		for _, h := range r.Hits {
			if err := fn(h); err != nil {
				return err
			}
		}
		if req.After = r.Next; req.After == "" {
			return nil
		}
	}
}

func (s *Searcher) names(ctx context.Context, e *Expr) (*names, error) {
	n := &names{}
	var err error
	if uses(e, "in") {
		if n.folders, err = s.a.Catalog().Folders(ctx); err != nil {
			return nil, err
		}
	}
	if uses(e, "mailbox") {
		err = s.a.State().View(ctx, func(v catalog.View) (err error) {
			n.mailboxes, err = v.Mailboxes()
			return err
		})
	}
	return n, err
}

func uses(e *Expr, field string) bool {
	if e.Op == OpTerm {
		return e.Term.Field == field
	}
	return slices.ContainsFunc(e.Kids, func(k *Expr) bool { return uses(k, field) })
}

// each runs fn for every year that the query can touch, with its plan. fn
// returns whether to go on.
func (s *Searcher) each(c *compiler, e *Expr, years []int, fn func(*index.Reader, *plan) (bool, error)) error {
	for _, y := range years {
		more := true
		err := s.x.Read(c.ctx, y, func(r *index.Reader) error {
			c.r = r
			p, err := c.compile(e)
			if err != nil || !p.touches(y) {
				return err
			}
			more, err = fn(r, p)
			return err
		})
		if err != nil {
			return err
		}
		if !more {
			return nil
		}
	}
	return nil
}

// byDate walks years and rows in order of date and stops when the page is full.
func (s *Searcher) byDate(c *compiler, res *Result, years []int, after cursor) error {
	order, want := "DESC", c.req.Limit+1
	var last []index.DocID // of each hit
	if c.req.Sort == Oldest {
		order = "ASC"
	}
	err := s.each(c, res.Expr, years, func(r *index.Reader, p *plan) (bool, error) {
		from := index.DocID(-1)
		if after.row != 0 {
			switch y := after.row.Year(); {
			case y == r.Year():
				from = after.id
			case (y < r.Year()) == (c.req.Sort == Newest):
				return true, nil // the pages before had it
			}
		}
		for len(res.Hits) < want {
			q := *p
			if from >= 0 && c.req.Sort == Oldest {
				q.bound(q.id()+" > ?", int64(from))
			} else if from >= 0 {
				q.bound(q.id()+" < ?", int64(from))
			}
			ask := want - len(res.Hits)
			rows, ids, err := q.page(r, order, ask)
			if err != nil {
				return false, err
			}
			hits, err := s.a.Catalog().Visible(c.ctx, c.req.Scope, rows)
			if err != nil {
				return false, err
			}
			for _, h := range hits {
				last = append(last, ids[slices.Index(rows, h.Row)])
			}
			res.Hits = append(res.Hits, hits...)
			if len(rows) < ask {
				return true, nil
			}
			from = ids[len(ids)-1]
		}
		return false, nil
	})
	if n := c.req.Limit; len(res.Hits) > n {
		res.Hits = res.Hits[:n]
		res.Next = cursor{row: res.Hits[n-1].Row, id: last[n-1]}.String()
	}
	// Ids of a crowded second may lie a little after it.
	slices.SortStableFunc(res.Hits, func(a, b catalog.Hit) int {
		if c.req.Sort == Oldest {
			return cmp.Compare(a.Row, b.Row)
		}
		return cmp.Compare(b.Row, a.Row)
	})
	return err
}

// page returns rows and ids in order.
func (p *plan) page(r *index.Reader, order string, limit int) (rows []catalog.Row, ids []index.DocID, err error) {
	src, args := p.source()
	err = r.Query(`SELECT `+p.id()+`, `+p.row()+src+` ORDER BY `+p.id()+` `+order+` LIMIT ?`, append(args, int64(limit)), func(st *sqlite3.Stmt) bool {
		ids = append(ids, index.DocID(st.ColumnInt64(0)))
		rows = append(rows, catalog.Row(st.ColumnInt64(1)))
		return true
	})
	return rows, ids, err
}

type ranked struct {
	row   catalog.Row
	value float64
}

// byValue collects candidates of all years, orders them by size or relevance
// and takes the page from them.
func (s *Searcher) byValue(c *compiler, res *Result, years []int, after cursor) error {
	var all []ranked
	need := after.skip + c.req.Limit + 1
	err := s.each(c, res.Expr, years, func(r *index.Reader, p *plan) (bool, error) {
		q, args, err := s.valueQuery(c, r, p, need)
		if err != nil {
			return false, err
		}
		err = r.Query(q, args, func(st *sqlite3.Stmt) bool {
			all = append(all, ranked{catalog.Row(st.ColumnInt64(0)), st.ColumnFloat(1)})
			return true
		})
		return true, err
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.value, b.value), cmp.Compare(b.row, a.row))
	})
	all = all[min(after.skip, len(all)):]
	if len(all) > c.req.Limit {
		all = all[:c.req.Limit]
		res.Next = cursor{skip: after.skip + c.req.Limit}.String()
	}
	var rows []catalog.Row
	for _, x := range all {
		rows = append(rows, x.row)
	}
	res.Hits, err = s.a.Catalog().Visible(c.ctx, c.req.Scope, rows)
	return err
}

func (s *Searcher) valueQuery(c *compiler, r *index.Reader, p *plan, need int) (string, []any, error) {
	src, args := p.source()
	if c.req.Sort == Size || p.match == "" {
		if p.match != "" && len(p.where) == 0 {
			src = strings.Replace(src, " FROM f", " FROM f CROSS JOIN docs d ON d.id = f.rowid", 1)
		}
		return `SELECT ` + p.row() + `, -d.size` + src + ` ORDER BY d.size DESC LIMIT ?`, append(args, int64(need)), nil
	}
	// Only the newest candidates are ranked, or a common word would take long.
	q := *p
	err := r.Query(`SELECT `+p.id()+src+` ORDER BY 1 DESC LIMIT 1 OFFSET ?`, append(slices.Clone(args), int64(rankWindow)), func(st *sqlite3.Stmt) bool {
		q.bound(q.id()+" >= ?", st.ColumnInt64(0))
		return true
	})
	if err != nil {
		return "", nil, err
	}
	src, args = q.source()
	return `SELECT ` + q.row() + `, bm25(f, 1, 0, 3, 2, 1, 1, 5, 1, 2)` + src + ` ORDER BY 2 LIMIT ?`, append(args, int64(need)), nil
}

// count counts all hits, up to the limit. Messages that the index has yet to
// read again are left out and the count is then not exact.
func (s *Searcher) count(c *compiler, res *Result, years []int) error {
	pending, err := s.a.Catalog().Queue(c.ctx, 0, 1000)
	if err != nil {
		return err
	}
	var not []string
	for _, p := range pending {
		not = append(not, strconv.FormatInt(int64(p.Row), 10))
	}
	if len(pending) > 0 {
		res.Exact = false
	}
	err = s.each(c, res.Expr, years, func(r *index.Reader, p *plan) (bool, error) {
		q := *p
		if len(not) > 0 {
			q.where = append(slices.Clone(q.where), "d.row NOT IN ("+strings.Join(not, ",")+")")
		}
		src, args := q.source()
		err := r.Query(`SELECT count(*) FROM (SELECT 1`+src+` LIMIT ?)`, append(args, int64(CountLimit+1-res.Total)), func(st *sqlite3.Stmt) bool {
			res.Total += st.ColumnInt(0)
			return false
		})
		return res.Total <= CountLimit, err
	})
	if res.Total > CountLimit {
		res.Total, res.Exact = CountLimit, false
	}
	// What is shown is there, whatever the index counted.
	res.Total = max(res.Total, len(res.Hits))
	return err
}

// ErrPlace: Request.After is no place in a list of hits.
var ErrPlace = errors.New("the place in the list of hits is not valid; search again")

// cursor is where a page ends.
type cursor struct {
	row  catalog.Row // of the last hit, and its id in the shard of its year
	id   index.DocID
	skip int
}

func (c cursor) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %d %d", c.row, c.id, c.skip))
}

// maxSkip bounds pages in orders that have no key.
const maxSkip = 10_000

func parseCursor(s string) (c cursor, err error) {
	if s == "" {
		return c, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		_, err = fmt.Sscanf(string(b), "%d %d %d", &c.row, &c.id, &c.skip)
	}
	if err != nil || c.skip < 0 || c.skip > maxSkip {
		return cursor{}, ErrPlace
	}
	return c, nil
}
