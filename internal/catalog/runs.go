package catalog

import (
	"errors"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// Counts are the numbers of a run. They add up, or the run has failed.
type Counts struct {
	Seen     int64 `json:"seen"`
	Archived int64 `json:"archived"`
	Present  int64 `json:"present"`
	Skipped  int64 `json:"skipped"`
	Failed   int64 `json:"failed"`
	Bytes    int64 `json:"bytes"`
}

// AddUp tells whether every message that was seen is accounted for.
func (c Counts) AddUp() bool { return c.Seen == c.Archived+c.Present+c.Skipped+c.Failed }

// Failure is a message that could not be archived, or that a rule left out.
type Failure struct {
	Where  string `json:"where"`
	Reason string `json:"reason"`
}

// Run is one import, or one run of a profile.
type Run struct {
	ID      int64
	Profile int64  // 0: an import
	Kind    string // of the profile; empty for an import, and when the profile is gone; read only
	What    string
	Who     string
	State   string
	Started time.Time
	Ended   time.Time
	Cursor  string // behind the last item that is accounted for
	Counts
	Failures []Failure
	Skips    []Failure // by rule
}

// States of a run.
const (
	RunRunning   = "running"
	RunPaused    = "paused"  // by somebody, who lets it go on
	RunWaiting   = "waiting" // the source wants to be asked later; it goes on by itself
	RunDone      = "done"
	RunPartial   = "partial" // something failed
	RunFailed    = "failed"
	RunCancelled = "cancelled"
)

// maxFailures bounds each list that is kept of a run; the counts are exact.
const maxFailures = 10_000

// StartRun stores a new run and gives it its id.
func (t Tx) StartRun(r *Run) error {
	err := t.c.run(`INSERT INTO runs (profile, what, who, state, started) VALUES (?,?,?,?,?)`, r.Profile, r.What, r.Who, RunRunning, r.Started.Unix())
	r.ID, r.State = t.c.LastInsertRowID(), RunRunning
	return err
}

// SaveRun stores progress, and what failed and was skipped since the last call.
func (t Tx) SaveRun(r *Run, failures, skips []Failure) error {
	ended := int64(0)
	if !r.Ended.IsZero() {
		ended = r.Ended.Unix()
	}
	err := t.c.run(`UPDATE runs SET state=?, ended=?, cursor=?, seen=?, archived=?, present=?, skipped=?, failed=?, bytes=? WHERE id=?`,
		r.State, ended, r.Cursor, r.Seen, r.Archived, r.Present, r.Skipped, r.Failed, r.Bytes, r.ID)
	if err != nil {
		return err
	}
	return errors.Join(t.addFailures(r.ID, 0, failures), t.addFailures(r.ID, 1, skips))
}

// ForgetFailures removes what was stored of a run's failures and skips.
func (t Tx) ForgetFailures(run int64) error {
	return t.c.run(`DELETE FROM failures WHERE run = ?`, run)
}

func (t Tx) addFailures(run int64, rule int, fs []Failure) error {
	n, _, err := t.c.number(`SELECT count(*) FROM failures WHERE run = ? AND rule = ?`, run, rule)
	for _, f := range fs {
		if n++; err != nil || n > maxFailures {
			break
		}
		err = t.c.run(`INSERT INTO failures (run, place, reason, rule) VALUES (?,?,?,?)`, run, f.Where, f.Reason, rule)
	}
	return err
}

// Unfinished returns the run of this kind that was interrupted, or ErrNotFound.
func (v View) Unfinished(what string) (*Run, error) {
	rs, err := v.runs(`WHERE what = ? AND state = 'running' ORDER BY id DESC LIMIT 1`, what)
	if err != nil {
		return nil, err
	}
	if len(rs) == 0 {
		return nil, ErrNotFound
	}
	return &rs[0], nil
}

// Runs returns the newest runs.
func (v View) Runs(limit int) ([]Run, error) { return v.runs(`ORDER BY id DESC LIMIT ?`, limit) }

// RunsOf returns the newest runs of a profile.
func (v View) RunsOf(profile int64, limit int) ([]Run, error) {
	return v.runs(`WHERE profile = ? ORDER BY id DESC LIMIT ?`, profile, limit)
}

// Run returns a run by id.
func (v View) Run(id int64) (*Run, error) {
	rs, err := v.runs(`WHERE id = ?`, id)
	if err == nil && len(rs) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return &rs[0], nil
}

// Recent returns the newest runs without what failed and was skipped.
func (v View) Recent(limit int) ([]Run, error) { return v.bare(`ORDER BY id DESC LIMIT ?`, limit) }

// Failures returns what failed in a run, the first first.
func (v View) Failures(run int64, limit int) (out []Failure, err error) {
	err = v.c.query(`SELECT place, reason FROM failures WHERE run = ? AND rule = 0 ORDER BY rowid LIMIT ?`, func(s *sqlite3.Stmt) error {
		out = append(out, Failure{s.ColumnText(0), s.ColumnText(1)})
		return nil
	}, run, limit)
	return out, err
}

func (v View) bare(where string, args ...any) (out []Run, err error) {
	err = v.c.query(`SELECT id, what, state, started, ended, cursor, seen, archived, present, skipped, failed, bytes, profile, who, (SELECT kind FROM profiles WHERE profiles.id = runs.profile) FROM runs `+where, func(s *sqlite3.Stmt) error {
		r := Run{ID: s.ColumnInt64(0), What: s.ColumnText(1), State: s.ColumnText(2), Started: time.Unix(s.ColumnInt64(3), 0).UTC(), Cursor: s.ColumnText(5),
			Counts:  Counts{s.ColumnInt64(6), s.ColumnInt64(7), s.ColumnInt64(8), s.ColumnInt64(9), s.ColumnInt64(10), s.ColumnInt64(11)},
			Profile: s.ColumnInt64(12), Who: s.ColumnText(13), Kind: s.ColumnText(14)}
		if e := s.ColumnInt64(4); e != 0 {
			r.Ended = time.Unix(e, 0).UTC()
		}
		out = append(out, r)
		return nil
	}, args...)
	return out, err
}

func (v View) runs(where string, args ...any) ([]Run, error) {
	out, err := v.bare(where, args...)
	for i := range out {
		if err != nil {
			return nil, err
		}
		err = v.c.query(`SELECT place, reason, rule FROM failures WHERE run = ? ORDER BY rowid`, func(s *sqlite3.Stmt) error {
			to := &out[i].Failures
			if s.ColumnBool(2) {
				to = &out[i].Skips
			}
			*to = append(*to, Failure{s.ColumnText(0), s.ColumnText(1)})
			return nil
		}, out[i].ID)
	}
	return out, err
}

// Line is one line of a run's log.
type Line struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// maxLines bounds a run's log; what comes after is counted only.
const maxLines = 20_000

// AddLines adds to a run's log.
func (t Tx) AddLines(run int64, lines []Line) error {
	n, _, err := t.c.number(`SELECT count(*) FROM runlog WHERE run = ?`, run)
	for _, l := range lines {
		if n++; err != nil || n > maxLines {
			break
		}
		err = t.c.run(`INSERT INTO runlog (run, time, line) VALUES (?,?,?)`, run, l.Time.Unix(), l.Text)
	}
	return err
}

// Lines returns the last lines of a run's log, oldest first.
func (v View) Lines(run int64, limit int) (out []Line, err error) {
	err = v.c.query(`SELECT time, line FROM (SELECT rowid AS n, time, line FROM runlog WHERE run = ? ORDER BY n DESC LIMIT ?) ORDER BY n`, func(s *sqlite3.Stmt) error {
		out = append(out, Line{time.Unix(s.ColumnInt64(0), 0).UTC(), s.ColumnText(1)})
		return nil
	}, run, limit)
	return out, err
}
