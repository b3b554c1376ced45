package target

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/smtpclient"
)

// relay hands messages to a mail server. It cannot ask what is there already:
// what it has handed over it does not hand over again, and what was met again in
// another folder it leaves out.
type relay struct {
	options    imapclient.Options
	credential Credential // nil: without signing in
	from, rcpt string
	note       func(format string, args ...any)
	patience   time.Duration

	c *smtpclient.Client
}

func (y *relay) put(ctx context.Context, m *message) (bool, error) {
	if m.met {
		return false, skipError("it was archived before and met again in another folder; by SMTP a message goes once")
	}
	raw := crlf(m.raw)
	if err := smtpclient.Carries(raw); err != nil {
		return false, err
	}
	for attempt := 1; ; attempt++ {
		err := y.connect(ctx)
		reached := err == nil
		if reached {
			if err = y.c.Send(y.from, y.rcpt, raw); err == nil {
				return true, nil
			}
		}
		if !broken(err) || ctx.Err() != nil {
			return false, errors.Join(ctx.Err(), err)
		}
		y.drop()
		if attempt == maxAttempts {
			if reached {
				return false, messageError{err}
			}
			return false, err
		}
		y.note("the connection broke, connecting again: %v", err)
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(time.Duration(attempt) * cmp.Or(y.patience, time.Second)):
		}
	}
}

func (y *relay) connect(ctx context.Context) error {
	if y.c != nil {
		return nil
	}
	c, err := smtpclient.Dial(ctx, y.options)
	if err == nil && y.credential != nil {
		var cr imapclient.Credential
		if cr, err = y.credential(ctx); err == nil {
			err = c.SignIn(cr)
		}
		if err != nil {
			c.Close()
		}
	}
	if err != nil {
		return fatal(err)
	}
	y.c = c
	return nil
}

func (y *relay) drop() {
	if y.c != nil {
		y.c.Close()
	}
	y.c = nil
}

func (y *relay) flush() (bool, error) { return true, nil }

func (y *relay) close() error {
	y.drop()
	return nil
}
