package ingest

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/source"
)

// inFlight bounds the raw bytes of messages that are being archived: with a
// message of 100 MB it is that one alone.
const inFlight = 24 << 20

// saveEvery is how often the place in the source is stored: at most what was
// read in this time is read again after an interruption.
const saveEvery = 500 * time.Millisecond

// ErrDoesNotAddUp is a fault of the program: a message is unaccounted for.
var ErrDoesNotAddUp = errors.New("the numbers of the run do not add up")

// maxListed bounds the failures and skips that are kept in memory.
const maxListed = 10_000

// progress is what happened since it was stored last.
type progress struct {
	marks    source.Marks      // how far the source has been read
	failures []catalog.Failure // for the report
	skips    []catalog.Failure // the same
	missed   []catalog.Missed  // to be had another time
	cured    []string          // missed before and archived now
	anew     bool              // what was stored of failures and skips counts no more
}

// intake takes the items of a source, archives them in parallel, and accounts
// for each one.
type intake struct {
	a *archive.Archive
	// from says where an item goes, or by which rule it is skipped. It may take the
	// message out of a journal report, and may fail the item.
	from func(*source.Item) (archive.Provenance, string)
	// store keeps the run and what happened since it was called last.
	store func(catalog.Tx, *catalog.Run, *progress) error
	// told is called now and then, and at the end.
	told func(catalog.Counts)

	mu       sync.Mutex
	room     *sync.Cond
	bytes    int // in flight
	row      catalog.Run
	report   Report
	since    progress
	pending  map[int64]bool        // items that are not accounted for
	settled  map[int64]outcome     // items that are, and not all before them
	marks    map[int64]source.Mark // of items since the lowest pending one
	next     int64                 // number of the next item
	low      int64                 // all items before it are accounted for
	fatal    error                 // what stops the run: the archive takes nothing
	lastSave time.Time
	looked   map[seal.ID]bool // new messages of a dry run

	total int64 // that will have been seen; 0: nobody knows
	began time.Time
	first catalog.Counts // when it began or went on
}

func newIntake(a *archive.Archive) *intake {
	in := &intake{a: a, pending: map[int64]bool{}, settled: map[int64]outcome{}, marks: map[int64]source.Mark{}, lastSave: time.Now(), began: time.Now()}
	in.room = sync.NewCond(&in.mu)
	in.since.marks = source.Marks{}
	in.report.Failures = []catalog.Failure{}
	return in
}

// expect is told how many more items the source will yield.
func (in *intake) expect(n int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.total = in.report.Seen + n
}

// leastTime is how long a run must last before its rate means something.
const leastTime = time.Second

// progress is how far the run is, and how long it takes.
func (in *intake) progress() Progress {
	in.mu.Lock()
	defer in.mu.Unlock()
	p := Progress{Run: in.row.ID, Started: in.row.Started, Counts: in.report.Counts, Total: in.total}
	spent := time.Since(in.began)
	if spent < leastTime {
		return p
	}
	p.Rate = float64(p.Seen-in.first.Seen) / spent.Seconds()
	p.Speed = float64(p.Bytes-in.first.Bytes) / spent.Seconds()
	if p.Rate > 0 && p.Total > 0 {
		left := int64(float64(max(0, p.Total-p.Seen))/p.Rate + 0.5)
		p.Left = &left
	}
	return p
}

func (in *intake) failed(i source.Item, err error) {
	in.report.Failed++
	f := catalog.Failure{Where: i.Where, Reason: err.Error()}
	if len(in.report.Failures) < maxListed {
		in.report.Failures = append(in.report.Failures, f)
	}
	in.since.failures = append(in.since.failures, f)
	if i.Ref != (source.Ref{}) {
		in.since.missed = append(in.since.missed, catalog.Missed{Where: i.Where, Folder: i.Ref.Folder, Validity: i.Ref.Validity, UID: i.Ref.UID, UIDL: i.Ref.UIDL, Size: i.Ref.Size, Reason: err.Error(), Last: in.a.Now()})
	}
}

