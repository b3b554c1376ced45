package token

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// consentLife is how long a person has.
const consentLife = 10 * time.Minute

// Errors of a consent.
var (
	// ErrForged: the answer that came back is not to what was asked here.
	ErrForged = errors.New("this is no answer to a question of ours")
	// ErrLate: the person took too long.
	ErrLate = errors.New("too late: begin again")
)

// Granted is what a consent gives.
type Granted struct {
	Secret Secret // with the refresh token
	// Who consented, as the provider calls them; "" if it does not say. It is
	// for people to look at: nothing may be decided by it.
	Who   string
	Token Token
}

// Consent is a question to a person, under way. It is answered once.
type Consent struct {
	URL   string // where the person goes
	State string // comes back, and tells which question it answers

	secret                    Secret
	redirect, verifier, nonce string
	until                     time.Time

	mu sync.Mutex // owns what follows
	p  *provider  // nil once it is answered
}

// Format hides the secrets from every verb.
func (c *Consent) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "consent %s", redacted) }

// Begin asks for a person's consent in a browser. redirect is where the answer
// comes back to: an HTTPS address that no other provider has, or one of
// loopback (RFC 8252, 7.3). The secret may have a key or client secret that the
// client shows; user is a hint, or "".
func Begin(ctx context.Context, conf Config, s Secret, o Options, redirect, user string) (*Consent, error) {
	if conf.Kind != Browser {
		return nil, fmt.Errorf("kind %q needs no browser", conf.Kind)
	}
	if err := checkRedirect(redirect); err != nil {
		return nil, err
	}
	p, err := conf.open(&o)
	if err != nil {
		return nil, err
	}
	if err := p.discover(ctx); err != nil {
		return nil, err
	}
	if p.AuthURL == "" {
		return nil, fmt.Errorf("%w: %s names no authorization endpoint", ErrProtocol, p.Issuer)
	}
	c := &Consent{State: rand.Text(), secret: s, redirect: redirect, verifier: oauth2.GenerateVerifier(), until: p.now().Add(consentLife), p: p}
	opts := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(c.verifier)}
	if slices.Contains(p.Scopes, oidc.ScopeOpenID) {
		c.nonce = rand.Text()
		opts = append(opts, oidc.Nonce(c.nonce))
	}
	if user != "" {
		opts = append(opts, oauth2.SetAuthURLParam("login_hint", user))
	}
	conf2 := oauth2.Config{ClientID: p.ClientID, Endpoint: oauth2.Endpoint{AuthURL: p.AuthURL}, RedirectURL: redirect, Scopes: p.Scopes}
	c.URL = conf2.AuthCodeURL(c.State, opts...)
	return c, nil
}

func checkRedirect(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return fmt.Errorf("redirect %q is no address", s)
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if u.Scheme != "https" && !(u.Scheme == "http" && err == nil && ip.IsLoopback()) {
		return fmt.Errorf("redirect %q: it is https://, or http:// to 127.0.0.1", s)
	}
	return nil
}

// ours tells whether an answer is to this question.
func (c *Consent) ours(back url.Values) bool {
	return len(back["state"]) == 1 && subtle.ConstantTimeCompare([]byte(back.Get("state")), []byte(c.State)) == 1
}

