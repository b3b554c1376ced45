package source

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/letterhold/letterhold/internal/imapclient"
)

// Watched is the folder in which new mail is waited for: the only one that is
// included, or INBOX. ok is false if that is not collected.
func (f *Filter) Watched() (name string, ok bool) {
	if len(f.Include) == 1 && !strings.ContainsAny(f.Include[0], `*?[\`) {
		return strings.Trim(f.Include[0], "/"), true
	}
	return "INBOX", f.Why("INBOX", nil, false) == ""
}

// Watch keeps a connection and calls news when there may be something new in the
// folder that is watched: once it is connected, if the marks lie behind, and then
// as often as the server tells of messages. It changes nothing. It returns when
// news fails or the connection breaks, with imapclient.ErrNoIdle if the server
// cannot tell.
func (s *IMAP) Watch(ctx context.Context, marks func() (Marks, error), news func() error) error {
	c, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	f, err := s.watched(c)
	if err != nil {
		return err
	}
	st, err := c.Examine(f)
	if err != nil {
		return err
	}
	m, err := marks()
	if err != nil {
		return err
	}
	more := !parsePlace(m[f.Name]).unchanged(st)
	for ctx.Err() == nil {
		if more {
			if err := news(); err != nil {
				return err
			}
		}
		if more, err = c.Idle(imapclient.MaxIdle); err != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
	return ctx.Err()
}

func (s *IMAP) watched(c *imapclient.Client) (*imapclient.Folder, error) {
	name, _ := s.Filter.Watched()
	folders, err := c.Folders()
	if err != nil {
		return nil, err
	}
	for i := range folders {
		if strings.EqualFold(folders[i].Path(), name) {
			return &folders[i], nil
		}
	}
	return nil, fmt.Errorf("%w: there is no folder %q to wait for mail in", imapclient.ErrRefused, name)
}
