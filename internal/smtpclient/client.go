// Package smtpclient is the part of an SMTP client that an archive needs
// (RFC 5321, 3207, 4954): it hands a message as it is to a mail server, for one
// recipient.
//
// As with package imapclient, nothing counts that was said before TLS, and no
// credential leaves before TLS, with no exception. A message's bytes are not
// changed: its lines must end with CRLF, and what SMTP cannot carry unaltered is
// refused. No field is added, also none that tells of resending.
//
// Not here: several recipients, notices of delivery, addresses that are not
// ASCII, and trying again.
package smtpclient

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// Limits of what a server may say. A line of a reply has 512 bytes (RFC 5321,
// 4.5.3.1.5); some servers take more.
const (
	maxLine    = 4 << 10
	maxLines   = 200 // of one reply
	timeout    = 5 * time.Minute
	endTimeout = 10 * time.Minute // after the last byte of a message (RFC 5321, 4.5.3.2.6)
	sendRun    = 64 << 10         // bytes of a message under one deadline
)

// MessageError: SMTP cannot carry the message unaltered, or the server cannot.
type MessageError struct{ Why string }

func (e *MessageError) Error() string { return "the message cannot go by SMTP as it is: " + e.Why }

func (e *MessageError) Unwrap() error { return imapclient.ErrRefused }

// Client is a connection to a server. It is for one goroutine.
type Client struct {
	o      imapclient.Options
	c      net.Conn
	r      *bufio.Reader
	w      *bufio.Writer
	stop   func() bool
	secure bool
	caps   map[string]string // keyword of EHLO -> its parameters
	dead   error

	// Chain is what the server showed in the TLS handshake.
	Chain []*x509.Certificate
	// Protocol says how the connection is protected, for people.
	Protocol string
}

// Dial connects and, unless the exception is made, has TLS before it returns.
func Dial(ctx context.Context, o imapclient.Options) (*Client, error) {
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
		c.c.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return c, tlsconf.At(tlsconf.StepTLS, err)
	}
	return c, nil
}

// attach begins anew on a connection: nothing that was read before is kept.
func (c *Client) attach(ctx context.Context, conn net.Conn) {
	if c.stop != nil {
		c.stop()
	}
	c.c, c.r, c.w, c.caps = conn, bufio.NewReaderSize(conn, 32<<10), bufio.NewWriterSize(conn, 32<<10), nil
	c.stop = context.AfterFunc(ctx, func() { conn.Close() })
}

func (c *Client) open(ctx context.Context) error {
	if c.o.Security == imapclient.ImplicitTLS {
		if err := c.handshake(ctx); err != nil {
			return err
		}
	}
	if _, err := c.reply("the greeting", 220); err != nil {
		return err
	}
	if err := c.hello(); err != nil {
		return err
	}
	if c.o.Security == imapclient.StartTLS {
		if err := c.startTLS(ctx); err != nil {
			return err
		}
		return c.hello()
	}
	return nil
}

