package target

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/export"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/search"
	"github.com/letterhold/letterhold/internal/store"
)

// The marks of a target. Messages are taken in the order in which they were
// archived, so that one mark is enough, and mail of an old date that is archived
// late is not passed over.
const (
	markLeaf   = "leaf"   // of the last message that is accounted for
	markPlace  = "place"  // up to which occurrences were looked at: "pack frame"
	markChange = "change" // of the catalog when a run was through: without another there is nothing to do
)

var marks = []string{markLeaf, markPlace, markChange}

const (
	saveEvery = 2 * time.Second // how often a run's place is stored
	maxBatch  = 1_000_000       // messages that are put in order at once: 16 MB
	window    = 200             // messages that are read from the catalog in one go
	maxTries  = 5               // of a message that fails, by itself
)

// everywhere is the scope of targets: whoever may add one may read all mail.
var everywhere = catalog.Scope{All: true}

// job is a run under way.
type job struct {
	r   *Runner
	a   *archive.Archive
	p   *Profile
	who string

	to        sink
	closed    bool
	names     func(mailbox, folder string) bool
	mailboxes map[int64]string
	began     bool // it is in the ledger that mail is read

	leaf   int64       // all messages up to it are accounted for
	place  store.Place // all occurrences up to it were looked at
	lines  []catalog.Line
	since  happened // since it was stored last
	saved  kept
	last   time.Time // when it was stored
	report ingest.Report

	mu     sync.Mutex
	row    catalog.Run
	counts catalog.Counts
}

// kept is what was stored last.
type kept struct {
	counts catalog.Counts
	leaf   int64
	place  store.Place
}

// happened is what is to be stored of a run.
type happened struct {
	marks    map[string]string
	failures []catalog.Failure
	skips    []catalog.Failure
	missed   []catalog.Missed
	cured    []string
}

func (j *job) note(format string, args ...any) {
	j.lines = append(j.lines, catalog.Line{Time: j.a.Now(), Text: fmt.Sprintf(format, args...)})
}

func (j *job) run(ctx context.Context) (*ingest.Outcome, error) {
	start := time.Now()
	whole := context.WithoutCancel(ctx) // what is there is stored, however soon the run is stopped
	j.report.Failures = []catalog.Failure{}
	j.since.marks = map[string]string{}
	had, missed, err := j.begin(whole)
	if err != nil {
		return nil, err
	}
	j.note("run %d of %q begins", j.row.ID, j.p.Name)
	err = j.work(ctx, had, missed)
	return j.end(ctx, err, time.Since(start))
}

