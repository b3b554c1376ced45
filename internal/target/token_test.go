package target_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/mailtest/openid"
	"github.com/letterhold/letterhold/internal/target"
	"github.com/letterhold/letterhold/internal/token"
)

// A target signs in with tokens where passwords are not taken.
func TestToken(t *testing.T) {
	ca := mailtest.NewAuthority(t)
	p := openid.Start(t, ca)
	kid, public := p.Key(t)
	d := mailtest.StartTokenDovecot(t, mailtest.Tokens{Mechanisms: "oauthbearer", Issuer: p.Issuer, KeyID: kid, Key: public})
	a := mailtest.Archive(t, nil)
	tokens := ingest.NewRunner(a)
	t.Cleanup(tokens.Close)
	conf := token.Config{Kind: token.Service, Issuer: p.Issuer, ClientID: openid.Service, Scopes: []string{openid.Scope}, AllowNet: []string{"127.0.0.0/8"}, CA: string(ca.PEM)}
	if err := ingest.AddTokenSource(a, "provider", conf, token.Secret{Key: p.NewKey(t, openid.Service)}, "test"); err != nil {
		t.Fatal(err)
	}
	add(t, a, "alice", "INBOX", `\Seen`, time.Date(2026, 3, 12, 9, 30, 1, 0, time.UTC), mail(1))
	r := target.NewRunner(a, func(_ context.Context, _ string, fn func(catalog.Hit) error) error { return all(a)(fn) })
	r.Token = tokens.Token
	t.Cleanup(r.Close)
	x := &target.Profile{Name: "back", Enabled: true, Place: place(d, d.IMAPS)}
	x.Token = "provider"
	if err := target.Save(a, x, nil, "test"); err != nil {
		t.Fatal(err)
	}
	wait, err := r.Start(t.Context(), x, "test")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := wait(); err != nil || out.Archived != 1 || out.Failed != 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	if n := len(look(t, d)["INBOX"]); n != 1 {
		t.Errorf("%d messages there", n)
	}
	x.To, x.Token = "imaps://ann@imap.gmail.com", ""
	if err := x.Check(time.Now()); err == nil || !strings.Contains(err.Error(), "--token-source") {
		t.Error("a password for a provider that takes none:", err)
	}
}
