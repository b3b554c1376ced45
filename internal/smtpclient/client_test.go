package smtpclient_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/smtpclient"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

const canary = "canary-Passw0rd"

var ctx = context.Background()

// script is a server that answers lines as it is told, and keeps every byte
// that it is sent, decrypted where TLS was made.
type script struct {
	port int
	cert tls.Certificate

	mu  sync.Mutex
	all bytes.Buffer
}

type session struct {
	s *script
	c net.Conn
	r *bufio.Reader
}

func (x *session) Read(p []byte) (int, error) {
	n, err := x.c.Read(p)
	x.s.mu.Lock()
	x.s.all.Write(p[:n])
	x.s.mu.Unlock()
	return n, err
}

func (x *session) say(s string) { io.WriteString(x.c, s) }

func (x *session) hear() string {
	l, err := x.r.ReadString('\n')
	if err != nil {
		return ""
	}
	return strings.TrimRight(l, "\r\n")
}

func (x *session) secure() bool {
	t := tls.Server(x.c, &tls.Config{Certificates: []tls.Certificate{x.s.cert}})
	if t.Handshake() != nil {
		return false
	}
	x.c = t
	x.r = bufio.NewReader(x)
	return true
}

func start(t *testing.T, cert tls.Certificate, fn func(*session)) *script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{port: l.Addr().(*net.TCPAddr).Port, cert: cert}
	var sessions sync.WaitGroup
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(5 * time.Second))
				x := &session{s: s, c: c}
				x.r = bufio.NewReader(x)
				fn(x)
			})
		}
	}()
	t.Cleanup(func() { l.Close(); sessions.Wait() })
	return s
}

