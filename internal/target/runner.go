package target

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/token"
)

// Find walks the hits of a query, after the index has followed what is in the
// archive now.
type Find func(ctx context.Context, query string, fn func(catalog.Hit) error) error

// Runner runs the targets of an archive, one run of each at a time.
type Runner struct {
	// Patience is how long is waited before connecting again; 0 is a second.
	Patience time.Duration
	// SaveEvery is how often a run's place is stored; 0 is two seconds.
	SaveEvery time.Duration
	// Token gets an access token for an account from a source of tokens.
	Token func(ctx context.Context, source, user string) (token.Token, error)

	a    *archive.Archive
	find Find

	mu   sync.Mutex
	live map[int64]*job // by profile
	runs sync.WaitGroup
}

// NewRunner returns the runner of an archive.
func NewRunner(a *archive.Archive, find Find) *Runner {
	return &Runner{a: a, find: find, live: map[int64]*job{}}
}

// tick is how often the schedule is looked at.
const tick = 15 * time.Second

// scheduled is who starts a run that nobody started.
const scheduled = "schedule"

// Serve runs profiles when they are due, and goes on with runs that a stop
// interrupted, until ctx ends.
func (r *Runner) Serve(ctx context.Context) {
	for ctx.Err() == nil {
		if err := r.startDue(ctx); err != nil && ctx.Err() == nil {
			r.a.Log().Error("the schedule of targets", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(tick):
		}
	}
}

func (r *Runner) startDue(ctx context.Context) error {
	ps, err := Profiles(ctx, r.a)
	if err != nil {
		return err
	}
	for _, p := range ps {
		due, err := r.due(ctx, p)
		if err != nil {
			return err
		}
		if !due {
			continue
		}
		if _, err := r.Start(ctx, p, scheduled); err != nil && !errors.Is(err, ingest.ErrRunning) {
			return err
		}
	}
	return nil
}

func (r *Runner) due(ctx context.Context, p *Profile) (bool, error) {
	if !p.Enabled || p.Exception.Over(r.a.Now()) {
		return false, nil
	}
	var last []catalog.Run
	if err := r.a.State().View(ctx, func(v catalog.View) (err error) {
		last, err = v.RunsOf(p.ID, 1)
		return err
	}); err != nil {
		return false, err
	}
	if len(last) == 0 {
		return p.Due(time.Time{}, p.Created, r.a.Now()), nil
	}
	switch last[0].State {
	case catalog.RunRunning: // a stop interrupted it
		return true, nil
	case catalog.RunPaused:
		return false, nil
	}
	return p.Due(last[0].Started, p.Created, r.a.Now()), nil
}

var (
	errPaused    = errors.New("paused")
	errCancelled = errors.New("cancelled")
)

// Start begins a run, or goes on with the one that was interrupted or paused.
// The returned function waits for its end.
func (r *Runner) Start(ctx context.Context, p *Profile, who string) (func() (*ingest.Outcome, error), error) {
	r.mu.Lock()
	if r.live[p.ID] != nil {
		r.mu.Unlock()
		return nil, fmt.Errorf("target %q: %w", p.Name, ingest.ErrRunning)
	}
	ctx, stop := context.WithCancelCause(ctx)
	j := &job{r: r, a: r.a, p: p, who: who, stop: stop, done: make(chan struct{})}
	r.live[p.ID] = j
	r.mu.Unlock()
	var out *ingest.Outcome
	var err error
	r.runs.Go(func() {
		defer close(j.done)
		defer stop(nil)
		out, err = j.run(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.live, p.ID)
	})
	return func() (*ingest.Outcome, error) { <-j.done; return out, err }, nil
}

// Pause stops a run so that the next Start goes on with it; Cancel ends it.
func (r *Runner) Pause(p *Profile) error { return r.stopRun(p, errPaused) }

// Cancel ends a run. What it has brought out stays; the next goes on behind it.
func (r *Runner) Cancel(p *Profile) error { return r.stopRun(p, errCancelled) }

func (r *Runner) stopRun(p *Profile, why error) error {
	r.mu.Lock()
	j := r.live[p.ID]
	r.mu.Unlock()
	if j == nil {
		return fmt.Errorf("target %q: %w", p.Name, ingest.ErrIdle)
	}
	j.stop(why)
	<-j.done
	return nil
}

// Close stops all runs; they go on at the next start.
func (r *Runner) Close() {
	r.mu.Lock()
	for _, j := range r.live {
		j.stop(context.Canceled)
	}
	r.mu.Unlock()
	r.runs.Wait()
}

// Live returns the runs under way.
func (r *Runner) Live() (out []ingest.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, j := range r.live {
		j.mu.Lock()
		out = append(out, ingest.Progress{Run: j.row.ID, Profile: id, Started: j.row.Started, Counts: j.counts})
		j.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b ingest.Progress) int { return int(a.Run - b.Run) })
	return out
}

// credential returns what opens the account of a profile.
func (r *Runner) credential(p *Profile) Credential {
	if p.Token != "" {
		return func(ctx context.Context) (imapclient.Credential, error) {
			t, err := r.Token(ctx, p.Token, p.Account())
			return imapclient.Credential{User: p.Account(), Token: t.Access}, err
		}
	}
	return func(ctx context.Context) (imapclient.Credential, error) {
		name := catalog.ProfileSecret(p.ID)
		var box []byte
		err := r.a.State().View(ctx, func(v catalog.View) (err error) {
			box, err = v.Secret(name)
			return err
		})
		if errors.Is(err, catalog.ErrNotFound) {
			return imapclient.Credential{}, fmt.Errorf("target %q has no password: letterhold target edit %q --password-file F", p.Name, p.Name)
		}
		if err != nil {
			return imapclient.Credential{}, err
		}
		password, err := seal.OpenBox(r.a.Key(seal.PurposeSecret).Key, []byte(name), box)
		return imapclient.Credential{User: p.Account(), Password: string(password)}, err
	}
}
