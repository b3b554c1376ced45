// Package pop3client is the part of a POP3 client that an archive needs
// (RFC 1939, 2449, 2595, 5034): it lists what there is, reads it, and only if
// asked deletes.
//
// As with package imapclient, nothing counts that was said before TLS, and no
// credential leaves before TLS. Passwords are never sent by APOP, whose MD5
// protects nothing.
package pop3client

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
	"strconv"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// Limits of what a server may say. A line of a reply has 512 bytes (RFC 2449,
// 4); lines of messages are longer in practice.
const (
	maxReply = 4 << 10
	maxList  = 10_000_000 // messages
	timeout  = 3 * time.Minute
)

// Client is a connection to a server. It is for one goroutine.
type Client struct {
	o      imapclient.Options
	c      net.Conn
	r      *bufio.Reader
	stop   func() bool
	secure bool
	caps   map[string]string

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
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return c, tlsconf.At(tlsconf.StepTLS, err)
	}
	return c, nil
}

func (c *Client) attach(ctx context.Context, conn net.Conn) {
	if c.stop != nil {
		c.stop()
	}
	c.c, c.r, c.caps = conn, bufio.NewReaderSize(conn, 32<<10), nil
	c.stop = context.AfterFunc(ctx, func() { conn.Close() })
}

func (c *Client) open(ctx context.Context) error {
	if c.o.Security == imapclient.ImplicitTLS {
		if err := c.handshake(ctx); err != nil {
			return err
		}
	}
	if _, err := c.reply("the greeting"); err != nil {
		return err
	}
	if c.o.Security == imapclient.StartTLS {
		if err := c.startTLS(ctx); err != nil {
			return err
		}
	}
	return c.capabilities()
}

