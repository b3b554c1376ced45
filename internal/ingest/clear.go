package ingest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/source"
)

// Deletion is what was deleted at a source after a run, or would be.
type Deletion struct {
	Before time.Time `json:"before"` // only what is older
	Count  int64     `json:"count"`
	Bytes  int64     `json:"bytes"`
	// Messages are those that would be deleted; Count has them all.
	Messages []Doomed `json:"messages,omitempty"`
	// Kept are messages that are old enough and stay, with the reason.
	Kept  []catalog.Failure `json:"kept,omitempty"`
	Error string            `json:"error,omitempty"` // why not all was looked at
}

// Doomed is a message that would be deleted at its source.
type Doomed struct {
	Where  string    `json:"where"`
	Folder string    `json:"folder"`
	Date   time.Time `json:"date"`
	Size   int64     `json:"size"`
	Leaf   int64     `json:"leaf"` // of the archived message
}

// clearer is a source at which messages can be deleted.
type clearer interface {
	Clear(ctx context.Context, c *source.Clearing) error
}

// ErrNoDeletion: there is nothing to delete by rule.
var ErrNoDeletion = errors.New("the profile deletes nothing at its source; it would with --delete-after DAYS")

const day = 24 * time.Hour

func (p *Profile) checkDelete(e endpoint) error {
	switch {
	case p.DeleteAfter == 0:
		return nil
	case p.DeleteAfter < 0 || p.DeleteAfter > 36500:
		return fmt.Errorf("delete after %d days: it is 1 to 36500; 0 deletes nothing", p.DeleteAfter)
	case e.scheme == "folder":
		return errors.New("delete after: a drop folder has its own rule: what is archived moves to done/, which is yours to empty")
	case p.Exception != nil:
		return errors.New("delete after: nothing is deleted over a connection that is an exception; who stands in between could have it delete something else")
	}
	return nil
}

// clearing is what is deleted after a run, by whom.
type clearing struct {
	days int
	run  int64
	who  string
	dry  bool
}

// WouldDelete tells what a run would delete at the source; it deletes nothing.
func (r *Runner) WouldDelete(ctx context.Context, p *Profile) (*Deletion, error) {
	if p.DeleteAfter == 0 {
		return nil, fmt.Errorf("profile %q: %w", p.Name, ErrNoDeletion)
	}
	if err := p.Check(r.a.Now()); err != nil {
		return nil, err
	}
	if r.jobs.Done(p.ID) != nil {
		return nil, fmt.Errorf("profile %q: %w", p.Name, ErrRunning)
	}
	d := r.clear(ctx, p, &clearing{days: p.DeleteAfter, dry: true}, func(string, ...any) {})
	return d, ctx.Err()
}

// clear deletes at the source what is old, archived, and nowhere missed. It
// never fails the run, whose numbers add up already.
func (r *Runner) clear(ctx context.Context, p *Profile, c *clearing, note func(string, ...any)) *Deletion {
	d := &Deletion{Before: r.a.Now().UTC().Truncate(time.Second).Add(-time.Duration(c.days) * day)}
	err := r.clearSource(ctx, p, c, d, note)
	if err != nil {
		d.Error = err.Error()
		note("deleting at the source stopped: %v", err)
	}
	if !c.dry {
		note("deleted at the source: %d messages, %d bytes; %d that are old enough stay", d.Count, d.Bytes, len(d.Kept))
	}
	return d
}

func (r *Runner) clearSource(ctx context.Context, p *Profile, c *clearing, d *Deletion, note func(string, ...any)) error {
	src, err := p.open(r.a, r, nil, note, nil)
	if err != nil {
		return err
	}
	from, ok := src.(clearer)
	if !ok || p.Exception != nil {
		return errors.New("nothing is deleted at this source")
	}
	marks, spare, err := r.accounted(ctx, p)
	if err != nil {
		return err
	}
	return from.Clear(ctx, &source.Clearing{
		Marks: marks, Before: d.Before, Dry: c.dry,
		Spare:  func(where string) bool { return spare[where] },
		Decide: func(ctx context.Context, is []source.Item) ([]bool, error) { return r.decide(ctx, p, c, d, is) },
		Deleted: func(i source.Item) {
			d.Count++
			d.Bytes += i.Ref.Size
		},
		Mark: func(m source.Mark) {
			marks[m.Key] = m.Value
			if err := r.a.State().Write(func(t catalog.Tx) error { return t.SetMark(p.ID, m.Key, m.Value) }); err != nil {
				r.a.Log().Warn("a mark was not stored", "profile", p.Name, "err", err)
			}
		},
	})
}

// accounted returns how far the source is accounted for, and what is missed.
func (r *Runner) accounted(ctx context.Context, p *Profile) (marks source.Marks, missed map[string]bool, err error) {
	missed = map[string]bool{}
	err = r.a.State().View(ctx, func(v catalog.View) error {
		m, err := v.Marks(p.ID)
		if err != nil {
			return err
		}
		marks = m
		ms, err := v.Missed(p.ID, math.MaxInt32)
		for _, m := range ms {
			missed[m.Where] = true
		}
		return err
	})
	return marks, missed, err
}

// decide gives leave for what the archive has, byte for byte: it is looked up by
// the bytes that the source has now, and read in the archive. It is recorded
// before it is deleted.
func (r *Runner) decide(ctx context.Context, p *Profile, c *clearing, d *Deletion, is []source.Item) ([]bool, error) {
	leave := make([]bool, len(is))
	act := archive.Act{What: "delete at the source", Who: c.who, Of: p.Name, Why: fmt.Sprintf("archived, and older than %d days; run %d", c.days, c.run)}
	for n, i := range is {
		e, err := r.a.Catalog().Message(ctx, r.a.IDOf(p.archived(i.Raw)))
		if err == nil {
			_, err = r.a.Raw(&e)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			reason := err.Error()
			if errors.Is(err, catalog.ErrNotFound) {
				reason = "not in the archive byte for byte"
			}
			if len(d.Kept) < maxListed {
				d.Kept = append(d.Kept, catalog.Failure{Where: i.Where, Reason: reason})
			}
			continue
		}
		leave[n] = true
		act.Leaf, act.More = append(act.Leaf, e.Leaf), append(act.More, i.Where)
		if c.dry {
			d.Count++
			d.Bytes += i.Ref.Size
			if len(d.Messages) < maxListed {
				d.Messages = append(d.Messages, Doomed{i.Where, i.Folder, i.Internal.UTC(), i.Ref.Size, e.Leaf})
			}
		}
	}
	if c.dry || len(act.Leaf) == 0 {
		return leave, nil
	}
	return leave, r.a.Record(act)
}
