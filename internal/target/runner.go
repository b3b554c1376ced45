package target

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/ingest"
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

	jobs ingest.Jobs[*job]
}

// NewRunner returns the runner of an archive.
func NewRunner(a *archive.Archive, find Find) *Runner {
	return &Runner{a: a, find: find}
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
	return ingest.Standing{Profile: p.ID, Enabled: p.Enabled, Created: p.Created, Exception: p.Exception, Timing: p.Timing}.Due(ctx, r.a)
}

// Start begins a run, or goes on with the one that was interrupted or paused.
// The returned function waits for its end.
func (r *Runner) Start(ctx context.Context, p *Profile, who string) (func() (*ingest.Outcome, error), error) {
	j := &job{r: r, a: r.a, p: p, who: who}
	wait, err := r.jobs.Start(ctx, p.ID, j, j.run)
	return wait, p.about(err)
}

// about names the profile in an error.
func (p *Profile) about(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("target %q: %w", p.Name, err)
}

// Pause stops a run so that the next Start goes on with it.
func (r *Runner) Pause(p *Profile) error { return p.about(r.jobs.Stop(p.ID, ingest.ErrPaused)) }

// Cancel ends a run. What it has brought out stays; the next goes on behind it.
func (r *Runner) Cancel(p *Profile) error { return p.about(r.jobs.Stop(p.ID, ingest.ErrCancelled)) }

// Close stops all runs; they go on at the next start.
func (r *Runner) Close() { r.jobs.Close() }

// Live returns the runs under way.
func (r *Runner) Live() (out []ingest.Progress) {
	r.jobs.Each(func(id int64, j *job) {
		j.mu.Lock()
		defer j.mu.Unlock()
		out = append(out, ingest.Progress{Run: j.row.ID, Profile: id, Started: j.row.Started, Counts: j.counts})
	})
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
		password, err := ingest.Password(ctx, r.a, p.ID)
		if errors.Is(err, ingest.ErrNoPassword) {
			err = fmt.Errorf("%w: letterhold target edit %q --password-file F", p.about(err), p.Name)
		}
		return imapclient.Credential{User: p.Account(), Password: password}, err
	}
}
