package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/pop3client"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// POP3 is an account on a POP3 server. It has one folder, and each message has
// an id of its own (UIDL), whose mark is its date.
type POP3 struct {
	Options    imapclient.Options
	Credential func(context.Context) (imapclient.Credential, error)
	Retry      []Ref
	Note       func(format string, args ...any)
	Total      func(int64) // told how many messages there are to walk; may be nil
	Patience   time.Duration
}

// Connect opens a connection and signs in.
func (s *POP3) Connect(ctx context.Context) (*pop3client.Client, error) {
	cr, err := s.Credential(ctx)
	if err != nil {
		return nil, tlsconf.At(tlsconf.StepSignIn, err)
	}
	c, err := pop3client.Dial(ctx, s.Options)
	if err != nil {
		return nil, err
	}
	if err := c.SignIn(cr); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Walk yields the messages whose ids are not among the marks.
func (s *POP3) Walk(ctx context.Context, marks Marks, yield func(Item) bool) error {
	retry := map[string]bool{}
	for _, r := range s.Retry {
		retry[r.UIDL] = true
	}
	strikes := map[string]int{}
	told := false
	count := func(list []pop3client.Message) {
		n := int64(0)
		for _, m := range list {
			if marks[m.UIDL] == "" || retry[m.UIDL] {
				n++
			}
		}
		if !told && s.Total != nil {
			s.Total(n)
		}
		told = true
	}
	for failed := 0; ; {
		moved, err := s.session(ctx, marks, retry, strikes, count, yield)
		if err == nil || errors.Is(err, errStop) || ctx.Err() != nil {
			if errors.Is(err, errStop) {
				err = nil
			}
			return errors.Join(err, ctx.Err())
		}
		if !broken(err) {
			return err
		}
		if moved {
			failed = 0
		}
		if failed++; failed >= maxAttempts {
			return fmt.Errorf("%w (after %d connections)", err, failed)
		}
		if s.Note != nil {
			s.Note("the connection broke, connecting again: %v", err)
		}
		if err := pause(ctx, time.Duration(failed)*cmp.Or(s.Patience, time.Second)); err != nil {
			return err
		}
	}
}

// session reads what it can over one connection, and tells whether that was
// anything.
func (s *POP3) session(ctx context.Context, marks Marks, retry map[string]bool, strikes map[string]int, count func([]pop3client.Message), yield func(Item) bool) (moved bool, err error) {
	c, err := s.Connect(ctx)
	if err != nil {
		return false, err
	}
	defer c.Close()
	list, err := c.List()
	if err != nil {
		return false, err
	}
	count(list)
	for id := range retry { // what is not there any more need not be tried again
		if !slices.ContainsFunc(list, func(m pop3client.Message) bool { return m.UIDL == id }) {
			if !yield(Item{Where: popWhere(id), Again: true, Quiet: true}) {
				return false, errStop
			}
			delete(retry, id)
		}
	}
	for _, m := range list {
		again := retry[m.UIDL]
		if marks[m.UIDL] != "" && !again {
			continue
		}
		i := Item{Folder: "INBOX", Where: popWhere(m.UIDL), Ref: Ref{Folder: "INBOX", UIDL: m.UIDL, Size: m.Size}, Mark: Mark{m.UIDL, "1"}, Again: again}
		var lost error
		switch {
		case m.Size > archive.MaxMessage:
			i.Err = tooLarge(m.Size)
		case strikes[m.UIDL] >= maxStrikes:
			i.Err = errors.New("the server ends the connection over this message")
		default:
			i.Raw, err = c.Retrieve(m)
			if errors.Is(err, imapclient.ErrRefused) {
				i.Err = err
			} else if large := (*imapclient.TooLargeError)(nil); errors.As(err, &large) {
				i.Err, lost = err, err
			} else if err != nil {
				strikes[m.UIDL]++
				return moved, err
			}
		}
		if i.Err == nil {
			i.Mark = popMark(m.UIDL, i.Raw, s.now())
		}
		if !yield(i) {
			return moved, errStop
		}
		moved = true
		marks[m.UIDL] = i.Mark.Value
		delete(retry, m.UIDL)
		if lost != nil {
			return moved, lost
		}
	}
	return moved, c.Quit()
}
