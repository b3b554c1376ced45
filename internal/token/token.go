// Package token gets OAuth 2 access tokens that mailboxes are opened with.
//
// A Config says where tokens come from and is kept as JSON; the Secret that
// goes with it is kept sealed. There are four kinds: a person consents in a
// browser (Begin, InBrowser) or on another device (OnDevice), which gives a
// refresh token; an application has a key of its own; a service account acts
// for the persons of its domain. From then on a Source gives tokens.
//
// Providers are treated like any server: HTTPS with a verified certificate, by
// the one dialer; no redirect is followed; what they say is bounded in size
// and time, and quoted. An access token is kept in memory only. A new refresh
// token is handed over to be stored before anything is done with what came
// with it.
//
// Not here: storing anything, signing in to mail servers (package imapclient),
// and the sign-in of people to Letterhold.
package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/letterhold/letterhold/internal/tlsconf"
)

// Kind is how tokens are come by.
type Kind string

// The kinds.
const (
	Browser     Kind = "browser"     // a person consents: authorization code with PKCE (RFC 6749, 4.1; RFC 7636)
	Device      Kind = "device"      // a person consents on another device (RFC 8628)
	Application Kind = "application" // client credentials, shown by a key (RFC 6749, 4.4; RFC 7523, 2.2)
	Service     Kind = "service"     // a service account for a person (RFC 7523, 2.1)
)

// person tells whether a person's consent and a refresh token are needed.
func (k Kind) person() bool { return k == Browser || k == Device }

// Config says where tokens come from. It has no secrets.
type Config struct {
	Kind Kind `json:"kind"`

	// Issuer names the provider. Without TokenURL, the endpoints are asked for
	// there (OpenID Connect Discovery 1.0).
	Issuer    string `json:"issuer,omitempty"`
	AuthURL   string `json:"auth_url,omitempty"`
	TokenURL  string `json:"token_url,omitempty"`
	DeviceURL string `json:"device_url,omitempty"`
	RevokeURL string `json:"revoke_url,omitempty"`

	ClientID  string   `json:"client_id"` // of a service account: its address
	Scopes    []string `json:"scopes"`
	KeyID     string   `json:"key_id,omitempty"` // how the provider calls the key
	Algorithm string   `json:"alg,omitempty"`    // of the key's signatures; default RS256, ES256 or EdDSA, as the key is

	AllowNet []string `json:"allow_net,omitempty"`
	CA       string   `json:"ca,omitempty"`  // PEM
	Pin      string   `json:"pin,omitempty"` // SHA-256 of the provider's key
}

// algorithms that signatures may have, ours and the provider's.
var algorithms = []string{oidc.RS256, oidc.PS256, oidc.ES256, oidc.ES384, oidc.EdDSA}

// Check refuses a configuration that cannot work or is not safe.
func (c *Config) Check() error {
	if !slices.Contains([]Kind{Browser, Device, Application, Service}, c.Kind) {
		return fmt.Errorf("kind %q: it is browser, device, application or service", c.Kind)
	}
	for name, u := range map[string]string{"issuer": c.Issuer, "authorization endpoint": c.AuthURL, "token endpoint": c.TokenURL, "device endpoint": c.DeviceURL, "revocation endpoint": c.RevokeURL} {
		if u == "" {
			continue
		}
		if err := checkURL(u); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	switch {
	case c.Issuer == "" && c.TokenURL == "":
		return errors.New("the issuer or the token endpoint is missing")
	case c.TokenURL != "" && c.Kind == Browser && c.AuthURL == "":
		return errors.New("the authorization endpoint is missing")
	case c.TokenURL != "" && c.Kind == Device && c.DeviceURL == "":
		return errors.New("the device endpoint is missing")
	case c.ClientID == "" || !printable(c.ClientID, ' '):
		return errors.New("the client id is missing, or is none")
	case len(c.Scopes) == 0:
		return errors.New("the scope is missing")
	case slices.Contains(c.Scopes, oidc.ScopeOpenID) && c.Issuer == "":
		return errors.New("the scope openid needs the issuer")
	case c.Algorithm != "" && !slices.Contains(algorithms, c.Algorithm):
		return fmt.Errorf("algorithm %q: it is one of %s", c.Algorithm, strings.Join(algorithms, ", "))
	}
	for _, s := range c.Scopes {
		if s == "" || !printable(s, '!') { // RFC 6749, 3.3
			return fmt.Errorf("scope %q is none", s)
		}
	}
	_, _, err := c.outside()
	return err
}

// outside is how the provider is reached.
func (c *Config) outside() (*tlsconf.Dialer, tlsconf.Trust, error) {
	nets, err := tlsconf.ParseNets(c.AllowNet)
	if err != nil {
		return nil, tlsconf.Trust{}, err
	}
	trust := tlsconf.Trust{CA: []byte(c.CA)}
	if c.Pin != "" {
		trust.Pin, err = tlsconf.ParsePin(c.Pin)
	}
	return &tlsconf.Dialer{Allow: nets}, trust, err
}

// checkURL refuses what is no address of a provider: there is no secret without
// TLS.
func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || !printable(s, '!'):
		return fmt.Errorf("%q is no address", clip(s))
	case u.Scheme != "https":
		return fmt.Errorf("%q: it begins with https://", clip(s))
	case u.Hostname() == "" || u.User != nil || u.Fragment != "":
		return fmt.Errorf("%q is no address of a provider", clip(s))
	}
	return nil
}

