// Package imapclient is the part of an IMAP client that an archive needs (RFC
// 9051 and 3501): it looks and reads and changes nothing, unless it is asked to
// delete (delete.go); and, for mail that goes back (append.go), it makes folders
// and adds messages.
//
// It is written for servers that are hostile, or that somebody on the path
// pretends to be. Before TLS it reads the greeting and the answer to STARTTLS,
// and nothing else counts; whatever is unexpected there ends the connection
// before any credential is sent. What a server says is bounded, and a literal
// takes memory as it arrives, not as it is announced.
//
// Not here: deciding what is archived (package source), and retrying.
package imapclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/tlsconf"
)

// Security is how a connection is protected.
type Security string

// The ways, strongest first.
const (
	ImplicitTLS Security = "tls"       // from the first byte on
	StartTLS    Security = "starttls"  // mandatory: without it nothing is sent
	Cleartext   Security = "cleartext" // an exception that somebody answers for
)

// Options of a connection.
type Options struct {
	Dialer   *tlsconf.Dialer
	Host     string
	Port     int
	Security Security
	Trust    tlsconf.Trust
	Now      func() time.Time
	// Literal is the largest message in bytes.
	Literal int64
}

// Timeouts: how long a server may be silent.
const (
	commandTimeout = 3 * time.Minute
	greetTimeout   = 30 * time.Second
)

// Errors that callers branch on.
var (
	// ErrRefused: the server said NO or BAD.
	ErrRefused = errors.New("the server refused")
	// ErrUnsafe: going on would expose the credential or the mail.
	ErrUnsafe = errors.New("not safe to go on")
	// ErrBye: the server ended the connection.
	ErrBye = errors.New("the server ended the connection")
	// ErrLater: what may be asked of the account in some time is used up.
	ErrLater = errors.New("the server wants to be asked later")
)

// StatusError is a NO or BAD.
type StatusError struct{ Command, Status, Code, Text string }

func (e *StatusError) Error() string {
	code := ""
	if e.Code != "" {
		code = " [" + clip(e.Code) + "]"
	}
	return fmt.Sprintf("the server refused %s: %s%s %q", e.Command, e.Status, code, clip(e.Text))
}

func (e *StatusError) Unwrap() error {
	if e.Command != "APPEND" && later(e.Code, e.Text) {
		return ErrLater
	}
	return ErrRefused
}

// later tells whether a refusal is for a while only: Gmail's OVERQUOTA and what
// it says where it gives no code, and Exchange's throttling. Who adds messages
// is told OVERQUOTA of a mailbox that is full (RFC 5530, 3).
func later(code, text string) bool {
	code, _, _ = strings.Cut(strings.ToUpper(code), " ")
	return code == "OVERQUOTA" || code == "THROTTLED" || strings.Contains(strings.ToLower(text), "exceeded command or bandwidth limits")
}

// bye is the error of a connection that the server ends.
func bye(p *response) error {
	if later(p.code, p.text) {
		return fmt.Errorf("%w: %q", ErrLater, clip(p.text))
	}
	return fmt.Errorf("%w: %q", ErrBye, clip(p.text))
}

// clip bounds what is repeated of a server's words.
func clip(s string) string {
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

// Client is a connection to a server. It is for one goroutine.
type Client struct {
	o      Options
	c      net.Conn
	r      *reader
	w      *bufio.Writer
	tag    int
	caps   map[string]bool
	utf8   bool // folder names are UTF-8, not modified UTF-7
	secure bool
	dead   error
	stop   func() bool

	// Chain is what the server showed in the TLS handshake.
	Chain []*x509.Certificate
	// Protocol says how the connection is protected, for people.
	Protocol string
	exists   uint32
	writable bool             // the open folder is open for changes
	limits   map[string]int64 // the largest message of each folder, by its name
}

// Dial connects and, unless the exception is made, has TLS before it returns.
// When ctx ends, the connection does.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	conn, err := o.Dialer.Dial(ctx, o.Host, o.Port)
	if err != nil {
		return nil, err
	}
	c := &Client{o: o, Protocol: "no encryption"}
	c.attach(ctx, conn)
	if err := c.open(ctx); err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return c, err
	}
	return c, nil
}

