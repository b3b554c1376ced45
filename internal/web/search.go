package web

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/extract"
	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/search"
)

// searchView is the page of hits with the reading pane.
type searchView struct {
	Query    string
	Sort     search.Sort
	Sorts    []option
	Problem  string // a syntax error
	Warnings []string
	Hits     []hitView
	Total    int
	Exact    bool
	Took     string
	Behind   int64
	Next     string // address of the next page
	Folders  []folderView
	Chips    []chip
	Message  *messageView // nil: none selected
	Empty    bool
}

type option struct {
	Value, Label string
	Selected     bool
}

type chip struct {
	Text string
	URL  string // without it
}

type folderView struct {
	Name, URL string
}

type hitView struct {
	URL, From, Date, Title string
	When                   time.Time
	Subject, Snippet       []piece
	Attachments, Selected  bool
}

// piece is a stretch of text that is highlighted or not.
type piece struct {
	Text string
	Mark bool
}

func pieces(s string, spans []search.Span) []piece {
	var out []piece
	at := 0
	for _, p := range spans {
		if p.Start > at {
			out = append(out, piece{s[at:p.Start], false})
		}
		out = append(out, piece{s[p.Start:p.End], true})
		at = p.End
	}
	if at < len(s) {
		out = append(out, piece{s[at:], false})
	}
	return out
}

// zone is the time zone of who asks.
func (r *request) zone() *time.Location {
	if z, err := time.LoadLocation(r.who.Zone); err == nil {
		return z
	}
	return time.UTC
}

// with returns this page's address with one value changed.
func with(u *url.URL, key, val string) string {
	q := u.Query()
	if val == "" {
		q.Del(key)
	} else {
		q.Set(key, val)
	}
	if key != "m" {
		q.Del("m")
	}
	if key != "after" && key != "m" {
		q.Del("after")
	}
	return u.Path + "?" + q.Encode()
}

func (w *Web) searchPage(r *request) error {
	q := r.URL.Query()
	v := searchView{Query: q.Get("q")}
	if id := q.Get("m"); id != "" && r.swapping() && r.Header.Get("HX-Target") == "section#read" {
		// The list stays as it is: no need to search again.
		var err error
		if v.Message, err = w.message(r, id, v.Query); err != nil {
			return err
		}
		v.Message.Up = with(r.URL, "m", "")
		return w.render(r, http.StatusOK, "search", "read", v)
	}
	sort, err := search.ParseSort(q.Get("sort"))
	if err != nil {
		sort = search.Newest
	}
	v.Sort = sort
	for _, s := range []search.Sort{search.Newest, search.Oldest, search.Relevance, search.Size} {
		v.Sorts = append(v.Sorts, option{string(s), r.lang.T("sort." + string(s)), s == sort})
	}
	ctx, cancel := context.WithTimeout(r.Context(), searchTime)
	defer cancel()
	res, err := w.search.Search(ctx, search.Request{Query: v.Query, Scope: r.who.Scope(), Sort: sort, After: q.Get("after"), Zone: r.zone(), Count: true})
	status := http.StatusOK
	var syntax *search.SyntaxError
	switch {
	case errors.As(err, &syntax):
		v.Problem, status = r.lang.T("search.syntax", "Pos", syntax.Pos+1, "What", r.lang.T("syntax."+syntax.Problem.String(), "Text", syntax.Fragment)), http.StatusBadRequest
	case errors.Is(err, search.ErrPlace):
		http.Redirect(r.w, r.Request, with(r.URL, "after", ""), http.StatusSeeOther)
		return nil
	case errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil && r.Context().Err() == nil:
		v.Problem, status = r.lang.T("search.timeout"), http.StatusServiceUnavailable
	case err != nil:
		return err
	default:
		w.fill(r, &v, res)
	}
	if err := w.folders(r, &v); err != nil {
		return err
	}
	if id := q.Get("m"); id != "" {
		if v.Message, err = w.message(r, id, v.Query); err != nil && !errors.Is(err, errNotFound) {
			return err
		}
		if v.Message != nil {
			v.Message.Up = with(r.URL, "m", "")
		}
	}
	return w.show(r, status, "search", v)
}

// searchTime is how long a search may take before it is told as such.
const searchTime = 20 * time.Second

func (w *Web) fill(r *request, v *searchView, res *search.Result) {
	v.Total, v.Exact, v.Behind = res.Total, res.Exact, res.Behind
	for _, warning := range res.Warnings {
		v.Warnings = append(v.Warnings, r.lang.T("search.unknown", "Operator", warning.Operator))
	}
	v.Took = duration(r.lang, res.Took)
	v.Empty = len(res.Hits) == 0
	m := search.NewMatcher(res.Expr)
	selected := r.URL.Query().Get("m")
	for i := range res.Hits {
		h := &res.Hits[i]
		x := hitView{
			URL: with(r.URL, "m", h.ID.String()) + "#read", From: senderName(h.Sender), Title: h.Sender, When: h.Row.Time(), Date: day(r.lang, h.Row.Time().In(r.zone())),
			Attachments: h.Attachments, Selected: h.ID.String() == selected,
		}
		subject := h.Subject
		if subject == "" {
			subject = r.lang.T("message.nosubject")
		}
		x.Subject = pieces(subject, m.Find(subject, 20))
		if h.Size <= search.SnippetSize {
			if raw, err := w.archive.Raw(&h.Entry); err == nil {
				x.Snippet = pieces(m.Snippet(extract.Of(message.Parse(raw)).Body))
			}
		}
		v.Hits = append(v.Hits, x)
	}
	if res.Next != "" {
		v.Next = with(r.URL, "after", res.Next)
	}
	v.Chips = chips(r.URL, res.Expr)
}

// senderName is the name of a sender, or his address.
func senderName(s string) string {
	if i := strings.LastIndex(s, " <"); i > 0 {
		return s[:i]
	}
	return s
}

// chips are the operators of a query at its top, each with the way to drop it.
func chips(u *url.URL, e *search.Expr) []chip {
	kids := []*search.Expr{e}
	if e.Op == search.OpAnd {
		kids = e.Kids
	}
	var out []chip
	q := u.Query().Get("q")
	for _, k := range kids {
		if k.Op != search.OpTerm || k.Term.Field == "" {
			continue
		}
		text := k.Term.String()
		if rest := strings.Replace(q, text, "", 1); rest != q {
			out = append(out, chip{text, with(u, "q", strings.Join(strings.Fields(rest), " "))})
		}
	}
	return out
}

// folders lists the folders of the mailboxes that may be seen.
func (w *Web) folders(r *request, v *searchView) error {
	all, err := w.archive.Catalog().Folders(r.Context())
	if err != nil {
		return err
	}
	scope := r.who.Scope()
	for _, f := range all {
		if scope.Allows(f.Mailbox) && len(v.Folders) < 100 {
			name := f.Name
			if strings.ContainsAny(name, " ()") {
				name = `"` + name + `"`
			}
			v.Folders = append(v.Folders, folderView{f.Name, "/search?q=" + url.QueryEscape("in:"+name)})
		}
	}
	return nil
}

func (w *Web) helpPage(r *request) error { return w.show(r, http.StatusOK, "help", nil) }
