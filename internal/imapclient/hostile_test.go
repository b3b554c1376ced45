package imapclient_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

const canary = "canary-Passw0rd"

// hostile is a server that says what a script tells it, and keeps what it is
// sent outside of TLS and inside.
type hostile struct {
	port int
	mu   sync.Mutex
	all  bytes.Buffer // every byte that arrived, decrypted where TLS was made
}

// session is one connection to a hostile server.
type session struct {
	h    *hostile
	c    net.Conn
	r    *bufio.Reader
	cert tls.Certificate
	max  uint16
}

func (s *session) Read(p []byte) (int, error) {
	n, err := s.c.Read(p)
	s.h.mu.Lock()
	s.h.all.Write(p[:n])
	s.h.mu.Unlock()
	return n, err
}

// say writes lines as they are.
func (s *session) say(lines string) { io.WriteString(s.c, lines) }

// hear reads a line and returns its tag and the rest.
func (s *session) hear() (tag, rest string) {
	line, err := s.r.ReadString('\n')
	if err != nil {
		return "", ""
	}
	tag, rest, _ = strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	return tag, rest
}

// secure makes TLS.
func (s *session) secure() bool {
	t := tls.Server(s.c, &tls.Config{Certificates: []tls.Certificate{s.cert}, MinVersion: tls.VersionTLS10, MaxVersion: s.max})
	s.c.SetDeadline(time.Now().Add(5 * time.Second))
	if t.Handshake() != nil {
		return false
	}
	s.c = t
	s.r = bufio.NewReader(s)
	return true
}

// serve answers commands until the connection ends; over says what to say to a
// command instead of the usual.
func (s *session) serve(over func(tag, cmd string) bool) {
	for {
		tag, cmd := s.hear()
		if tag == "" {
			return
		}
		if over != nil && over(tag, cmd) {
			continue
		}
		switch word, _, _ := strings.Cut(cmd, " "); word {
		case "CAPABILITY":
			s.say("* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n" + tag + " OK\r\n")
		case "AUTHENTICATE":
			s.say("+ \r\n")
			s.hear()
			s.say(tag + " OK in\r\n")
		case "LIST":
			s.say("* LIST () \"/\" INBOX\r\n" + tag + " OK\r\n")
		default:
			s.say(tag + " OK\r\n")
		}
	}
}

func startHostile(t *testing.T, cert tls.Certificate, max uint16, script func(*session)) *hostile {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hostile{port: l.Addr().(*net.TCPAddr).Port}
	var sessions sync.WaitGroup
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(10 * time.Second))
				s := &session{h: h, c: c, cert: cert, max: max}
				s.r = bufio.NewReader(s)
				script(s)
			})
		}
	}()
	t.Cleanup(func() { l.Close(); sessions.Wait() })
	return h
}

// connect does what a run does: connect, sign in, list.
func connect(h *hostile, security imapclient.Security, trust tlsconf.Trust) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := imapclient.Dial(ctx, imapclient.Options{
		Dialer: &tlsconf.Dialer{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}},
		Host: "localhost", Port: h.port, Security: security, Trust: trust, Literal: 1 << 20,
	})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SignIn(imapclient.Credential{User: "alice", Password: canary}); err != nil {
		return err
	}
	_, err = c.Folders()
	return err
}

