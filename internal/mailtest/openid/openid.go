// Package openid is a real OpenID provider for tests, on loopback with TLS: the
// one of zitadel/oidc with the accounts alice and bob. What of it takes a
// person is done by Consent and Allow.
package openid

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/letterhold/letterhold/internal/mailtest"
)

// Clients of the provider. The keys of those that have one are in Keys.
const (
	Native  = "native"             // a program: public, comes back to loopback
	Web     = "web"                // a server with a key, comes back to WebBack
	TV      = "device"             // a public client for the device flow
	App     = "app"                // client credentials with a key
	Service = "robot@service.test" // a service account with a key
	WebBack = "https://archive.test/token/back"
	Scope   = storage.CustomScope // that all clients may have
)

// Provider is a provider under way.
type Provider struct {
	Issuer string
	CA     *mailtest.Authority

	mu        sync.Mutex // owns what follows
	life      time.Duration
	keys      map[string]crypto.PublicKey // by client
	refreshes int
	asked     []url.Values // at the token endpoint

	store *storage.Storage
	key   *rsa.PrivateKey
	kid   string
}

// Start starts a provider.
func Start(t testing.TB, ca *mailtest.Authority) *Provider {
	t.Helper()
	before := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler)) // it logs there
	t.Cleanup(func() { slog.SetDefault(before) })
	p := &Provider{CA: ca, life: 5 * time.Minute, keys: map[string]crypto.PublicKey{}}
	var handler http.Handler
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, nil)}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	p.Issuer = "https://" + srv.Listener.Addr().String()
	p.store = storage.NewStorageWithClients(users{}, map[string]*storage.Client{
		Native: storage.NativeClient(Native, "http://127.0.0.1"), Web: storage.WebClient(Web, "unused", WebBack), TV: storage.NativeClient(TV),
	})
	sk, err := p.store.SigningKey(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	p.key, p.kid = sk.Key().(*rsa.PrivateKey), sk.ID()
	var key [32]byte
	rand.Read(key[:])
	provider, err := op.NewProvider(&op.Config{
		CryptoKey: key, CodeMethodS256: true, AuthMethodPrivateKeyJWT: true, GrantTypeRefreshToken: true,
		DeviceAuthorization: op.DeviceAuthorizationConfig{Lifetime: 5 * time.Minute, PollInterval: time.Second, UserFormPath: "/device", UserCode: op.UserCodeBase20},
	}, &store{p.store, p}, op.StaticIssuer(p.Issuer))
	if err != nil {
		t.Fatal(err)
	}
	router := op.CreateRouter(&delegating{provider})
	handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == provider.TokenEndpoint().Relative() {
			p.tokenRequest(r, provider)
		}
		router.ServeHTTP(w, r)
	})
	return p
}

// tokenRequest counts, and translates what the provider does not know: client
// credentials with a key.
func (p *Provider) tokenRequest(r *http.Request, provider *op.Provider) {
	r.ParseForm()
	p.mu.Lock()
	p.asked = append(p.asked, r.PostForm)
	if r.PostForm.Get("grant_type") == string(oidc.GrantTypeRefreshToken) {
		p.refreshes++
	}
	p.mu.Unlock()
	if r.PostForm.Get("grant_type") != string(oidc.GrantTypeClientCredentials) {
		return
	}
	ctx := op.ContextWithIssuer(r.Context(), p.Issuer)
	if a, err := op.VerifyJWTAssertion(ctx, r.PostForm.Get("client_assertion"), provider.JWTProfileVerifier(ctx)); err == nil {
		r.Form.Set("client_id", a.Issuer)
		r.Form.Set("client_secret", shown)
	}
}

// shown stands for a key that was shown.
const shown = "the key was shown"

// delegating lets service accounts ask for others.
type delegating struct{ *op.Provider }

func (d *delegating) JWTProfileVerifier(ctx context.Context) *op.JWTProfileVerifier {
	return op.NewJWTProfileVerifier(d.Storage(), op.IssuerFromContext(ctx), time.Hour, time.Second, op.SubjectCheck(func(r *oidc.JWTTokenRequest) error {
		if r.Subject != r.Issuer && (r.Issuer != Service || users{}.GetUserByID(r.Subject) == nil) {
			return oidc.ErrSubjectInvalid
		}
		return nil
	}))
}

// Life is how long access tokens last from now on.
func (p *Provider) Life(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.life = d
}

// NewKey makes a key, registers it for clients and returns it in PEM.
func (p *Provider) NewKey(t testing.TB, clients ...string) string {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range clients {
		p.keys[c] = k.Public()
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// Refreshes is how often a refresh token was shown.
func (p *Provider) Refreshes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refreshes
}

// Asked is what was last sent to the token endpoint.
func (p *Provider) Asked() url.Values {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.asked) == 0 {
		return nil
	}
	return p.asked[len(p.asked)-1]
}

