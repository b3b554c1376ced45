package pop3client_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/mailtest/openid"
	"github.com/letterhold/letterhold/internal/pop3client"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

func TestSignInWithToken(t *testing.T) {
	p := openid.Start(t, mailtest.NewAuthority(t))
	kid, public := p.Key(t)
	for _, mechanism := range []string{"oauthbearer", "xoauth2"} {
		d := mailtest.StartTokenDovecot(t, mailtest.Tokens{Mechanisms: mechanism, Issuer: p.Issuer, KeyID: kid, Key: public})
		for user, want := range map[string]bool{"alice": true, "bob": false} {
			c, err := pop3client.Dial(t.Context(), imapclient.Options{Dialer: &tlsconf.Dialer{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, Host: "127.0.0.1", Port: d.POP3S, Security: imapclient.ImplicitTLS, Trust: tlsconf.Trust{CA: d.CA.PEM}})
			if err != nil {
				t.Fatal(err)
			}
			access := p.Sign(t, map[string]any{"iss": p.Issuer, "sub": "alice", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()})
			err = c.SignIn(imapclient.Credential{User: user, Password: mailtest.Password, Token: access})
			var bad *imapclient.TokenError
			if want && err != nil || !want && !errors.As(err, &bad) {
				t.Errorf("%s as %s: %v", mechanism, user, err)
			}
			c.Close()
		}
	}
}
