package imapclient_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/mailtest/openid"
	"github.com/letterhold/letterhold/internal/tlsconf"
	"github.com/letterhold/letterhold/internal/token"
)

// Tokens of a real provider open mailboxes of a real server; those that are not
// good are refused, and no password is tried instead.
func TestSignInWithToken(t *testing.T) {
	ca := mailtest.NewAuthority(t)
	p := openid.Start(t, ca)
	kid, public := p.Key(t)
	src := service(t, p)
	for _, mechanism := range []string{"oauthbearer", "xoauth2"} {
		t.Run(mechanism, func(t *testing.T) {
			d := mailtest.StartTokenDovecot(t, mailtest.Tokens{Mechanisms: mechanism, Issuer: p.Issuer, KeyID: kid, Key: public})
			d.Put(t, "alice", "", "1", []byte("Subject: hello\r\n\r\nhello\r\n"))
			signIn := func(user, access string) (int, error) {
				t.Helper()
				c, err := imapclient.Dial(t.Context(), imapclient.Options{Dialer: &tlsconf.Dialer{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, Host: "127.0.0.1", Port: d.IMAPS, Security: imapclient.ImplicitTLS, Trust: tlsconf.Trust{CA: d.CA.PEM}, Literal: 1 << 20})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if !c.Has("AUTH="+strings.ToUpper(mechanism)) || !c.Has("AUTH=PLAIN") {
					t.Fatal("the server does not offer what is tested")
				}
				// The password is right, and must not be used.
				if err := c.SignIn(imapclient.Credential{User: user, Password: mailtest.Password, Token: access}); err != nil {
					return 0, err
				}
				st, err := c.Examine(&imapclient.Folder{Name: "INBOX"})
				return int(st.Exists), err
			}
			tok, err := src.Token(t.Context(), "alice")
			if err != nil {
				t.Fatal(err)
			}
			if n, err := signIn("alice", tok.Access); err != nil || n != 1 {
				t.Errorf("%d messages, %v", n, err)
			}
			now := time.Now()
			claims := func(change func(map[string]any)) string {
				m := map[string]any{"iss": p.Issuer, "sub": "alice", "aud": "mail", "iat": now.Add(-2 * time.Hour).Unix(), "exp": now.Add(time.Hour).Unix()}
				change(m)
				return p.Sign(t, m)
			}
			if _, err := signIn("alice", claims(func(map[string]any) {})); err != nil {
				t.Error("a token of the test's:", err)
			}
			other, err := src.Token(t.Context(), "bob")
			if err != nil {
				t.Fatal(err)
			}
			for name, access := range map[string]string{
				"expired":             claims(func(m map[string]any) { m["exp"] = now.Add(-time.Hour).Unix() }),
				"of another provider": claims(func(m map[string]any) { m["iss"] = "https://evil.test" }),
				"of another user":     other.Access,
				"changed":             tok.Access[:len(tok.Access)-8] + "AAAAAAAA",
				"no token at all":     "nonsense",
			} {
				_, err := signIn("alice", access)
				var step *tlsconf.StepError
				var bad *imapclient.TokenError
				if !errors.As(err, &step) || step.Step != tlsconf.StepSignIn || !errors.As(err, &bad) || !errors.Is(err, imapclient.ErrRefused) {
					t.Errorf("%s: %v", name, err)
					continue
				}
				if strings.Contains(err.Error(), access) {
					t.Errorf("%s: the error repeats the token", name)
				}
				if bad.Status == "" {
					t.Errorf("%s: it does not say why: %v", name, err)
				}
			}
			if _, err := signIn("alice\x01auth=Bearer x", tok.Access); err == nil || errors.Is(err, imapclient.ErrRefused) {
				t.Error("a name with a separator:", err)
			}
			if log, err := os.ReadFile(filepath.Join(d.Dir, "log")); err != nil || strings.Contains(string(log), "method=PLAIN") || strings.Contains(string(log), "method=SCRAM") {
				t.Errorf("a password was tried: %v %s", err, log)
			}
		})
	}
}

// service is a service account of the provider.
func service(t *testing.T, p *openid.Provider) *token.Source {
	t.Helper()
	secret := p.NewKey(t, openid.Service)
	src, err := token.Open(token.Config{Kind: token.Service, Issuer: p.Issuer, ClientID: openid.Service, Scopes: []string{openid.Scope}, AllowNet: []string{"127.0.0.0/8"}, CA: string(p.CA.PEM)}, token.Secret{Key: secret}, token.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return src
}
