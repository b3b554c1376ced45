package token_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/mailtest/openid"
	"github.com/letterhold/letterhold/internal/token"
)

func now() time.Time { return time.Now() }

// config is a configuration for a provider of the test's.
func config(p *openid.Provider, k token.Kind, client string) token.Config {
	return token.Config{Kind: k, Issuer: p.Issuer, ClientID: client, Scopes: []string{"openid", "offline_access", openid.Scope}, AllowNet: []string{"127.0.0.0/8"}, CA: string(p.CA.PEM)}
}

// safe is where secrets are saved.
type safe struct {
	mu    sync.Mutex
	saved []token.Secret
	fail  error
	check func(token.Secret)
}

func (s *safe) save(_ context.Context, x token.Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	if s.check != nil {
		s.check(x)
	}
	s.saved = append(s.saved, x)
	return nil
}

// claims are what a token of the provider says.
func claims(t *testing.T, tok token.Token) (c struct {
	Iss, Sub string
	Exp      int64
}) {
	t.Helper()
	parts := strings.Split(tok.Access, ".")
	if len(parts) != 3 {
		t.Fatalf("the token has %d parts", len(parts))
	}
	if err := json.Unmarshal(unbase64(t, parts[1]), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// inBrowser consents as a user, on this machine.
func inBrowser(t *testing.T, p *openid.Provider, c token.Config, s token.Secret, user string) (*token.Granted, error) {
	t.Helper()
	return token.InBrowser(t.Context(), c, s, token.Options{}, user, func(address string) error {
		go func() {
			back := p.Consent(t, address, user)
			resp, err := http.Get(back.String())
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Security-Policy") == "" {
				t.Errorf("the person sees %s", resp.Status)
			}
		}()
		return nil
	})
}

// A person consents in a browser; tokens are refreshed, each with a new refresh
// token that is stored before the access token is used; then the consent is
// given back.
func TestBrowser(t *testing.T) {
	p := openid.Start(t, mailtest.NewAuthority(t))
	c := config(p, token.Browser, openid.Native)
	g, err := inBrowser(t, p, c, token.Secret{}, "alice")
	if err != nil {
		t.Fatal(err)
	}
	if who := claims(t, g.Token); g.Who != "alice" || who.Sub != "alice" || who.Iss != p.Issuer || g.Secret.Refresh == "" {
		t.Errorf("%q consented, the token is of %q", g.Who, who.Sub)
	}
	if p.Asked().Get("code_verifier") == "" {
		t.Error("no PKCE")
	}

	clock := now()
	box := &safe{}
	src, err := token.Open(c, g.Secret, token.Options{Save: box.save, Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	// Many ask at once; one of them asks the provider.
	var wg sync.WaitGroup
	got := make([]token.Token, 20)
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = src.Token(t.Context(), "alice"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, tok := range got {
		if tok.Access != got[0].Access || claims(t, tok).Sub != "alice" {
			t.Fatal("they got different tokens")
		}
	}
	if n := p.Refreshes(); n != 1 || len(box.saved) != 1 || box.saved[0].Refresh == g.Secret.Refresh {
		t.Fatalf("%d refreshes, %d saved", n, len(box.saved))
	}

	// A minute before its end a token is no longer used.
	clock = got[0].Until.Add(-61 * time.Second)
	if tok, err := src.Token(t.Context(), "alice"); err != nil || tok.Access != got[0].Access {
		t.Error("not from memory:", err)
	}
	clock = got[0].Until.Add(-60 * time.Second)
	second, err := src.Token(t.Context(), "alice")
	if err != nil || second.Access == got[0].Access || p.Refreshes() != 2 {
		t.Error("still from memory:", err)
	}
	// One that a mail server refused is not used again, but a newer one is kept.
	src.Forget("alice", got[0])
	if tok, err := src.Token(t.Context(), "alice"); err != nil || tok.Access != second.Access {
		t.Error("a newer token was dropped:", err)
	}
	src.Forget("alice", second)
	third, err := src.Token(t.Context(), "alice")
	if err != nil || third.Access == second.Access || len(box.saved) != 3 {
		t.Error("not a new one:", err)
	}

	// What was not stored is not used, and is stored before anything else.
	src.Forget("alice", third)
	box.fail = errors.New("the disk is full")
	if tok, err := src.Token(t.Context(), "alice"); !errors.Is(err, box.fail) {
		t.Error("a token whose refresh token is not stored:", tok, err)
	}
	if _, err := src.Token(t.Context(), "alice"); !errors.Is(err, box.fail) || p.Refreshes() != 4 {
		t.Error(err, p.Refreshes())
	}
	box.fail = nil
	if tok, err := src.Token(t.Context(), "alice"); err != nil || tok.Access == third.Access || p.Refreshes() != 4 || len(box.saved) != 4 {
		t.Error(err, p.Refreshes(), len(box.saved))
	}

	// What is stored works after a restart; what was before it does not.
	if _, err := reopen(t, c, g.Secret).Token(t.Context(), "alice"); !errors.Is(err, token.ErrRevoked) {
		t.Error("an old refresh token:", err)
	}
	again := reopen(t, c, box.saved[3])
	if _, err := again.Token(t.Context(), "alice"); err != nil {
		t.Error(err)
	}

	if err := again.Revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Token(t.Context(), "alice"); !errors.Is(err, token.ErrRevoked) {
		t.Error("after the consent was given back:", err)
	}
}

func reopen(t *testing.T, c token.Config, s token.Secret) *token.Source {
	t.Helper()
	src, err := token.Open(c, s, token.Options{Save: (&safe{}).save})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// The refresh token that Revoke shows is void at the provider.
func TestRevoke(t *testing.T) {
	p := openid.Start(t, mailtest.NewAuthority(t))
	c := config(p, token.Browser, openid.Native)
	g, err := inBrowser(t, p, c, token.Secret{}, "alice")
	if err != nil {
		t.Fatal(err)
	}
	if err := reopen(t, c, g.Secret).Revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = reopen(t, c, g.Secret).Token(t.Context(), "alice")
	var e *token.Error
	if !errors.Is(err, token.ErrRevoked) || !errors.As(err, &e) || e.Code != "invalid_grant" || !strings.Contains(e.Do, "consent again") {
		t.Error(err)
	}
}

// A server has a key and an HTTPS address that people come back to.
func TestWebWithKey(t *testing.T) {
	p := openid.Start(t, mailtest.NewAuthority(t))
	c := config(p, token.Browser, openid.Web)
	key := token.Secret{Key: p.NewKey(t, openid.Web)}
	begin := func() *token.Consent {
		t.Helper()
		q, err := token.Begin(t.Context(), c, key, token.Options{}, openid.WebBack, "bob")
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	q := begin()
	if u, _ := url.Parse(q.URL); u.Query().Get("code_challenge_method") != "S256" || u.Query().Get("state") != q.State || u.Query().Get("nonce") == "" || u.Query().Get("redirect_uri") != openid.WebBack || u.Query().Get("login_hint") != "bob" {
		t.Error(u)
	}
	back := p.Consent(t, q.URL, "bob").Query()
	g, err := q.Finish(t.Context(), back)
	if err != nil {
		t.Fatal(err)
	}
	if g.Who != "bob" || g.Secret.Key != key.Key {
		t.Error(g.Who)
	}
	if f := p.Asked(); f.Get("client_assertion") == "" || f.Get("client_secret") != "" {
		t.Error("not shown by a key")
	}
	if _, err := q.Finish(t.Context(), back); !errors.Is(err, token.ErrForged) {
		t.Error("answered twice:", err)
	}
	box := &safe{}
	src, err := token.Open(c, g.Secret, token.Options{Save: box.save})
	if err != nil {
		t.Fatal(err)
	}
	if tok, err := src.Token(t.Context(), ""); err != nil || claims(t, tok).Sub != "bob" || len(box.saved) != 1 || box.saved[0].Key != key.Key {
		t.Error(err)
	}

	// Another key is refused, and the refusal says what to look at.
	q = begin()
	back = p.Consent(t, q.URL, "bob").Query()
	p.NewKey(t, openid.Web)
	_, err = q.Finish(t.Context(), back)
	var e *token.Error
	if !errors.As(err, &e) || e.Do == "" {
		t.Error(err)
	}
}

// The answers that are not to what was asked.
func TestForgedAnswers(t *testing.T) {
	p := openid.Start(t, mailtest.NewAuthority(t))
	c := config(p, token.Browser, openid.Native)
	clock := now()
	begin := func() (*token.Consent, url.Values) {
		t.Helper()
		q, err := token.Begin(t.Context(), c, token.Secret{}, token.Options{Now: func() time.Time { return clock }}, "http://127.0.0.1:4711", "")
		if err != nil {
			t.Fatal(err)
		}
		return q, p.Consent(t, q.URL, "alice").Query()
	}
	for name, change := range map[string]func(url.Values){
		"another state":  func(v url.Values) { v.Set("state", "another") },
		"no state":       func(v url.Values) { v.Del("state") },
		"two states":     func(v url.Values) { v.Add("state", v.Get("state")) },
		"two codes":      func(v url.Values) { v.Add("code", "another") },
		"no code":        func(v url.Values) { v.Del("code") },
		"another issuer": func(v url.Values) { v.Set("iss", "https://evil.test") },
		"an error of another issuer": func(v url.Values) {
			v.Del("code")
			v.Set("error", "access_denied")
			v.Set("iss", p.Issuer+"/")
		},
	} {
		q, back := begin()
		change(back)
		before := p.Asked()
		if _, err := q.Finish(t.Context(), back); !errors.Is(err, token.ErrForged) {
			t.Errorf("%s: %v", name, err)
		}
		if fmt.Sprint(p.Asked()) != fmt.Sprint(before) {
			t.Errorf("%s: the code was shown to the provider", name)
		}
	}
	// A wrong state does not end the wait for the right one.
	q, back := begin()
	wrong := url.Values{"state": {"another"}, "code": {"x"}}
	if _, err := q.Finish(t.Context(), wrong); !errors.Is(err, token.ErrForged) {
		t.Error(err)
	}
	back.Set("iss", p.Issuer)
	if g, err := q.Finish(t.Context(), back); err != nil || g.Who != "alice" {
		t.Error(err)
	}
	q, back = begin()
	clock = clock.Add(11 * time.Minute)
	if _, err := q.Finish(t.Context(), back); !errors.Is(err, token.ErrLate) {
		t.Error(err)
	}
	clock = now()
	// A code that belongs to another question has another PKCE verifier.
	q, _ = begin()
	_, other := begin()
	other.Set("state", q.State)
	var e *token.Error
	if _, err := q.Finish(t.Context(), other); !errors.As(err, &e) || e.Code != "invalid_grant" {
		t.Error("a code of another question:", err)
	}
	// Refused by the person.
	q, _ = begin()
	if _, err := q.Finish(t.Context(), url.Values{"state": {q.State}, "error": {"access_denied"}, "error_description": {"no\x1b[2J"}}); !errors.As(err, &e) || e.Code != "access_denied" || strings.Contains(err.Error(), "\x1b") {
		t.Error(err)
	}
}

// Whoever else reaches the port of loopback neither ends the wait nor learns
// anything.
func TestLoopbackNeighbours(t *testing.T) {
	p := openid.Start(t, mailtest.NewAuthority(t))
	c := config(p, token.Browser, openid.Native)
	g, err := token.InBrowser(t.Context(), c, token.Secret{}, token.Options{}, "", func(address string) error {
		u, _ := url.Parse(address)
		at := u.Query().Get("redirect_uri")
		go func() {
			for _, bad := range []string{at + "/?state=x&code=y", at + "/favicon.ico?state=" + u.Query().Get("state") + "&code=y", at + "/"} {
				resp, err := http.Get(bad)
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusNotFound {
					t.Errorf("%s: %s", bad, resp.Status)
				}
			}
			// A page that reaches it by a name of its own.
			r, _ := http.NewRequest(http.MethodGet, at+"/?state="+u.Query().Get("state")+"&code=y", nil)
			r.Host = "rebind.test"
			if resp, err := http.DefaultClient.Do(r); err != nil || resp.StatusCode != http.StatusNotFound {
				t.Error("by another name:", err)
			}
			http.Get(p.Consent(t, address, "alice").String())
		}()
		return nil
	})
	if err != nil || g.Who != "alice" {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := token.InBrowser(ctx, c, token.Secret{}, token.Options{}, "", func(string) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestDevice(t *testing.T) {
	p := openid.Start(t, mailtest.NewAuthority(t))
	c := config(p, token.Device, openid.TV)
	var waits []time.Duration
	var shown token.Prompt
	act := func(int) {}
	run := func() (*token.Granted, error) {
		waits = nil
		return token.OnDevice(t.Context(), c, token.Secret{}, token.Options{Wait: func(_ context.Context, d time.Duration) error {
			waits = append(waits, d)
			act(len(waits))
			return nil
		}}, func(pr token.Prompt) error { shown = pr; return nil })
	}
	act = func(n int) {
		if n == 3 {
			p.Allow(t, shown.Code, "alice")
		}
	}
	g, err := run()
	if err != nil {
		t.Fatal(err)
	}
	if g.Who != "alice" || claims(t, g.Token).Sub != "alice" || shown.URL != p.Issuer+"/device" || fmt.Sprint(waits) != "[1s 1s 1s]" || time.Until(shown.Until) > 5*time.Minute {
		t.Error(g.Who, shown.URL, waits)
	}
	box := &safe{}
	src, err := token.Open(c, g.Secret, token.Options{Save: box.save})
	if err != nil {
		t.Fatal(err)
	}
	if tok, err := src.Token(t.Context(), ""); err != nil || claims(t, tok).Sub != "alice" || len(box.saved) != 1 {
		t.Error(err)
	}
	act = func(int) { p.Deny(t, shown.Code) }
	var e *token.Error
	if _, err := run(); !errors.As(err, &e) || e.Code != "access_denied" || e.Do == "" {
		t.Error(err)
	}
}

// An application has a token for every mailbox, a service account one for each.
func TestWithKeys(t *testing.T) {
	p := openid.Start(t, mailtest.NewAuthority(t))
	key := p.NewKey(t, openid.App, openid.Service)
	open := func(k token.Kind, client string) *token.Source {
		t.Helper()
		c := config(p, k, client)
		c.Scopes = []string{openid.Scope}
		src, err := token.Open(c, token.Secret{Key: key}, token.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	app := open(token.Application, openid.App)
	one, err := app.Token(t.Context(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	if two, err := app.Token(t.Context(), "bob"); err != nil || two.Access != one.Access || claims(t, one).Sub != openid.App {
		t.Error(err)
	}
	if err := app.Revoke(t.Context()); !errors.Is(err, token.ErrStays) {
		t.Error(err)
	}

	robot := open(token.Service, openid.Service)
	for _, user := range []string{"alice", "bob"} {
		tok, err := robot.Token(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		if got := claims(t, tok).Sub; got != user {
			t.Errorf("for %s it is a token of %s", user, got)
		}
		if again, err := robot.Token(t.Context(), user); err != nil || again.Access != tok.Access {
			t.Error("not from memory:", err)
		}
	}
	if _, err := robot.Token(t.Context(), "mallory"); err == nil {
		t.Error("a token for a stranger")
	}
	if _, err := robot.Token(t.Context(), ""); err == nil {
		t.Error("a token for nobody")
	}
	var e *token.Error
	if _, err := open(token.Application, "stranger").Token(t.Context(), ""); !errors.As(err, &e) || e.Do == "" {
		t.Error(err)
	}
}

// Nothing that holds a secret prints it.
func TestRedacted(t *testing.T) {
	const hidden = "hidden-in-the-test"
	key, _, err := token.NewKey("test", now())
	if err != nil {
		t.Fatal(err)
	}
	s := token.Secret{Refresh: hidden, Client: hidden, Key: key + hidden}
	src, err := token.Open(token.Config{Kind: token.Browser, Issuer: "https://id.test", ClientID: "x", Scopes: []string{"y"}}, s, token.Options{Save: (&safe{}).save})
	if err != nil {
		t.Fatal(err)
	}
	q, err := token.Begin(t.Context(), token.Config{Kind: token.Browser, AuthURL: "https://id.test/a", TokenURL: "https://id.test/t", ClientID: "x", Scopes: []string{"y"}}, s, token.Options{}, "http://127.0.0.1:1", "")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	plain := slog.New(slog.NewTextHandler(&out, nil))
	for _, v := range []any{s, &s, token.Token{Access: hidden}, token.Granted{Secret: s, Token: token.Token{Access: hidden}}, src, q, []token.Secret{s}} {
		fmt.Fprintf(&out, "%v %+v %#v %s %q %x\n", v, v, v, v, v, v)
		log.Info("x", "v", v)
		plain.Info("x", "v", v)
	}
	if strings.Contains(out.String(), hidden) || strings.Contains(out.String(), fmt.Sprintf("%x", hidden)) || strings.Contains(out.String(), "PRIVATE") {
		t.Error(out.String())
	}
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := token.DecodeSecret(b); err != nil || back != s {
		t.Error("not read as written")
	}
	if _, err := token.DecodeSecret([]byte(hidden)); err == nil || strings.Contains(err.Error(), hidden) {
		t.Error(err)
	}
}
