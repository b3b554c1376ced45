package journal

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
	"log/slog"
	"net"
	"net/netip"
	"net/smtp"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/letterhold/letterhold/internal/mailtest"
)

// The clock of certificates; that of a bubble begins in the year 2000.
var now = time.Now()

const (
	sender   = "10.1.2.3"
	stranger = "192.0.2.7"
	canary   = "canary-Passw0rd"
)

// plug is a listener whose connections are pipes, from any address.
type plug struct {
	ch     chan net.Conn
	once   sync.Once
	closed chan struct{}
}

type plugged struct {
	net.Conn
	remote net.Addr
}

func (p plugged) RemoteAddr() net.Addr { return p.remote }

func newPlug() *plug { return &plug{ch: make(chan net.Conn), closed: make(chan struct{})} }

func (p *plug) Accept() (net.Conn, error) {
	select {
	case c := <-p.ch:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *plug) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *plug) Addr() net.Addr { return &net.TCPAddr{} }

// delivered is what Deliver got.
type delivered struct {
	Envelope
	raw string
}

// bed is a receiver that keeps what is delivered.
type bed struct {
	t  *testing.T
	r  *Receiver
	p  *plug
	ca *mailtest.Authority

	mu  sync.Mutex
	got []delivered
	log bytes.Buffer
}

func (b *bed) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

func (b *bed) messages() []delivered {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.got
}

var authority = sync.OnceValues(func() (*mailtest.Authority, tls.Certificate) {
	t := &testing.T{}
	ca := mailtest.NewAuthority(t)
	return ca, ca.Issue(t, nil)
})

// bubble runs a test in a bubble of its own time, which ends only when no
// goroutine of the receiver is left.
func bubble(t *testing.T, change func(*Config), f func(t *testing.T, b *bed)) {
	t.Helper()
	ca, cert := authority()
	synctest.Test(t, func(t *testing.T) {
		b := &bed{t: t, p: newPlug(), ca: ca}
		o := Config{
			Name: "mx.example.org", Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
			Senders: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8::/32")},
			Journal: func(_ context.Context, a string) (bool, error) {
				if a == "locked@journal.example" {
					return false, &Refusal{451, "4.3.0", "The archive is locked"}
				}
				return strings.HasSuffix(a, "@journal.example"), nil
			},
			Deliver: func(_ context.Context, e Envelope, r io.Reader) error {
				raw, err := io.ReadAll(r)
				b.mu.Lock()
				defer b.mu.Unlock()
				b.got = append(b.got, delivered{e, string(raw)})
				return err
			},
			Spool: SealedSpool(t.TempDir()), MaxSize: 1 << 20, Now: func() time.Time { return now },
		}
		o.Log = slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
		if change != nil {
			change(&o)
		}
		var err error
		if b.r, err = New(o); err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		p := b.p
		go func() { served <- b.r.Serve(p) }()
		defer b.end(served)
		f(t, b)
	})
}

// end leaves nothing running, also when the test failed.
func (b *bed) end(served chan error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := b.r.Shutdown(ctx); err != nil && !b.t.Failed() {
		b.t.Errorf("shutdown: %v", err)
	}
	if err := <-served; err != nil {
		b.t.Errorf("serve: %v", err)
	}
	if strings.Contains(b.log.String(), canary) {
		b.t.Error("the log holds a password or content")
	}
}

// client speaks lines.
type client struct {
	t  *testing.T
	b  *bed
	nc net.Conn
	r  *bufio.Reader
}

func (b *bed) dial(from string) *client {
	var addr net.Addr = &net.UnixAddr{Net: "unix"}
	if from != "" {
		addr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 4711))
	}
	ours, theirs := net.Pipe()
	b.p.ch <- plugged{theirs, addr}
	return &client{b.t, b, ours, bufio.NewReader(ours)}
}

// begin reads the greeting and has TLS.
func (b *bed) begin(from string) *client {
	b.t.Helper()
	c := b.dial(from)
	c.script("< 220", "> EHLO client", "< 250", "> STARTTLS", "< 220")
	if err := c.tls(nil); err != nil {
		b.t.Fatal(err)
	}
	c.script("> EHLO client.example", "< 250")
	return c
}

func (c *client) tls(change func(*tls.Config)) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.b.ca.PEM)
	conf := &tls.Config{RootCAs: roots, ServerName: "localhost", Time: func() time.Time { return now }}
	if change != nil {
		change(conf)
	}
	s := tls.Client(c.nc, conf)
	c.nc, c.r = s, bufio.NewReader(s)
	return s.Handshake()
}