// Whatever a server, or somebody on the path, says before TLS: the connection
// is refused with the reason, and no byte of the credential leaves.
func TestHostileServers(t *testing.T) {
	ca := mailtest.NewAuthority(t)
	good := ca.Issue(t, nil)
	greet := "* OK ready\r\n"
	starttls := func(answer func(s *session, tag string)) func(*session) {
		return func(s *session) {
			s.say(greet)
			if tag, cmd := s.hear(); cmd == "STARTTLS" {
				answer(s, tag)
			}
			s.serve(nil)
		}
	}
	toTLS := func(s *session, tag string) {
		s.say(tag + " OK begin\r\n")
		s.secure()
	}
	for _, tc := range []struct {
		name     string
		security imapclient.Security
		cert     tls.Certificate
		max      uint16
		script   func(*session)
		want     string // in the reason; "" means that all is well
	}{
		{"all is well", imapclient.StartTLS, good, 0, starttls(toTLS), ""},
		{"refused with NO", imapclient.StartTLS, good, 0, starttls(func(s *session, tag string) { s.say(tag + " NO not here\r\n") }), "refuses STARTTLS"},
		{"refused with BAD", imapclient.StartTLS, good, 0, starttls(func(s *session, tag string) { s.say(tag + " BAD what?\r\n") }), "refuses STARTTLS"},
		{"stripped: capabilities without it", imapclient.StartTLS, good, 0, func(s *session) {
			s.say("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready\r\n")
			s.serve(func(tag, cmd string) bool {
				if cmd == "STARTTLS" {
					s.say(tag + " BAD unknown command\r\n")
					return true
				}
				return false
			})
		}, "refuses STARTTLS"},
		{"PREAUTH", imapclient.StartTLS, good, 0, func(s *session) { s.say("* PREAUTH welcome\r\n"); s.serve(nil) }, "PREAUTH"},
		{"PREAUTH under TLS", imapclient.ImplicitTLS, good, 0, func(s *session) {
			if s.secure() {
				s.say("* PREAUTH welcome\r\n")
				s.serve(nil)
			}
		}, "PREAUTH"},
		{"BYE", imapclient.StartTLS, good, 0, func(s *session) { s.say("* BYE busy\r\n") }, "ended the connection"},
		{"a tagged greeting", imapclient.StartTLS, good, 0, func(s *session) { s.say("L1 OK ready\r\n"); s.serve(nil) }, "greeting"},
		{"the answer is there before the question", imapclient.StartTLS, good, 0, func(s *session) {
			s.say(greet + "L1 OK begin\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\nL2 OK\r\n")
			s.serve(nil)
		}, "TLS"},
		{"untagged data before the answer", imapclient.StartTLS, good, 0, starttls(func(s *session, tag string) {
			s.say("* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n" + tag + " OK begin\r\n")
			s.secure()
		}), "something else"},
		{"folders before the answer", imapclient.StartTLS, good, 0, starttls(func(s *session, tag string) {
			s.say("* LIST () \"/\" planted\r\n* 5 EXISTS\r\n" + tag + " OK begin\r\n")
			s.secure()
		}), "something else"},
		{"leftover bytes", imapclient.StartTLS, good, 0, starttls(func(s *session, tag string) {
			s.say(tag + " OK begin\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\nL2 OK\r\n")
			s.serve(nil)
		}), "TLS"},
		{"no TLS after OK", imapclient.StartTLS, good, 0, starttls(func(s *session, tag string) {
			s.say(tag + " OK begin\r\n")
			s.r.ReadByte()
			s.say("* OK still here\r\n")
		}), "does not speak TLS"},
		{"cut after OK", imapclient.StartTLS, good, 0, starttls(func(s *session, tag string) { s.say(tag + " OK begin\r\n"); s.c.Close() }), "tls"},
		{"plain text on the port of TLS", imapclient.ImplicitTLS, good, 0, func(s *session) { s.say(greet); s.serve(nil) }, "does not speak TLS"},
		{"TLS 1.0", imapclient.ImplicitTLS, good, tls.VersionTLS10, func(s *session) { s.secure() }, "tls"},
		{"TLS 1.1 by STARTTLS", imapclient.StartTLS, good, tls.VersionTLS11, starttls(toTLS), "tls"},
		{"expired", imapclient.StartTLS, ca.Issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), 0, starttls(toTLS), "expired"},
		{"not valid yet", imapclient.ImplicitTLS, ca.Issue(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), 0, func(s *session) { s.secure() }, "expired or is not yet valid"},
		{"another host", imapclient.ImplicitTLS, ca.Issue(t, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{"evil.example"}, nil }), 0, func(s *session) { s.secure() }, "evil.example"},
		{"no host", imapclient.StartTLS, ca.Issue(t, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }), 0, starttls(toTLS), "certificate"},
		{"unknown authority", imapclient.StartTLS, mailtest.NewAuthority(t).Issue(t, nil), 0, starttls(toTLS), "unknown authority"},
		{"an RSA key of 1024 bits", imapclient.ImplicitTLS, ca.IssueFor(t, rsa1024(t), nil), 0, func(s *session) { s.secure() }, "1024 bits"},
		{"not for servers", imapclient.ImplicitTLS, ca.Issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), 0, func(s *session) { s.secure() }, "usage"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := startHostile(t, tc.cert, tc.max, tc.script)
			err := connect(h, tc.security, tlsconf.Trust{CA: ca.PEM})
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var step *tlsconf.StepError
			if err == nil || !strings.Contains(err.Error(), tc.want) || !errors.As(err, &step) || step.Step != tlsconf.StepTLS {
				t.Errorf("error %v, want %q at step tls", err, tc.want)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, s := range []string{canary, "AUTHENTICATE", "LOGIN", "Y2FuYXJ5", "alice"} {
				if bytes.Contains(h.all.Bytes(), []byte(s)) {
					t.Errorf("the server was sent %q", s)
				}
			}
		})
	}
}

