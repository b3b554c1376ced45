package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
)

// Roles.
const RoleAdministrator = "administrator"

// Lifetimes of sessions and links.
const (
	idle          = 30 * time.Minute
	idleAdmin     = 15 * time.Minute
	absolute      = 12 * time.Hour
	absoluteAdmin = 8 * time.Hour
	LinkLife      = 15 * time.Minute
	touchEvery    = time.Minute // how exactly "last seen" is kept
)

// Errors that doors put into words. The same for unknown users and wrong
// passwords.
var (
	ErrSignIn  = errors.New("name or password is not right")
	ErrTaken   = errors.New("there is an account of this name")
	ErrLink    = errors.New("this link was used or is too old")
	ErrSession = errors.New("not signed in")
	ErrLocked  = errors.New("too many failures: the password is disabled until it is reset")
)

// ThrottleError says how long to wait before the next try.
type ThrottleError struct{ Wait time.Duration }

func (e ThrottleError) Error() string {
	return fmt.Sprintf("too many tries; wait %d s", int(e.Wait.Seconds()+1))
}

// Limits of the throttle.
const (
	freeFailures   = 4
	maxWait        = 900 * time.Second
	disableAfter   = 100
	perMinute      = 20
	maxAddresses   = 100_000
	throttleWindow = time.Minute
)

// Auth signs people in.
type Auth struct {
	a      *archive.Archive
	Hasher Hasher
	names  []string // that no password may consist of

	mu        sync.Mutex
	addresses map[netip.Prefix]window // guarded by mu
	refused   map[int64]refusals      // by account; guarded by mu
}

type window struct {
	began time.Time
	n     int
}

// New returns the sign-in of an archive. names are those of the host and the
// organisation, of which no password may consist.
func New(a *archive.Archive, names ...string) *Auth {
	return &Auth{a: a, names: names, addresses: map[netip.Prefix]window{}, refused: map[int64]refusals{}}
}

// token returns 256 random bits, and their SHA-256, which is what is stored.
func token() (secret string, hash [32]byte) {
	b := make([]byte, 32)
	rand.Read(b)
	secret = base64.RawURLEncoding.EncodeToString(b)
	return secret, sha256.Sum256([]byte(secret))
}

// NewLink makes a one-time link's secret: whoever opens it in time makes the
// account that administers the archive and owns a mailbox.
func (x *Auth) NewLink(mailbox int64) (string, error) {
	secret, hash := token()
	err := x.a.Change(archive.Act{What: "sign-in link made", Who: "console"}, func(t catalog.Tx) error {
		return t.AddLink(catalog.Link{Token: hash, Mailbox: mailbox, Expires: x.a.Now().Add(LinkLife)})
	})
	return secret, err
}

// Link checks a link without using it.
func (x *Auth) Link(ctx context.Context, secret string) (catalog.Link, error) {
	var l catalog.Link
	err := x.a.State().View(ctx, func(v catalog.View) (err error) {
		l, err = v.Link(sha256.Sum256([]byte(secret)))
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) || err == nil && !x.a.Now().Before(l.Expires) {
		return l, ErrLink
	}
	return l, err
}

// UseLink makes the account of a link and signs it in.
func (x *Auth) UseLink(ctx context.Context, secret, name, password, language, agent string) (string, error) {
	l, err := x.Link(ctx, secret)
	if err != nil {
		return "", err
	}
	if err := catalog.CheckName(name); err != nil {
		return "", err
	}
	if err := CheckPassword(password, append([]string{name}, x.names...)...); err != nil {
		return "", err
	}
	hash := x.Hasher.Hash(password)
	var user int64
	err = x.a.Change(archive.Act{What: "account made by link", Who: name, Of: RoleAdministrator}, func(t catalog.Tx) error {
		if _, err := t.View().Link(l.Token); err != nil {
			return ErrLink // used meanwhile
		}
		if _, err := t.View().User(name); err == nil {
			return ErrTaken
		}
		user, err = t.AddUser(catalog.User{Name: name, Language: language, Password: hash, Roles: []string{RoleAdministrator}, Mailboxes: []int64{l.Mailbox}}, x.a.Now())
		if err != nil {
			return err
		}
		return t.UseLink(l.Token)
	})
	if err != nil {
		return "", err
	}
	return x.begin(user, agent)
}

// prefix is what is throttled as one address: a /32 or a /64.
func prefix(addr netip.Addr) netip.Prefix {
	bits := 32
	if addr = addr.Unmap(); addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}

// admit counts a try from an address.
func (x *Auth) admit(addr netip.Addr) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.a.Now()
	p := prefix(addr)
	w := x.addresses[p]
	if now.Sub(w.began) >= throttleWindow {
		w = window{began: now}
	}
	if w.n++; w.n > perMinute {
		return ThrottleError{throttleWindow - now.Sub(w.began)}
	}
	if len(x.addresses) >= maxAddresses {
		for k, old := range x.addresses {
			if now.Sub(old.began) >= throttleWindow {
				delete(x.addresses, k)
			}
		}
		if len(x.addresses) >= maxAddresses {
			return ThrottleError{throttleWindow}
		}
	}
	x.addresses[p] = w
	return nil
}