// reply reads a reply, and returns its lines.
func (c *client) reply() ([]string, error) {
	var lines []string
	for {
		l, err := c.r.ReadString('\n')
		if err != nil {
			return lines, err
		}
		lines = append(lines, strings.TrimSuffix(l, "\r\n"))
		if len(l) < 5 || !strings.HasSuffix(l, "\r\n") {
			return lines, fmt.Errorf("reply %q", l)
		}
		if l[3] != '-' {
			return lines, nil
		}
	}
}

// script sends lines ("> ", CRLF is added; ">>" as it is) and compares replies
// with the beginning of what is expected ("< "); "eof" is the end.
func (c *client) script(lines ...string) {
	c.t.Helper()
	var all sync.WaitGroup
	defer all.Wait()
	for i, l := range lines {
		if s, ok := strings.CutPrefix(l, "< "); ok {
			got, err := c.reply()
			last := strings.Join(got, "/")
			if len(got) > 0 {
				last = got[len(got)-1]
			}
			if s == "eof" {
				if len(got) > 0 || err == nil {
					c.t.Fatalf("line %d: a reply %q instead of the end", i, got)
				}
				c.nc.Close()
				return
			}
			if err != nil || !strings.HasPrefix(last, s) {
				c.t.Fatalf("line %d, after %.100q: reply %q, %v; want %q", i, lines[max(0, i-1)], last, err, s)
			}
			continue
		}
		s, raw := strings.CutPrefix(l, ">>")
		if !raw {
			s = strings.TrimPrefix(l, "> ") + "\r\n"
		}
		all.Wait()
		all.Go(func() { io.WriteString(c.nc, s) }) // the other side may be replying
	}
}

func (c *client) close() { c.nc.Close() }

func wellKnown(lines ...string) []string {
	return append([]string{"> MAIL FROM:<a@example.org>", "< 250 2.1.0", "> RCPT TO:<j@journal.example>", "< 250 2.1.5", "> DATA", "< 354"}, lines...)
}

