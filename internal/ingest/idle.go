package ingest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/source"
)

// watchers wait for new mail at the sources of profiles that ask for it. Only
// Serve's goroutine has them.
type watchers struct {
	r    *Runner
	each map[int64]*watcher // by profile; also those that gave up
	all  sync.WaitGroup
}

type watcher struct {
	spec  []byte // of the profile: another one is watched anew
	stop  context.CancelFunc
	ended atomic.Bool // it may be watched anew
}

// arrived is who starts a run when there is new mail.
const arrived = "new mail"

// Waiting at a source: how long after new mail it is collected, so that what
// comes together is one run; and how long at most until a connection that broke
// is tried again. A refused sign-in waits the whole time at once.
const (
	settle    = time.Second
	maxRewait = 15 * time.Minute
)

// errRests: the profile is not to be collected now.
var errRests = errors.New("the profile rests")

// update starts and ends watching as profiles are.
func (w *watchers) update(ctx context.Context) error {
	ps, err := Profiles(ctx, w.r.a)
	if err != nil {
		return err
	}
	for id, x := range w.each {
		if !slices.ContainsFunc(ps, func(p *Profile) bool { return p.ID == id }) {
			x.stop()
			delete(w.each, id)
		}
	}
	for _, p := range ps {
		wanted, err := w.r.watchable(ctx, p)
		if err != nil {
			return err
		}
		c, err := p.encode()
		if err != nil {
			return err
		}
		x := w.each[p.ID]
		if x != nil && (!wanted || x.ended.Load() || !bytes.Equal(x.spec, c.Spec)) {
			x.stop()
			delete(w.each, p.ID)
			x = nil
		}
		if x == nil && wanted {
			one, stop := context.WithCancel(ctx)
			x := &watcher{spec: c.Spec, stop: stop}
			w.each[p.ID] = x
			w.all.Go(func() { x.ended.Store(w.r.watch(one, ctx, p)) })
		}
	}
	return nil
}

// close ends watching. It waits for runs that have been started.
func (w *watchers) close() {
	for _, x := range w.each {
		x.stop()
	}
	w.all.Wait()
}

// watchable tells whether new mail of a profile is to be waited for now.
func (r *Runner) watchable(ctx context.Context, p *Profile) (bool, error) {
	if !p.Idle || !p.Enabled || p.Exception.Over(r.a.Now()) || !p.timing().schedule().open(r.a.Now()) {
		return false, nil
	}
	var last []catalog.Run
	err := r.a.State().View(ctx, func(v catalog.View) (err error) {
		last, err = v.RunsOf(p.ID, 1)
		return err
	})
	return err == nil && (len(last) == 0 || last[0].State != catalog.RunPaused && last[0].State != catalog.RunWaiting), err
}

func (p *Profile) checkIdle(e endpoint) error {
	if !p.Idle {
		return nil
	}
	if !strings.HasPrefix(e.scheme, "imap") {
		return fmt.Errorf("idle: %s tells of no new mail; only IMAP does", e.scheme)
	}
	if len(p.Accounts) > 0 {
		return errors.New("idle: a connection is kept for one account, not for several")
	}
	f := source.Filter{Include: p.Include, Exclude: p.Exclude}
	if name, ok := f.Watched(); !ok {
		return fmt.Errorf("idle: new mail is waited for in %s or in the only folder that is included; here %[1]s is left out", name)
	}
	return nil
}

// watch waits at a profile's source until ctx ends; runs go on until the context
// of all does. It tells whether to wait there again, should the profile not
// change.
func (r *Runner) watch(ctx, all context.Context, p *Profile) (again bool) {
	log := r.a.Log().With("profile", p.Name)
	least := cmp.Or(r.Patience, time.Second)
	for wait := least; ; wait = min(2*wait, maxRewait) {
		began := time.Now()
		err := r.watchOnce(ctx, all, p)
		switch {
		case ctx.Err() != nil, errors.Is(err, errRests):
			return true
		case errors.Is(err, imapclient.ErrNoIdle):
			log.Info("new mail is not waited for: the schedule remains", "err", err)
			return false
		case errors.Is(err, imapclient.ErrRefused), errors.Is(err, imapclient.ErrLater):
			wait = maxRewait
		case time.Since(began) > maxRewait:
			wait = least
		}
		log.Info("waiting for new mail was broken off", "err", err, "again", wait)
		select {
		case <-ctx.Done():
			return true
		case <-time.After(wait):
		}
	}
}

// watchOnce waits over one connection.
func (r *Runner) watchOnce(ctx, all context.Context, p *Profile) error {
	src, err := p.open(r.a, r, nil, func(string, ...any) {}, nil)
	if err != nil {
		return err
	}
	s, ok := src.(*source.IMAP)
	if !ok {
		return imapclient.ErrNoIdle
	}
	return s.Watch(ctx, func() (m source.Marks, err error) {
		err = r.a.State().View(ctx, func(v catalog.View) error {
			m, err = v.Marks(p.ID)
			return err
		})
		return m, err
	}, func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(settle):
		}
		return r.collectNow(ctx, all, p.Name)
	})
}

// collectNow runs a profile, after the run that may be under way: what is new
// may have come behind that one's back.
func (r *Runner) collectNow(ctx, all context.Context, name string) error {
	for {
		p, err := Load(ctx, r.a, name)
		if err != nil {
			return err
		}
		if ok, err := r.watchable(ctx, p); err != nil || !ok {
			return errors.Join(err, errRests)
		}
		wait, err := r.Start(all, p, arrived)
		if errors.Is(err, ErrRunning) {
			if err := r.await(ctx, p); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		_, err = wait()
		return err
	}
}

// await waits for the end of the run under way.
func (r *Runner) await(ctx context.Context, p *Profile) error {
	done := r.jobs.Done(p.ID)
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
