package token

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// margin is how long before its end a token is no longer used.
const margin = time.Minute

// Grants (RFC 6749, 4; RFC 7523, 2.1; RFC 8628, 3.4).
const (
	grantCode    = "authorization_code"
	grantRefresh = "refresh_token"
	grantClient  = "client_credentials"
	grantJWT     = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	grantDevice  = "urn:ietf:params:oauth:grant-type:device_code"
)

// Source gives tokens. It is for any number of goroutines; one of them at a
// time asks the provider.
type Source struct {
	o    Options
	turn chan struct{} // holds one; whoever took it owns what is below

	p       *provider
	secret  Secret
	unsaved bool             // the refresh token is newer than what is stored
	have    map[string]Token // by user; of all but service accounts ""
}

// Open returns the source of a configuration and its secret.
func Open(c Config, s Secret, o Options) (*Source, error) {
	p, err := c.open(&o)
	if err != nil {
		return nil, err
	}
	if err := s.Check(&c, p.now()); err != nil {
		return nil, err
	}
	if c.Kind.person() && o.Save == nil {
		return nil, errors.New("a source with a refresh token needs where to save it")
	}
	return &Source{o: o, turn: make(chan struct{}, 1), p: p, secret: s, have: map[string]Token{}}, nil
}

// Format hides the secret from every verb.
func (s *Source) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "token source %s", redacted) }

func (s *Source) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Token returns a token for a user's mailbox: the one there is, until a minute
// before its end, or a new one. Only for service accounts does the user decide
// whose token it is. When the consent has ended the error is ErrRevoked.
func (s *Source) Token(ctx context.Context, user string) (Token, error) {
	if err := s.take(ctx); err != nil {
		return Token{}, err
	}
	defer func() { <-s.turn }()
	if err := s.save(ctx); err != nil {
		return Token{}, err
	}
	if s.p.Kind != Service {
		user = ""
	}
	if t, ok := s.have[user]; ok && s.p.now().Before(t.Until.Add(-margin)) {
		return t, nil
	}
	t, err := s.ask(ctx, user)
	if err != nil {
		return Token{}, err
	}
	for u, old := range s.have {
		if !s.p.now().Before(old.Until) {
			delete(s.have, u)
		}
	}
	s.have[user] = t
	return t, s.save(ctx)
}

// Forget drops a token that a mail server has refused, so that the next one is
// new. A newer one that somebody else got meanwhile stays.
func (s *Source) Forget(user string, t Token) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if s.p.Kind != Service {
		user = ""
	}
	if s.have[user].Access == t.Access {
		delete(s.have, user)
	}
}

// save has a new refresh token stored.
func (s *Source) save(ctx context.Context) error {
	if !s.unsaved {
		return nil
	}
	if err := s.o.Save(context.WithoutCancel(ctx), s.secret); err != nil {
		return fmt.Errorf("store the new refresh token: %w", err)
	}
	s.unsaved = false
	return nil
}

// ask asks the provider for a token.
func (s *Source) ask(ctx context.Context, user string) (Token, error) {
	if err := s.p.discover(ctx); err != nil {
		return Token{}, err
	}
	form := url.Values{}
	switch s.p.Kind {
	case Browser, Device:
		if s.secret.Refresh == "" {
			return Token{}, fmt.Errorf("%w: the consent was given up", ErrRevoked)
		}
		form.Set("grant_type", grantRefresh)
		form.Set("refresh_token", s.secret.Refresh)
		// The old refresh token may be void once the provider has heard of this:
		// the answer is awaited, whoever else gives up.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), s.p.timeout)
		defer cancel()
	case Application:
		form.Set("grant_type", grantClient)
		form.Set("scope", strings.Join(s.p.Scopes, " "))
	case Service:
		if user == "" {
			return Token{}, errors.New("a service account needs to know for whom it asks")
		}
		a, err := assertion(s.secret.Key, &s.p.Config, s.p.audience, user, s.p.now(), map[string]any{"scope": strings.Join(s.p.Scopes, " ")})
		if err != nil {
			return Token{}, err
		}
		form.Set("grant_type", grantJWT)
		form.Set("assertion", a)
		form.Set("scope", strings.Join(s.p.Scopes, " "))
	}
	if s.p.Kind != Service {
		if err := s.p.sign(form, &s.secret); err != nil {
			return Token{}, err
		}
	}
	var a answer
	if err := s.p.post(ctx, s.p.TokenURL, form, &a); err != nil {
		return Token{}, advise(err, &s.p.Config, form.Get("grant_type"), user)
	}
	t, err := s.p.token(&a)
	if err == nil && s.p.Kind.person() && a.RefreshToken != "" && a.RefreshToken != s.secret.Refresh {
		s.secret.Refresh, s.unsaved = a.RefreshToken, true
	}
	return t, err
}

// ErrStays: the provider cannot be told by a program that a source is gone.
var ErrStays = errors.New("it stays at the provider")

// Revoke tells the provider that the refresh token is no longer needed
// (RFC 7009). Where that cannot be told, the error is ErrStays and says what a
// person has to do. The source gives no token after that.
func (s *Source) Revoke(ctx context.Context) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	if !s.p.Kind.person() {
		return fmt.Errorf("%w: remove the key of client %q there", ErrStays, s.p.ClientID)
	}
	if err := s.p.discover(ctx); err != nil {
		return err
	}
	if s.p.RevokeURL == "" {
		return fmt.Errorf("%w: the person takes the consent to client %q back in the account's settings, or an administrator does", ErrStays, s.p.ClientID)
	}
	form := url.Values{"token": {s.secret.Refresh}, "token_type_hint": {"refresh_token"}}
	if err := s.p.sign(form, &s.secret); err != nil {
		return err
	}
	err := s.p.post(ctx, s.p.RevokeURL, form, nil)
	// RFC 7009, 2.2: an unknown token is no error; Google says it is.
	var e *Error
	if err != nil && !(errors.As(err, &e) && e.Code == "invalid_token") {
		return fmt.Errorf("revoke: %w", err)
	}
	clear(s.have)
	s.secret.Refresh, s.unsaved = "", false
	return nil
}

// advise adds to a refusal what somebody has to do about it.
func advise(err error, c *Config, grant, user string) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	is := func(codes ...string) bool { return slices.Contains(codes, e.Code) }
	switch {
	case grant == grantRefresh && is("invalid_grant", "interaction_required", "consent_required", "login_required"):
		e.Do, e.cause = "the consent has ended (taken back, a new password, or too long unused): the person has to consent again", ErrRevoked
	case grant == grantJWT && is("invalid_grant"):
		e.Do = fmt.Sprintf("look whether %q is a user there, and whether the key of %q still is", user, c.ClientID)
	case grant == grantJWT && is("unauthorized_client", "access_denied"):
		e.Do = fmt.Sprintf("an administrator has to allow domain-wide delegation to %q for the scope %s", c.ClientID, strings.Join(c.Scopes, " "))
	case is("invalid_client", "unauthorized_client") && grant != grantJWT:
		e.Do = fmt.Sprintf("look whether client %q exists there, may do this, and has this key or certificate", c.ClientID)
	case is("invalid_scope"):
		e.Do = fmt.Sprintf("an administrator has to allow client %q the scope %s", c.ClientID, strings.Join(c.Scopes, " "))
	case is("access_denied"):
		e.Do = "the person, or a rule of the organisation, has refused; begin again"
	case is("invalid_grant", "expired_token"):
		e.Do = "the code is used up or too old: begin again"
	case is("server_error", "temporarily_unavailable") || e.Status >= 500 || e.Status == 429:
		e.Do = "try again later"
	}
	return err
}
