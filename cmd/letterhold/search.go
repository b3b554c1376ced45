package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/extract"
	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/search"
	"github.com/letterhold/letterhold/internal/server"
)

// hitJSON is a hit for scripts.
type hitJSON struct {
	ID        string    `json:"id"`
	Date      time.Time `json:"date"`
	From      string    `json:"from"`
	To        string    `json:"to"`
	Subject   string    `json:"subject"`
	Size      int64     `json:"size"`
	Mailboxes []string  `json:"mailboxes"`
	Snippet   string    `json:"snippet"`
}

type searchJSON struct {
	Total    int       `json:"total"`
	Exact    bool      `json:"total_exact"`
	Took     float64   `json:"took_ms"`
	Behind   int64     `json:"behind,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
	Next     string    `json:"next,omitempty"`
	Hits     []hitJSON `json:"hits"`
}

func searchCmd(e *env) *cobra.Command {
	req := search.Request{Scope: everything, Count: true}
	var js bool
	var sort, tz string
	c := &cobra.Command{
		Use:   "search QUERY...",
		Short: "Find messages",
		Long: `Finds messages by words, "phrases", prefix*, wild?ards, OR, -, ( ), {one of}, and

  from: to: cc: bcc: subject: list: filename: id: in:FOLDER mailbox:
  has:attachment  larger:10M smaller:  before:2026-03-12 after: on:2026-03
  older_than:1y newer_than:7d

The newest come first. Reading as the key owner is written to the ledger.`,
		Args: cobra.MinimumNArgs(1),
		Example: `  letterhold search 'from:ann invoice OR offer' --sort oldest
  letterhold search -- -newsletter has:attachment     (-- before a leading minus)`,
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			req.Query = strings.Join(args, " ")
			if req.Limit < 1 || req.Limit > search.MaxLimit {
				return usage("--limit %d: it is 1 to %d", req.Limit, search.MaxLimit)
			}
			if req.Sort, err = search.ParseSort(sort); err != nil {
				return usageError{err}
			}
			if req.Zone, err = time.LoadLocation(tz); err != nil {
				return usage("time zone %q: write it as Europe/Berlin or UTC", tz)
			}
			if _, _, err := search.Parse(req.Query); err != nil {
				return err
			}
			return e.with(c.Context(), func(o *server.Opened) error { return e.search(c.Context(), o, req, js) })
		},
	}
	f := c.Flags()
	f.IntVar(&req.Limit, "limit", 20, "most hits to print")
	f.StringVar(&req.After, "after", "", "go on behind a page (its \"next\")")
	f.StringVar(&sort, "sort", "date", "date, oldest, relevance or size")
	f.StringVar(&tz, "tz", "UTC", "time zone of dates in the query and the list")
	f.BoolVar(&js, "json", false, "print JSON")
	return c
}

func (e *env) search(ctx context.Context, o *server.Opened, req search.Request, js bool) error {
	if err := o.Archive.Record(archive.Act{What: "searched as key owner", Who: keyOwner}); err != nil {
		return err
	}
	r, err := o.Search.Search(ctx, req)
	if err != nil {
		return err
	}
	names, err := o.Archive.State().MailboxNames(ctx)
	if err != nil {
		return err
	}
	out := searchJSON{Total: r.Total, Exact: r.Exact, Took: float64(r.Took.Microseconds()) / 1000, Behind: r.Behind, Next: r.Next, Hits: []hitJSON{}}
	for _, w := range r.Warnings {
		out.Warnings = append(out.Warnings, w.String())
	}
	m := search.NewMatcher(r.Expr)
	for i := range r.Hits {
		h := &r.Hits[i]
		x := hitJSON{ID: h.ID.String(), Date: h.Row.Time(), From: h.Sender, To: h.Recipients, Subject: h.Subject, Size: h.Size, Mailboxes: []string{}}
		seen := map[int64]bool{}
		for _, oc := range h.Occurrences {
			if !seen[oc.Mailbox] {
				seen[oc.Mailbox] = true
				x.Mailboxes = append(x.Mailboxes, names[oc.Mailbox])
			}
		}
		if h.Size <= search.SnippetSize {
			if raw, err := o.Archive.Raw(&h.Entry); err == nil {
				x.Snippet, _ = m.Snippet(extract.Of(message.Parse(raw)).Body)
			}
		}
		out.Hits = append(out.Hits, x)
	}
	if js {
		return e.printJSON(out)
	}
	for _, x := range out.Hits {
		e.printf("%s  %s  %-28.28s %s\n    %s  %s\n", x.Date.In(req.Zone).Format("2006-01-02 15:04"), x.ID, plain(x.From), plain(x.Subject), human(x.Size), plain(x.Snippet))
	}
	more := ""
	if !r.Exact {
		more = "more than "
	}
	e.printf("%s%d found in %.1f ms, %d shown\n", more, r.Total, out.Took, len(out.Hits))
	for _, w := range r.Warnings {
		fmt.Fprintln(e.stderr, "note:", w)
	}
	if r.Behind > 0 {
		fmt.Fprintf(e.stderr, "note: %d changes are not searchable yet\n", r.Behind)
	}
	return nil
}

// plain makes text safe for a terminal: no control sequences.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
