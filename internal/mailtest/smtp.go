package mailtest

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// SMTP is a mail server that keeps what it is sent.
type SMTP struct {
	Port int
	CA   *Authority
	// Refuse tells why a message is refused; "" if it is not.
	Refuse func(raw []byte) string

	mu  sync.Mutex
	got []Delivered
}

// Delivered is a message that arrived at an SMTP server.
type Delivered struct {
	User     string // that signed in; "" if nobody did
	TLS      bool
	From, To string
	Raw      []byte
}

// StartSMTP starts a server with STARTTLS, or with TLS from the first byte, on
// which everybody signs in with Password.
func StartSMTP(t testing.TB, implicit bool) *SMTP {
	t.Helper()
	s := &SMTP{CA: NewAuthority(t)}
	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		_, secure := c.TLSConnectionState()
		return &smtpSession{s: s, Delivered: Delivered{TLS: secure}}, nil
	}))
	server.Domain = "localhost"
	server.ReadTimeout, server.WriteTimeout = 10*time.Second, 10*time.Second
	server.ErrorLog = log.New(io.Discard, "", 0) // tests cut connections
	server.MaxMessageBytes = 10 << 20
	conf := &tls.Config{Certificates: []tls.Certificate{s.CA.Issue(t, nil)}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Port = l.Addr().(*net.TCPAddr).Port
	if implicit {
		l = tls.NewListener(l, conf)
	} else {
		server.TLSConfig = conf
	}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return s
}

// Got returns what arrived so far.
func (s *SMTP) Got() []Delivered {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

type smtpSession struct {
	s *SMTP
	Delivered
}

func (x *smtpSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (x *smtpSession) Auth(mechanism string) (sasl.Server, error) {
	check := func(user, password string) error {
		if password != Password {
			return smtp.ErrAuthFailed
		}
		x.User = user
		return nil
	}
	return sasl.NewPlainServer(func(_, user, password string) error { return check(user, password) }), nil
}

func (x *smtpSession) Mail(from string, _ *smtp.MailOptions) error { x.From = from; return nil }
func (x *smtpSession) Rcpt(to string, _ *smtp.RcptOptions) error   { x.To = to; return nil }
func (x *smtpSession) Reset()                                      {}
func (x *smtpSession) Logout() error                               { return nil }

func (x *smtpSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if x.s.Refuse != nil {
		if why := x.s.Refuse(raw); why != "" {
			return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: why}
		}
	}
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	x.Raw = raw
	x.s.got = append(x.s.got, x.Delivered)
	return nil
}

// URL is how the server is named in an address.
func (s *SMTP) URL(scheme, user string) string {
	if user != "" {
		user += "@"
	}
	return fmt.Sprintf("%s://%slocalhost:%d", scheme, user, s.Port)
}