func TestSession(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *bed) {
		c := b.dial(sender)
		c.script("< 220 mx.example.org ESMTP", ">>EHLO client.example\r\n")
		got, _ := c.reply()
		want := []string{"250-mx.example.org", "250-SIZE 1048576", "250-8BITMIME", "250-SMTPUTF8", "250-PIPELINING", "250-STARTTLS", "250 ENHANCEDSTATUSCODES"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		c.script("> STARTTLS", "< 220")
		if err := c.tls(nil); err != nil {
			t.Fatal(err)
		}
		c.script(">>EHLO again.example\r\n")
		got, _ = c.reply()
		if want := append(want[:5:5], want[6]); !cmp.Equal(want, got) {
			t.Errorf("in TLS: %q", got)
		}
		c.script("> MAIL FROM:<a@example.org> SIZE=10 BODY=8BITMIME AUTH=<>", "< 250 2.1.0", "> RCPT TO:<j@journal.example>", "< 250 2.1.5",
			"> rcpt to:<J2@journal.example> ", "< 250 2.1.5", "> DATA", "< 354", ">>A: \x00\xff"+canary+"\r\n\r\n..\r\n.x\r\n.\r\n", "< 250 2.0.0",
			"> MAIL FROM:<>", "< 250", "> RSET", "< 250", "> MAIL FROM:<>", "< 250", "> RCPT TO:<j@journal.example>", "< 250", "> DATA", "< 354", "> .", "< 250", "> QUIT", "< 221", "< eof")
		wantMessages := []delivered{
			{Envelope{From: "a@example.org", To: []string{"j@journal.example", "J2@journal.example"}, HELO: "again.example", Remote: netip.MustParseAddr(sender), TLS: tls.VersionTLS13, Received: now, Size: int64(19 + len(canary))},
				"A: \x00\xff" + canary + "\r\n\r\n.\r\nx\r\n"},
			{Envelope{To: []string{"j@journal.example"}, HELO: "again.example", Remote: netip.MustParseAddr(sender), TLS: tls.VersionTLS13, Received: now}, ""},
		}
		wantMessages[0].Size = int64(len(wantMessages[0].raw))
		if diff := cmp.Diff(wantMessages, b.messages(), cmp.AllowUnexported(delivered{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Error(diff)
		}
	})
}

// Each row is one conversation in TLS, after EHLO.
func TestConversations(t *testing.T) {
	for name, script := range map[string][]string{
		"no transaction":        {"> RCPT TO:<j@journal.example>", "< 503 5.5.1", "> DATA", "< 503 5.5.1"},
		"no recipient":          {"> MAIL FROM:<>", "< 250", "> DATA", "< 503 5.5.1"},
		"two transactions":      {"> MAIL FROM:<>", "< 250", "> MAIL FROM:<>", "< 503 5.5.1"},
		"relaying":              {"> MAIL FROM:<>", "< 250", "> RCPT TO:<bob@example.org>", "< 550 5.1.1", "> RCPT TO:<postmaster>", "< 550 5.1.1", "> RCPT TO:<j@journal.example@example.org>", "< 501", "> RCPT TO:<@journal.example:bob@example.org>", "< 550 5.1.1", "> RCPT TO:<j%journal.example@example.org>", "< 550", "> DATA", "< 503"},
		"source route":          {"> MAIL FROM:<@a.example,@b.example:a@example.org>", "< 250", "> RCPT TO:<@x.example:j@journal.example>", "< 250"},
		"locked":                {"> MAIL FROM:<>", "< 250", "> RCPT TO:<locked@journal.example>", "< 451 4.3.0 The archive is locked"},
		"nobody":                {"> MAIL FROM:<>", "< 250", "> RCPT TO:<>", "< 501"},
		"paths":                 {"> MAIL FROM: <a@example.org>", "< 501", "> MAIL FROM:a@example.org", "< 501", "> MAIL FROM:<a@example.org", "< 501", "> MAIL FROM:<a b@example.org>", "< 501", "> MAIL FROM:<a@>", "< 501", "> MAIL FROM:<@a:>", "< 501", "> MAIL TO:<a@b>", "< 501", "> MAIL", "< 501", "> MAIL FROM:<a@b>x", "< 501"},
		"quoted":                {`> MAIL FROM:<"a> \" b"@example.org>`, "< 250", `> RCPT TO:<"j"@journal.example>`, "< 250"},
		"literal":               {"> MAIL FROM:<a@[IPv6:::1]>", "< 250"},
		"parameters":            {"> MAIL FROM:<> SIZE=x", "< 501", "> MAIL FROM:<> SIZE=1 SIZE=1", "< 501", "> MAIL FROM:<> BODY=BINARYMIME", "< 555", "> MAIL FROM:<> RET=FULL", "< 555", "> MAIL FROM:<> SIZE=1", "< 250", "> RCPT TO:<j@journal.example> NOTIFY=NEVER", "< 555"},
		"size":                  {"> MAIL FROM:<> SIZE=1048577", "< 552 5.3.4", "> MAIL FROM:<> SIZE=99999999999999999999", "< 552 5.3.4", "> MAIL FROM:<> SIZE=1048576", "< 250"},
		"utf-8":                 {"> MAIL FROM:<é@example.org>", "< 553 5.6.7", "> MAIL FROM:<é@example.org> SMTPUTF8", "< 250", "> RCPT TO:<é@journal.example>", "< 250", "> RSET", "< 250", "> MAIL FROM:<>", "< 250", "> RCPT TO:<é@journal.example>", "< 553 5.6.7"},
		"not utf-8":             {"> MAIL FROM:<\xff@example.org> SMTPUTF8", "< 501"},
		"who is there":          {"> VRFY j@journal.example", "< 252", "> VRFY nobody@journal.example", "< 252", "> EXPN list", "< 502"},
		"odd verbs":             {"> NOOP x", "< 250", "> HELP", "< 214", "> TURN", "< 502", "> XYZZY", "< 500", "> ", "< 500", "> LHLO x", "< 500", "> RSET x", "< 501", "> DATA x", "< 501", "> AUTH PLAIN", "< 502"},
		"hello":                 {"> EHLO", "< 501", "> HELO", "< 501", "> HELO x", "< 250 mx.example.org", "> EHLO \xc3\xa9", "< 501"},
		"hello resets":          {"> MAIL FROM:<>", "< 250", "> EHLO x", "< 250", "> RCPT TO:<j@journal.example>", "< 503"},
		"BDAT":                  {">>BDAT 5 LAST\r\nQUIT\r", "< 502", "< eof"},
		"bare LF":               {">>NOOP\nNOOP\r\n", "< 500", "< eof"},
		"bare CR":               {">>NOOP\rNOOP\r\n", "< 500", "< eof"},
		"NUL":                   {">>NOOP \x00\r\n", "< 500", "< eof"},
		"line of 2048 bytes":    {">>NOOP " + strings.Repeat("x", 2041) + "\r\n", "< 250"},
		"line of 2049 bytes":    {">>NOOP " + strings.Repeat("x", 2042) + "\r\n", "< 500", "< eof"},
		"a line without end":    {">>" + strings.Repeat("x", 40<<10), "< 500", "< eof"},
		"pipelined":             {">>MAIL FROM:<a@example.org>\r\nRCPT TO:<j@journal.example>\r\nRCPT TO:<x@example.org>\r\nDATA\r\n", "< 250", "< 250", "< 550", "< 354", ">>x\r\n.\r\nNOOP\r\nQUIT\r\n", "< 250 2.0.0", "< 250", "< 221", "< eof"},
		"DATA is not the last":  {">>MAIL FROM:<>\r\nRCPT TO:<x@example.org>\r\nDATA\r\nMAIL FROM:<evil@example.org>\r\n", "< 250", "< 550", "< 554 5.5.0", "< eof"},
		"EHLO is not the last":  {">>EHLO x\r\nMAIL FROM:<>\r\n", "< 554", "< eof"},
		"STARTTLS in TLS":       {"> STARTTLS", "< 503 5.5.1"},
		"STARTTLS in a message": {"> MAIL FROM:<>", "< 250", "> STARTTLS", "< 503"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, b *bed) {
				c := b.begin(sender)
				defer c.close()
				c.script(script...)
			})
		})
	}
}

