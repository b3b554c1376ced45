package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
)

// Verified is what is kept of verifications in state.db: the one under way or
// the last that ended, and when everything was sound last.
type Verified struct {
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended,omitzero"` // zero: it is under way
	Commit   uint64    `json:"commit"`         // verified up to this one
	Clean    time.Time `json:"clean,omitzero"` // when one ended that found nothing
	Problems []Problem `json:"problems,omitempty"`
	More     int       `json:"more,omitempty"` // problems beyond those kept
}

const (
	verifiedSetting = "verified"
	keptProblems    = 100
	// saveEvery bounds what a kill costs a verification.
	saveEvery = 10 * time.Second
)

// Verified returns what is kept of verifications; zero if there was none.
func (a *Archive) Verified(ctx context.Context) (d Verified, err error) {
	var s string
	if err := a.state.View(ctx, func(v catalog.View) (err error) { s, err = v.Setting(verifiedSetting); return err }); err != nil || s == "" {
		return d, err
	}
	if err := json.Unmarshal([]byte(s), &d); err != nil {
		return d, fmt.Errorf("setting %q: %w", verifiedSetting, err)
	}
	return d, nil
}

func (a *Archive) setVerified(d *Verified) error {
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return a.state.Write(func(t catalog.Tx) error { return t.SetSetting(verifiedSetting, string(b)) })
}

// add keeps a problem once: a run that resumes meets some of them again.
func (d *Verified) add(p Problem) {
	switch {
	case slices.Contains(d.Problems, p):
	case len(d.Problems) < keptProblems:
		d.Problems = append(d.Problems, p)
	default:
		d.More++
	}
}

// VerifyResumed verifies and keeps progress and findings, so that after an
// interruption the next call goes on where this one was. What the interrupted
// part found stays. pause is called after each commit, for throttling.
func (a *Archive) VerifyResumed(ctx context.Context, pause func(context.Context) error, index IndexCheck) (Verified, error) {
	d, err := a.Verified(ctx)
	if err != nil {
		return d, err
	}
	if d.Began.IsZero() || !d.Ended.IsZero() {
		d = Verified{Began: a.Now().UTC(), Clean: d.Clean}
	}
	var failed error // of keeping
	saved := time.Now()
	save := func() {
		failed = errors.Join(failed, a.setVerified(&d))
		saved = time.Now()
	}
	_, err = a.Verify(ctx, VerifyOptions{
		Skip:  d.Commit,
		Index: index,
		Found: func(p Problem) { d.add(p); save() },
		Pause: func(ctx context.Context, commit uint64) error {
			d.Commit = max(d.Commit, commit)
			if time.Since(saved) >= saveEvery {
				save()
			}
			return errors.Join(failed, pause(ctx))
		},
	})
	if err = errors.Join(err, failed); err != nil {
		return d, errors.Join(err, a.setVerified(&d))
	}
	d.Ended = a.Now().UTC()
	if len(d.Problems) == 0 {
		d.Clean = d.Ended
	}
	return d, a.setVerified(&d)
}
