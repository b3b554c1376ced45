package ingest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/seal"
)

// Jobs are runs under way, one of each profile at a time. T is what the owner
// wants to know of one. The zero value has none.
type Jobs[T any] struct {
	mu   sync.Mutex
	live map[int64]*job[T] // by profile
	runs sync.WaitGroup
}

type job[T any] struct {
	of   T
	stop context.CancelCauseFunc
	done chan struct{}
}

// Start begins a run of a profile, unless one is under way: ErrRunning. The
// returned function waits for its end.
func (j *Jobs[T]) Start(ctx context.Context, profile int64, of T, run func(context.Context) (*Outcome, error)) (func() (*Outcome, error), error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.live[profile] != nil {
		return nil, ErrRunning
	}
	if j.live == nil {
		j.live = map[int64]*job[T]{}
	}
	ctx, stop := context.WithCancelCause(ctx)
	x := &job[T]{of, stop, make(chan struct{})}
	j.live[profile] = x
	var out *Outcome
	var err error
	j.runs.Go(func() {
		defer close(x.done)
		defer stop(nil)
		out, err = run(ctx)
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.live, profile)
	})
	return func() (*Outcome, error) { <-x.done; return out, err }, nil
}

// Stop ends a run with a cause, and waits for that; without one: ErrIdle.
func (j *Jobs[T]) Stop(profile int64, cause error) error {
	j.mu.Lock()
	x := j.live[profile]
	j.mu.Unlock()
	if x == nil {
		return ErrIdle
	}
	x.stop(cause)
	<-x.done
	return nil
}

// Done is closed once the run of a profile has ended; nil if none is under way.
func (j *Jobs[T]) Done(profile int64) <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	if x := j.live[profile]; x != nil {
		return x.done
	}
	return nil
}

// Each calls fn for each run under way.
func (j *Jobs[T]) Each(fn func(profile int64, of T)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for profile, x := range j.live {
		fn(profile, x.of)
	}
}

// Close stops all runs; they go on at the next start.
func (j *Jobs[T]) Close() {
	j.mu.Lock()
	for _, x := range j.live {
		x.stop(context.Canceled)
	}
	j.mu.Unlock()
	j.runs.Wait()
}

// Causes of a run's end, beside that of the process.
var (
	// ErrPaused: the next Start goes on with it.
	ErrPaused = errors.New("paused")
	// ErrCancelled: somebody ended it. What it has archived stays.
	ErrCancelled = errors.New("cancelled")
)

// Standing is what decides when a profile runs by itself.
type Standing struct {
	Profile   int64
	Enabled   bool
	Created   time.Time
	Exception *Exception
	Timing
}

// Due tells whether a run is due: by schedule, because a stop interrupted the
// last one, or because what it waited for is over.
func (s Standing) Due(ctx context.Context, a *archive.Archive) (bool, error) {
	if !s.Enabled || s.Exception.Over(a.Now()) {
		return false, nil
	}
	var last []catalog.Run
	if err := a.State().View(ctx, func(v catalog.View) (err error) {
		last, err = v.RunsOf(s.Profile, 1)
		return err
	}); err != nil {
		return false, err
	}
	if len(last) == 0 {
		return s.Timing.Due(time.Time{}, s.Created, a.Now()), nil
	}
	switch last[0].State {
	case catalog.RunRunning: // a stop interrupted it
		return true, nil
	case catalog.RunPaused:
		return false, nil
	case catalog.RunWaiting:
		return goesOn(&last[0], s.schedule(), a.Now()), nil
	}
	return s.Timing.Due(last[0].Started, s.Created, a.Now()), nil
}

// ErrNoPassword: nothing was sealed for a profile.
var ErrNoPassword = errors.New("there is no password")

// Password returns what is sealed for a profile.
func Password(ctx context.Context, a *archive.Archive, profile int64) (string, error) {
	name := catalog.ProfileSecret(profile)
	var box []byte
	err := a.State().View(ctx, func(v catalog.View) (err error) {
		box, err = v.Secret(name)
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return "", ErrNoPassword
	}
	if err != nil {
		return "", err
	}
	password, err := seal.OpenBox(a.Key(seal.PurposeSecret).Key, []byte(name), box)
	return string(password), err
}

// Stored returns the profiles of a kind by name, each as decode makes it.
func Stored[P any](ctx context.Context, a *archive.Archive, kind string, decode func(*catalog.Profile) (P, error)) (out []P, err error) {
	var cs []catalog.Profile
	if err := a.State().View(ctx, func(v catalog.View) (err error) {
		cs, err = v.Profiles(kind)
		return err
	}); err != nil {
		return nil, err
	}
	for i := range cs {
		p, err := decode(&cs[i])
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// Named returns the profile of a kind and name; where there is none, the error
// wraps missing.
func Named[P any](ctx context.Context, a *archive.Archive, kind, name string, missing error, decode func(*catalog.Profile) (P, error)) (p P, err error) {
	var c *catalog.Profile
	err = a.State().View(ctx, func(v catalog.View) (err error) {
		c, err = v.Profile(kind, name)
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) {
		err = fmt.Errorf("%w: %q", missing, name)
	}
	if err != nil {
		return p, err
	}
	return decode(c)
}

// Tell puts an exception, if there is one, into the act of what rests on it.
func (x *Exception) Tell(act *archive.Act) {
	if x != nil {
		act.What, act.Why = act.What+" with an exception", x.Reason
		act.More = append(act.More, "kind "+x.Kind, "owner "+x.Owner, "until "+x.Until.UTC().Format(time.RFC3339))
	}
}
