package journal

import (
	"errors"
	"io"
	"log/slog"
	"time"
)

// data receives a message and hands it on. With a reply of it the transaction
// ends, whatever came of it.
func (c *conn) data(string) error {
	defer c.reset()
	s, err := c.r.o.Spool()
	if err != nil {
		c.r.o.Log.Error("there is no place for a message", "err", err)
		return c.refuse(err, tryLater)
	}
	defer s.Close()
	io.WriteString(c.out, "354 End with CRLF.CRLF\r\n")
	d := &data{w: s, max: c.r.o.MaxSize}
	if err := c.receive(d); errors.Is(err, errMuch) {
		c.conclude(d, err)
		return errEnd
	} else if err != nil {
		c.log(d, 0, err)
		return err
	}
	c.messages++
	if err := d.fault(); err != nil {
		c.conclude(d, err)
		if c.errors++; c.errors >= maxErrors {
			return errEnd
		}
		return nil
	}
	err = c.deliver(s, d.size)
	c.conclude(d, err)
	c.errors, c.commands = 0, 0
	return nil
}

var errMuch = &Refusal{552, "5.3.4", "Much larger than what was offered"}

// receive reads to the end of the message.
func (c *conn) receive(d *data) error {
	c.waited = 0
	for d.at != ended {
		// What the disk takes is not the sender's time.
		left := slowGrace + time.Duration(d.read)*time.Second/minRate - c.waited
		c.until = time.Now().Add(min(blockTimeout, left))
		if _, err := c.in.Peek(1); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		b, _ := c.in.Peek(c.in.Buffered())
		c.in.Discard(d.feed(b))
		if d.read > d.max+maxDrain {
			return errMuch
		}
	}
	return nil
}

// fault is why a complete message is not handed on.
func (d *data) fault() error {
	switch {
	case d.bad != "": // RFC 5321, 2.3.8
		return &Refusal{550, "5.6.0", "Lines must end in CRLF: " + d.bad}
	case d.tooLarge():
		return &Refusal{552, "5.3.4", "Larger than what was offered"}
	}
	return d.err
}

// deliver hands on a complete message.
func (c *conn) deliver(s Spool, size int64) error {
	r, err := s.Reader()
	if err != nil {
		return err
	}
	err = c.r.o.Deliver(c.r.ctx, Envelope{
		From: c.from, To: c.to, UTF8: c.utf8, HELO: c.name, Remote: c.remote, TLS: c.version, Auth: c.user, Client: c.client,
		Received: c.r.o.Now(), Size: size,
	}, r)
	var each Each
	if errors.As(err, &each) && len(each) != len(c.to) {
		return errors.New("there is not one result for each recipient")
	}
	return err
}

// conclude replies to a message: once, or with LMTP for each recipient that was
// taken, in order (RFC 2033, 4.2).
func (c *conn) conclude(d *data, err error) {
	var each Each
	if !errors.As(err, &each) {
		each = make(Each, len(c.to))
		for i := range each {
			each[i] = err
		}
	}
	worst := 250
	for _, err := range each {
		code, _, _ := outcome(err)
		// A temporary error outweighs others: it makes the sender come again.
		if worst == 250 || code < 500 && code != 250 && worst >= 500 {
			worst = code
		}
	}
	for _, err := range each {
		code, status, text := outcome(err)
		if c.r.o.LMTP {
			c.say(code, status, text)
		} else if code == worst {
			c.say(code, status, text)
			break
		}
	}
	c.log(d, worst, err)
}

// outcome is the reply to a message.
func outcome(err error) (code int, status, text string) {
	if err == nil {
		return 250, "2.0.0", "Archived"
	}
	return refusal(err, tryLater).line()
}

// log writes the line of a transaction; code is 0 if there is no reply. Of the
// sender's addresses it says nothing above debug.
func (c *conn) log(d *data, code int, err error) {
	level, what := slog.LevelInfo, "message received"
	if code != 250 {
		level, what = slog.LevelWarn, "message not received"
	}
	attrs := []any{"code", code, "bytes", d.size, "recipients", len(c.to), "remote", c.remote, "duration", time.Since(c.begun)}
	if err != nil {
		attrs = append(attrs, "err", err)
	}
	c.r.o.Log.Log(c.r.ctx, level, what, attrs...)
	c.r.o.Log.Debug("its envelope", "from", c.from, "to", c.to, "helo", c.name, "user", c.user)
}
