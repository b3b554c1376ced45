package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/letterhold/letterhold/internal/tlsconf"
)

// Limits of what a provider may say.
const (
	timeout     = 30 * time.Second // for a request with its answer
	maxAnswer   = 256 << 10        // keys of a large provider have 40 KiB
	maxToken    = 32 << 10         // Microsoft's have 2 to 4 KiB; they go into one line of IMAP
	maxLife     = 24 * time.Hour   // longer ones are asked for again
	unknownLife = 5 * time.Minute  // where the provider does not say (RFC 6749, 5.1)
	maxSkew     = time.Minute      // of the clocks, beyond which it is told
)

// Errors that callers branch on.
var (
	// ErrRevoked: there is no consent any more; a person has to give it again.
	ErrRevoked = errors.New("a person has to consent again")
	// ErrProtocol: the answer is none that a provider may give.
	ErrProtocol = errors.New("the provider's answer is not as it must be")
)

// Error is a provider's refusal.
type Error struct {
	Host   string        // of the provider
	Status int           // of HTTP
	Code   string        // RFC 6749, 5.2
	Text   string        // the provider's words
	Do     string        // what somebody has to do about it
	Skew   time.Duration // the provider's clock is ahead of ours by so much; zero up to a minute
	cause  error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s refuses: %q", e.Host, e.Code)
	if e.Text != "" {
		fmt.Fprintf(&b, " %q", e.Text)
	}
	if e.Do != "" {
		b.WriteString("; " + e.Do)
	}
	if e.Skew != 0 {
		ahead := "ahead of"
		if e.Skew < 0 {
			ahead = "behind"
		}
		fmt.Fprintf(&b, "; its clock is %s %s this machine's, which may be the reason", e.Skew.Abs().Round(time.Second), ahead)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.cause }

// Options are what a Source or a consent gets from around it. The zero value
// works, but for Save.
type Options struct {
	// Now is the clock; default is the system's.
	Now func() time.Time
	// Timeout of a request with its answer; default is 30 seconds.
	Timeout time.Duration
	// Wait waits between two questions of the device flow; default sleeps.
	Wait func(context.Context, time.Duration) error
	// Save stores a Secret whose refresh token is a new one. It is called
	// before the access token that came with it is handed out; the old refresh
	// token may be void already. When it fails, it is called again before the
	// next token.
	Save func(context.Context, Secret) error
}

// provider is a configuration in use: its endpoints, and the way to them. It is
// for one goroutine.
type provider struct {
	Config
	hc      *http.Client
	now     func() time.Time
	timeout time.Duration

	// From discovery.
	discovered bool
	audience   string // of assertions
	jwks       string
	algs       []string
	needsIss   bool // RFC 9207, 3
}

func (c Config) open(o *Options) (*provider, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	dialer, trust, err := c.outside()
	if err != nil {
		return nil, err
	}
	p := &provider{Config: c, now: o.Now, timeout: o.Timeout, audience: c.TokenURL}
	if p.now == nil {
		p.now = time.Now
	}
	if p.timeout == 0 {
		p.timeout = timeout
	}
	p.hc = dialer.HTTP(trust, p.now, p.timeout, maxAnswer)
	return p, nil
}

// discover asks the issuer for its endpoints, where they are not configured.
func (p *provider) discover(ctx context.Context) error {
	if p.discovered || p.TokenURL != "" && !slices.Contains(p.Scopes, oidc.ScopeOpenID) {
		return nil
	}
	var d struct {
		oidc.ProviderConfig
		RevokeURL string   `json:"revocation_endpoint"`
		Methods   []string `json:"code_challenge_methods_supported"`
		Iss       bool     `json:"authorization_response_iss_parameter_supported"`
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(p.Issuer, "/")+"/.well-known/openid-configuration", nil)
	if err != nil {
		return err
	}
	if err := p.do(r, &d); err != nil {
		return fmt.Errorf("discovery: %w", err)
	}
	for name, u := range map[string]string{"authorization_endpoint": d.AuthURL, "token_endpoint": d.TokenURL, "device_authorization_endpoint": d.DeviceAuthURL, "revocation_endpoint": d.RevokeURL, "jwks_uri": d.JWKSURL} {
		if u == "" {
			continue
		}
		if err := checkURL(u); err != nil {
			return fmt.Errorf("discovery: %w: %s: %w", ErrProtocol, name, err)
		}
	}
	switch {
	case d.IssuerURL != p.Issuer: // OpenID Connect Discovery 1.0, 4.3
		return fmt.Errorf("discovery: %w: %s says that its issuer is %q", ErrProtocol, p.Issuer, clip(d.IssuerURL))
	case p.TokenURL == "" && d.TokenURL == "":
		return fmt.Errorf("discovery: %w: %s names no token endpoint", ErrProtocol, p.Issuer)
	case p.Kind == Browser && len(d.Methods) > 0 && !slices.Contains(d.Methods, "S256"):
		return fmt.Errorf("discovery: %s offers no PKCE with S256", p.Issuer)
	}
	if p.TokenURL == "" {
		// The issuer is what an assertion is for, so that no other provider can
		// have one made for this one.
		p.AuthURL, p.TokenURL, p.DeviceURL, p.RevokeURL, p.audience = d.AuthURL, d.TokenURL, d.DeviceAuthURL, d.RevokeURL, p.Issuer
	}
	for _, a := range d.Algorithms {
		if slices.Contains(algorithms, a) {
			p.algs = append(p.algs, a)
		}
	}
	p.jwks, p.needsIss, p.discovered = d.JWKSURL, d.Iss, true
	return nil
}

// answer is a token endpoint's, RFC 6749, 5.1 and 5.2.
type answer struct {
	AccessToken  string      `json:"access_token"`
	TokenType    string      `json:"token_type"`
	ExpiresIn    json.Number `json:"expires_in"` // some providers quote it
	RefreshToken string      `json:"refresh_token"`
	IDToken      string      `json:"id_token"`
	Scope        string      `json:"scope"`
}

// token checks an answer.
func (p *provider) token(a *answer) (Token, error) {
	life := unknownLife
	if a.ExpiresIn != "" {
		// A number out of range is read as infinite, which is cut below.
		switch n, _ := a.ExpiresIn.Float64(); {
		case !(n > 0):
			return Token{}, fmt.Errorf("%w: it has a token that has expired already (expires_in %.20q)", ErrProtocol, string(a.ExpiresIn))
		case n < maxLife.Seconds():
			life = time.Duration(n * float64(time.Second))
		default:
			life = maxLife
		}
	}
	switch {
	case !strings.EqualFold(a.TokenType, "Bearer"):
		return Token{}, fmt.Errorf("%w: the token's type is %q, not Bearer", ErrProtocol, clip(a.TokenType))
	case a.AccessToken == "":
		return Token{}, fmt.Errorf("%w: it has no token", ErrProtocol)
	case len(a.AccessToken) > maxToken || len(a.RefreshToken) > maxToken:
		return Token{}, fmt.Errorf("%w: it has a token of %d bytes, %d are the most", ErrProtocol, max(len(a.AccessToken), len(a.RefreshToken)), maxToken)
	case !printable(a.AccessToken, '!') || !printable(a.RefreshToken, ' '): // RFC 6749, A.12 and A.17; RFC 6750, 2.1
		return Token{}, fmt.Errorf("%w: it has a token with characters that no token has", ErrProtocol)
	}
	return Token{a.AccessToken, p.now().Add(life)}, nil
}

// sign adds to a form who asks.
func (p *provider) sign(form url.Values, s *Secret) error {
	form.Set("client_id", p.ClientID)
	switch {
	case s.Key != "": // RFC 7523, 2.2
		a, err := assertion(s.Key, &p.Config, p.audience, p.ClientID, p.now(), nil)
		if err != nil {
			return err
		}
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", a)
	case s.Client != "":
		form.Set("client_secret", s.Client)
	}
	return nil
}

// post sends a form to an endpoint and reads the answer into v, if it is not
// nil.
func (p *provider) post(ctx context.Context, endpoint string, form url.Values, v any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return p.do(r, v)
}

// do sends a request and reads the answer's JSON into v, if it is not nil. A
// refusal is an *Error.
func (p *provider) do(r *http.Request, v any) error {
	host := r.URL.Host
	r.Header.Set("Accept", "application/json")
	resp, err := p.hc.Do(r)
	if err != nil {
		return fmt.Errorf("ask %s: %w", host, bare(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && v == nil { // RFC 7009, 2.2: whatever it says besides
		return nil
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return fmt.Errorf("%w: %s sends elsewhere (%d), which no such endpoint does", ErrProtocol, host, resp.StatusCode)
	case kind != "application/json":
		return fmt.Errorf("%w: %s answers %d with %q, not with JSON; is the address right?", ErrProtocol, host, resp.StatusCode, clip(kind))
	}
	body, err := io.ReadAll(resp.Body)
	switch {
	case errors.Is(err, tlsconf.ErrLong):
		return fmt.Errorf("%w: %s: %w (%d bytes are the most)", ErrProtocol, host, err, maxAnswer)
	case err != nil:
		return fmt.Errorf("ask %s: %w", host, bare(err))
	}
	var refusal struct {
		Code string `json:"error"`
		Text string `json:"error_description"`
	}
	if err := json.Unmarshal(body, &refusal); err != nil && resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: %s answers %d with what is no JSON of an error", ErrProtocol, host, resp.StatusCode)
	}
	if refusal.Code != "" || resp.StatusCode != http.StatusOK {
		return &Error{Host: host, Status: resp.StatusCode, Code: clip(refusal.Code), Text: clip(refusal.Text), Skew: p.skew(resp)}
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %s: it is no JSON of this kind", ErrProtocol, host) // the cause could repeat a token
	}
	return nil
}

// bare takes off what the library wraps an error with; the host is told anyway.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// skew is by how much the provider's clock is ahead of ours; zero up to a
// minute.
func (p *provider) skew(resp *http.Response) time.Duration {
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if d := date.Sub(p.now()); err == nil && d.Abs() > maxSkew {
		return d
	}
	return 0
}
