package journal

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Limits of what a sender may say. RFC 5321, 4.5.3.1 asks for lines of 512
// bytes and for 100 recipients at least; parameters add to a line.
const (
	maxLine     = 2048
	maxRcpt     = 1000 // a sender puts the rest into another message (RFC 5321, 4.5.3.1.10)
	maxErrors   = 20   // commands in error since the last message
	maxCommands = 100  // commands other than RCPT since the last message
	maxMessages = 1000 // in a connection: nobody has one for ever
	maxSignIns  = 3    // that fail
	maxText     = 200  // bytes of a reply's text that comes from elsewhere
	// maxDrain is read beyond the largest message to find the end of one that is
	// larger, so that the sender reads why. A sender that was told the size and
	// sends more than this is cut off.
	maxDrain = 32 << 20
)

// Time for what a sender has to do (RFC 5321, 4.5.3.2).
const (
	commandTimeout  = 5 * time.Minute // 4.5.3.2.7
	blockTimeout    = 3 * time.Minute // 4.5.3.2.5: for some bytes of DATA
	strangerTimeout = 2 * time.Minute // to have TLS and be known as a sender, in all
	writeTimeout    = time.Minute     // for the peer to take a reply
	// A message may come slowly, but not for ever: beyond the grace, at least so
	// many bytes a second, which was the rate of a modem.
	slowGrace = 5 * time.Minute
	minRate   = 4 << 10
)

// conn is a connection. It is for one goroutine, but for wake.
type conn struct {
	r      *Receiver
	raw    net.Conn // below TLS
	remote netip.Addr
	host   netip.Prefix // that counts as one; invalid for a socket of the file system
	local  bool
	listed bool // as a sender
	began  time.Time

	nc      net.Conn // raw, or TLS on it
	in      *bufio.Reader
	out     *bufio.Writer
	version uint16 // of TLS; 0: none
	client  string // subject of the verified certificate
	session
	errors, commands, messages, signIns int

	until  time.Time     // when reading ends
	waited time.Duration // for bytes of the message

	// mu makes busy and the deadline one; only the goroutine of the connection
	// changes busy.
	mu   sync.Mutex
	busy bool // a transaction runs: Shutdown waits for it
}

// What ends a connection.
var (
	errEnd      = errors.New("the last reply is given")
	errStopping = errors.New("the server stops")
	errLine     = errors.New("not a line that ends in CRLF")
)

func newConn(r *Receiver, nc net.Conn) *conn {
	c := &conn{r: r, raw: nc, began: time.Now(), session: session{state: silent}}
	switch a := nc.RemoteAddr().(type) {
	case *net.TCPAddr:
		c.remote = a.AddrPort().Addr().Unmap().WithZone("")
		c.local = c.remote.IsLoopback()
		c.listed = slices.ContainsFunc(r.o.Senders, func(p netip.Prefix) bool { return p.Contains(c.remote) })
		bits := c.remote.BitLen()
		if c.remote.Is6() {
			bits = 64
		}
		c.host, _ = c.remote.Prefix(bits)
	case *net.UnixAddr:
		c.local = true
		c.listed = r.o.Local
	}
	c.attach(nc)
	return c
}

// attach reads and writes through nc from now on. What was read before and not
// used is gone.
func (c *conn) attach(nc net.Conn) {
	c.nc, c.in, c.out = nc, bufio.NewReaderSize(peer{c}, 32<<10), bufio.NewWriterSize(peer{c}, 4<<10)
}

// peer is the other side. Replies are sent when there is nothing left to read,
// so that a pipelined group is answered at once (RFC 2920, 3.2).
type peer struct{ c *conn }

func (p peer) Read(b []byte) (int, error) {
	c := p.c
	if err := c.out.Flush(); err != nil {
		return 0, err
	}
	if err := c.readUntil(c.until); err != nil {
		return 0, err
	}
	from := time.Now()
	n, err := c.nc.Read(b)
	c.waited += time.Since(from)
	if err != nil && !c.busy && c.r.stopping.Load() {
		err = errStopping
	}
	return n, err
}

