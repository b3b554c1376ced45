package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/export"
	"github.com/letterhold/letterhold/internal/extract"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mbox"
	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/search"
	"github.com/letterhold/letterhold/internal/server"
	"github.com/letterhold/letterhold/internal/source"
)

func importCmd(e *env) *cobra.Command {
	im := ingest.Import{Who: keyOwner}
	var js bool
	var dialect string
	c := &cobra.Command{
		Use:   "import PATH...",
		Short: "Archive mail from files: Maildir, mbox, EML, ZIP, tar, gzip, folders of them",
		Long: `Archives the mail in files and folders: Maildir and Maildir++ with folders and
flags, mbox in all four dialects, single messages, and ZIP, tar and gzip of
these. The kind of a file is told by its content. "-" reads one message from
standard input. Outlook's PST and MSG files are not read yet, and said so.

Every message that is seen is accounted for: archived, already there, skipped by
rule, or failed with a reason. An import that was interrupted goes on where it
was when it is started again.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if im.Mailbox == "" {
				return hint(usage("import: no mailbox named"), "say whose mail it is with --mailbox NAME; it is made if it is missing")
			}
			var err error
			if im.Mbox, err = mbox.ParseDialect(dialect); err != nil {
				return usageError{err}
			}
			return e.with(c.Context(), func(o *server.Opened) error {
				if len(args) == 1 && args[0] == "-" {
					return e.importOne(c.Context(), o, im, js)
				}
				for _, p := range args {
					im.Paths = append(im.Paths, e.path(p))
					if _, err := os.Stat(e.path(p)); err != nil {
						return fmt.Errorf("import: %w", err)
					}
				}
				return e.importPaths(c.Context(), o, im, js)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&im.Mailbox, "mailbox", "", "mailbox that the mail belongs to; made if it is missing")
	f.StringVar(&im.Folder, "folder", "", "folder to put everything below")
	f.BoolVar(&im.DryRun, "dry-run", false, "look and count, archive nothing")
	f.StringVar(&dialect, "mbox", "auto", "dialect of mbox files: auto, mboxo, mboxrd, mboxcl, mboxcl2")
	f.BoolVar(&js, "json", false, "print the report as JSON")
	return c
}

func (e *env) importPaths(ctx context.Context, o *server.Opened, im ingest.Import, js bool) error {
	all := int64(0)
	if e.width > 0 {
		all = source.Size(im.Paths)
	}
	p := e.progress("importing")
	im.Progress = func(c catalog.Counts) { p.set(c.Bytes, all, fmt.Sprintf("%d messages", c.Seen)) }
	start := time.Now()
	r, err := o.Runner.Import(ctx, im)
	if err == nil && !im.DryRun {
		p.say("making the rest searchable")
		err = o.Index.Wait(ctx)
	}
	r.Seconds = time.Since(start).Seconds()
	p.end()
	return e.reportImport(r, err, js, im.DryRun)
}

func (e *env) importOne(ctx context.Context, o *server.Opened, im ingest.Import, js bool) error {
	start := time.Now()
	raw, err := io.ReadAll(io.LimitReader(e.stdin, archive.MaxMessage+1))
	if err != nil {
		return err
	}
	r := &ingest.Report{Failures: []catalog.Failure{}}
	r.Seen, r.Bytes = 1, int64(len(raw))
	if im.DryRun {
		if r.Archived = 1; o.Archive.Has(ctx, raw) {
			r.Archived, r.Present = 0, 1
		}
		return e.reportImport(r, nil, js, true)
	}
	mb, err := o.Archive.Mailbox(ctx, im.Mailbox, im.Who)
	if err != nil {
		return err
	}
	res, err := o.Archive.Add(ctx, raw, archive.Provenance{Mailbox: mb, Folder: im.Folder, Source: "import", Where: "standard input"})
	switch {
	case errors.Is(err, archive.ErrMessage):
		r.Failed = 1
		r.Failures = append(r.Failures, catalog.Failure{Where: "standard input", Reason: err.Error()})
		err = nil
	case err != nil:
		return err
	case res.Outcome == archive.Archived:
		r.Archived = 1
	default:
		r.Present = 1
	}
	err = errors.Join(err, o.Index.Wait(ctx))
	r.Seconds = time.Since(start).Seconds()
	return e.reportImport(r, err, js, false)
}

// shownSkips is how many files that were not read are named.
const shownSkips = 20

func (e *env) reportImport(r *ingest.Report, err error, js, dry bool) error {
	if js {
		err = errors.Join(err, e.printJSON(r))
	} else {
		verb := "archived"
		if dry {
			verb = "would be archived"
		}
		if r.Resumed {
			e.printf("This goes on with an import that was interrupted; its numbers are included.\n")
		}
		e.printf("%d seen = %d %s + %d already there + %d skipped by rule + %d failed\n", r.Seen, r.Archived, verb, r.Present, r.Counts.Skipped, r.Failed)
		e.printf("%s in %.1f s\n", human(r.Bytes), r.Seconds)
		for _, f := range r.Failures {
			fmt.Fprintf(e.stderr, "failed: %s: %s\n", f.Where, f.Reason)
		}
		for i, f := range r.Skipped {
			if i == shownSkips {
				fmt.Fprintf(e.stderr, "and %d more were not read; --json lists them all\n", len(r.Skipped)-i)
				break
			}
			fmt.Fprintf(e.stderr, "not read: %s: %s\n", f.Where, f.Reason)
		}
	}
	if err != nil {
		if errors.Is(err, context.Canceled) {
			err = errors.New("interrupted")
		}
		if errors.Is(err, ingest.ErrImporting) {
			return err
		}
		return hint(err, "what is archived stays; the same command goes on where it was")
	}
	if r.Failed > 0 {
		return codeError(exitPartial)
	}
	return nil
}

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
		Long: `Finds messages by words, "phrases", prefix*, wild?ards, OR, -, ( ), and

  from: to: cc: bcc: subject: list: filename: id: in:FOLDER mailbox:
  has:attachment  larger:10M smaller:  before:2026-03-12 after: on:2026-03
  older_than:1y newer_than:7d

The newest come first. Reading as the key owner is written to the ledger.`,
		Args: cobra.MinimumNArgs(1),
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
	names, err := mailboxNames(ctx, o)
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

func mailboxNames(ctx context.Context, o *server.Opened) (map[int64]string, error) {
	out := map[int64]string{}
	err := o.Archive.State().View(ctx, func(v catalog.View) error {
		ms, err := v.Mailboxes()
		for _, m := range ms {
			out[m.ID] = m.Name
		}
		return err
	})
	return out, err
}

func showCmd(e *env) *cobra.Command {
	var raw, structure, headers, js bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show a message: headers and text, its structure, or its bytes",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := seal.ParseID(args[0])
			if err != nil {
				return usageError{err}
			}
			return e.with(c.Context(), func(o *server.Opened) error {
				entry, err := o.Archive.Catalog().Message(c.Context(), id)
				if err != nil {
					return hint(fmt.Errorf("message %s: %w", id, err), "`letterhold search` prints the ids of messages")
				}
				if err := o.Archive.Record(archive.Act{What: "message read as key owner", Who: keyOwner, Leaf: []int64{entry.Leaf}}); err != nil {
					return err
				}
				b, err := o.Archive.Raw(&entry)
				if err != nil {
					return err
				}
				if raw {
					_, err := e.stdout.Write(b)
					return err
				}
				return e.show(c.Context(), o, &entry, message.Parse(b), structure, headers, js)
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&raw, "raw", false, "the exact bytes on standard output")
	f.BoolVar(&structure, "structure", false, "the parts of the message")
	f.BoolVar(&headers, "headers", false, "all header fields")
	f.BoolVar(&js, "json", false, "print JSON")
	return c
}

type partJSON struct {
	Path string `json:"path"`
	Type string `json:"type"`
	Name string `json:"name,omitempty"`
	Size int    `json:"size"`
}

func (e *env) show(ctx context.Context, o *server.Opened, entry *catalog.Entry, m *message.Message, structure, headers, js bool) error {
	var parts []partJSON
	var collect func(p *message.Part)
	collect = func(p *message.Part) {
		parts = append(parts, partJSON{p.Path, p.Type, p.Name, p.End - p.Body})
		for _, c := range p.Children {
			collect(c)
		}
	}
	collect(m.Root)
	d := extract.Of(m)
	if js {
		names, err := mailboxNames(ctx, o)
		if err != nil {
			return err
		}
		os, err := o.Archive.Catalog().Occurrences(ctx, entry.Row)
		if err != nil {
			return err
		}
		found := []export.Found{}
		for _, oc := range os {
			found = append(found, export.Found{Mailbox: names[oc.Mailbox], Folder: oc.Name, Flags: oc.Flags})
		}
		return e.printJSON(map[string]any{"id": entry.ID.String(), "date": entry.Row.Time(), "date_rule": entry.Rule.String(), "archived": entry.Arrived, "leaf": entry.Leaf, "size": entry.Size,
			"from": d.From, "to": d.To, "cc": d.Cc, "subject": d.Subject, "message_id": d.MessageID, "text": d.Body, "parts": parts, "found": found, "partial": entry.Partial})
	}
	switch {
	case structure:
		for _, p := range parts {
			e.printf("%-8s %-32s %10s  %s\n", p.Path, plain(p.Type), human(int64(p.Size)), plain(p.Name))
		}
		return nil
	case headers:
		for _, f := range m.Root.Header {
			e.printf("%s: %s\n", plain(f.Name), plain(message.DecodeWords(message.Unfold(f.Value))))
		}
		return nil
	}
	for _, l := range [][2]string{{"From", d.From}, {"To", d.To}, {"Cc", d.Cc}, {"Subject", d.Subject}} {
		if l[1] != "" {
			e.printf("%-8s %s\n", l[0]+":", plain(l[1]))
		}
	}
	e.printf("Date:    %s (by %s)\nArchived: %s, leaf %d of the ledger\n\n", entry.Row.Time().Format(time.RFC1123Z), entry.Rule, entry.Arrived.Format(time.RFC3339), entry.Leaf)
	for line := range strings.SplitSeq(d.Body, "\n") {
		e.printf("%s\n", plain(line))
	}
	if d.Names != "" {
		e.printf("\nAttachments: %s\n", plain(strings.ReplaceAll(d.Names, "\n", ", ")))
	}
	if d.Unread {
		e.printf("The contents of attachments are not searched yet.\n")
	}
	return nil
}

func exportCmd(e *env) *cobra.Command {
	var format, to, tz string
	var js bool
	c := &cobra.Command{
		Use:   "export QUERY --format eml|mbox|maildir|zip --to PATH",
		Short: "Write messages to files, byte for byte, with a manifest",
		Long: `Writes the messages that a query finds to files, with a manifest (one JSON
object a line) that says for each its SHA-256, date and provenance. '*' is
everything. An mbox is written as mboxrd; its manifest marks messages to which
it had to add a line end.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !c.Flags().Changed("format") {
				switch ext := strings.TrimPrefix(filepath.Ext(to), "."); ext {
				case "zip", "mbox":
					format = ext
				}
			}
			f, err := export.ParseFormat(format)
			if err != nil {
				return usageError{err}
			}
			if to == "" {
				return usage("export: say where to with --to PATH")
			}
			zone, err := time.LoadLocation(tz)
			if err != nil {
				return usage("time zone %q: write it as Europe/Berlin or UTC", tz)
			}
			query := args[0]
			if query == "*" {
				query = ""
			}
			if _, _, err := search.Parse(query); err != nil {
				return err
			}
			return e.with(c.Context(), func(o *server.Opened) error {
				if err := o.Index.Wait(c.Context()); err != nil {
					return err
				}
				if err := o.Archive.Record(archive.Act{What: "exported as key owner", Who: keyOwner}); err != nil {
					return err
				}
				p := e.progress("exporting")
				r, err := export.Export(c.Context(), o.Archive, f, e.path(to), allHits(c.Context(), o, query, zone), func(n, bytes int64) { p.set(bytes, 0, fmt.Sprintf("%d messages", n)) })
				p.end()
				return e.reportExport(r, err, js)
			})
		},
	}
	fl := c.Flags()
	fl.StringVar(&format, "format", "eml", "eml, mbox, maildir or zip; without it, as PATH ends (.zip, .mbox)")
	fl.StringVar(&to, "to", "", "new file or empty folder to write to")
	fl.StringVar(&tz, "tz", "UTC", "time zone of dates in the query")
	fl.BoolVar(&js, "json", false, "print the report as JSON")
	return c
}