// Before TLS.
func TestCleartext(t *testing.T) {
	for name, script := range map[string][]string{
		"nothing without TLS":  {"> EHLO x", "< 250", "> MAIL FROM:<>", "< 530 5.7.0 Must issue STARTTLS first", "> RCPT TO:<j@journal.example>", "< 530", "> DATA", "< 530", "> AUTH PLAIN AGEAYg==", "< 530", "> VRFY j", "< 530", "> EXPN j", "< 530", "> NOOP", "< 250", "> QUIT", "< 221"},
		"without EHLO":         {"> STARTTLS", "< 503", "> MAIL FROM:<>", "< 530"},
		"parameters":           {"> EHLO x", "< 250", "> STARTTLS now", "< 501 5.5.4"},
		"bytes after STARTTLS": {"> EHLO x", "< 250", ">>STARTTLS\r\nMAIL FROM:<evil@example.org>\r\n", "< 554", "< eof"},
		"no TLS comes":         {"> EHLO x", "< 250", "> STARTTLS", "< 220", ">>MAIL FROM:<evil@example.org>\r\n", "< eof"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, b *bed) {
				c := b.dial(sender)
				defer c.close()
				c.script("< 220")
				if name == "no TLS comes" {
					c.script(script[:4]...)
					c.script(script[4])
					if got, _ := io.ReadAll(c.nc); bytes.Contains(got, []byte("421")) || bytes.Contains(got, []byte("250")) {
						t.Errorf("after a failed handshake: %q", got)
					}
					return
				}
				c.script(script...)
			})
		})
	}
	// What was said before TLS is forgotten.
	bubble(t, func(o *Config) {
		o.Local, o.LMTP = true, true
		o.Senders = append(o.Senders, netip.MustParsePrefix("127.0.0.0/8"))
	}, func(t *testing.T, b *bed) {
		c := b.dial("127.0.0.1")
		defer c.close()
		c.script("< 220", "> LHLO before", "< 250", "> MAIL FROM:<>", "< 250", "> RSET", "< 250", "> STARTTLS", "< 220")
		if err := c.tls(nil); err != nil {
			t.Fatal(err)
		}
		c.script("> MAIL FROM:<>", "< 503 5.5.1 Say hello first", "> RSET", "< 250", "> MAIL FROM:<>", "< 503", "> STARTTLS", "< 503", "> LHLO after", "< 250")
		c.script(wellKnown("> .", "< 250")...)
		if got := b.messages(); len(got) != 1 || got[0].HELO != "after" {
			t.Errorf("%+v", got)
		}
	})
}

func TestVersions(t *testing.T) {
	for name, tc := range map[string]struct {
		older  bool
		change func(*tls.Config)
		want   bool
	}{
		"1.3":             {false, nil, true},
		"1.2 not allowed": {false, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, false},
		"1.2 allowed":     {true, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, true},
		"1.1":             {true, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, false},
		"1.2 with CBC": {true, func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		}, false},
		"ALPN of SMTP":     {false, func(c *tls.Config) { c.NextProtos = []string{"smtp"} }, true},
		"ALPN of browsers": {false, func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }, false},
	} {
		for _, implicit := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, implicit %v", name, implicit), func(t *testing.T) {
				bubble(t, func(o *Config) { o.TLS12, o.Implicit = tc.older, implicit }, func(t *testing.T, b *bed) {
					c := b.dial(sender)
					defer c.close()
					if !implicit {
						c.script("< 220", "> EHLO x", "< 250", "> STARTTLS", "< 220")
					}
					err := c.tls(tc.change)
					if err == nil && implicit {
						_, err = c.reply()
					}
					if (err == nil) != tc.want {
						t.Fatalf("handshake: %v", err)
					}
					if err == nil {
						c.script("> EHLO x", "< 250")
						c.script(wellKnown("> .", "< 250")...)
					}
				})
			})
		}
	}
}

