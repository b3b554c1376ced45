// Package ingest runs imports and archiving profiles: it takes items from a
// source, archives them in parallel, and accounts for each one (intake.go). The
// numbers of a run add up, or the run has failed; a run that was interrupted
// goes on where it was.
//
// An import (this file) reads files once. A profile (profile.go) collects from
// an account again and again; a Runner (runner.go) runs profiles, one run of
// each at a time.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/mbox"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/source"
)

// Import says what goes where.
type Import struct {
	Paths   []string
	Mailbox string
	Folder  string
	Mbox    mbox.Dialect
	DryRun  bool // look only; archive nothing
	Who     string
	// Progress is called now and then, and at the end.
	Progress func(catalog.Counts)
}

// Report is what became of a run.
type Report struct {
	catalog.Counts
	Seconds  float64           `json:"seconds"`
	Resumed  bool              `json:"resumed,omitempty"`
	Failures []catalog.Failure `json:"failures"`
	Skipped  []catalog.Failure `json:"skips,omitempty"`
}

// Run imports and returns the report, also with an error.
func Run(ctx context.Context, a *archive.Archive, im Import) (*Report, error) {
	return newIntake(a).importFiles(ctx, im)
}

func (in *intake) importFiles(ctx context.Context, im Import) (*Report, error) {
	in.told = im.Progress
	start := time.Now()
	err := in.runImport(ctx, im)
	in.report.Seconds = time.Since(start).Seconds()
	return &in.report, err
}

func (in *intake) runImport(ctx context.Context, im Import) error {
	for i, p := range im.Paths {
		full, err := filepath.Abs(p)
		if err != nil {
			return err
		}
		im.Paths[i] = full
	}
	files := source.Paths{Paths: im.Paths, Options: source.Options{Folder: im.Folder, Mbox: im.Mbox, Again: in.again}}
	if im.DryRun {
		return in.dry(ctx, files)
	}
	mailbox, err := in.a.Mailbox(ctx, im.Mailbox, im.Who)
	if err != nil {
		return err
	}
	in.from = func(i *source.Item) (archive.Provenance, string) {
		return archive.Provenance{Mailbox: mailbox, Folder: i.Folder, Source: "import", Where: i.Where, Flags: i.Flags, Internal: i.Internal}, ""
	}
	in.store = storeImport
	if err := in.beginImport(ctx, im); err != nil {
		return err
	}
	if err := in.work(ctx, files, source.Marks{source.PathMark: in.row.Cursor}); err != nil {
		// The run stays "running": the same import goes on with it.
		in.interrupted()
		return err
	}
	return in.endImport(im)
}

// One archives a single message that stands in no file. Its run is stored when
// it is over: whoever hands it over hears of no success before, and tries again.
func One(ctx context.Context, a *archive.Archive, im Import, raw []byte, where string) (*Report, error) {
	in := newIntake(a)
	start := a.Now()
	i := source.Item{Folder: im.Folder, Where: where, Raw: raw}
	if im.DryRun {
		in.look(ctx, i)
		return &in.report, nil
	}
	mailbox, err := a.Mailbox(ctx, im.Mailbox, im.Who)
	if err != nil {
		return &in.report, err
	}
	in.report.Seen, in.report.Bytes = 1, int64(len(raw))
	res, err := a.Add(ctx, raw, archive.Provenance{Mailbox: mailbox, Folder: im.Folder, Source: "import", Where: where})
	if err != nil && !errors.Is(err, archive.ErrMessage) {
		in.report.Counts = catalog.Counts{}
		return &in.report, err
	}
	in.count(i, res, err)
	in.row = catalog.Run{What: where + "\n> " + im.Mailbox + "/" + im.Folder, Who: im.Who, Started: start}
	sum := in.conclude()
	state := in.row.State
	return &in.report, errors.Join(sum, a.Change(archive.Act{What: "import ended", Who: im.Who, Of: im.Mailbox, Why: state}, func(t catalog.Tx) error {
		if err := t.StartRun(&in.row); err != nil {
			return err
		}
		in.row.State = state
		return t.SaveRun(&in.row, in.since.failures, nil)
	}))
}

// storeImport keeps the place of an import in its run.
func storeImport(t catalog.Tx, r *catalog.Run, p *progress) error {
	if m, ok := p.marks[source.PathMark]; ok {
		r.Cursor = m
	}
	if p.anew {
		if err := t.ForgetFailures(r.ID); err != nil {
			return err
		}
	}
	return t.SaveRun(r, p.failures, p.skips)
}

// dry counts without archiving.
func (in *intake) dry(ctx context.Context, s source.Source) error {
	return s.Walk(ctx, source.Marks{}, func(i source.Item) bool {
		if !i.Quiet {
			in.look(ctx, i)
			in.tell()
		}
		return true
	})
}

// maxLooked bounds what a dry run remembers, to about 100 MB; beyond it a new
// message that is met twice is counted twice.
const maxLooked = 2_000_000

// look counts an item as it would be archived. The same message met twice is
// new once.
func (in *intake) look(ctx context.Context, i source.Item) {
	in.report.Seen++
	switch {
	case i.Err != nil:
		in.failed(i, i.Err)
		return
	case i.Skip != "":
		in.skip(i, i.Skip)
		return
	}
	in.report.Bytes += int64(len(i.Raw))
	id := in.a.IDOf(i.Raw)
	if in.looked[id] || in.a.Has(ctx, id) {
		in.report.Present++
		return
	}
	in.report.Archived++
	if in.looked == nil {
		in.looked = map[seal.ID]bool{}
	}
	if len(in.looked) < maxLooked {
		in.looked[id] = true
	}
}

// what names an import: the same again goes on with one that was interrupted.
func (im *Import) what() string {
	s := strings.Join(im.Paths, "\n") + "\n> " + im.Mailbox + "/" + im.Folder
	if im.Mbox != mbox.Auto {
		s += fmt.Sprintf(" (mbox dialect %d)", im.Mbox)
	}
	return s
}

// beginImport finds the run that was interrupted, or starts one.
func (in *intake) beginImport(ctx context.Context, im Import) error {
	in.mu.Lock() // people look already
	defer in.mu.Unlock()
	what := im.what()
	var old *catalog.Run
	err := in.a.State().View(ctx, func(v catalog.View) (err error) {
		old, err = v.Unfinished(what)
		return err
	})
	if err == nil {
		in.resume(old)
		return nil
	}
	if !errors.Is(err, catalog.ErrNotFound) {
		return err
	}
	in.row = catalog.Run{What: what, Who: im.Who, Started: in.a.Now()}
	return in.a.Change(archive.Act{What: "import begun", Who: im.Who, Of: im.Mailbox}, func(t catalog.Tx) error { return t.StartRun(&in.row) })
}

// resume goes on with the numbers of a run that was interrupted.
func (in *intake) resume(old *catalog.Run) {
	in.row, in.report.Resumed = *old, true
	in.report.Counts, in.first = old.Counts, old.Counts
	in.report.Failures = append(in.report.Failures, old.Failures...)
	in.report.Skipped = append(in.report.Skipped, old.Skips...)
}

// endImport stores the run's outcome.
func (in *intake) endImport(im Import) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	sum := in.conclude()
	if sum != nil {
		sum = fmt.Errorf("%w: %+v", sum, in.report.Counts)
	}
	err := in.a.Change(archive.Act{What: "import ended", Who: im.Who, Of: im.Mailbox, Why: in.row.State}, func(t catalog.Tx) error {
		return storeImport(t, &in.row, &in.since)
	})
	in.tell()
	return errors.Join(sum, err)
}