// attach begins anew on a connection: nothing that was read before is kept.
func (c *Client) attach(ctx context.Context, conn net.Conn) {
	if c.stop != nil {
		c.stop()
	}
	c.c, c.r, c.w, c.caps = conn, newReader(conn), bufio.NewWriterSize(conn, 16<<10), nil
	c.stop = context.AfterFunc(ctx, func() { conn.Close() })
}

// open makes the connection safe.
func (c *Client) open(ctx context.Context) error {
	if c.o.Security == ImplicitTLS {
		if err := c.handshake(ctx); err != nil {
			return err
		}
	}
	if err := c.greeting(); err != nil {
		return tlsconf.At(tlsconf.StepTLS, err)
	}
	if c.o.Security == StartTLS {
		if err := c.startTLS(ctx); err != nil {
			return tlsconf.At(tlsconf.StepTLS, err)
		}
	}
	return tlsconf.At(tlsconf.StepTLS, c.capability())
}

func (c *Client) handshake(ctx context.Context) error {
	t, chain, err := c.o.Trust.Handshake(ctx, c.c, c.o.Host, c.o.Now)
	c.Chain = chain
	if err != nil {
		return err
	}
	s := t.ConnectionState()
	c.Protocol = tls.VersionName(s.Version) + ", " + tls.CipherSuiteName(s.CipherSuite)
	c.attach(ctx, t)
	c.secure = true
	return nil
}

// greeting reads the server's first line. PREAUTH would skip sign-in and, on a
// plain connection, TLS (RFC 9051, 7.1.4 and 11.1).
func (c *Client) greeting() error {
	c.c.SetDeadline(time.Now().Add(greetTimeout))
	p, err := c.r.response()
	switch {
	case err != nil:
		return fmt.Errorf("read the greeting: %w", err)
	case p.tag != "*" || p.status == "":
		return fmt.Errorf("%w: its greeting is %.40q", ErrProtocol, p.tag)
	case p.status == "BYE":
		return bye(p)
	case p.status != "OK":
		return fmt.Errorf("%w: the server greets with %s", ErrUnsafe, p.status)
	}
	return nil
}

// startTLS asks for TLS and takes nothing but the one right answer (RFC 9051,
// 6.2.1). What was said before TLS, and what comes with the answer, may be
// somebody else's words.
func (c *Client) startTLS(ctx context.Context) error {
	tag := c.nextTag()
	if err := c.send(tag + " STARTTLS\r\n"); err != nil {
		return err
	}
	p, err := c.r.response()
	switch {
	case err != nil:
		return fmt.Errorf("read the answer to STARTTLS: %w", err)
	case p.tag != tag:
		return fmt.Errorf("%w: the server says something else before it answers STARTTLS", ErrUnsafe)
	case p.status != "OK":
		return fmt.Errorf("%w: the server refuses STARTTLS: %s %q", ErrUnsafe, p.status, clip(p.text))
	case c.r.b.Buffered() > 0:
		return fmt.Errorf("%w: bytes follow the answer to STARTTLS before TLS begins", ErrUnsafe)
	}
	return c.handshake(ctx)
}

func (c *Client) nextTag() string {
	c.tag++
	return "L" + strconv.Itoa(c.tag)
}

func (c *Client) send(s string) error {
	c.c.SetDeadline(time.Now().Add(commandTimeout))
	if _, err := c.w.WriteString(s); err != nil {
		return err
	}
	return c.w.Flush()
}

// Has tells whether the server has a capability. Only what it said under the
// present protection counts.
func (c *Client) Has(capability string) bool { return c.caps[capability] }

func (c *Client) capability() error {
	caps := map[string]bool{}
	err := c.command("CAPABILITY", "CAPABILITY", func(p *response) error {
		if len(p.values) > 1 && p.values[0].is("CAPABILITY") {
			for _, v := range p.values[1:] {
				caps[strings.ToUpper(v.str())] = true
			}
		}
		return nil
	})
	if err == nil && !caps["IMAP4REV1"] && !caps["IMAP4REV2"] {
		err = fmt.Errorf("%w: it has neither IMAP4rev1 nor IMAP4rev2", ErrProtocol)
	}
	c.caps = caps
	return err
}