// allHits walks all pages of a query. Everything is walked in the catalog, so
// that it does not depend on the index.
func allHits(ctx context.Context, o *server.Opened, query string, zone *time.Location) func(func(catalog.Hit) error) error {
	return func(fn func(catalog.Hit) error) error {
		if strings.TrimSpace(query) == "" {
			return everyMessage(ctx, o, fn)
		}
		req := search.Request{Query: query, Scope: everything, Limit: search.MaxLimit, Zone: zone}
		for {
			r, err := o.Search.Search(ctx, req)
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
}

func everyMessage(ctx context.Context, o *server.Opened, fn func(catalog.Hit) error) error {
	c := o.Archive.Catalog()
	for after := catalog.Row(-1 << 62); ; {
		rows, err := c.Rows(ctx, after, 1<<62, 500)
		if err != nil || len(rows) == 0 {
			return err
		}
		hits, err := c.Visible(ctx, everything, rows)
		if err != nil {
			return err
		}
		for _, h := range hits {
			if err := fn(h); err != nil {
				return err
			}
		}
		after = rows[len(rows)-1]
	}
}

func (e *env) reportExport(r *export.Report, err error, js bool) error {
	if js {
		err = errors.Join(err, e.printJSON(r))
	} else if err == nil && r.Messages == 0 && r.Failed == 0 {
		e.printf("Nothing was found, so nothing was written.\n")
	} else if err == nil {
		e.printf("%d messages, %s, to %s\nmanifest: %s\n", r.Messages, human(r.Bytes), r.To, r.Manifest)
		for _, f := range r.Failures {
			fmt.Fprintf(e.stderr, "failed: %s: %s\n", f.Where, f.Reason)
		}
	}
	if err != nil {
		return err
	}
	if r.Failed > 0 {
		return codeError(exitPartial)
	}
	return nil
}

func statsCmd(e *env) *cobra.Command {
	var js bool
	c := &cobra.Command{
		Use: "stats", Short: "Numbers of the archive", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				t, err := o.Archive.Catalog().Totals(c.Context())
				if err != nil {
					return err
				}
				sizes := map[string]int64{}
				total := int64(0)
				filepath.WalkDir(o.Dir, func(p string, d os.DirEntry, err error) error {
					if err != nil || !d.Type().IsRegular() {
						return nil
					}
					fi, err := d.Info()
					if err != nil {
						return nil
					}
					rel, _ := filepath.Rel(o.Dir, p)
					top, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
					if top == "store" {
						top = "store" + filepath.Ext(p)
					}
					sizes[strings.TrimSuffix(top, "-wal")] += fi.Size()
					total += fi.Size()
					return nil
				})
				behind, err := o.Index.Behind(c.Context())
				if err != nil {
					return err
				}
				if js {
					return e.printJSON(map[string]any{"messages": t.Messages, "bytes": t.Bytes, "occurrences": t.Occurrences, "parts": t.Parts, "partial": t.Partial, "disk": total, "disk_by": sizes, "index_behind": behind})
				}
				e.printf("%d messages, %s; %d occurrences, %d parts stored once, %d analysed in part\n", t.Messages, human(t.Bytes), t.Occurrences, t.Parts, t.Partial)
				e.printf("on disk %s", human(total))
				if t.Bytes > 0 {
					e.printf(" (%.3f of the raw size)", float64(total)/float64(t.Bytes))
				}
				e.printf("\n")
				for _, k := range []string{"store.pack", "store.keys", "ledger", "catalog.db", "index", "state.db"} {
					e.printf("  %-11s %10s\n", k, human(sizes[k]))
				}
				if behind > 0 {
					e.printf("%d changes are not searchable yet\n", behind)
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}

func mailboxCmd(e *env) *cobra.Command {
	c := &cobra.Command{Use: "mailbox", Short: "Mailboxes: what is archived, and whose it is"}
	var js bool
	list := &cobra.Command{
		Use: "list", Short: "List mailboxes and their folders", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error { return e.listMailboxes(c.Context(), o, js) })
		},
	}
	list.Flags().BoolVar(&js, "json", false, "print JSON")
	c.AddCommand(list)
	return c
}

func (e *env) listMailboxes(ctx context.Context, o *server.Opened, js bool) error {
	var ms []catalog.Mailbox
	if err := o.Archive.State().View(ctx, func(v catalog.View) (err error) { ms, err = v.Mailboxes(); return err }); err != nil {
		return err
	}
	folders, err := o.Archive.Catalog().Folders(ctx)
	if err != nil {
		return err
	}
	type folderJSON struct {
		Name     string `json:"name"`
		Messages int64  `json:"messages"`
	}
	type mailboxJSON struct {
		Name     string       `json:"name"`
		Messages int64        `json:"messages"`
		Folders  []folderJSON `json:"folders"`
	}
	out := []mailboxJSON{}
	for _, m := range ms {
		x := mailboxJSON{Name: m.Name, Folders: []folderJSON{}}
		if x.Messages, err = o.Archive.Catalog().MailboxCount(ctx, m.ID); err != nil {
			return err
		}
		for _, f := range folders {
			if f.Mailbox == m.ID {
				n, err := o.Archive.Catalog().FolderCount(ctx, f.ID)
				if err != nil {
					return err
				}
				x.Folders = append(x.Folders, folderJSON{f.Name, n})
			}
		}
		out = append(out, x)
	}
	if js {
		return e.printJSON(map[string]any{"mailboxes": out})
	}
	for _, x := range out {
		e.printf("%s: %d messages\n", plain(x.Name), x.Messages)
		for _, f := range x.Folders {
			e.printf("  %8d  %s\n", f.Messages, plain(f.Name))
		}
	}
	return nil
}