func options(port int, security imapclient.Security, ca *mailtest.Authority) imapclient.Options {
	o := imapclient.Options{Dialer: &tlsconf.Dialer{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, Host: "127.0.0.1", Port: port, Security: security}
	if ca != nil {
		o.Trust.CA = ca.PEM
	}
	return o
}

var message = []byte("Subject: a\r\n\r\n.\r\n..\r\n.x\r\nFrom x\r\n")

// send does what a run does.
func send(o imapclient.Options, raw []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := smtpclient.Dial(ctx, o)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SignIn(imapclient.Credential{User: "alice", Password: canary}); err != nil {
		return err
	}
	return c.Send("from@example.org", "to@example.org", raw)
}

const (
	greet = "220 ready\r\n"
	hello = "250-here\r\n250-STARTTLS\r\n250-SIZE 1000\r\n250 AUTH PLAIN\r\n"
)

// serve is a server that does as it should; over answers instead.
func (x *session) serve(over map[string]string) {
	for {
		l := x.hear()
		if l == "" {
			return
		}
		word, _, _ := strings.Cut(strings.ToUpper(l), " ")
		if say, ok := over[word]; ok {
			x.say(say)
			continue
		}
		switch word {
		case "EHLO":
			x.say("250-here\r\n250-SIZE 1000\r\n250 AUTH PLAIN\r\n")
		case "AUTH":
			x.say("235 in\r\n")
		case "DATA":
			x.say("354 go\r\n")
			for l := x.hear(); l != "." && l != ""; {
				l = x.hear()
			}
			x.say("250 got it\r\n")
		default:
			x.say("250 ok\r\n")
		}
	}
}

// Whatever a server, or somebody on the path, says before TLS: no byte of the
// credential or of the mail leaves.
func TestHostileBeforeTLS(t *testing.T) {
	ca := mailtest.NewAuthority(t)
	good := ca.Issue(t, nil)
	starttls := func(answer func(x *session)) func(*session) {
		return func(x *session) {
			x.say(greet)
			x.hear()
			x.say(hello)
			if x.hear() == "STARTTLS" {
				answer(x)
			}
			x.serve(nil)
		}
	}
	for _, tc := range []struct {
		name     string
		security imapclient.Security
		cert     tls.Certificate
		script   func(*session)
		want     string // "": all is well
	}{
		{"all is well", imapclient.StartTLS, good, starttls(func(x *session) { x.say("220 go\r\n"); x.secure() }), ""},
		{"TLS at once", imapclient.ImplicitTLS, good, func(x *session) {
			if x.secure() {
				x.say(greet)
				x.serve(nil)
			}
		}, ""},
		{"not offered", imapclient.StartTLS, good, func(x *session) { x.say(greet); x.serve(nil) }, "does not offer STARTTLS"},
		{"refused", imapclient.StartTLS, good, starttls(func(x *session) { x.say("454 not now\r\n") }), "refused STARTTLS"},
		{"another code", imapclient.StartTLS, good, starttls(func(x *session) { x.say("250 fine\r\n") }), "answers 250"},
		{"leftover bytes", imapclient.StartTLS, good, starttls(func(x *session) { x.say("220 go\r\n250-here\r\n250 AUTH PLAIN\r\n"); x.secure() }), "bytes follow"},
		{"the answer before the question", imapclient.StartTLS, good, func(x *session) {
			x.say(greet)
			x.hear()
			x.say(hello + "220 go\r\n250-here\r\n250 AUTH PLAIN\r\n")
			x.serve(nil)
		}, "TLS"},
		{"no TLS", imapclient.StartTLS, good, starttls(func(x *session) { x.say("220 go\r\n"); x.r.ReadByte(); x.say("250 plain\r\n") }), "does not speak TLS"},
		{"plain text on the port of TLS", imapclient.ImplicitTLS, good, func(x *session) { x.say(greet); x.serve(nil) }, "does not speak TLS"},
		{"unknown authority", imapclient.StartTLS, mailtest.NewAuthority(t).Issue(t, nil), starttls(func(x *session) { x.say("220 go\r\n"); x.secure() }), "unknown authority"},
		{"greets with 554", imapclient.StartTLS, good, func(x *session) { x.say("554 no\r\n"); x.serve(nil) }, "refused"},
		{"421", imapclient.StartTLS, good, func(x *session) { x.say("421 busy\r\n") }, "ended the connection"},
		{"a line without end", imapclient.StartTLS, good, func(x *session) { x.say("220 " + strings.Repeat("x", 100_000)) }, "a line of more"},
		{"lines without end", imapclient.StartTLS, good, func(x *session) { x.say(strings.Repeat("220-x\r\n", 1000)) }, "more than 200 lines"},
		{"two codes", imapclient.StartTLS, good, func(x *session) { x.say("220-a\r\n250 b\r\n") }, "220 and 250"},
		{"no SMTP", imapclient.StartTLS, good, func(x *session) { x.say("* OK IMAP\r\n") }, "does not follow SMTP"},
		{"exception: nobody signs in", imapclient.Cleartext, good, func(x *session) { x.say(greet); x.serve(nil) }, "not encrypted"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, tc.cert, tc.script)
			err := send(options(s.port, tc.security, ca), message)
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, w := range []string{canary, "AUTH", base64.StdEncoding.EncodeToString([]byte("\x00alice")), "alice", "Subject", "MAIL"} {
				if bytes.Contains(s.all.Bytes(), []byte(w)) {
					t.Errorf("the server was sent %q", w)
				}
			}
		})
	}
}