// command sends a command without literals and calls fn for each untagged
// response until the answer comes. name is for errors: it holds no secret.
func (c *Client) command(name, line string, fn func(*response) error) error {
	_, err := c.run(name, []string{line}, fn)
	return err
}

// run sends a command in pieces; between two of them it waits for the server's
// "+". It returns the answer.
func (c *Client) run(name string, pieces []string, fn func(*response) error) (*response, error) {
	if c.dead != nil {
		return nil, c.dead
	}
	tag := c.nextTag()
	pieces = slices.Clone(pieces)
	pieces[0] = tag + " " + pieces[0]
	for i, piece := range pieces {
		if err := c.send(piece + "\r\n"); err != nil {
			return nil, c.die(name, err)
		}
		p, err := c.answer(tag, fn)
		if err != nil {
			return nil, c.die(name, err)
		}
		if p.tag == "+" {
			if i == len(pieces)-1 {
				return nil, c.die(name, fmt.Errorf("%w: it waits for more than the command has", ErrProtocol))
			}
			continue
		}
		return c.conclude(name, p)
	}
	return nil, c.die(name, fmt.Errorf("%w: the command has no answer", ErrProtocol))
}

// conclude turns an answer into an error, if it is one.
func (c *Client) conclude(name string, p *response) (*response, error) {
	if p.status == "OK" {
		return p, nil
	}
	return p, &StatusError{name, p.status, p.code, p.text}
}

// die marks the connection as unusable.
func (c *Client) die(name string, err error) error {
	c.dead = fmt.Errorf("%s: %w", name, err)
	c.c.Close()
	return c.dead
}

// answer reads until the command's answer or a "+".
func (c *Client) answer(tag string, fn func(*response) error) (*response, error) {
	for {
		c.c.SetDeadline(time.Now().Add(commandTimeout))
		p, err := c.r.response()
		switch {
		case err != nil:
			return nil, err
		case p.tag == "+" || p.tag == tag && p.status != "":
			return p, nil
		case p.tag != "*":
			return nil, fmt.Errorf("%w: an answer to %.40q, which was not asked", ErrProtocol, p.tag)
		case p.status == "BYE":
			return nil, bye(p)
		}
		c.notice(p)
		if fn != nil {
			if err := fn(p); err != nil {
				return nil, err
			}
		}
	}
}

// notice keeps what any answer may carry.
func (c *Client) notice(p *response) {
	if len(p.values) == 2 && p.values[1].is("EXISTS") {
		if n, err := p.values[0].number(); err == nil {
			c.exists = uint32(min(n, 1<<32-1))
		}
	}
	if len(p.values) == 2 && p.values[1].is("EXPUNGE") && c.exists > 0 {
		c.exists--
	}
}

// Close says goodbye and closes.
func (c *Client) Close() error {
	if c.dead == nil {
		c.c.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprintf(c.w, "%s LOGOUT\r\n", c.nextTag())
		c.w.Flush()
		c.dead = net.ErrClosed
	}
	c.stop()
	return c.c.Close()
}

// quote writes a string as a quoted string or, if it cannot be one, as a
// literal: the pieces that run sends. Non-ASCII goes as a literal.
func quote(s string) (string, bool) {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\r' || c == '\n' || c == 0 || c >= 0x80:
			return "", false
		case c == '"' || c == '\\':
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	b.WriteByte('"')
	return b.String(), true
}

// line puts words and strings together; a string that cannot be quoted becomes
// a literal and a new piece.
func line(word string, args ...string) []string {
	pieces := []string{word}
	for _, a := range args {
		last := &pieces[len(pieces)-1]
		if q, ok := quote(a); ok {
			*last += " " + q
			continue
		}
		*last += fmt.Sprintf(" {%d}", len(a))
		pieces = append(pieces, a)
	}
	return pieces
}