// printable tells whether s is ASCII from a character to "~".
func printable(s string, from byte) bool {
	for i := range len(s) {
		if s[i] < from || s[i] > '~' {
			return false
		}
	}
	return true
}

// maxClip is how much of a provider's words is repeated.
const maxClip = 300

func clip(s string) string {
	if len(s) > maxClip {
		s = s[:maxClip] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

// Secret is what goes with a Config. It never prints.
type Secret struct {
	Refresh string // refresh token
	Client  string // client secret, where a provider gives one to public clients
	Key     string // PEM of the private key, and its certificate if it has one
}

// sealed is a Secret's form to be sealed.
type sealed struct {
	Refresh string `json:"refresh_token,omitempty"`
	Client  string `json:"client_secret,omitempty"`
	Key     string `json:"key,omitempty"`
}

// Encode returns the secret in clear, to be sealed.
func (s Secret) Encode() ([]byte, error) { return json.Marshal(sealed(s)) }

// DecodeSecret reads what Encode made.
func DecodeSecret(b []byte) (Secret, error) {
	var s sealed
	if err := json.Unmarshal(b, &s); err != nil {
		return Secret{}, errors.New("the sealed secret of a token source is not readable")
	}
	return Secret(s), nil
}

const redacted = "[redacted]"

// String hides the secret.
func (Secret) String() string { return redacted }

// Format hides the secret from every verb.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue hides the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON refuses: a secret is written by Encode, to be sealed.
func (Secret) MarshalJSON() ([]byte, error) { return nil, errors.New("a secret is never written") }

// Check tells what a secret lacks for a configuration.
func (s Secret) Check(c *Config, now time.Time) error {
	switch {
	case c.Kind.person() && s.Refresh == "":
		return fmt.Errorf("%w: nobody has consented yet", ErrRevoked)
	case !c.Kind.person() && s.Key == "":
		return errors.New("the private key is missing")
	case s.Key == "":
		return nil
	}
	k, err := parseKey(s.Key)
	if err != nil {
		return err
	}
	if _, err := k.algorithm(jose.SignatureAlgorithm(c.Algorithm)); err != nil {
		return err
	}
	if k.cert != nil && now.After(k.cert.NotAfter) {
		return fmt.Errorf("the certificate of the key has ended on %s: make a new one and register it at the provider", k.cert.NotAfter.Format(time.DateOnly))
	}
	return nil
}

// Until is when the key's certificate ends; zero if it has none.
func (s Secret) Until() time.Time {
	if k, err := parseKey(s.Key); err == nil && k.cert != nil {
		return k.cert.NotAfter
	}
	return time.Time{}
}

// Token is an access token. It never prints.
type Token struct {
	Access string
	Until  time.Time
}

// String hides the token.
func (Token) String() string { return redacted }

// Format hides the token from every verb.
func (Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue hides the token.
func (Token) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON refuses: a token stays in memory.
func (Token) MarshalJSON() ([]byte, error) { return nil, errors.New("a token is never written") }