// Finish takes the query that the person's browser came back with, and gets the
// refresh token. An answer that is not to this question leaves it open.
func (c *Consent) Finish(ctx context.Context, back url.Values) (*Granted, error) {
	if !c.ours(back) {
		return nil, fmt.Errorf("%w: another state", ErrForged)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.p
	if p == nil {
		return nil, fmt.Errorf("%w: it was answered before", ErrForged)
	}
	c.p = nil
	for name, values := range back { // RFC 6749, 3.1
		if len(values) > 1 {
			return nil, fmt.Errorf("%w: %q comes twice", ErrForged, clip(name))
		}
	}
	iss := back.Get("iss") // RFC 9207, 2.4, also of an error
	switch {
	case iss == "" && p.needsIss:
		return nil, fmt.Errorf("%w: it does not say that it comes from %s", ErrForged, p.Issuer)
	case iss != "" && p.Issuer != "" && iss != p.Issuer:
		return nil, fmt.Errorf("%w: it comes from %q, not from %s", ErrForged, clip(iss), p.Issuer)
	case !p.now().Before(c.until):
		return nil, ErrLate
	case back.Get("error") != "":
		u, _ := url.Parse(p.AuthURL)
		return nil, advise(&Error{Host: u.Host, Code: clip(back.Get("error")), Text: clip(back.Get("error_description"))}, &p.Config, grantCode, "")
	case back.Get("code") == "":
		return nil, fmt.Errorf("%w: it has no code", ErrForged)
	}
	form := url.Values{"grant_type": {grantCode}, "code": {back.Get("code")}, "redirect_uri": {c.redirect}, "code_verifier": {c.verifier}}
	if err := p.sign(form, &c.secret); err != nil {
		return nil, err
	}
	var a answer
	if err := p.post(ctx, p.TokenURL, form, &a); err != nil {
		return nil, advise(err, &p.Config, grantCode, "")
	}
	return p.granted(ctx, &a, c.secret, c.nonce)
}

// granted is what an answer to a consent has to have.
func (p *provider) granted(ctx context.Context, a *answer, s Secret, nonce string) (*Granted, error) {
	t, err := p.token(a)
	if err != nil {
		return nil, err
	}
	if a.RefreshToken == "" {
		return nil, errors.New("the provider gave no refresh token: it has to be allowed to the client, with most by the scope offline_access")
	}
	if missing := missing(p.Scopes, a.Scope); missing != "" {
		return nil, fmt.Errorf("the person did not allow %q: begin again, and leave the box ticked", missing)
	}
	s.Refresh = a.RefreshToken
	g := &Granted{Secret: s, Token: t}
	if slices.Contains(p.Scopes, oidc.ScopeOpenID) {
		if g.Who, err = p.who(ctx, a, nonce); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// missing returns a wanted scope that was not granted; "" if none is. Providers
// write addresses of scopes in more than one way, so the last part counts.
func missing(wanted []string, granted string) string {
	if granted == "" { // RFC 6749, 5.1: as asked
		return ""
	}
	base := func(s string) string {
		s = strings.TrimSuffix(s, "/")
		return strings.ToLower(s[strings.LastIndexByte(s, '/')+1:])
	}
	for _, w := range wanted {
		switch w {
		case oidc.ScopeOpenID, oidc.ScopeOfflineAccess, oidc.ScopeProfile, oidc.ScopeEmail:
			continue
		}
		if !slices.ContainsFunc(strings.Fields(granted), func(g string) bool { return base(g) == base(w) }) {
			return w
		}
	}
	return ""
}

// who checks the ID token and returns whom it names.
func (p *provider) who(ctx context.Context, a *answer, nonce string) (string, error) {
	ctx = oidc.ClientContext(ctx, p.hc)
	conf := oidc.ProviderConfig{IssuerURL: p.Issuer, JWKSURL: p.jwks}
	v := conf.NewProvider(ctx).VerifierContext(ctx, &oidc.Config{ClientID: p.ClientID, SupportedSigningAlgs: p.algs, Now: p.now})
	id, err := v.Verify(ctx, a.IDToken)
	if err != nil {
		return "", fmt.Errorf("%w: ID token: %q", ErrProtocol, clip(err.Error()))
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1 {
		return "", fmt.Errorf("%w: the ID token has another nonce", ErrForged)
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(a.AccessToken); err != nil {
			return "", fmt.Errorf("%w: the ID token is to another access token", ErrForged)
		}
	}
	var claims struct {
		Name  string `json:"preferred_username"`
		Email string `json:"email"`
	}
	if err := id.Claims(&claims); err != nil {
		return "", fmt.Errorf("%w: the ID token is no JSON of this kind", ErrProtocol)
	}
	for _, s := range []string{claims.Name, claims.Email} {
		if s != "" {
			return clip(s), nil
		}
	}
	return clip(id.Subject), nil
}

// InBrowser asks for a person's consent in a browser on this machine: show gets
// the address to be opened there. The answer comes back to a port of loopback
// (RFC 8252, 7.3).
func InBrowser(ctx context.Context, conf Config, s Secret, o Options, user string, show func(url string) error) (*Granted, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	c, err := Begin(ctx, conf, s, o, "http://"+l.Addr().String(), user)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, consentLife, ErrLate)
	defer cancel()
	back := make(chan url.Values, 1)
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		// Other programs and pages can reach this port too; they do not know the
		// state, and cannot end the wait.
		query, err := url.ParseQuery(r.URL.RawQuery)
		if r.Method != http.MethodGet || r.URL.Path != "/" || r.Host != l.Addr().String() || err != nil || !c.ours(query) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		select {
		case back <- query:
		default:
		}
		io.WriteString(w, "Letterhold has the answer. Close this page; the program that you started says how it went.\n")
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	// The page is sent before the server ends.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
		<-done
	}()
	if err := show(c.URL); err != nil {
		return nil, err
	}
	select {
	case query := <-back:
		return c.Finish(ctx, query)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
