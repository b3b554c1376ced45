// Package ingest runs imports: it takes items from a source, archives them in
// parallel, and accounts for each one. The numbers of a run add up, or the run
// has failed; a run that was interrupted goes on where it was.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/mbox"
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

// Report is what became of an import.
type Report struct {
	catalog.Counts
	Seconds  float64           `json:"seconds"`
	Resumed  bool              `json:"resumed,omitempty"`
	Failures []catalog.Failure `json:"failures"`
	Skipped  []catalog.Failure `json:"skips,omitempty"`
}

// inFlight bounds the raw bytes of messages that are being archived: with a
// message of 100 MB it is that one alone.
const inFlight = 24 << 20

// saveEvery is how often the place in the source is stored: at most what was
// read in this time is read again after an interruption.
const saveEvery = 2 * time.Second

// ErrDoesNotAddUp is a fault of the program: a message is unaccounted for.
var ErrDoesNotAddUp = errors.New("the numbers of the run do not add up")

// maxListed bounds the failures and skips that are kept in memory.
const maxListed = 10_000

// run is one import under way.
type run struct {
	a       *archive.Archive
	im      Import
	mailbox int64

	mu       sync.Mutex
	room     *sync.Cond
	bytes    int // in flight
	row      catalog.Run
	report   Report
	fresh    []catalog.Failure // not stored yet
	pending  map[int64]bool    // items that are not accounted for
	wheres   map[int64]string  // of items since the cursor
	next     int64             // number of the next item
	low      int64             // all items before it are accounted for
	fatal    error             // what stops the run: the archive takes nothing
	lastSave time.Time
}

// Run imports and returns the report, also with an error.
func Run(ctx context.Context, a *archive.Archive, im Import) (*Report, error) {
	r := &run{a: a, im: im, pending: map[int64]bool{}, wheres: map[int64]string{}, lastSave: time.Now()}
	r.room = sync.NewCond(&r.mu)
	r.report.Failures = []catalog.Failure{}
	start := time.Now()
	if im.DryRun {
		err := r.dry(ctx)
		r.report.Seconds = time.Since(start).Seconds()
		return &r.report, err
	}
	if err := r.begin(ctx); err != nil {
		return &r.report, err
	}
	err := r.work(ctx)
	err = errors.Join(err, r.end(ctx, err))
	r.report.Seconds = time.Since(start).Seconds()
	return &r.report, err
}

// dry counts without archiving.
func (r *run) dry(ctx context.Context) error {
	return source.Files(ctx, r.im.Paths, source.Options{Folder: r.im.Folder, Mbox: r.im.Mbox}, func(i source.Item) bool {
		r.report.Seen++
		switch {
		case i.Err != nil:
			r.failed(i.Where, i.Err)
		case i.Skip != "":
			r.skip(i)
		default:
			r.report.Bytes += int64(len(i.Raw))
			if r.a.Has(ctx, i.Raw) {
				r.report.Present++
			} else {
				r.report.Archived++
			}
		}
		r.progress()
		return true
	})
}

func (r *run) failed(where string, err error) {
	r.report.Failed++
	f := catalog.Failure{Where: where, Reason: err.Error()}
	if len(r.report.Failures) < maxListed {
		r.report.Failures = append(r.report.Failures, f)
	}
	r.fresh = append(r.fresh, f)
}

func (r *run) skip(i source.Item) {
	r.report.Counts.Skipped++
	if len(r.report.Skipped) < maxListed {
		r.report.Skipped = append(r.report.Skipped, catalog.Failure{Where: i.Where, Reason: i.Skip})
	}
}

func (r *run) progress() {
	if r.im.Progress != nil {
		r.im.Progress(r.report.Counts)
	}
}

// begin finds the run that was interrupted, or starts one.
func (r *run) begin(ctx context.Context) (err error) {
	if r.mailbox, err = r.a.Mailbox(ctx, r.im.Mailbox, r.im.Who); err != nil {
		return err
	}
	var abs []string
	for _, p := range r.im.Paths {
		full, err := filepath.Abs(p)
		if err != nil {
			return err
		}
		abs = append(abs, full)
	}
	r.im.Paths = abs
	what := strings.Join(abs, "\n") + "\n> " + r.im.Mailbox + "/" + r.im.Folder
	var old *catalog.Run
	err = r.a.State().View(ctx, func(v catalog.View) (err error) {
		old, err = v.Unfinished(what)
		return err
	})
	if err == nil {
		r.row, r.report.Resumed = *old, true
		r.report.Counts = old.Counts
		r.report.Failures = append(r.report.Failures, old.Failures...)
		return nil
	}
	if !errors.Is(err, catalog.ErrNotFound) {
		return err
	}
	r.row = catalog.Run{What: what, State: catalog.RunRunning, Started: r.a.Now()}
	return r.a.Change(archive.Act{What: "import begun", Who: r.im.Who, Of: r.im.Mailbox}, func(t catalog.Tx) (err error) {
		r.row.ID, err = t.StartRun(what, r.row.Started)
		return err
	})
}