// A certificate is proved on each connection: nothing is resumed.
func TestNoResumption(t *testing.T) {
	for _, older := range []bool{false, true} {
		bubble(t, func(o *Config) { o.Implicit, o.TLS12 = true, older }, func(t *testing.T, b *bed) {
			cache := tls.NewLRUClientSessionCache(10)
			for range 2 {
				c := b.dial(sender)
				if err := c.tls(func(o *tls.Config) {
					if o.ClientSessionCache = cache; older {
						o.MaxVersion = tls.VersionTLS12
					}
				}); err != nil {
					t.Fatal(err)
				}
				c.script("< 220", "> QUIT", "< 221", "< eof")
				if c.nc.(*tls.Conn).ConnectionState().DidResume {
					t.Error("a session was resumed")
				}
			}
		})
	}
}

func plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

// Who may send: at least one way must hold; without any, nobody.
func TestSenders(t *testing.T) {
	ca, _ := authority()
	other := mailtest.NewAuthority(t)
	certificate := func(a *mailtest.Authority, change func(*x509.Certificate)) *tls.Certificate {
		c := a.Issue(t, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
			if change != nil {
				change(c)
			}
		})
		return &c
	}
	good := certificate(ca, nil)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM)
	signIn := func(_ context.Context, remote netip.Addr, user, password string) (bool, error) {
		if user == "broken" {
			return false, errors.New("no database")
		}
		return user == "exchange" && password == canary && remote.IsValid(), nil
	}
	const (
		byNet = 1 << iota
		byCert
		byAuth
		named
	)
	for name, tc := range map[string]struct {
		ways int
		from string
		cert *tls.Certificate
		auth string
		want string // greeting, or reply to MAIL
	}{
		"nothing configured":               {0, sender, good, "", "554 5.7.1"},
		"listed":                           {byNet, sender, nil, "", "250"},
		"listed, IPv6":                     {byNet, "2001:db8:1::5", nil, "", "250"},
		"listed, mapped":                   {byNet, "::ffff:10.1.2.3", nil, "", "250"},
		"listed, with a bad certificate":   {byNet | byCert, sender, certificate(other, nil), "", "250"},
		"not listed":                       {byNet, stranger, nil, "", "554 5.7.1"},
		"not listed, with a certificate":   {byNet | byCert, stranger, good, "", "250"},
		"not listed, signed in":            {byNet | byAuth, stranger, nil, plain("exchange", canary), "250"},
		"not listed, nothing shown":        {byNet | byCert | byAuth, stranger, nil, "", "530 5.7.0 Authentication or"},
		"no certificate":                   {byCert, sender, nil, "", "530 5.7.0 A client certificate"},
		"certificate":                      {byCert, stranger, good, "", "250"},
		"certificate of another authority": {byCert, stranger, certificate(other, nil), "", "530"},
		"certificate that ended":           {byCert, stranger, certificate(ca, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }), "", "530"},
		"certificate of a server":          {byCert, stranger, certificate(ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "", "530"},
		"named certificate":                {byCert | named, stranger, certificate(ca, func(c *x509.Certificate) { c.DNSNames = []string{"out.example.org"} }), "", "250"},
		"named certificate of a server": {byCert | named, stranger, certificate(ca, func(c *x509.Certificate) {
			c.DNSNames = []string{"*.example.org"}
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), "", "250"},
		"certificate with another name":       {byCert | named, stranger, good, "", "530"},
		"not signed in":                       {byAuth, sender, nil, "", "530 5.7.0 Authentication"},
		"signed in":                           {byAuth, stranger, nil, plain("exchange", canary), "250"},
		"signed in wrong":                     {byAuth, stranger, nil, plain("exchange", canary+"x"), "530"},
		"cannot sign in now":                  {byAuth, stranger, nil, plain("broken", canary), "530"},
		"signed in for somebody else":         {byAuth, stranger, nil, base64.StdEncoding.EncodeToString([]byte("boss\x00exchange\x00" + canary)), "530"},
		"signed in with no password":          {byAuth, stranger, nil, plain("exchange", ""), "530"},
		"signed in with what is not base64":   {byAuth, stranger, nil, "!" + canary, "530"},
		"socket of the file system, no leave": {byNet, "", nil, "", "554 5.7.1"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(o *Config) {
				if tc.ways&byNet == 0 {
					o.Senders = nil
				}
				if tc.ways&byCert != 0 {
					o.Clients.Roots = roots
				}
				if tc.ways&byAuth != 0 {
					o.Auth = signIn
				}
				if tc.ways&named != 0 {
					o.Clients.Names = []string{"mail.example.org", "out.example.org"}
				}
			}, func(t *testing.T, b *bed) {
				c := b.dial(tc.from)
				defer c.close()
				if strings.HasPrefix(tc.want, "554") {
					c.script("< "+tc.want, "< eof")
					return
				}
				c.script("< 220", "> EHLO x", "< 250", "> STARTTLS", "< 220")
				if err := c.tls(func(o *tls.Config) {
					if tc.cert != nil { // whatever authorities are asked for
						o.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tc.cert, nil }
					}
				}); err != nil {
					t.Fatal(err)
				}
				c.script("> EHLO x", "< 250")
				if tc.auth != "" {
					c.script("> AUTH PLAIN "+tc.auth, "< ")
				}
				c.script("> MAIL FROM:<>", "< "+tc.want, "> RCPT TO:<j@journal.example>", "< "+tc.want[:3])
				if tc.want == "250" {
					c.script("> DATA", "< 354", "> .", "< 250")
					m := b.messages()[0]
					if (m.Auth == "exchange") != (tc.auth != "") || (m.Client != "") != (tc.cert != nil && tc.cert.Leaf == nil && !strings.Contains(name, "bad")) {
						t.Errorf("envelope: %+v", m.Envelope)
					}
				}
			})
		})
	}
}