// begin finds the run that was interrupted or paused, or starts one.
func (j *job) begin(ctx context.Context) (had map[string]string, missed []catalog.Missed, err error) {
	err = j.a.State().View(ctx, func(v catalog.View) (err error) {
		if had, err = v.Marks(j.p.ID); err != nil {
			return err
		}
		if missed, err = v.Missed(j.p.ID, maxListed); err != nil {
			return err
		}
		rs, err := v.RunsOf(j.p.ID, 1)
		if err == nil && len(rs) == 1 && (rs[0].State == catalog.RunRunning || rs[0].State == catalog.RunPaused) {
			j.mu.Lock()
			defer j.mu.Unlock()
			j.row, j.report.Resumed, j.counts = rs[0], true, rs[0].Counts
			j.report.Failures = append(j.report.Failures, rs[0].Failures...)
			j.report.Skipped = append(j.report.Skipped, rs[0].Skips...)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	j.leaf = -1
	if n, err := strconv.ParseInt(had[markLeaf], 10, 64); err == nil {
		j.leaf = n
	}
	fmt.Sscanf(had[markPlace], "%d %d", &j.place.Pack, &j.place.Frame)
	j.last, j.saved = time.Now(), kept{j.counts, j.leaf, j.place}
	return had, missed, j.a.State().Write(func(t catalog.Tx) error {
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.row.ID == 0 {
			j.row = catalog.Run{Profile: j.p.ID, What: j.p.Name, Who: j.who, Started: j.a.Now()}
			return t.StartRun(&j.row)
		}
		j.row.State = catalog.RunRunning
		return t.SaveRun(&j.row, nil, nil)
	})
}

// work takes there what failed before, what is new, and what came to be meant.
func (j *job) work(ctx context.Context, had map[string]string, missed []catalog.Missed) (err error) {
	if j.p.Exception.Over(j.a.Now()) {
		return ErrException
	}
	missed = slices.DeleteFunc(missed, func(m catalog.Missed) bool { return m.Tries >= maxTries })
	change, _, err := j.a.Catalog().Changes(ctx)
	if err != nil || had[markChange] == strconv.FormatInt(change, 10) && len(missed) == 0 {
		return err
	}
	horizon, err := j.a.Catalog().Horizon(ctx)
	if err != nil {
		return err
	}
	if err := j.prepare(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.finish()) }()
	if err := j.retry(ctx, missed); err != nil {
		return err
	}
	again, err := j.fresh(ctx, horizon)
	if err != nil {
		return err
	}
	if err := j.each(ctx, again, metAgain); err != nil {
		return err
	}
	j.leaf, j.place = max(j.leaf, horizon.Leaf), horizon.Place
	j.since.marks[markChange] = strconv.FormatInt(horizon.Change, 10)
	return nil
}

// ErrException: the exception that a target rests on has ended.
var ErrException = errors.New("the exception has ended: the target rests, and nothing is brought out")

func (j *job) prepare(ctx context.Context) (err error) {
	expr, _, err := search.Parse(j.p.Query)
	if err != nil {
		return err
	}
	j.names = expr.Names
	if j.mailboxes, err = j.a.State().MailboxNames(ctx); err != nil {
		return err
	}
	at, err := j.p.address()
	if err != nil {
		return err
	}
	if at.kind == kindFolder {
		j.to = folderSink(j.a, j.p, at.path)
		return nil
	}
	j.to, err = j.p.sink(j.a, j.r.credential(j.p), j.mailboxes, j.r.Patience, j.note)
	return err
}

// retry takes messages again that failed before.
func (j *job) retry(ctx context.Context, missed []catalog.Missed) error {
	for _, m := range missed {
		id, err := seal.ParseID(m.Where)
		if err != nil {
			return err
		}
		e, err := j.a.Catalog().Message(ctx, id)
		if errors.Is(err, catalog.ErrNotFound) { // erased
			j.since.cured = append(j.since.cured, m.Where)
			continue
		}
		if err != nil {
			return err
		}
		if err := j.each(ctx, []catalog.Placed{{Leaf: e.Leaf, Row: e.Row}}, failedBefore); err != nil {
			return err
		}
	}
	return nil
}

// fresh takes there what was archived since the mark. It returns messages of
// before that the query finds now and that were met again since: they may be
// meant only now.
func (j *job) fresh(ctx context.Context, h catalog.Horizon) (again []catalog.Placed, err error) {
	begin := j.leaf
	for first := true; ; first = false {
		var batch []catalog.Placed
		if j.p.everything() {
			batch, err = j.a.Catalog().Since(ctx, j.leaf, h.Leaf, maxBatch)
		} else {
			batch, err = j.collect(ctx, h, func(hit *catalog.Hit) {
				if first && begin >= 0 && hit.Leaf <= begin && j.met(hit, h) {
					again = append(again, catalog.Placed{Leaf: hit.Leaf, Row: hit.Row})
				}
			})
		}
		if err != nil || len(batch) == 0 {
			return again, err
		}
		if err := j.each(ctx, batch, isNew); err != nil {
			return nil, err
		}
		if len(batch) < maxBatch {
			return again, nil
		}
	}
}

// met tells whether a message has an occurrence that is younger than itself and
// was not looked at yet.
func (j *job) met(h *catalog.Hit, until catalog.Horizon) bool {
	return slices.ContainsFunc(h.Occurrences, func(o catalog.Occurrence) bool {
		return before(j.place, o.Place) && before(h.Place, o.Place) && !before(until.Place, o.Place)
	})
}

func before(a, b store.Place) bool {
	return a.Pack < b.Pack || a.Pack == b.Pack && a.Frame < b.Frame
}

// collect returns the hits behind the mark in the order of their leaves, the
// first of them if there are many. old is called for the others.
func (j *job) collect(ctx context.Context, h catalog.Horizon, old func(*catalog.Hit)) (batch []catalog.Placed, err error) {
	byLeaf := func(a, b catalog.Placed) int { return cmp.Compare(a.Leaf, b.Leaf) }
	err = j.r.find(ctx, j.p.Query, func(hit catalog.Hit) error {
		switch {
		case hit.Leaf > h.Leaf: // archived meanwhile; the next run has it
		case hit.Leaf <= j.leaf:
			old(&hit)
		default:
			if batch = append(batch, catalog.Placed{Leaf: hit.Leaf, Row: hit.Row}); len(batch) >= 2*maxBatch {
				slices.SortFunc(batch, byLeaf)
				batch = batch[:maxBatch]
			}
		}
		return ctx.Err()
	})
	slices.SortFunc(batch, byLeaf)
	return batch[:min(len(batch), maxBatch)], err
}

// why a message is taken.
type why int

const (
	isNew        why = iota
	failedBefore     // an earlier run could not
	metAgain         // it was met in another folder after an earlier run
)

// each takes messages there, in order.
func (j *job) each(ctx context.Context, ms []catalog.Placed, w why) error {
	for some := range slices.Chunk(ms, window) {
		rows := make([]catalog.Row, len(some))
		for i, m := range some {
			rows[i] = m.Row
		}
		hits, err := j.a.Catalog().Visible(ctx, everywhere, rows)
		if err != nil {
			return err
		}
		for i := range hits {
			if err := j.one(ctx, &hits[i], w); err != nil {
				return err
			}
			if w == isNew {
				j.leaf = hits[i].Leaf
			}
			if err := j.save(false); err != nil {
				return err
			}
		}
		if w == isNew { // what was erased meanwhile is behind, too
			j.leaf = some[len(some)-1].Leaf
		}
	}
	return nil
}

// one takes a message there and accounts for it.
func (j *job) one(ctx context.Context, h *catalog.Hit, w why) error {
	if !j.began {
		if err := j.a.Record(archive.Act{What: "exported by a target", Who: j.who, Of: j.p.Name, More: []string{"to " + j.p.To}}); err != nil {
			return err
		}
		j.began = true
	}
	m := &message{Hit: h, at: meant(j.names, j.mailboxes, h), met: w == metAgain, maybe: w != isNew || j.report.Resumed}
	fresh, size, err := carry(ctx, j.a, j.to, m)
	if err != nil && !alone(err) {
		return err
	}
	where := h.ID.String()
	var skipped skipError
	j.mu.Lock()
	defer j.mu.Unlock()
	j.counts.Seen++
	j.counts.Bytes += size
	switch {
	case errors.As(err, &skipped):
		j.counts.Skipped++
		f := catalog.Failure{Where: where, Reason: skipped.Error()}
		j.since.skips = append(j.since.skips, f)
		if len(j.report.Skipped) < maxListed {
			j.report.Skipped = append(j.report.Skipped, f)
		}
		return nil
	case err != nil:
		j.counts.Failed++
		f := catalog.Failure{Where: where, Reason: err.Error()}
		j.since.failures = append(j.since.failures, f)
		if len(j.report.Failures) < maxListed {
			j.report.Failures = append(j.report.Failures, f)
		}
		j.since.missed = append(j.since.missed, catalog.Missed{Where: where, Size: h.Size, Reason: err.Error(), Last: j.a.Now()})
		return nil
	case fresh:
		j.counts.Archived++
	default:
		j.counts.Present++
	}
	if w == failedBefore {
		j.since.cured = append(j.since.cured, where)
	}
	return nil
}

// skipError is a rule by which a message is left out.
type skipError string

func (e skipError) Error() string { return string(e) }

// save stores the run's place, if what was taken there is safe: with force at
// once, else now and then.
func (j *job) save(force bool) error {
	if !force && time.Since(j.last) < cmp.Or(j.r.SaveEvery, saveEvery) {
		return nil
	}
	j.last = time.Now()
	if j.to != nil && !j.closed {
		if safe, err := j.to.flush(); err != nil || !safe {
			return err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.row.Counts = j.counts
	j.since.marks[markLeaf] = strconv.FormatInt(j.leaf, 10)
	j.since.marks[markPlace] = fmt.Sprintf("%d %d", j.place.Pack, j.place.Frame)
	if err := j.a.State().Write(j.store); err != nil {
		return err
	}
	j.saved = kept{j.counts, j.leaf, j.place}
	j.since, j.lines = happened{marks: map[string]string{}}, nil
	return nil
}

func (j *job) store(t catalog.Tx) error {
	for key, value := range j.since.marks {
		if err := t.SetMark(j.p.ID, key, value); err != nil {
			return err
		}
	}
	for _, where := range j.since.cured {
		if err := t.RemoveMissed(j.p.ID, where); err != nil {
			return err
		}
	}
	for _, m := range j.since.missed {
		if err := t.AddMissed(j.p.ID, m); err != nil {
			return err
		}
	}
	if err := t.AddLines(j.row.ID, j.lines); err != nil {
		return err
	}
	return t.SaveRun(&j.row, j.since.failures, j.since.skips)
}

// finish closes what messages were taken to. If that fails, what was not safe
// before is not there, and is not counted.
func (j *job) finish() error {
	err := j.to.close()
	j.closed = true
	if err != nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.counts, j.leaf, j.place = j.saved.counts, j.saved.leaf, j.saved.place
		j.since = happened{marks: map[string]string{}}
	}
	return err
}

// end stores what became of a run.
func (j *job) end(ctx context.Context, cause error, took time.Duration) (*ingest.Outcome, error) {
	out := &ingest.Outcome{Run: j.row.ID, Profile: j.p.Name}
	state := catalog.RunDone
	var result error
	stopped := context.Cause(ctx)
	switch {
	case cause == nil:
	case errors.Is(stopped, ingest.ErrPaused):
		j.note("paused")
		state = catalog.RunPaused
	case errors.Is(stopped, ingest.ErrCancelled):
		j.note("cancelled")
		state = catalog.RunCancelled
	case ctx.Err() != nil:
		state, out.Error, result = catalog.RunRunning, "interrupted", ctx.Err() // it goes on at the next start
	default:
		j.note("stopped: %v", cause)
		state, out.Error = catalog.RunFailed, cause.Error()
		f := catalog.Failure{Where: j.p.Name, Reason: cause.Error()}
		j.report.Failures = append(j.report.Failures, f)
		j.since.failures = append(j.since.failures, f)
	}
	if state == catalog.RunDone && j.counts.Failed > 0 {
		state = catalog.RunPartial
	}
	if !j.counts.AddUp() {
		state, result = catalog.RunFailed, errors.Join(result, fmt.Errorf("%w: %+v", ingest.ErrDoesNotAddUp, j.counts))
	}
	j.mu.Lock()
	j.row.State = state
	if state != catalog.RunRunning && state != catalog.RunPaused {
		j.row.Ended = j.a.Now()
	}
	j.mu.Unlock()
	j.report.Counts, j.report.Seconds = j.counts, took.Seconds()
	out.State, out.Report = state, j.report
	return out, errors.Join(result, j.save(true))
}

// folderSink is the folder of a profile.
func folderSink(a *archive.Archive, p *Profile, path string) sink {
	if p.Format == export.EML || p.Format == export.Maildir {
		return &tree{a: a, format: p.Format, path: path}
	}
	return &files{a: a, format: p.Format, path: path, prefix: prefixOf(p.Name)}
}
