package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mbox"
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
	r, err := ingest.One(ctx, o.Archive, im, raw, "standard input")
	if err == nil && !im.DryRun {
		err = o.Index.Wait(ctx)
	}
	r.Seconds = time.Since(start).Seconds()
	return e.reportImport(r, err, js, im.DryRun)
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
				fmt.Fprintf(e.stderr, "and %d more were not read; \"letterhold runs\" lists them all\n", len(r.Skipped)-i)
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
