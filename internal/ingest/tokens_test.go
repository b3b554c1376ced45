package ingest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/mailtest/openid"
	"github.com/letterhold/letterhold/internal/token"
)

// A profile collects with tokens of a real provider: one that the server takes
// no more is replaced, what the provider refuses is said, and secrets are sealed.
func TestTokens(t *testing.T) {
	ca := mailtest.NewAuthority(t)
	p := openid.Start(t, ca)
	kid, public := p.Key(t)
	a := mailtest.Archive(t, nil)
	r := ingest.NewRunner(a)
	t.Cleanup(r.Close)
	w := &world{a, r, mailtest.StartTokenDovecot(t, mailtest.Tokens{Mechanisms: "oauthbearer", Issuer: p.Issuer, KeyID: kid, Key: public})}
	w.d.Put(t, "alice", "", "1", mail(1))

	key := p.NewKey(t, openid.Service)
	conf := token.Config{Kind: token.Service, Issuer: p.Issuer, ClientID: openid.Service, Scopes: []string{openid.Scope}, AllowNet: []string{"127.0.0.0/8"}, CA: string(ca.PEM)}
	if err := ingest.AddTokenSource(a, "provider", conf, token.Secret{Key: key}, "test"); err != nil {
		t.Fatal(err)
	}
	if ingest.AddTokenSource(a, "Provider", conf, token.Secret{Key: key}, "test") == nil {
		t.Error("two sources of one name")
	}
	if ingest.AddTokenSource(a, "empty", conf, token.Secret{}, "test") == nil {
		t.Error("a source without its key")
	}
	profile := w.profile(t, w.d.IMAPS, func(x *ingest.Profile) { x.Token = "provider" })
	w.want(t, w.run(t, profile), catalog.RunDone, 1, 0, 0)

	stranger := w.profile(t, w.d.IMAPS, func(x *ingest.Profile) {
		x.Name, x.Token, x.From = "mallory", "provider", strings.Replace(x.From, "alice", "mallory", 1)
	})
	if out := w.run(t, stranger); out.State != catalog.RunFailed || !strings.Contains(out.Error, "provider") {
		t.Errorf("a stranger: %+v", out)
	}
	// A server that takes none of them is asked once more with a new token, and
	// with no password.
	other := mailtest.StartTokenDovecot(t, mailtest.Tokens{Mechanisms: "xoauth2", Issuer: "https://other.test", KeyID: kid, Key: public})
	refusing := w.profile(t, other.IMAPS, func(x *ingest.Profile) { x.Name, x.Token, x.CA = "refusing", "provider", string(other.CA.PEM) })
	out := w.run(t, refusing)
	var lines []catalog.Line
	if err := a.State().View(ctx, func(v catalog.View) (err error) { lines, err = v.Lines(out.Run, 100); return err }); err != nil {
		t.Fatal(err)
	}
	if out.State != catalog.RunFailed || strings.Count(fmt.Sprint(lines), "once more with a new one") != 1 {
		t.Errorf("a server that refuses: %+v\n%v", out, lines)
	}

	missing := w.profile(t, w.d.IMAPS, func(x *ingest.Profile) { x.Name, x.Token = "missing", "nobody" })
	if out := w.run(t, missing); out.State != catalog.RunFailed || !strings.Contains(out.Error, "no such token source") {
		t.Errorf("a missing source: %+v", out)
	}
	if _, err := r.RemoveTokenSource(ctx, "provider", "test"); err == nil {
		t.Error("a source that is in use was removed")
	}
	for _, x := range []*ingest.Profile{profile, stranger, refusing} {
		if err := ingest.Remove(a, x, "test"); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := r.RemoveTokenSource(ctx, "provider", "test"); err != nil || !strings.Contains(left, openid.Service) {
		t.Errorf("removed: %q, %v", left, err)
	}
	if _, err := r.Token(ctx, "provider", "alice"); !errors.Is(err, ingest.ErrNoTokenSource) {
		t.Error("a removed source:", err)
	}
}

// Providers that take no passwords are not asked with one, whatever their name
// is written like.
func TestPasswordless(t *testing.T) {
	for _, host := range []string{"outlook.office365.com", "IMAP.Gmail.com.", "imap.gmail.com"} {
		p := ingest.Profile{Name: "x", Mailbox: "x", From: "imaps://ann@" + host}
		if err := p.Check(time.Now()); err == nil || !strings.Contains(err.Error(), "--token-source") {
			t.Errorf("%s: %v", host, err)
		}
		p.Token = "x"
		if err := p.Check(time.Now()); err != nil {
			t.Errorf("%s with a token: %v", host, err)
		}
	}
}