func (in *intake) skip(i source.Item, rule string) {
	in.report.Counts.Skipped++
	f := catalog.Failure{Where: i.Where, Reason: rule}
	if len(in.report.Skipped) < maxListed {
		in.report.Skipped = append(in.report.Skipped, f)
	}
	in.since.skips = append(in.since.skips, f)
}

func (in *intake) tell() {
	if in.told != nil {
		in.told(in.report.Counts)
	}
}

// work reads the source in this goroutine and archives in as many as there are
// processors. What was handed over is finished even when ctx ends.
func (in *intake) work(ctx context.Context, s source.Source, marks source.Marks) error {
	parent := ctx
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
				in.archive(ctx, j.n, j.item)
			}
		})
	}
	err := s.Walk(ctx, marks, func(i source.Item) bool {
		n, ok := in.admit(ctx, i)
		if !ok {
			return false
		}
		if i.Quiet {
			in.account(n, 0, func() { in.cure(i) })
			return true
		}
		select {
		case jobs <- job{n, i}:
			return true
		case <-ctx.Done():
			in.forget(n, len(i.Raw))
			return false
		}
	})
	close(jobs)
	workers.Wait()
	// A source that was told to stop ends without an error; it is not at its end.
	if err == nil {
		err = parent.Err()
	}
	err = errors.Join(err, in.a.Flush(context.WithoutCancel(ctx)))
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.pending) > 0 && in.fatal == nil {
		in.room.Wait()
	}
	return errors.Join(in.fatal, err)
}

// admit waits for room and gives the item its number.
func (in *intake) admit(ctx context.Context, i source.Item) (int64, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.bytes > 0 && in.bytes+len(i.Raw) > inFlight && in.fatal == nil {
		in.a.Hurry()
		in.room.Wait()
	}
	if in.fatal != nil || ctx.Err() != nil {
		return 0, false
	}
	n := in.next
	in.next++
	in.pending[n], in.marks[n] = true, i.Mark
	in.bytes += len(i.Raw)
	if !i.Quiet {
		in.report.Seen++
		in.report.Bytes += int64(len(i.Raw))
	}
	return n, true
}

// forget takes back an item that was admitted and not handed over.
func (in *intake) forget(n int64, size int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.pending, n)
	delete(in.marks, n)
	in.next--
	in.bytes -= size
	in.report.Seen--
	in.report.Bytes -= int64(size)
	in.room.Broadcast()
}

func (in *intake) archive(ctx context.Context, n int64, i source.Item) {
	size := len(i.Raw)
	rule := i.Skip
	var from archive.Provenance
	if i.Err == nil && rule == "" {
		from, rule = in.from(&i)
	}
	if i.Err != nil || rule != "" {
		in.account(n, size, func() {
			if i.Err != nil {
				in.failed(i, i.Err)
			} else {
				in.skip(i, rule)
				in.cure(i)
			}
		})
		in.tellSource(i, i.Err)
		return
	}
	err := in.a.Enqueue(context.WithoutCancel(ctx), i.Raw, from, func(res archive.Result, err error) {
		in.done(n, size, i, res, err)
	})
	if err != nil {
		in.done(n, size, i, archive.Result{}, err)
	}
}

// cure notes that a message which failed before need not be tried again.
func (in *intake) cure(i source.Item) {
	if i.Again {
		in.since.cured = append(in.since.cured, i.Where)
	}
}

// done accounts for a message. An archive that cannot write stops the run: the
// message is not failed, it is still to be done.
func (in *intake) done(n int64, size int, i source.Item, res archive.Result, err error) {
	if err != nil && !errors.Is(err, archive.ErrMessage) {
		in.mu.Lock()
		defer in.mu.Unlock()
		if in.fatal == nil {
			in.fatal = err
		}
		in.report.Seen--
		in.report.Bytes -= int64(size)
		in.bytes -= size
		in.room.Broadcast()
		return
	}
	in.account(n, size, func() { in.count(i, res, err) })
	in.tellSource(i, err)
}