// wait is how long an account is closed after failures.
func wait(failures int) time.Duration {
	if failures <= freeFailures {
		return 0
	}
	return min(maxWait, time.Second<<min(failures-freeFailures-1, 20))
}

// SignIn checks name and password and begins a session. The answer and the
// work are the same for unknown users.
func (x *Auth) SignIn(ctx context.Context, name, password string, addr netip.Addr, agent string) (string, error) {
	if err := x.admit(addr); err != nil {
		return "", err
	}
	var u *catalog.User
	err := x.a.State().View(ctx, func(v catalog.View) (err error) {
		u, err = v.User(name)
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) {
		u, err = &catalog.User{}, nil
	}
	if err != nil {
		return "", err
	}
	if u.Failures >= disableAfter {
		x.Hasher.Check(password, "")
		return "", ErrSignIn
	}
	if left := wait(u.Failures) - x.a.Now().Sub(u.Failed); u.Failures > freeFailures && left > 0 {
		return "", ThrottleError{left}
	}
	ok, rehash := x.Hasher.Check(password, u.Password)
	if !ok {
		if u.ID != 0 {
			if err := x.a.State().Write(func(t catalog.Tx) error { return t.SetFailures(u.ID, u.Failures+1, x.a.Now()) }); err != nil {
				return "", err
			}
			if err := x.refuse(u); err != nil {
				return "", err
			}
		}
		return "", ErrSignIn
	}
	err = x.a.State().Write(func(t catalog.Tx) error {
		if rehash {
			return t.SetPassword(u.ID, x.Hasher.Hash(password))
		}
		return t.SetFailures(u.ID, 0, time.Unix(0, 0))
	})
	if err != nil {
		return "", err
	}
	if err := x.settle(func(id int64, _ refusals) bool { return id == u.ID }); err != nil {
		return "", err
	}
	if err := x.a.Record(archive.Act{What: "signed in", Who: u.Name}); err != nil {
		return "", err
	}
	return x.begin(u.ID, agent)
}

func (x *Auth) begin(user int64, agent string) (string, error) {
	secret, hash := token()
	now := x.a.Now()
	if len(agent) > 200 {
		agent = agent[:200]
	}
	err := x.a.State().Write(func(t catalog.Tx) error {
		if err := t.ExpireSessions(now.Add(-absolute)); err != nil {
			return err
		}
		return t.AddSession(catalog.Session{Token: hash, User: user, Created: now, Seen: now, Agent: agent})
	})
	return secret, err
}

// Who is somebody who is signed in.
type Who struct {
	*catalog.User
	Session [32]byte
}

// Administers tells whether he configures the archive. That gives no right to
// content.
func (w *Who) Administers() bool { return w.Has(RoleAdministrator) }

// Scope is whose mail he may see: that of the mailboxes he owns.
func (w *Who) Scope() catalog.Scope { return catalog.Scope{Mailboxes: w.Mailboxes} }

// Session returns who a session's secret belongs to, if it is still good.
func (x *Auth) Session(ctx context.Context, secret string) (*Who, error) {
	hash := sha256.Sum256([]byte(secret))
	w := &Who{Session: hash}
	var s catalog.Session
	err := x.a.State().View(ctx, func(v catalog.View) (err error) {
		if s, err = v.Session(hash); err == nil {
			w.User, err = v.UserByID(s.User)
		}
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, ErrSession
	}
	if err != nil {
		return nil, err
	}
	now := x.a.Now()
	maxIdle, maxAge := idle, absolute
	if w.Administers() {
		maxIdle, maxAge = idleAdmin, absoluteAdmin
	}
	if now.Sub(s.Seen) > maxIdle || now.Sub(s.Created) > maxAge {
		return nil, errors.Join(ErrSession, x.End(hash))
	}
	if now.Sub(s.Seen) >= touchEvery {
		if err := x.a.State().Write(func(t catalog.Tx) error { return t.TouchSession(hash, now) }); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// End ends a session.
func (x *Auth) End(session [32]byte) error {
	return x.a.State().Write(func(t catalog.Tx) error { return t.EndSession(session) })
}

// SetPassword changes a password and ends all other sessions.
func (x *Auth) SetPassword(ctx context.Context, w *Who, old, fresh string) error {
	if ok, _ := x.Hasher.Check(old, w.Password); !ok {
		return ErrSignIn
	}
	if err := CheckPassword(fresh, append([]string{w.Name}, x.names...)...); err != nil {
		return err
	}
	hash := x.Hasher.Hash(fresh)
	return x.a.Change(archive.Act{What: "password changed", Who: w.Name}, func(t catalog.Tx) error {
		return errors.Join(t.SetPassword(w.ID, hash), t.EndSessions(w.ID, w.Session))
	})
}
