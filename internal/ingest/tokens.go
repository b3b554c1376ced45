package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/token"
)

// TokenSource is where access tokens for accounts come from, instead of
// passwords.
type TokenSource struct {
	ID      int64        `json:"-"`
	Name    string       `json:"name"`
	Created time.Time    `json:"created"`
	Config  token.Config `json:"config"`
}

// ErrNoTokenSource: there is no source of tokens of that name.
var ErrNoTokenSource = errors.New("no such token source")

// AddTokenSource stores a source of tokens; its secret is sealed.
func AddTokenSource(a *archive.Archive, name string, c token.Config, s token.Secret, who string) error {
	if err := errors.Join(c.Check(), s.Check(&c, a.Now())); err != nil {
		return fmt.Errorf("token source %q: %w", name, err)
	}
	spec, err := json.Marshal(c)
	if err != nil {
		return err
	}
	key := a.Key(seal.PurposeSecret).Key
	return a.Change(archive.Act{What: "token source added", Who: who, Of: name}, func(t catalog.Tx) error {
		x := catalog.TokenSource{Name: name, Spec: spec, Created: a.Now()}
		if err := t.AddTokenSource(&x); err != nil {
			return err
		}
		return sealToken(key, t, x.ID, s)
	})
}

func sealToken(key seal.Key, t catalog.Tx, id int64, s token.Secret) error {
	plain, err := s.Encode()
	if err != nil {
		return err
	}
	name := catalog.TokenSecret(id)
	return t.SetSecret(name, seal.SealBox(key, []byte(name), plain))
}

// TokenSources returns all sources of tokens by name.
func TokenSources(ctx context.Context, a *archive.Archive) (out []TokenSource, err error) {
	err = a.State().View(ctx, func(v catalog.View) error {
		xs, err := v.TokenSources()
		for i := range xs {
			x, err := decodeTokenSource(&xs[i])
			if err != nil {
				return err
			}
			out = append(out, x)
		}
		return err
	})
	return out, err
}

func decodeTokenSource(x *catalog.TokenSource) (TokenSource, error) {
	s := TokenSource{ID: x.ID, Name: x.Name, Created: x.Created}
	if err := json.Unmarshal(x.Spec, &s.Config); err != nil {
		return s, fmt.Errorf("token source %q: %w", x.Name, err)
	}
	return s, nil
}

// tokens are the open sources of a Runner. One stays open for the life of the
// process: a second would lose the refresh token that the first was given.
type tokens struct {
	mu   sync.Mutex
	open map[int64]*token.Source
	used map[string]token.Token // last, by source and user
}

func (r *Runner) tokenSource(ctx context.Context, name string) (*token.Source, int64, error) {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	var x *catalog.TokenSource
	var box []byte
	err := r.a.State().View(ctx, func(v catalog.View) (err error) {
		if x, err = v.TokenSource(name); err == nil {
			box, err = v.Secret(catalog.TokenSecret(x.ID))
		}
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, 0, fmt.Errorf("%w: %q", ErrNoTokenSource, name)
	}
	if err != nil {
		return nil, 0, err
	}
	if s := r.tokens.open[x.ID]; s != nil {
		return s, x.ID, nil
	}
	t, err := decodeTokenSource(x)
	if err != nil {
		return nil, 0, err
	}
	plain, err := seal.OpenBox(r.a.Key(seal.PurposeSecret).Key, []byte(catalog.TokenSecret(x.ID)), box)
	if err != nil {
		return nil, 0, fmt.Errorf("token source %q: %w", name, err)
	}
	secret, err := token.DecodeSecret(plain)
	if err != nil {
		return nil, 0, fmt.Errorf("token source %q: %w", name, err)
	}
	// A rotated refresh token is durable before the token that came with it is used.
	s, err := token.Open(t.Config, secret, token.Options{Now: r.a.Now, Save: func(_ context.Context, s token.Secret) error {
		key := r.a.Key(seal.PurposeSecret).Key
		return r.a.State().Write(func(tx catalog.Tx) error { return sealToken(key, tx, t.ID, s) })
	}})
	if err != nil {
		return nil, 0, fmt.Errorf("token source %q: %w", name, err)
	}
	if r.tokens.open == nil {
		r.tokens.open, r.tokens.used = map[int64]*token.Source{}, map[string]token.Token{}
	}
	r.tokens.open[x.ID] = s
	return s, x.ID, nil
}

// Token returns an access token for an account.
func (r *Runner) Token(ctx context.Context, name, user string) (token.Token, error) {
	s, _, err := r.tokenSource(ctx, name)
	if err != nil {
		return token.Token{}, err
	}
	t, err := s.Token(ctx, user)
	if err != nil {
		return t, fmt.Errorf("token source %q: %w", name, err)
	}
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	r.tokens.used[name+"\x00"+user] = t
	return t, nil
}

// refused tells whether a server refused a token, and forgets that token: the
// next is a new one.
func (r *Runner) refused(ctx context.Context, p *Profile, err error) bool {
	var refused *imapclient.TokenError
	if p.Token == "" || !errors.As(err, &refused) {
		return false
	}
	e, err := p.endpoint()
	if err != nil {
		return false
	}
	s, _, err := r.tokenSource(ctx, p.Token)
	if err != nil {
		return false
	}
	r.tokens.mu.Lock()
	t, ok := r.tokens.used[p.Token+"\x00"+e.user]
	delete(r.tokens.used, p.Token+"\x00"+e.user)
	r.tokens.mu.Unlock()
	if ok {
		s.Forget(e.user, t)
	}
	return ok
}

// RemoveTokenSource takes the consent back at the provider, as far as it lets a
// program, and removes the source. The text says what is left to do there.
func (r *Runner) RemoveTokenSource(ctx context.Context, name, who string) (left string, err error) {
	ps, err := Profiles(ctx, r.a)
	if err != nil {
		return "", err
	}
	for _, p := range ps {
		if p.Token == name {
			return "", fmt.Errorf("token source %q: profile %q uses it", name, p.Name)
		}
	}
	s, id, err := r.tokenSource(ctx, name)
	if errors.Is(err, ErrNoTokenSource) {
		return "", err
	}
	if err == nil {
		err = s.Revoke(ctx)
	}
	if err != nil {
		left = err.Error()
	}
	if id == 0 { // it does not open; it goes all the same
		if err := r.a.State().View(ctx, func(v catalog.View) error {
			x, err := v.TokenSource(name)
			if err == nil {
				id = x.ID
			}
			return err
		}); err != nil {
			return left, err
		}
	}
	r.tokens.mu.Lock()
	delete(r.tokens.open, id)
	r.tokens.mu.Unlock()
	return left, r.a.Change(archive.Act{What: "token source removed", Who: who, Of: name}, func(t catalog.Tx) error { return t.RemoveTokenSource(id) })
}