// Under TLS: what a server may refuse, and what it must not do. What it refuses
// is for one message, and the next one goes.
func TestAnswers(t *testing.T) {
	ca := mailtest.NewAuthority(t)
	cert := ca.Issue(t, nil)
	for name, tc := range map[string]struct {
		over    map[string]string
		raw     []byte
		want    string
		refused bool
	}{
		"sender":           {map[string]string{"MAIL": "550 no\r\n"}, message, "refused MAIL", true},
		"recipient":        {map[string]string{"RCPT": "450-later\r\n450 please\r\n"}, message, "later please", true},
		"data":             {map[string]string{"DATA": "554 no\r\n"}, message, "refused DATA", true},
		"too large":        {nil, bytes.Repeat([]byte("x\r\n"), 400), "takes 1000 at most", true},
		"8 bit":            {nil, []byte("Subject: a\r\n\r\ngr\xc3\xbc\xc3\x9fe\r\n"), "8-bit", true},
		"CR alone":         {nil, []byte("a\rb\r\n"), "CR without", true},
		"LF alone":         {nil, []byte("a\nb\r\n"), "LF without", true},
		"NUL":              {nil, []byte("a\x00b\r\n"), "NUL", true},
		"250 to DATA":      {map[string]string{"DATA": "250 got it\r\n"}, message, "answers 250", false},
		"421":              {map[string]string{"MAIL": "421 shutting down\r\n"}, message, "ended the connection", false},
		"password":         {map[string]string{"AUTH": "535 no\r\n"}, message, "refused AUTH PLAIN", true},
		"sign-in goes on":  {map[string]string{"AUTH": "334 \r\n"}, message, "asks again", false},
		"no way to get in": {map[string]string{"EHLO": "250 AUTH CRAM-MD5\r\n"}, message, "no way to sign in", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, cert, func(x *session) {
				if x.secure() {
					x.say(greet)
					x.serve(tc.over)
				}
			})
			err := send(options(s.port, imapclient.ImplicitTLS, ca), tc.raw)
			if err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, imapclient.ErrRefused) != tc.refused {
				t.Fatalf("error %v, want %q", err, tc.want)
			}
			if strings.Contains(err.Error(), canary) {
				t.Error("the password is in the error")
			}
		})
	}
}

// After a refusal the next message goes through the same connection.
func TestNextAfterRefusal(t *testing.T) {
	s := mailtest.StartSMTP(t, false)
	s.Refuse = func(raw []byte) string {
		if bytes.Contains(raw, []byte("bad")) {
			return "not this one"
		}
		return ""
	}
	c, err := smtpclient.Dial(ctx, options(s.Port, imapclient.StartTLS, s.CA))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SignIn(imapclient.Credential{User: "alice", Password: mailtest.Password}); err != nil {
		t.Fatal(err)
	}
	if err := c.Send("f@example.org", "t@example.org", []byte("Subject: bad\r\n\r\n")); !errors.Is(err, imapclient.ErrRefused) || !strings.Contains(err.Error(), "not this one") {
		t.Error(err)
	}
	if err := c.Send("f@example.org", "t@example.org", message); err != nil {
		t.Error(err)
	}
	if got := s.Got(); len(got) != 1 || got[0].User != "alice" || !got[0].TLS {
		t.Errorf("%+v", got)
	}
}

// What was begun with a recipient that is refused is taken back before the next.
func TestRefusedIsTakenBack(t *testing.T) {
	ca := mailtest.NewAuthority(t)
	s := start(t, ca.Issue(t, nil), func(x *session) {
		if !x.secure() {
			return
		}
		x.say(greet)
		begun := false
		for l := x.hear(); l != ""; l = x.hear() {
			switch word, _, _ := strings.Cut(l, " "); {
			case word == "MAIL" && begun:
				x.say("503 nested MAIL\r\n")
			case strings.Contains(l, "nobody"):
				x.say("550 nobody\r\n")
			case word == "DATA":
				x.say("354 go\r\n")
				for l != "." && l != "" {
					l = x.hear()
				}
				x.say("250 got it\r\n")
			default:
				begun = word == "MAIL" || begun && word != "RSET"
				x.say("250 ok\r\n")
			}
		}
	})
	c, err := smtpclient.Dial(ctx, options(s.port, imapclient.ImplicitTLS, ca))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Send("a@example.org", "nobody@example.org", message); !errors.Is(err, imapclient.ErrRefused) {
		t.Error(err)
	}
	if err := c.Send("a@example.org", "b@example.org", message); err != nil {
		t.Error(err)
	}
}

