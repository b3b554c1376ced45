package server

import (
	"context"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
)

// When everything is read and compared, and which share of the time that may
// take.
const (
	verifyEvery = 30 * 24 * time.Hour // after one that found nothing
	verifyAgain = 24 * time.Hour      // after one that found something
	verifyLook  = time.Hour           // how often it is looked whether it is due
	verifyRest  = 4                   // rests this many times as long as it worked
	longestRest = 10 * time.Second
)

// verifyMonthly verifies when it is due, until ctx ends. One that was
// interrupted goes on at the next start.
func (s *Server) verifyMonthly(ctx context.Context) {
	for {
		if x := s.opened.Load(); x != nil {
			if err := s.verifyIfDue(ctx, x.Archive, x.Index.Check); err != nil && ctx.Err() == nil {
				s.o.Log.Error("verification did not finish", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(verifyLook):
		}
	}
}

// verifyDue tells whether a verification is to begin or to go on.
func verifyDue(d archive.Verified, created, now time.Time) bool {
	switch {
	case d.Began.IsZero():
		return now.Sub(created) >= verifyEvery
	case d.Ended.IsZero():
		return true
	case len(d.Problems) > 0:
		return now.Sub(d.Ended) >= verifyAgain
	}
	return now.Sub(d.Ended) >= verifyEvery
}

func (s *Server) verifyIfDue(ctx context.Context, a *archive.Archive, index archive.IndexCheck) error {
	d, err := a.Verified(ctx)
	if err != nil || !verifyDue(d, a.About().Created, a.Now()) {
		return err
	}
	d, err = a.VerifyResumed(ctx, throttle(time.Now, sleep), index)
	if err != nil {
		return err
	}
	if len(d.Problems) > 0 {
		s.o.Log.Error("the archive is not as it was written; the security page and letterhold doctor list what differs", "problems", len(d.Problems)+d.More)
	} else {
		s.o.Log.Info("verified", "commits", d.Commit, "duration", d.Ended.Sub(d.Began))
	}
	return nil
}

// throttle returns a pause that is verifyRest times as long as what was done
// since the one before.
func throttle(now func() time.Time, sleep func(context.Context, time.Duration) error) func(context.Context) error {
	began := now()
	return func(ctx context.Context) error {
		err := sleep(ctx, min(verifyRest*now().Sub(began), longestRest))
		began = now()
		return err
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