// work reads the source in one goroutine and archives in as many as there are
// processors.
func (r *run) work(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type job struct {
		n    int64
		item source.Item
	}
	jobs := make(chan job)
	var workers sync.WaitGroup
	for range max(2, runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			for j := range jobs {
				r.archive(ctx, j.n, j.item)
			}
		})
	}
	err := source.Files(ctx, r.im.Paths, source.Options{Folder: r.im.Folder, Mbox: r.im.Mbox, After: r.row.Cursor}, func(i source.Item) bool {
		n, ok := r.admit(ctx, i)
		if !ok {
			return false
		}
		select {
		case jobs <- job{n, i}:
			return true
		case <-ctx.Done():
			r.forget(n, len(i.Raw))
			return false
		}
	})
	close(jobs)
	workers.Wait()
	// What was handed over is finished even when the run is interrupted.
	err = errors.Join(err, r.a.Flush(context.WithoutCancel(ctx)))
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.pending) > 0 && r.fatal == nil {
		r.room.Wait()
	}
	return errors.Join(r.fatal, err)
}

// admit waits for room and gives the item its number.
func (r *run) admit(ctx context.Context, i source.Item) (int64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.bytes > 0 && r.bytes+len(i.Raw) > inFlight && r.fatal == nil {
		r.a.Hurry()
		r.room.Wait()
	}
	if r.fatal != nil || ctx.Err() != nil {
		return 0, false
	}
	n := r.next
	r.next++
	r.pending[n], r.wheres[n] = true, i.Where
	r.bytes += len(i.Raw)
	r.report.Seen++
	r.report.Bytes += int64(len(i.Raw))
	return n, true
}

// forget takes back an item that was admitted and not handed over.
func (r *run) forget(n int64, size int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, n)
	delete(r.wheres, n)
	r.next--
	r.bytes -= size
	r.report.Seen--
	r.report.Bytes -= int64(size)
	r.room.Broadcast()
}

func (r *run) archive(ctx context.Context, n int64, i source.Item) {
	size := len(i.Raw)
	if i.Err != nil || i.Skip != "" {
		r.account(n, size, func() {
			if i.Err != nil {
				r.failed(i.Where, i.Err)
			} else {
				r.skip(i)
			}
		})
		return
	}
	from := archive.Provenance{Mailbox: r.mailbox, Folder: i.Folder, Source: "import", Where: i.Where, Flags: i.Flags, Internal: i.Internal}
	err := r.a.Enqueue(context.WithoutCancel(ctx), i.Raw, from, func(res archive.Result, err error) {
		r.done(n, size, i.Where, res, err)
	})
	if err != nil {
		r.done(n, size, i.Where, archive.Result{}, err)
	}
}

// done accounts for a message. An archive that cannot write stops the run: the
// message is not failed, it is still to be done.
func (r *run) done(n int64, size int, where string, res archive.Result, err error) {
	if err != nil && !isOfMessage(err) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.fatal == nil {
			r.fatal = err
		}
		r.report.Seen--
		r.report.Bytes -= int64(size)
		r.bytes -= size
		r.room.Broadcast()
		return
	}
	r.account(n, size, func() {
		switch {
		case err != nil:
			r.failed(where, err)
		case res.Outcome == archive.Archived:
			r.report.Archived++
		default:
			r.report.Present++
		}
	})
}

// isOfMessage tells an error that concerns one message only.
func isOfMessage(err error) bool { return errors.Is(err, archive.ErrMessage) }

// account counts an item, and stores the run's place now and then.
func (r *run) account(n int64, size int, count func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count()
	delete(r.pending, n)
	r.bytes -= size
	for r.low < r.next && !r.pending[r.low] {
		r.row.Cursor = r.wheres[r.low]
		delete(r.wheres, r.low)
		r.low++
	}
	if time.Since(r.lastSave) >= saveEvery && r.low == r.next-int64(len(r.pending)) {
		r.lastSave = time.Now()
		r.save()
	}
	r.progress()
	r.room.Broadcast()
}

// save stores counts and cursor; the caller holds mu. Items that are accounted
// for beyond the cursor would be counted twice, so it is called without such.
func (r *run) save() {
	r.row.Counts = r.report.Counts
	r.row.Seen = r.row.Archived + r.row.Present + r.row.Skipped + r.row.Failed
	fresh := r.fresh
	err := r.a.State().Write(func(t catalog.Tx) error { return t.SaveRun(&r.row, fresh) })
	if err != nil {
		r.a.Log().Warn("the place of an import was not stored", "err", err)
		return
	}
	r.fresh = nil
}

// end stores the run's outcome. An interrupted run stays "running": the same
// import goes on with it.
func (r *run) end(ctx context.Context, cause error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cause != nil {
		if len(r.pending) == 0 {
			r.save()
		}
		return nil
	}
	r.row.Counts = r.report.Counts
	r.row.Ended = r.a.Now()
	r.row.State = catalog.RunDone
	if r.report.Failed > 0 {
		r.row.State = catalog.RunPartial
	}
	var sum error
	if !r.report.AddUp() {
		r.row.State = catalog.RunFailed
		sum = fmt.Errorf("%w: %+v", ErrDoesNotAddUp, r.report.Counts)
	}
	err := r.a.Change(archive.Act{What: "import ended", Who: r.im.Who, Of: r.im.Mailbox, Why: r.row.State}, func(t catalog.Tx) error {
		return t.SaveRun(&r.row, r.fresh)
	})
	r.progress()
	return errors.Join(sum, err)
}