func rsa1024(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What was said before TLS counts no more after it: here a capability and the
// number of messages.
func TestStateBeforeTLSIsDropped(t *testing.T) {
	ca := mailtest.NewAuthority(t)
	h := startHostile(t, ca.Issue(t, nil), 0, func(s *session) {
		s.say("* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED AUTH=XOAUTH2] ready\r\n")
		tag, _ := s.hear()
		s.say(tag + " OK begin\r\n")
		if s.secure() {
			s.serve(nil)
		}
	})
	if err := connect(h, imapclient.StartTLS, tlsconf.Trust{CA: ca.PEM}); err != nil {
		t.Fatal(err)
	}
}

// Under TLS: servers that lie, end, or never end.
func TestHostileAfterTLS(t *testing.T) {
	ca := mailtest.NewAuthority(t)
	cert := ca.Issue(t, nil)
	for name, tc := range map[string]struct {
		over func(*session, string, string) bool
		want string
	}{
		"referral": {func(s *session, tag, cmd string) bool {
			if strings.HasPrefix(cmd, "AUTH") {
				s.say(tag + " NO [REFERRAL imap://evil.example/] go there\r\n")
				return true
			}
			return false
		}, "REFERRAL"},
		"no IMAP at all": {func(s *session, tag, cmd string) bool {
			if cmd == "CAPABILITY" {
				s.say("* CAPABILITY SMTP\r\n" + tag + " OK\r\n")
				return true
			}
			return false
		}, "neither"},
		"a literal of 2 GB": {func(s *session, tag, cmd string) bool {
			if strings.HasPrefix(cmd, "LIST") {
				s.say("* LIST () \"/\" {2147483648}\r\n")
				return true
			}
			return false
		}, "announces 2147483648 bytes"},
		"a line without end": {func(s *session, tag, cmd string) bool {
			if strings.HasPrefix(cmd, "LIST") {
				s.say("* LIST () \"/\" " + strings.Repeat("x", 1<<20) + "\r\n")
				return true
			}
			return false
		}, "more than"},
		"lists in lists": {func(s *session, tag, cmd string) bool {
			if strings.HasPrefix(cmd, "LIST") {
				s.say("* LIST " + strings.Repeat("(", 1000) + "\r\n")
				return true
			}
			return false
		}, "too many parts"},
		"the answer to another command": {func(s *session, tag, cmd string) bool {
			if strings.HasPrefix(cmd, "LIST") {
				s.say("L99 OK done\r\n")
				return true
			}
			return false
		}, "not asked"},
		"the connection ends within a line": {func(s *session, tag, cmd string) bool {
			if strings.HasPrefix(cmd, "LIST") {
				s.say("* LIST () \"/\" INB")
				s.c.Close()
				return true
			}
			return false
		}, "EOF"},
		"BYE": {func(s *session, tag, cmd string) bool {
			if strings.HasPrefix(cmd, "LIST") {
				s.say("* BYE shutting down\r\n")
				return true
			}
			return false
		}, "ended the connection"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHostile(t, cert, 0, func(s *session) {
				if s.secure() {
					s.say("* OK ready\r\n")
					s.serve(func(tag, cmd string) bool { return tc.over(s, tag, cmd) })
				}
			})
			err := connect(h, imapclient.ImplicitTLS, tlsconf.Trust{CA: ca.PEM})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

// A pin is enough by itself, and only for its key.
func TestPin(t *testing.T) {
	cert := mailtest.NewAuthority(t).Issue(t, nil)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	h := startHostile(t, cert, 0, func(s *session) {
		if s.secure() {
			s.say("* OK ready\r\n")
			s.serve(nil)
		}
	})
	pin, err := tlsconf.ParsePin(tlsconf.PinOf(leaf))
	if err != nil {
		t.Fatal(err)
	}
	if err := connect(h, imapclient.ImplicitTLS, tlsconf.Trust{Pin: pin}); err != nil {
		t.Error(err)
	}
	pin[0]++
	if err := connect(h, imapclient.ImplicitTLS, tlsconf.Trust{Pin: pin}); !errors.Is(err, tlsconf.ErrCertificate) {
		t.Errorf("another key: %v", err)
	}
}