func TestAuth(t *testing.T) {
	signIn := func(_ context.Context, _ netip.Addr, user, password string) (bool, error) {
		if user == "broken" {
			return false, errors.New("no database")
		}
		return user == "exchange" && password == canary, nil
	}
	for name, script := range map[string][]string{
		"at once":          {"> AUTH PLAIN " + plain("exchange", canary), "< 235 2.7.0", "> AUTH PLAIN " + plain("exchange", canary), "< 503", "> EHLO x", "< 250 ENHANCED"},
		"asked":            {"> auth plain", "< 334 ", "> " + plain("exchange", canary), "< 235"},
		"given up":         {"> AUTH PLAIN", "< 334", "> *", "< 501"},
		"others":           {"> AUTH LOGIN", "< 504", "> AUTH", "< 504", "> AUTH PLAIN =", "< 501", "> AUTH PLAIN AAAA", "< 501"},
		"database":         {"> AUTH PLAIN " + plain("broken", canary), "< 454 4.7.0"},
		"for another":      {"> AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("boss\x00exchange\x00"+canary)), "< 535"},
		"for itself":       {"> AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("exchange\x00exchange\x00"+canary)), "< 235"},
		"guessing":         {"> AUTH PLAIN " + plain("a", "b"), "< 535 5.7.8", "> AUTH PLAIN " + plain("a", "b"), "< 535", "> AUTH PLAIN " + plain("a", "b"), "< 421 4.7.0", "< eof"},
		"in a transaction": {"> AUTH PLAIN " + plain("exchange", canary), "< 235", "> MAIL FROM:<>", "< 250", "> AUTH PLAIN " + plain("exchange", canary), "< 503"},
		"not the last":     {">>AUTH PLAIN\r\n" + plain("exchange", canary) + "\r\n", "< 554", "< eof"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(o *Config) { o.Auth = signIn }, func(t *testing.T, b *bed) {
				c := b.begin(stranger)
				defer c.close()
				c.script(script...)
			})
		})
	}
	bubble(t, func(o *Config) { o.Auth = signIn }, func(t *testing.T, b *bed) {
		c := b.dial(stranger)
		defer c.close()
		c.script("< 220", ">>EHLO x\r\n")
		if got, _ := c.reply(); strings.Contains(strings.Join(got, " "), "AUTH") {
			t.Errorf("AUTH is offered before TLS: %q", got)
		}
		c.script("> STARTTLS", "< 220")
		if err := c.tls(nil); err != nil {
			t.Fatal(err)
		}
		c.script(">>EHLO x\r\n")
		if got, _ := c.reply(); !strings.Contains(strings.Join(got, " "), "250-AUTH PLAIN") {
			t.Errorf("AUTH is not offered in TLS: %q", got)
		}
	})
}

// LMTP without TLS: on a socket and from loopback, and only if it is said.
func TestLocal(t *testing.T) {
	loopback := func(o *Config) {
		o.LMTP, o.Senders = true, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16")}
	}
	local := func(o *Config) { loopback(o); o.Local = true }
	for name, tc := range map[string]struct {
		change func(*Config)
		from   string
		script []string
	}{
		"loopback, no leave":   {loopback, "127.0.0.1", []string{"< 220", "> LHLO x", "< 250", "> MAIL FROM:<>", "< 530 5.7.0 Must"}},
		"loopback":             {local, "127.0.0.1", append([]string{"< 220 mx.example.org LMTP", "> LHLO x", "< 250"}, wellKnown("> .", "< 250")...)},
		"loopback, not listed": {local, "::1", []string{"< 554 5.7.1", "< eof"}},
		"another host":         {local, sender, []string{"< 220", "> LHLO x", "< 250", "> MAIL FROM:<>", "< 530 5.7.0 Must"}},
		"socket":               {func(o *Config) { local(o); o.Senders = nil; o.Certificate = nil }, "", append([]string{"< 220", "> LHLO x", "< 250"}, wellKnown("> .", "< 250")...)},
		"no AUTH without TLS": {func(o *Config) {
			local(o)
			o.Auth = func(context.Context, netip.Addr, string, string) (bool, error) { return true, nil }
		}, "", []string{"< 220", "> LHLO x", "< 250", "> AUTH PLAIN " + plain("exchange", canary), "< 538 5.7.11"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, tc.change, func(t *testing.T, b *bed) {
				c := b.dial(tc.from)
				defer c.close()
				c.script(tc.script...)
			})
		})
	}
}