// startTLS asks for TLS (RFC 2595, 4) and takes nothing but "+OK" and silence.
func (c *Client) startTLS(ctx context.Context) error {
	if _, err := c.command("STLS", "STLS"); err != nil {
		return fmt.Errorf("%w: %w", imapclient.ErrUnsafe, err)
	}
	if c.r.Buffered() > 0 {
		return fmt.Errorf("%w: bytes follow the answer to STLS before TLS begins", imapclient.ErrUnsafe)
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

// line reads one line of at most max bytes, without its end.
func (c *Client) line(max int) ([]byte, error) {
	c.c.SetDeadline(time.Now().Add(timeout))
	var long []byte
	for {
		b, err := c.r.ReadSlice('\n')
		long = append(long, b...)
		if len(long) > max {
			return nil, fmt.Errorf("%w: a line of more than %d bytes", imapclient.ErrProtocol, max)
		}
		if err == nil {
			return bytes.TrimSuffix(long[:len(long)-1], []byte("\r")), nil
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != bufio.ErrBufferFull {
			return nil, err
		}
	}
}

// reply reads "+OK" or "-ERR"; what is for errors and holds no secret.
func (c *Client) reply(what string) (string, error) {
	b, err := c.line(maxReply)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	word, rest, _ := strings.Cut(string(b), " ")
	switch strings.ToUpper(word) {
	case "+OK":
		return rest, nil
	case "-ERR":
		return "", &imapclient.StatusError{Command: what, Status: "-ERR", Text: rest}
	case "+":
		return rest, errContinue
	}
	return "", fmt.Errorf("%s: %w: it says %.40q", what, imapclient.ErrProtocol, b)
}

var errContinue = errors.New("the server waits for more")

func (c *Client) command(what, line string) (string, error) {
	c.c.SetDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(c.c, line+"\r\n"); err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	return c.reply(what)
}

// lines calls fn for each line of a multi-line answer.
func (c *Client) lines(fn func(string) error) error {
	for n := 0; ; n++ {
		b, err := c.line(maxReply)
		if err != nil || string(b) == "." {
			return err
		}
		if n > maxList {
			return fmt.Errorf("%w: a list without end", imapclient.ErrProtocol)
		}
		if err := fn(strings.TrimPrefix(string(b), ".")); err != nil {
			return err
		}
	}
}

// capabilities asks for them (RFC 2449, 5); a server without CAPA has none.
func (c *Client) capabilities() error {
	c.caps = map[string]string{}
	if _, err := c.command("CAPA", "CAPA"); err != nil {
		if errors.Is(err, imapclient.ErrRefused) {
			return nil
		}
		return err
	}
	return c.lines(func(l string) error {
		word, rest, _ := strings.Cut(strings.ToUpper(l), " ")
		c.caps[word] = rest
		return nil
	})
}

// SignIn signs in: SASL where the server has it, else USER and PASS.
func (c *Client) SignIn(cr imapclient.Credential) error {
	return tlsconf.At(tlsconf.StepSignIn, c.signIn(cr))
}

func (c *Client) signIn(cr imapclient.Credential) error {
	if !c.secure && c.o.Security != imapclient.Cleartext {
		return fmt.Errorf("%w: the connection is not encrypted", imapclient.ErrUnsafe)
	}
	sasl := strings.Fields(c.caps["SASL"])
	has := func(m string) bool {
		for _, s := range sasl {
			if s == m {
				return true
			}
		}
		return false
	}
	switch {
	case cr.Token != "":
		mechanism, response, last, err := cr.Bearer(has, c.o.Host, c.o.Port)
		if err != nil {
			return err
		}
		return imapclient.RefusedToken(c.auth(mechanism, response, last), "")
	case has("PLAIN"):
		return c.auth("PLAIN", cr.As+"\x00"+cr.User+"\x00"+cr.Password, "\x01")
	case cr.As != "":
		return errors.New("the server offers no way to sign in for somebody else (SASL PLAIN)")
	case strings.ContainsAny(cr.User+cr.Password, "\r\n"):
		return errors.New("name or password hold a line end")
	}
	if _, err := c.command("USER", "USER "+cr.User); err != nil {
		return err
	}
	_, err := c.command("PASS", "PASS "+cr.Password)
	return err
}

// auth runs a SASL mechanism whose client speaks first and once (RFC 5034, 4);
// last answers a reason for a refusal.
func (c *Client) auth(mechanism, response, last string) error {
	what := "AUTH " + mechanism
	_, err := c.command(what, what)
	if !errors.Is(err, errContinue) {
		if err == nil {
			err = fmt.Errorf("%s: %w: it did not ask for the credential", what, imapclient.ErrProtocol)
		}
		return err
	}
	_, err = c.command(what, base64.StdEncoding.EncodeToString([]byte(response)))
	if errors.Is(err, errContinue) { // an error in JSON, to be answered (RFC 7628, 3.2.3)
		_, err = c.command(what, base64.StdEncoding.EncodeToString([]byte(last)))
	}
	return err
}

// Message is a message in the maildrop.
type Message struct {
	Number int
	Size   int64
	UIDL   string
}

// List returns what there is, with its unique ids.
func (c *Client) List() (out []Message, err error) {
	out, err = c.list()
	return out, tlsconf.At(tlsconf.StepFolders, err)
}

func (c *Client) list() ([]Message, error) {
	if _, err := c.command("UIDL", "UIDL"); err != nil {
		return nil, fmt.Errorf("without UIDL nothing can be told apart: %w", err)
	}
	var out []Message
	at := map[int]int{}
	err := c.lines(func(l string) error {
		number, id, ok := strings.Cut(l, " ")
		n, err := strconv.Atoi(number)
		if !ok || err != nil || id == "" {
			return fmt.Errorf("%w: UIDL says %.40q", imapclient.ErrProtocol, l)
		}
		at[n] = len(out)
		out = append(out, Message{Number: n, UIDL: id})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if _, err := c.command("LIST", "LIST"); err != nil {
		return nil, err
	}
	return out, c.lines(func(l string) error {
		number, size, _ := strings.Cut(l, " ")
		n, err1 := strconv.Atoi(number)
		s, err2 := strconv.ParseInt(strings.TrimSpace(size), 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("%w: LIST says %.40q", imapclient.ErrProtocol, l)
		}
		if i, ok := at[n]; ok {
			out[i].Size = s
		}
		return nil
	})
}

// Retrieve reads a message. Every line ends with CRLF, as it came; the dots
// that were put before lines are taken away (RFC 1939, 3).
func (c *Client) Retrieve(m Message) ([]byte, error) {
	b, err := c.retrieve(m)
	return b, tlsconf.At(tlsconf.StepMessage, err)
}

func (c *Client) retrieve(m Message) ([]byte, error) {
	if _, err := c.command("RETR", fmt.Sprintf("RETR %d", m.Number)); err != nil {
		return nil, err
	}
	var out []byte
	begin := true // of a line
	for {
		c.c.SetDeadline(time.Now().Add(timeout))
		b, err := c.r.ReadSlice('\n')
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != bufio.ErrBufferFull {
			return nil, err
		}
		if begin && len(b) > 0 && b[0] == '.' {
			if s := string(b); s == ".\r\n" || s == ".\n" {
				return out, nil
			}
			b = b[1:]
		}
		begin = err == nil
		if int64(len(out)+len(b)) > c.o.Literal {
			return nil, &imapclient.TooLargeError{Size: max(m.Size, int64(len(out)+len(b))), Limit: c.o.Literal}
		}
		out = append(out, b...)
	}
}

// Delete marks a message; it goes with Quit.
func (c *Client) Delete(m Message) error {
	_, err := c.command("DELE", fmt.Sprintf("DELE %d", m.Number))
	return err
}

// Quit ends the session; what was marked is deleted now.
func (c *Client) Quit() error {
	_, err := c.command("QUIT", "QUIT")
	return errors.Join(err, c.Close())
}

// Close ends the connection and deletes nothing.
func (c *Client) Close() error {
	c.stop()
	return c.c.Close()
}