// Void takes back what a person has consented to.
func (p *Provider) Void(t testing.TB, client, user string) {
	t.Helper()
	if err := p.store.TerminateSession(context.Background(), user, client); err != nil {
		t.Fatal(err)
	}
}

// Consent is a person with a browser: it goes to a client's address, signs in
// and consents, and returns the address that the browser is sent back to.
func (p *Provider) Consent(t testing.TB, address, user string) *url.URL {
	t.Helper()
	login := p.get(t, address)
	id := login.Query().Get("authRequestID")
	if id == "" {
		return login // a refusal
	}
	if err := p.store.CheckUsernamePassword(user, mailtest.Password, id); err != nil {
		t.Fatal(err)
	}
	return p.get(t, p.Issuer+"/authorize/callback?id="+url.QueryEscape(id))
}

// get returns where an address sends the browser.
func (p *Provider) get(t testing.TB, address string) *url.URL {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(p.CA.Cert)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
	u, err := resp.Location()
	if err != nil {
		t.Fatalf("%s answers %s and sends nowhere: %s", address, resp.Status, body)
	}
	return u
}

// Allow is a person who types the code of a device; Deny is one who refuses.
func (p *Provider) Allow(t testing.TB, code, user string) {
	t.Helper()
	if err := p.store.CompleteDeviceAuthorization(context.Background(), code, user); err != nil {
		t.Error(err)
	}
}

// Deny is a person who refuses a device.
func (p *Provider) Deny(t testing.TB, code string) {
	t.Helper()
	if err := p.store.DenyDeviceAuthorization(context.Background(), code); err != nil {
		t.Error(err)
	}
}

// Sign makes an access token with claims of the test's.
func (p *Provider) Sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: p.key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", p.kid))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Key is the key that its tokens are checked with, and its id.
func (p *Provider) Key(t testing.TB) (kid string, public []byte) {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(p.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return p.kid, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// users are the accounts.
type users struct{}

func (users) GetUserByID(id string) *storage.User {
	if id != "alice" && id != "bob" {
		return nil
	}
	return &storage.User{ID: id, Username: id, Password: mailtest.Password, Email: id + "@example.test", EmailVerified: true}
}
func (u users) GetUserByUsername(name string) *storage.User { return u.GetUserByID(name) }
func (users) ExampleClientID() string                       { return "unused" }

// store is the example's storage with clients and keys of ours, and tokens that
// a mail server can check by itself.
type store struct {
	*storage.Storage
	p *Provider
}

func (s *store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return &client{c}, nil
}

func (s *store) GetKeyByIDAndClientID(_ context.Context, kid, client string) (*jose.JSONWebKey, error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	k, ok := s.p.keys[client]
	if !ok {
		return nil, errors.New("no such client or key")
	}
	return &jose.JSONWebKey{KeyID: kid, Use: "sig", Key: k}, nil
}

func (s *store) ClientCredentials(_ context.Context, id, secret string) (op.Client, error) {
	if id != App || secret != shown {
		return nil, errors.New("no such client or key")
	}
	return &client{storage.NativeClient(App)}, nil
}

func (s *store) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	return &oidc.JWTTokenRequest{Subject: id, Audience: []string{id}, Scopes: scopes}, nil
}

func (s *store) ValidateJWTProfileScopes(_ context.Context, _ string, scopes []string) ([]string, error) {
	return scopes, nil
}

func (s *store) JWTProfileTokenType(context.Context, op.TokenRequest) (op.AccessTokenType, error) {
	return op.AccessTokenTypeJWT, nil
}

func (s *store) until() time.Time {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	return time.Now().Add(s.p.life)
}

func (s *store) CreateAccessToken(ctx context.Context, r op.TokenRequest) (string, time.Time, error) {
	id, _, err := s.Storage.CreateAccessToken(ctx, r)
	return id, s.until(), err
}

func (s *store) CreateAccessAndRefreshTokens(ctx context.Context, r op.TokenRequest, current string) (string, string, time.Time, error) {
	if d, ok := r.(*op.DeviceAuthorizationState); ok { // the example forgets the client
		r = &storage.AuthRequest{ApplicationID: d.ClientID, UserID: d.Subject, Scopes: d.Scopes}
	}
	id, refresh, _, err := s.Storage.CreateAccessAndRefreshTokens(ctx, r, current)
	return id, refresh, s.until(), err
}

// client is one of the example's, with what ours may do.
type client struct{ op.Client }

func (c *client) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }

func (c *client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken, oidc.GrantTypeDeviceCode, oidc.GrantTypeClientCredentials, oidc.GrantTypeBearer}
}

func (c *client) AuthMethod() oidc.AuthMethod {
	if c.GetID() == Web {
		return oidc.AuthMethodPrivateKeyJWT
	}
	return oidc.AuthMethodNone
}