// What Deliver says is what the sender hears: once in SMTP, in LMTP once for
// each recipient (RFC 2033, 4.2).
func TestReplies(t *testing.T) {
	locked := &Refusal{451, "4.3.0", "The archive is locked"}
	never := &Refusal{554, "5.7.1", "Never\r\n250 é"}
	for name, tc := range map[string]struct {
		err        error
		smtp, lmtp []string
	}{
		"committed":        {nil, []string{"< 250 2.0.0"}, []string{"< 250 2.0.0", "< 250 2.0.0", "< 250 2.0.0"}},
		"an error":         {errors.New("disk on fire"), []string{"< 451 4.3.0 It could"}, []string{"< 451", "< 451", "< 451"}},
		"no room":          {fmt.Errorf("write: %w", syscall.ENOSPC), []string{"< 452 4.3.1"}, []string{"< 452", "< 452", "< 452"}},
		"a refusal":        {fmt.Errorf("wrapped: %w", locked), []string{"< 451 4.3.0 The archive is locked"}, []string{"< 451", "< 451", "< 451"}},
		"text is tamed":    {never, []string{"< 554 5.7.1 Never??250 ?"}, []string{"< 554", "< 554", "< 554"}},
		"status is tamed":  {&Refusal{552, "4.2.2\r\n", "full"}, []string{"< 552 5.0.0 full"}, []string{"< 552", "< 552", "< 552"}},
		"no such code":     {&Refusal{250, "2.0.0", "fine"}, []string{"< 451"}, []string{"< 451", "< 451", "< 451"}},
		"each":             {Each{nil, never, locked}, []string{"< 451"}, []string{"< 250", "< 554", "< 451 4.3.0"}},
		"each, for good":   {Each{nil, never, nil}, []string{"< 554"}, []string{"< 250", "< 554", "< 250"}},
		"each, all right":  {Each{nil, nil, nil}, []string{"< 250"}, []string{"< 250", "< 250", "< 250"}},
		"each, of too few": {Each{nil}, []string{"< 451"}, []string{"< 451", "< 451", "< 451"}},
	} {
		for _, lmtp := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, LMTP %v", name, lmtp), func(t *testing.T) {
				change := func(o *Config) {
					o.LMTP = lmtp
					o.Deliver = func(context.Context, Envelope, io.Reader) error { return tc.err }
				}
				bubble(t, change, func(t *testing.T, b *bed) {
					c := b.dial(sender)
					defer c.close()
					hello, want := "> EHLO x", tc.smtp
					if lmtp {
						hello, want = "> LHLO x", tc.lmtp
					}
					c.script("< 220", hello, "< 250", "> STARTTLS", "< 220")
					if err := c.tls(nil); err != nil {
						t.Fatal(err)
					}
					c.script(hello, "< 250", "> MAIL FROM:<>", "< 250", "> RCPT TO:<j@journal.example>", "< 250", "> RCPT TO:<x@example.org>", "< 550",
						"> RCPT TO:<k@journal.example>", "< 250", "> RCPT TO:<j@journal.example>", "< 250", "> DATA", "< 354", ">>x\r\n.\r\n")
					c.script(want...)
					// A refused message: one reply for each recipient too.
					c.script("> NOOP", "< 250", "> MAIL FROM:<>", "< 250", "> RCPT TO:<j@journal.example>", "< 250", "> RCPT TO:<k@journal.example>", "< 250", "> DATA", "< 354", ">>x\ny\r\n.\r\n", "< 550 5.6.0")
					if lmtp {
						c.script("< 550 5.6.0", "> EHLO x", "< 500", "> HELO x", "< 500")
					}
					c.script("> QUIT", "< 221", "< eof")
				})
			})
		}
	}
}