// Bytes arrive as they are: dots, long lines, 8 bit, and sizes about the edges
// of buffers.
func TestBytes(t *testing.T) {
	for _, implicit := range []bool{false, true} {
		s := mailtest.StartSMTP(t, implicit)
		security := map[bool]imapclient.Security{false: imapclient.StartTLS, true: imapclient.ImplicitTLS}[implicit]
		c, err := smtpclient.Dial(ctx, options(s.Port, security, s.CA))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SignIn(imapclient.Credential{User: "alice", Password: mailtest.Password}); err != nil {
			t.Fatal(err)
		}
		raws := [][]byte{message, []byte(".\r\n"), []byte("\r\n"), []byte("..\r\n.\r\n\r\n.\r\n"), []byte("Subject: gr\xfc\xdfe\r\n\r\n\xff\xfe\r\n")}
		for _, n := range []int{900, 32<<10 - 2, 32<<10 - 1, 32 << 10, 64 << 10, 200_000} {
			raws = append(raws, append(bytes.Repeat([]byte("."), min(n, 900)), []byte("\r\n"+strings.Repeat(".word\r\n", n/7))...))
		}
		for i, raw := range raws {
			if err := c.Send("from@example.org", "to@example.org", raw); err != nil {
				t.Fatalf("%d: %v", i, err)
			}
			got := s.Got()
			if d := got[len(got)-1]; !bytes.Equal(d.Raw, raw) || d.From != "from@example.org" || d.To != "to@example.org" || !d.TLS {
				t.Errorf("%d: %d bytes arrived as %d", i, len(raw), len(d.Raw))
			}
		}
		if err := c.Send("from@example.org", "to@example.org", []byte("no end")); err != nil {
			t.Error(err)
		}
		if got := s.Got(); string(got[len(got)-1].Raw) != "no end\r\n" {
			t.Errorf("%q", got[len(got)-1].Raw)
		}
	}
}

// With SCRAM the password does not leave, and the server must show that it knows
// it.
func TestSCRAM(t *testing.T) {
	ca := mailtest.NewAuthority(t)
	cert := ca.Issue(t, nil)
	client, err := scram.SHA256.NewClient("alice", canary, "")
	if err != nil {
		t.Fatal(err)
	}
	stored, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "salt", Iters: 4096})
	if err != nil {
		t.Fatal(err)
	}
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) { return stored, nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, honest := range []bool{true, false} {
		s := start(t, cert, func(x *session) {
			if !x.secure() {
				return
			}
			x.say(greet)
			x.hear()
			x.say("250-here\r\n250 AUTH PLAIN SCRAM-SHA-256\r\n")
			talk := server.NewConversation()
			decode := func(s string) string { b, _ := base64.StdEncoding.DecodeString(s); return string(b) }
			first, _ := talk.Step(decode(strings.TrimPrefix(x.hear(), "AUTH SCRAM-SHA-256 ")))
			x.say("334 " + base64.StdEncoding.EncodeToString([]byte(first)) + "\r\n")
			final, _ := talk.Step(decode(x.hear()))
			if !honest {
				x.say("235 in\r\n")
				x.serve(nil)
				return
			}
			x.say("334 " + base64.StdEncoding.EncodeToString([]byte(final)) + "\r\n")
			x.hear()
			x.say("235 in\r\n")
			x.serve(nil)
		})
		err := send(options(s.port, imapclient.ImplicitTLS, ca), message)
		if honest && err != nil || !honest && !errors.Is(err, imapclient.ErrUnsafe) {
			t.Errorf("honest %v: %v", honest, err)
		}
		s.mu.Lock()
		if all := s.all.String(); strings.Contains(all, canary) || strings.Contains(all, base64.StdEncoding.EncodeToString([]byte(canary))) || !honest && strings.Contains(all, "MAIL") {
			t.Errorf("honest %v: it was sent %q", honest, all)
		}
		s.mu.Unlock()
	}
}

func TestValidAddress(t *testing.T) {
	for a, want := range map[string]bool{
		"a@b": true, "a.b+c@example.org": true, "": false, "a": false, "a@": false, "@b": false, "a@b@c": false, "a b@c": false, "a@b>\r\nRCPT TO:<c@d": false, "a@b> SIZE=1": false,
		"ü@b": false, "a@[127.0.0.1]": false, "<a@b>": false, "a,b@c": false,
	} {
		if got := smtpclient.ValidAddress(a); got != want {
			t.Errorf("%q: %v", a, got)
		}
	}
}