// startTLS asks for TLS (RFC 3207, 4) and takes nothing but 220 and silence.
func (c *Client) startTLS(ctx context.Context) error {
	if _, ok := c.caps["STARTTLS"]; !ok {
		return fmt.Errorf("%w: the server does not offer STARTTLS", imapclient.ErrUnsafe)
	}
	if _, err := c.command("STARTTLS", "STARTTLS", 220); err != nil {
		return fmt.Errorf("%w: %w", imapclient.ErrUnsafe, err)
	}
	if c.r.Buffered() > 0 {
		return fmt.Errorf("%w: bytes follow the answer to STARTTLS before TLS begins", imapclient.ErrUnsafe)
	}
	return c.handshake(ctx)
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

// hello says who we are, by address, and hears what the server can (RFC 5321,
// 4.1.1.1 and 4.1.3).
func (c *Client) hello() error {
	name := "[127.0.0.1]"
	if a, ok := c.c.LocalAddr().(*net.TCPAddr); ok {
		name = "[" + a.IP.String() + "]"
		if a.IP.To4() == nil {
			name = "[IPv6:" + a.IP.String() + "]"
		}
	}
	lines, err := c.command("EHLO", "EHLO "+name, 250)
	if err != nil {
		return err
	}
	c.caps = map[string]string{}
	for _, l := range lines[1:] {
		word, rest, _ := strings.Cut(strings.ToUpper(l), " ")
		c.caps[word] = rest
	}
	return nil
}

// line reads one line without its end.
func (c *Client) line() (string, error) {
	b, err := c.r.ReadSlice('\n')
	switch {
	case err == bufio.ErrBufferFull || len(b) > maxLine:
		return "", fmt.Errorf("%w: a line of more than %d bytes", errProtocol, maxLine)
	case err == io.EOF:
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// errProtocol: what the server said is not SMTP.
var errProtocol = errors.New("the server does not follow SMTP")

// parseLine reads a line of a reply (RFC 5321, 4.2).
func parseLine(l string) (code int, text string, more bool, err error) {
	if len(l) < 3 {
		return 0, "", false, fmt.Errorf("%w: it says %.40q", errProtocol, l)
	}
	code, err = strconv.Atoi(l[:3])
	if err != nil || code < 200 || code > 599 || len(l) > 3 && l[3] != ' ' && l[3] != '-' {
		return 0, "", false, fmt.Errorf("%w: it says %.40q", errProtocol, l)
	}
	if len(l) > 3 {
		text, more = l[4:], l[3] == '-'
	}
	return code, text, more, nil
}

// reply reads a reply and returns its lines if it has the code that is wanted.
// Another is an error, which what is named in; it holds no secret.
func (c *Client) reply(what string, want int) ([]string, error) {
	var lines []string
	first := 0
	for {
		l, err := c.line()
		if err != nil {
			return nil, c.die(what, err)
		}
		code, text, more, err := parseLine(l)
		if err == nil && first != 0 && code != first {
			err = fmt.Errorf("%w: a reply of %d and %d", errProtocol, first, code)
		}
		if err != nil {
			return nil, c.die(what, err)
		}
		first = code
		if lines = append(lines, text); len(lines) > maxLines {
			return nil, c.die(what, fmt.Errorf("%w: a reply of more than %d lines", errProtocol, maxLines))
		}
		if !more {
			break
		}
	}
	switch {
	case first == want:
		return lines, nil
	case first == 421: // RFC 5321, 3.8
		return nil, c.die(what, fmt.Errorf("%w: %q", imapclient.ErrBye, strings.Join(lines, " ")))
	case first >= 400:
		return lines, &imapclient.StatusError{Command: what, Status: strconv.Itoa(first), Text: strings.Join(lines, " ")}
	}
	return nil, c.die(what, fmt.Errorf("%w: it answers %d", errProtocol, first))
}

func (c *Client) die(what string, err error) error {
	if c.dead == nil {
		c.dead = fmt.Errorf("%s: %w", what, err)
		c.c.Close()
	}
	return c.dead
}

func (c *Client) command(what, line string, want int) ([]string, error) {
	if c.dead != nil {
		return nil, c.dead
	}
	if strings.ContainsAny(line, "\r\n") {
		return nil, fmt.Errorf("%s: a line end within a command", what)
	}
	c.c.SetDeadline(time.Now().Add(timeout))
	c.w.WriteString(line + "\r\n")
	if err := c.w.Flush(); err != nil {
		return nil, c.die(what, err)
	}
	return c.reply(what, want)
}

// SignIn signs in with the strongest way that both sides know, over TLS only. A
// refusal is final: nothing weaker is tried after it.
func (c *Client) SignIn(cr imapclient.Credential) error {
	return tlsconf.At(tlsconf.StepSignIn, c.signIn(cr))
}

func (c *Client) signIn(cr imapclient.Credential) error {
	if !c.secure {
		return fmt.Errorf("%w: the connection is not encrypted", imapclient.ErrUnsafe)
	}
	offers := strings.Fields(c.caps["AUTH"])
	has := func(m string) bool { return slices.Contains(offers, m) }
	if cr.Token != "" {
		return c.bearer(cr, has)
	}
	switch {
	case has("SCRAM-SHA-256"), has("SCRAM-SHA-256-PLUS"):
		b := imapclient.Unoffered
		if has("SCRAM-SHA-256-PLUS") {
			b = imapclient.Offered
		}
		err := imapclient.SCRAM(cr, c.c, b, c.exchange)
		if errors.Is(err, imapclient.ErrUnsafe) {
			return c.die("AUTH", err)
		}
		return err
	case has("PLAIN"):
		return c.exchange("PLAIN", "\x00"+cr.User+"\x00"+cr.Password, func(string) (string, error) {
			return "", fmt.Errorf("%w: the server asks again in PLAIN", errProtocol)
		})
	case has("LOGIN"):
		answers := []string{cr.User, cr.Password}
		return c.exchange("LOGIN", "", func(string) (string, error) {
			if len(answers) == 0 {
				return "", fmt.Errorf("%w: the server asks again in LOGIN", errProtocol)
			}
			a := answers[0]
			answers = answers[1:]
			return a, nil
		})
	}
	return errors.New("the server offers no way to sign in that is known here (SCRAM-SHA-256, PLAIN, LOGIN)")
}

// bearer signs in with a token. A server that does not take it says why, and
// waits for an answer to that (RFC 7628, 3.2.3).
func (c *Client) bearer(cr imapclient.Credential, has func(string) bool) error {
	mechanism, first, last, err := cr.Bearer(has, c.o.Host, c.o.Port)
	if err != nil {
		return err
	}
	told := false
	err = c.exchange(mechanism, first, func(string) (string, error) {
		if told {
			return "", fmt.Errorf("%w: the server asks again in %s", errProtocol, mechanism)
		}
		told = true
		return last, nil
	})
	if err == nil && told {
		return fmt.Errorf("%w: the server refused the token and then let it in", errProtocol)
	}
	return err
}

// exchange runs a SASL mechanism (RFC 4954, 4); next answers a challenge. An
// empty first response is not sent.
func (c *Client) exchange(mechanism, first string, next func(challenge string) (string, error)) error {
	what := "AUTH " + mechanism
	line := what
	if first != "" {
		line += " " + base64.StdEncoding.EncodeToString([]byte(first))
	}
	for range 10 {
		lines, err := c.auth(what, line)
		if err != nil || lines == nil {
			return err
		}
		challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(lines[0]))
		reply := ""
		if err == nil {
			reply, err = next(string(challenge))
		}
		if err != nil {
			c.w.WriteString("*\r\n") // RFC 4954, 4: we give up
			c.w.Flush()
			return c.die(what, err)
		}
		line = base64.StdEncoding.EncodeToString([]byte(reply))
	}
	return c.die(what, fmt.Errorf("%w: sign-in does not end", errProtocol))
}

// auth sends one line of an exchange. It returns nil when that was the last.
func (c *Client) auth(what, line string) ([]string, error) {
	if c.dead != nil {
		return nil, c.dead
	}
	c.c.SetDeadline(time.Now().Add(timeout))
	c.w.WriteString(line + "\r\n")
	if err := c.w.Flush(); err != nil {
		return nil, c.die(what, err)
	}
	// 334 asks for more, 235 is the end.
	b, err := c.r.Peek(3)
	if err != nil {
		return nil, c.die(what, io.ErrUnexpectedEOF)
	}
	if string(b) == "235" {
		_, err := c.reply(what, 235)
		return nil, err
	}
	return c.reply(what, 334)
}

// ValidAddress tells whether an address can be in an envelope: ASCII without
// what would end a command or a path (RFC 5321, 4.1.2; quoted local parts are
// left out).
func ValidAddress(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	if !ok || local == "" || domain == "" || len(s) > 254 || strings.Contains(domain, "@") {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 127 || strings.ContainsRune(`<>()[]\,;:"`, r) })
}

// Carries tells why SMTP cannot carry a message as it is: nil if it can. Lines
// must end with CRLF, and CR, LF and NUL stand nowhere else (RFC 5321, 2.3.8).
func Carries(raw []byte) error {
	for i, b := range raw {
		switch {
		case b == 0:
			return &MessageError{"it holds a NUL"}
		case b == '\r' && (i+1 == len(raw) || raw[i+1] != '\n'):
			return &MessageError{"it holds a CR without an LF"}
		case b == '\n' && (i == 0 || raw[i-1] != '\r'):
			return &MessageError{"it holds an LF without a CR"}
		}
	}
	return nil
}

// Send hands over a message for one recipient. Its bytes go out as they are,
// dots stuffed; a last line without an end gets one. When the connection breaks
// after the last byte, the server may have it or not (RFC 1047).
func (c *Client) Send(from, rcpt string, raw []byte) error {
	return tlsconf.At(tlsconf.StepMessage, c.sendMessage(from, rcpt, raw))
}

func (c *Client) sendMessage(from, rcpt string, raw []byte) error {
	if !ValidAddress(from) || !ValidAddress(rcpt) {
		return fmt.Errorf("addresses %q and %q: they are written like user@example.org", from, rcpt)
	}
	if err := Carries(raw); err != nil {
		return err
	}
	mail := "MAIL FROM:<" + from + ">"
	if size, ok := c.caps["SIZE"]; ok { // RFC 1870
		if limit, err := strconv.ParseInt(size, 10, 64); err == nil && limit > 0 && int64(len(raw)) > limit {
			return &MessageError{fmt.Sprintf("it has %d bytes, and the server takes %d at most", len(raw), limit)}
		}
		mail += fmt.Sprintf(" SIZE=%d", len(raw))
	}
	if slices.ContainsFunc(raw, func(b byte) bool { return b >= 0x80 }) { // RFC 6152
		if _, ok := c.caps["8BITMIME"]; !ok {
			return &MessageError{"it has 8-bit characters, and the server takes none"}
		}
		mail += " BODY=8BITMIME"
	}
	_, err := c.command("MAIL", mail, 250)
	if err == nil {
		_, err = c.command("RCPT", "RCPT TO:<"+rcpt+">", 250)
	}
	if err == nil {
		_, err = c.command("DATA", "DATA", 354)
	}
	if err != nil {
		if errors.Is(err, imapclient.ErrRefused) && c.dead == nil {
			// The next message begins anew (RFC 5321, 4.1.1.5).
			if _, rerr := c.command("RSET", "RSET", 250); rerr != nil {
				c.die("RSET", rerr)
			}
		}
		return err
	}
	if err := c.data(raw); err != nil {
		return c.die("DATA", err)
	}
	c.c.SetDeadline(time.Now().Add(endTimeout))
	_, err = c.reply("the message", 250)
	return err
}

// data sends the bytes and the dot behind them (RFC 5321, 4.5.2).
func (c *Client) data(raw []byte) error {
	sent := 0
	for len(raw) > 0 {
		if sent >= sendRun || sent == 0 {
			c.c.SetDeadline(time.Now().Add(timeout))
			sent = 0
		}
		line := raw
		if i := bytes.IndexByte(raw, '\n'); i >= 0 {
			line = raw[:i+1]
		}
		raw = raw[len(line):]
		if line[0] == '.' {
			c.w.WriteByte('.')
		}
		c.w.Write(line)
		sent += len(line)
		if len(raw) == 0 && line[len(line)-1] != '\n' {
			c.w.WriteString("\r\n")
		}
	}
	c.c.SetDeadline(time.Now().Add(timeout))
	c.w.WriteString(".\r\n")
	return c.w.Flush()
}

// Close says goodbye and closes.
func (c *Client) Close() error {
	if c.dead == nil {
		c.c.SetDeadline(time.Now().Add(time.Second))
		c.w.WriteString("QUIT\r\n")
		c.w.Flush()
		c.dead = net.ErrClosed
	}
	c.stop()
	return c.c.Close()
}