// Nothing is acknowledged when there is no place for it.
func TestSpoolFails(t *testing.T) {
	for name, tc := range map[string]struct {
		spool func() (Spool, error)
		want  []string
	}{
		"at once": {func() (Spool, error) { return nil, syscall.ENOSPC }, []string{"< 452 4.3.1", "> NOOP", "< 250"}},
		"later":   {func() (Spool, error) { return full{}, nil }, []string{"< 354", ">>x\r\n.\r\n", "< 452 4.3.1", "> NOOP", "< 250"}},
		"reading": {func() (Spool, error) { return full{wide: true}, nil }, []string{"< 354", ">>x\r\n.\r\n", "< 451 4.3.0", "> NOOP", "< 250"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(o *Config) { o.Spool = tc.spool }, func(t *testing.T, b *bed) {
				c := b.begin(sender)
				defer c.close()
				c.script(wellKnown()[:5]...)
				c.script(tc.want...)
				if len(b.messages()) > 0 {
					t.Error("it was delivered")
				}
			})
		})
	}
}

type full struct{ wide bool }

func (f full) Write(b []byte) (int, error) {
	if f.wide {
		return len(b), nil
	}
	return 0, syscall.ENOSPC
}
func (full) Reader() (io.Reader, error) { return nil, errors.New("read error") }
func (full) Close() error               { return nil }

func TestConfig(t *testing.T) {
	good := Config{Name: "mx", Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }, Log: slog.Default(), Spool: SealedSpool(""),
		Journal: func(context.Context, string) (bool, error) { return false, nil }, Deliver: func(context.Context, Envelope, io.Reader) error { return nil }}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no name":                  func(o *Config) { o.Name = "" },
		"a name of two lines":      func(o *Config) { o.Name = "a\r\nb" },
		"no certificate":           func(o *Config) { o.Certificate = nil },
		"no certificate for TLS":   func(o *Config) { o.Certificate, o.LMTP, o.Local, o.Implicit = nil, true, true, true },
		"SMTP without TLS":         func(o *Config) { o.Local = true },
		"no journal addresses":     func(o *Config) { o.Journal = nil },
		"nobody to deliver to":     func(o *Config) { o.Deliver = nil },
		"no spool":                 func(o *Config) { o.Spool = nil },
		"a network that is none":   func(o *Config) { o.Senders = []netip.Prefix{{}} },
		"a network in IPv6's form": func(o *Config) { o.Senders = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")} },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// A client that is not ours, on a real connection: net/smtp with STARTTLS and
// AUTH; and LMTP on a socket of the file system.
func TestRealConnections(t *testing.T) {
	ca, cert := authority()
	got := make(chan delivered, 1)
	o := Config{Name: "mx.example.org", Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }, Log: slog.New(slog.DiscardHandler), Spool: SealedSpool(t.TempDir()),
		Auth: func(_ context.Context, _ netip.Addr, user, password string) (bool, error) {
			return user == "exchange" && password == canary, nil
		},
		Journal: func(_ context.Context, a string) (bool, error) { return a == "j@journal.example", nil },
		Deliver: func(_ context.Context, e Envelope, r io.Reader) error {
			raw, err := io.ReadAll(r)
			got <- delivered{e, string(raw)}
			return err
		}}
	serve := func(network, address string) (net.Addr, func()) {
		r, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- r.Serve(l) }()
		return l.Addr(), func() {
			if err := errors.Join(r.Shutdown(t.Context()), <-served); err != nil {
				t.Error(err)
			}
		}
	}
	const message = "Subject: x\r\n\r\n.\r\n..\r\n\xe9\r\n"

	addr, stop := serve("tcp", "127.0.0.1:0")
	c, err := smtp.Dial(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM)
	for _, err := range []error{
		c.Hello("client.example"), c.StartTLS(&tls.Config{RootCAs: roots, ServerName: "localhost"}), c.Auth(smtp.PlainAuth("", "exchange", canary, "127.0.0.1")),
		c.Mail("a@example.org"), c.Rcpt("j@journal.example"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Rcpt("x@example.org"); err == nil {
		t.Error("it relays")
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, message)
	if err := errors.Join(w.Close(), c.Quit()); err != nil {
		t.Error(err)
	}
	if m := <-got; m.raw != message || m.Auth != "exchange" || !m.Remote.IsLoopback() || m.TLS != tls.VersionTLS13 {
		t.Errorf("%+v", m)
	}
	stop()

	o.LMTP, o.Local, o.Certificate = true, true, nil
	path := filepath.Join(t.TempDir(), "lmtp")
	_, stop = serve("unix", path)
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l := &client{t: t, nc: nc, r: bufio.NewReader(nc)}
	l.script("< 220", "> LHLO x", "< 250")
	l.script(wellKnown(">>"+string(stuff(message)), "< 250", "> QUIT", "< 221", "< eof")...)
	if m := <-got; m.raw != message || m.Remote.IsValid() || m.TLS != 0 {
		t.Errorf("%+v", m)
	}
	stop()
}
