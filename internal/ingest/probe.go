package ingest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/pop3client"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// probeTime is how long one way of reaching a server may take: a firewall that
// drops packets says nothing.
const probeTime = 10 * time.Second

// modes are the ways of reaching an account, the best first. None is without
// verified TLS.
var modes = []string{"imaps", "imap", "pop3s", "pop3"}

// Probe finds the best way in which a server is reached, for an account written
// user@host or user@host:port, and returns it as a profile's URL. A server that
// shows a bad certificate is not asked in another way.
func Probe(ctx context.Context, account string, c Connection, now func() time.Time) (string, error) {
	at := strings.LastIndexByte(account, '@')
	if at < 1 || at == len(account)-1 {
		return "", fmt.Errorf("source %q: it is written user@host, or as a URL like imaps://user@host:993", account)
	}
	var tried []error
	for _, scheme := range modes {
		u := url.URL{Scheme: scheme, User: url.User(account[:at]), Host: account[at+1:]}
		p := Profile{From: u.String()}
		e, err := p.endpoint()
		if err != nil {
			return "", err
		}
		if err = probe(ctx, e, c, now); err == nil {
			return (&url.URL{Scheme: scheme, User: u.User, Host: e.host + ":" + strconv.Itoa(e.port)}).String(), nil
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		tried = append(tried, fmt.Errorf("%s on port %d: %w", scheme, e.port, err))
		var x *CertificateError
		if errors.As(err, &x) {
			break
		}
	}
	return "", fmt.Errorf("%s is not reached with verified encryption:\n%w", account[at+1:], errors.Join(tried...))
}

// CertificateError is a certificate that is not trusted, with what the server
// showed.
type CertificateError struct {
	Chain []Shown
	Err   error
}

func (e *CertificateError) Error() string { return e.Err.Error() }
func (e *CertificateError) Unwrap() error { return e.Err }

func probe(ctx context.Context, e endpoint, c Connection, now func() time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	o, err := c.Options(e.host, e.port, e.security, now)
	if err != nil {
		return err
	}
	var t Tested
	if strings.HasPrefix(e.scheme, "pop3") {
		var x *pop3client.Client
		if x, err = pop3client.Dial(ctx, o); x != nil {
			t.show(x.Chain)
			x.Close()
		}
	} else {
		var x *imapclient.Client
		if x, err = imapclient.Dial(ctx, o); x != nil {
			t.show(x.Chain)
			x.Close()
		}
	}
	if errors.Is(err, tlsconf.ErrCertificate) && len(t.Chain) > 0 {
		return &CertificateError{t.Chain, err}
	}
	return err
}