// count puts a message where it belongs: archived, there already, or failed.
func (in *intake) count(i source.Item, res archive.Result, err error) {
	switch {
	case err != nil:
		in.failed(i, err)
		return
	case res.Outcome == archive.Archived:
		in.report.Archived++
	default:
		in.report.Present++
	}
	in.cure(i)
}

// tellSource tells a source that wants to know what became of an item.
func (in *intake) tellSource(i source.Item, err error) {
	if i.Done != nil {
		i.Done(i.Where, err)
	}
}

// account counts an item, and stores the run's place now and then.
func (in *intake) account(n int64, size int, count func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.settled[n] = in.outcome(size, count)
	delete(in.pending, n)
	in.bytes -= size
	for in.low < in.next && !in.pending[in.low] {
		in.settle(in.low)
		in.low++
	}
	if time.Since(in.lastSave) >= saveEvery {
		in.lastSave = time.Now()
		in.save()
	}
	in.tell()
	in.room.Broadcast()
}

// outcome is what became of one item.
type outcome struct {
	catalog.Counts
	progress
}

// outcome counts an item and says what that changed.
func (in *intake) outcome(size int, count func()) outcome {
	before, since := in.report.Counts, in.since
	in.since = progress{}
	count()
	now := in.report.Counts
	x := outcome{progress: in.since}
	x.Archived, x.Present, x.Skipped, x.Failed = now.Archived-before.Archived, now.Present-before.Present, now.Skipped-before.Skipped, now.Failed-before.Failed
	x.Seen, x.Bytes = x.Archived+x.Present+x.Skipped+x.Failed, int64(size)
	in.since = since
	return x
}

// settle takes an item, and all before it are settled, into what is stored.
func (in *intake) settle(n int64) {
	x, c := in.settled[n], &in.row.Counts
	delete(in.settled, n)
	c.Seen, c.Archived, c.Present = c.Seen+x.Seen, c.Archived+x.Archived, c.Present+x.Present
	c.Skipped, c.Failed, c.Bytes = c.Skipped+x.Skipped, c.Failed+x.Failed, c.Bytes+x.Bytes
	s := &in.since
	s.failures, s.skips = append(s.failures, x.failures...), append(s.skips, x.skips...)
	s.missed, s.cured = append(s.missed, x.missed...), append(s.cured, x.cured...)
	if m := in.marks[n]; m.Key != "" {
		s.marks[m.Key] = m.Value
	}
	delete(in.marks, n)
}

// save stores the counts and marks of what is settled; the caller holds mu.
func (in *intake) save() {
	err := in.a.State().Write(func(t catalog.Tx) error { return in.store(t, &in.row, &in.since) })
	if err != nil {
		in.a.Log().Warn("the place of a run was not stored", "run", in.row.ID, "err", err)
		return
	}
	in.since = progress{marks: source.Marks{}}
}

// again begins the count anew: the walk is from the beginning.
func (in *intake) again() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.report.Counts, in.row.Counts, in.first = catalog.Counts{}, catalog.Counts{}, catalog.Counts{}
	in.report.Failures, in.report.Skipped = []catalog.Failure{}, nil
	in.since = progress{marks: source.Marks{}, anew: true}
}

// interrupted stores what an interrupted run has come to.
func (in *intake) interrupted() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.save()
}

// conclude gives the run its state: how it ended, and whether it adds up.
func (in *intake) conclude() error {
	in.row.Counts = in.report.Counts
	in.row.Ended = in.a.Now()
	in.row.State = catalog.RunDone
	if in.report.Failed > 0 {
		in.row.State = catalog.RunPartial
	}
	if !in.report.AddUp() {
		in.row.State = catalog.RunFailed
		return ErrDoesNotAddUp
	}
	return nil
}
