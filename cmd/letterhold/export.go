package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/export"
	"github.com/letterhold/letterhold/internal/search"
	"github.com/letterhold/letterhold/internal/server"
)

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
				if inside(e.path(to), o.Dir) {
					return hint(fmt.Errorf("%s lies inside the archive: mail in clear does not belong there", e.path(to)), "name a place outside of %s", o.Dir)
				}
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
		return o.Search.Each(ctx, search.Request{Query: query, Scope: everything, Zone: zone}, fn)
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
