package target

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/token"
)

// Restore says what goes back to where, once.
type Restore struct {
	Place
	Credential Credential
	// Hits calls its argument for each message.
	Hits func(func(catalog.Hit) error) error
	// Names tells which of a message's places are meant; nil: any.
	Names func(mailbox, folder string) bool
	// Progress is called after each message.
	Progress func(Report)
	Patience time.Duration // before connecting again; 0 is a second
}

// Report is what became of a restore: everything seen was restored, was there
// already, or failed.
type Report struct {
	Seen     int64             `json:"seen"`
	Restored int64             `json:"restored"`
	Present  int64             `json:"present"`
	Failed   int64             `json:"failed"`
	Bytes    int64             `json:"bytes"`
	Seconds  float64           `json:"seconds"`
	Failures []catalog.Failure `json:"failures"`
}

// Check refuses a place that cannot work or is not safe.
func (p *Place) Check(now time.Time) error {
	a, err := p.address()
	if err != nil {
		return err
	}
	if way, yes := token.Passwordless(a.host); yes && a.user != "" && p.Token == "" {
		return fmt.Errorf("%s: %s (--token-source)", a.host, way)
	}
	if p.Token != "" && a.user == "" {
		return errors.New("a token opens an account; the address names none")
	}
	return p.Connection.Check(a.host, now)
}

// Run restores, and returns the report, also with an error: then what was under
// way is not in it. The caller has recorded that mail is read.
func (r *Restore) Run(ctx context.Context, a *archive.Archive) (*Report, error) {
	out := &Report{Failures: []catalog.Failure{}}
	start := time.Now()
	err := r.run(ctx, a, out)
	out.Seconds = time.Since(start).Seconds()
	if out.Seen != out.Restored+out.Present+out.Failed {
		err = errors.Join(err, fmt.Errorf("%w: %+v", ingest.ErrDoesNotAddUp, *out))
	}
	return out, err
}

func (r *Restore) run(ctx context.Context, a *archive.Archive, out *Report) error {
	if err := r.Check(a.Now()); err != nil {
		return err
	}
	mailboxes, err := a.State().MailboxNames(ctx)
	if err != nil {
		return err
	}
	to, err := r.sink(a, r.Credential, mailboxes, r.Patience, func(string, ...any) {})
	if err != nil {
		return err
	}
	err = r.Hits(func(h catalog.Hit) error {
		fresh, size, err := carry(ctx, a, to, &message{Hit: &h, at: meant(r.Names, mailboxes, &h)})
		switch {
		case err != nil && !alone(err):
			return err
		case err != nil:
			out.Failed++
			if len(out.Failures) < maxListed {
				out.Failures = append(out.Failures, catalog.Failure{Where: h.ID.String(), Reason: err.Error()})
			}
		case fresh:
			out.Restored++
		default:
			out.Present++
		}
		out.Seen++
		out.Bytes += size
		if r.Progress != nil {
			r.Progress(*out)
		}
		return nil
	})
	return errors.Join(err, to.close())
}

// maxListed bounds the failures that are kept in memory.
const maxListed = 10_000

// carry reads a message and takes it there.
func carry(ctx context.Context, a *archive.Archive, to sink, m *message) (fresh bool, size int64, err error) {
	if err := ctx.Err(); err != nil {
		return false, 0, err
	}
	if m.raw, err = a.Raw(&m.Entry); err != nil {
		return false, 0, messageError{err}
	}
	fresh, err = to.put(ctx, m)
	return fresh, int64(len(m.raw)), err
}

// sink returns what takes messages to a place. Nothing is connected to yet.
func (p *Place) sink(a *archive.Archive, credential Credential, mailboxes map[int64]string, patience time.Duration, note func(string, ...any)) (sink, error) {
	at, err := p.address()
	if err != nil {
		return nil, err
	}
	o, err := p.Options(at.host, at.port, at.security, a.Now)
	if err != nil {
		return nil, err
	}
	switch at.kind {
	case kindIMAP:
		return &mailbox{a: a, open: openIMAP(o, credential), pattern: p.Folder, mailboxes: mailboxes, note: note, patience: patience}, nil
	case kindSMTP:
		y := &relay{options: o, from: p.From, rcpt: p.Rcpt, note: note, patience: patience}
		if at.user != "" {
			y.credential = credential
		}
		return y, nil
	}
	return nil, fmt.Errorf("target %q: mail goes there with `letterhold export`", p.To)
}

func openIMAP(o imapclient.Options, credential Credential) func(context.Context) (*imapclient.Client, error) {
	return func(ctx context.Context) (*imapclient.Client, error) {
		cr, err := credential(ctx)
		if err != nil {
			return nil, err
		}
		c, err := imapclient.Dial(ctx, o)
		if err != nil {
			return nil, err
		}
		if err := c.SignIn(cr); err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	}
}
