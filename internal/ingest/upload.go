package ingest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/source"
)

// UploadGone is why an import of sent files failed that a stop of the server
// interrupted: they are nowhere any more.
const UploadGone = "the server was stopped and what was sent is gone: send it again; what is archived stays, and nothing is archived twice"

// WholeImport is the place of a failure that ended an import.
const WholeImport = "import"

// namedFiles is how many files the name of a run has; it is shown in lists.
const namedFiles = 20

// uploadOf names the import of what was sent.
func uploadOf(im Import, files []source.Sent) string {
	var names []string
	for i, f := range files {
		if i == namedFiles {
			names = append(names, fmt.Sprintf("and %d more", len(files)-i))
			break
		}
		names = append(names, source.UploadPlace+f.Name)
	}
	return strings.Join(names, "\n") + "\n> " + im.Mailbox + "/" + im.Folder
}

// Upload imports files that were sent. It calls begun with the number of its
// run before it reads them. Its run ends with it in any case: nobody could go
// on with it.
func Upload(ctx context.Context, a *archive.Archive, im Import, files []source.Sent, begun func(run int64)) (*Report, error) {
	in := newIntake(a)
	in.told = im.Progress
	start := time.Now()
	err := in.runUpload(ctx, im, files, begun)
	in.report.Seconds = time.Since(start).Seconds()
	return &in.report, err
}

func (in *intake) runUpload(ctx context.Context, im Import, files []source.Sent, begun func(int64)) error {
	mailbox, err := in.a.Mailbox(ctx, im.Mailbox, im.Who)
	if err != nil {
		return err
	}
	in.from = func(i *source.Item) (archive.Provenance, string) {
		return archive.Provenance{Mailbox: mailbox, Folder: i.Folder, Source: "import", Where: i.Where, Flags: i.Flags, Internal: i.Internal}, ""
	}
	in.store = storeImport
	in.row = catalog.Run{What: uploadOf(im, files), Who: im.Who, Started: in.a.Now()}
	if err := in.a.Change(archive.Act{What: "import begun", Who: im.Who, Of: im.Mailbox}, func(t catalog.Tx) error { return t.StartRun(&in.row) }); err != nil {
		return err
	}
	begun(in.row.ID)
	return in.endUpload(ctx, im, in.work(ctx, source.Upload{Files: files, Folder: im.Folder}, source.Marks{}))
}

// endUpload stores the run's outcome, whatever ended it.
func (in *intake) endUpload(ctx context.Context, im Import, cause error) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	sum := in.conclude()
	if sum != nil {
		sum = fmt.Errorf("%w: %+v", sum, in.report.Counts)
	}
	switch {
	case cause == nil:
	case errors.Is(context.Cause(ctx), ErrCancelled):
		in.row.State = catalog.RunCancelled
	case ctx.Err() != nil:
		in.stopped(UploadGone)
	default:
		in.stopped(cause.Error())
	}
	err := in.a.Change(archive.Act{What: "import ended", Who: im.Who, Of: im.Mailbox, Why: in.row.State}, func(t catalog.Tx) error {
		return storeImport(t, &in.row, &in.since)
	})
	in.tell()
	return errors.Join(sum, cause, err)
}

// stopped says why a run has failed as a whole. No message failed for that: the
// numbers stay as they are.
func (in *intake) stopped(why string) {
	in.row.State = catalog.RunFailed
	f := catalog.Failure{Where: WholeImport, Reason: why}
	in.report.Failures = append(in.report.Failures, f)
	in.since.failures = append(in.since.failures, f)
}

// Given imports what a source yields that is there once, such as mail that the
// program makes. Its run ends with it.
func Given(ctx context.Context, a *archive.Archive, im Import, what string, src source.Source) (*Report, error) {
	in := newIntake(a)
	start := time.Now()
	mailbox, err := a.Mailbox(ctx, im.Mailbox, im.Who)
	if err != nil {
		return &in.report, err
	}
	in.from = func(i *source.Item) (archive.Provenance, string) {
		return archive.Provenance{Mailbox: mailbox, Folder: i.Folder, Source: what, Where: i.Where, Flags: i.Flags}, ""
	}
	in.store = storeImport
	in.row = catalog.Run{What: what, Who: im.Who, Started: a.Now()}
	if err := a.Change(archive.Act{What: "import begun", Who: im.Who, Of: im.Mailbox}, func(t catalog.Tx) error { return t.StartRun(&in.row) }); err != nil {
		return &in.report, err
	}
	err = in.endUpload(ctx, im, in.work(ctx, src, source.Marks{}))
	in.report.Seconds = time.Since(start).Seconds()
	return &in.report, err
}

// EndUploads ends the imports of sent files that a process left unfinished
// which was killed. It is for a process that has just opened the archive.
func EndUploads(ctx context.Context, a *archive.Archive) error {
	var rs []catalog.Run
	err := a.State().View(ctx, func(v catalog.View) (err error) {
		rs, err = v.RunningUploads()
		return err
	})
	for i := range rs {
		r := &rs[i]
		r.State, r.Ended = catalog.RunFailed, a.Now()
		_, into, _ := strings.Cut(r.What, "\n> ")
		err = errors.Join(err, a.Change(archive.Act{What: "import ended", Who: "server", Of: into, Why: r.State}, func(t catalog.Tx) error {
			return t.SaveRun(r, []catalog.Failure{{Where: WholeImport, Reason: UploadGone}}, nil)
		}))
	}
	return err
}
