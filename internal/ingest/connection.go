package ingest

import (
	"errors"
	"fmt"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/tlsconf"
	"github.com/letterhold/letterhold/internal/token"
)

// Connection says how a server is reached and what vouches for it. Profiles of
// sources and targets have the same.
type Connection struct {
	AllowNet  []string   `json:"allow_net,omitempty"`
	CA        string     `json:"ca,omitempty"`  // PEM
	Pin       string     `json:"pin,omitempty"` // SHA-256 of the server's key
	Exception *Exception `json:"exception,omitempty"`
}

// Check refuses settings that cannot work or are not safe. host is "" where
// nothing is connected to.
func (c Connection) Check(host string, now time.Time) error {
	if _, err := c.trust(); err != nil {
		return err
	}
	if _, err := tlsconf.ParseNets(c.AllowNet); err != nil {
		return err
	}
	return c.Exception.check(host, now)
}

// Options are those of a client of a server.
func (c Connection) Options(host string, port int, security imapclient.Security, now func() time.Time) (imapclient.Options, error) {
	nets, err := tlsconf.ParseNets(c.AllowNet)
	if err != nil {
		return imapclient.Options{}, err
	}
	trust, err := c.trust()
	return imapclient.Options{Dialer: &tlsconf.Dialer{Allow: nets}, Host: host, Port: port, Security: security, Trust: trust, Now: now, Literal: archive.MaxMessage}, err
}

func (c Connection) trust() (t tlsconf.Trust, err error) {
	t.CA = []byte(c.CA)
	if c.Pin != "" {
		t.Pin, err = tlsconf.ParsePin(c.Pin)
	}
	t.Unverified = c.Exception != nil && c.Exception.Kind == Unverified
	return t, err
}

func (x *Exception) check(host string, now time.Time) error {
	if x == nil {
		return nil
	}
	switch {
	case x.Kind != Unverified && x.Kind != Cleartext:
		return fmt.Errorf("exception %q: it is %s or %s", x.Kind, Unverified, Cleartext)
	case x.Owner == "" || x.Reason == "":
		return errors.New("an exception needs somebody who answers for it (--owner) and a reason (--reason)")
	case !x.Until.After(now):
		return errors.New("the exception would have ended already (--until)")
	case x.Until.Sub(now) > MaxException:
		return fmt.Errorf("an exception ends after 30 days at most: by %s", now.Add(MaxException).Format(time.DateOnly))
	case host == "":
		return errors.New("a folder needs no exception")
	case token.Known(host):
		return fmt.Errorf("%s offers verified encryption: no exception is made for it", host)
	}
	return nil
}

// Over tells whether the time of an exception, if there is one, has ended: what
// rests on it does not run.
func (x *Exception) Over(now time.Time) bool { return x != nil && !now.Before(x.Until) }

// Timing is when something runs by itself. Profiles of sources and targets have
// the same.
type Timing struct {
	Every  Duration `json:"every,omitempty"` // 0: by hand
	At     string   `json:"at,omitempty"`    // daily "02:30", or weekly "Mon 02:30"
	Window string   `json:"window,omitempty"`
}

// Check refuses a time that is none.
func (t Timing) Check() error {
	if every := time.Duration(t.Every); every != 0 && every < minEvery {
		return fmt.Errorf("every %s: the least is %s", every, minEvery)
	}
	return t.schedule().check()
}

// Due tells whether a run is due, the last having begun at a moment; never is
// when it was made, if there was none yet.
func (t Timing) Due(last, never, now time.Time) bool {
	if last.IsZero() {
		return t.schedule().due(never, now) || t.Every > 0
	}
	return t.schedule().due(last, now)
}
