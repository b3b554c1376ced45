package imapclient

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/letterhold/letterhold/internal/tlsconf"
)

// ErrNoIdle: the server does not tell of new messages by itself.
var ErrNoIdle = errors.New("the server does not tell of new messages by itself (it has no IDLE)")

// MaxIdle is how long one IDLE lasts: after half an hour of silence a server may
// end the connection (RFC 2177).
const MaxIdle = 29 * time.Minute

// Idle waits until the open folder has more messages than it had, and tells
// whether that happened before the time was over (RFC 2177). What came while
// nobody waited is told at once.
func (c *Client) Idle(d time.Duration) (more bool, err error) {
	if !c.Has("IDLE") && !c.Has("IMAP4REV2") {
		return false, ErrNoIdle
	}
	if c.dead != nil {
		return false, c.dead
	}
	more, err = c.idle(min(d, MaxIdle))
	return more, tlsconf.At(tlsconf.StepFolders, err)
}

func (c *Client) idle(d time.Duration) (more bool, err error) {
	has := c.exists
	look := func(*response) error {
		more, has = more || c.exists > has, c.exists
		return nil
	}
	tag := c.nextTag()
	if err := c.send(tag + " IDLE\r\n"); err != nil {
		return false, c.die("IDLE", err)
	}
	p, err := c.answer(tag, look)
	if err != nil {
		return false, c.die("IDLE", err)
	}
	if p.tag != "+" {
		if _, err := c.conclude("IDLE", p); err != nil {
			return false, err
		}
		return false, c.die("IDLE", fmt.Errorf("%w: it ends IDLE by itself", ErrProtocol))
	}
	for end := time.Now().Add(d); !more; {
		p, err := c.within(end)
		if err != nil {
			return false, c.die("IDLE", err)
		}
		if p == nil {
			break
		}
		look(p)
	}
	if err := c.send("DONE\r\n"); err != nil {
		return more, c.die("IDLE", err)
	}
	if p, err = c.answer(tag, look); err != nil {
		return more, c.die("IDLE", err)
	}
	if p.tag == "+" {
		return more, c.die("IDLE", fmt.Errorf("%w: it asks for more after DONE", ErrProtocol))
	}
	_, err = c.conclude("IDLE", p)
	return more, err
}

// within reads what the server says by itself, and returns nil if nothing begins
// before a moment.
func (c *Client) within(end time.Time) (*response, error) {
	c.c.SetDeadline(end)
	if _, err := c.r.b.Peek(1); err != nil {
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			return nil, nil
		}
		return nil, err
	}
	c.c.SetDeadline(time.Now().Add(commandTimeout))
	p, err := c.r.response()
	switch {
	case err != nil:
		return nil, err
	case p.tag != "*":
		return nil, fmt.Errorf("%w: %.40q within IDLE", ErrProtocol, p.tag)
	case p.status == "BYE":
		return nil, bye(p)
	}
	c.notice(p)
	return p, nil
}