func (p peer) Write(b []byte) (int, error) {
	p.c.raw.SetWriteDeadline(time.Now().Add(writeTimeout))
	return p.c.nc.Write(b)
}

// readUntil says when reading ends.
func (c *conn) readUntil(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.busy && c.r.stopping.Load() {
		return errStopping
	}
	return c.raw.SetReadDeadline(t)
}

// wake ends the wait for a command, once the receiver is stopping.
func (c *conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.busy {
		c.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

// setBusy says whether Shutdown waits for the connection.
func (c *conn) setBusy(busy bool) {
	c.mu.Lock()
	c.busy = busy
	c.mu.Unlock()
}

// encrypted tells whether the connection is as protected as it must be.
func (c *conn) encrypted() bool { return c.version != 0 || c.r.o.Local && c.local }

// may tells whether the peer may send; see Config.
func (c *conn) may() bool { return c.listed || c.client != "" || c.user != "" }

// serve runs the session until one side ends it.
func (c *conn) serve() {
	defer func() { c.nc.Close() }()
	err := c.talk()
	switch {
	case errors.Is(err, errStopping):
		c.say(421, "4.3.2", "The server stops, try later")
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.say(421, "4.4.2", "It took too long")
	case errors.Is(err, errLine):
		// Not read on: what follows is no command, whatever it looks like.
		c.say(500, "5.5.2", "A line has 2048 bytes at most, no control characters and CRLF at its end")
	}
	c.out.Flush()
	c.r.o.Log.Debug("connection ended", "remote", c.remote, "helo", c.name, "messages", c.messages, "duration", time.Since(c.began), "err", err)
}

func (c *conn) talk() error {
	if c.r.o.Implicit {
		if err := c.handshake(); err != nil {
			return err
		}
	}
	c.greet()
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		if err := c.run(parseCommand(line)); err != nil {
			return err
		}
	}
}

func (c *conn) greet() {
	protocol := "ESMTP"
	if c.r.o.LMTP {
		protocol = "LMTP"
	}
	fmt.Fprintf(c.out, "220 %s %s\r\n", c.r.o.Name, protocol)
}

// line reads a line without its end.
func (c *conn) line() (string, error) {
	c.until = time.Now().Add(commandTimeout)
	if !c.encrypted() || !c.may() {
		c.until = c.began.Add(strangerTimeout)
	}
	b, err := c.in.ReadSlice('\n')
	if len(b) > maxLine || err == bufio.ErrBufferFull {
		return "", errLine
	}
	if err != nil {
		return "", err
	}
	if len(b) < 2 || b[len(b)-2] != '\r' || !printable(string(b[:len(b)-2])) {
		return "", errLine
	}
	return string(b[:len(b)-2]), nil
}

// say replies.
func (c *conn) say(code int, status, text string) {
	fmt.Fprintf(c.out, "%d %s %s\r\n", code, status, text)
}

// fail replies to a command in error, for the last time if there were too many.
// A temporary error is not the sender's.
func (c *conn) fail(code int, status, text string) error {
	if code >= 500 {
		c.errors++
	}
	if c.errors >= maxErrors {
		return c.end(421, "4.7.0", "Too many errors")
	}
	c.say(code, status, text)
	return nil
}

// end replies for the last time.
func (c *conn) end(code int, status, text string) error {
	c.say(code, status, text)
	return errEnd
}

// refuse replies with an error; fallback is the text for one that is no
// Refusal.
func (c *conn) refuse(err error, fallback string) error {
	return c.fail(refusal(err, fallback).line())
}

// refusal is the reply for an error.
func refusal(err error, fallback string) *Refusal {
	var r *Refusal
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, syscall.ENOSPC):
		return &Refusal{452, "4.3.1", "There is no room, try later"}
	}
	return &Refusal{451, "4.3.0", fallback}
}

// tryLater is the text for errors that the sender cannot do anything about.
const tryLater = "It could not be archived now, try later"
