package catalog

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/vault"
)

//go:embed sql/state.sql
var stateSchema string

//go:embed sql/migrations/state-2.sql
var state2 string

//go:embed sql/migrations/state-3.sql
var state3 string

// StateName is the file's name in the archive.
const StateName = "state.db"

// State is what exists nowhere else. Each change that matters for security
// counts its generation up; the ledger knows the generation too.
type State struct {
	db *database
	mu sync.Mutex // held by whoever writes
}

// OpenState opens or creates state.db.
func OpenState(d durable.FS, key seal.Key) (*State, error) {
	db, err := openDatabase(d, StateName, key, shape{stateSchema, []string{state2, state3}}, vault.Options{Cache: 512, WALPages: 200})
	if err != nil {
		return nil, err
	}
	return &State{db: db}, nil
}

// LookAtState opens state.db as it is: an older shape stays.
func LookAtState(d durable.FS, key seal.Key) (*State, error) {
	db, err := openDatabase(d, StateName, key, shape{}, vault.Options{})
	if err != nil {
		return nil, err
	}
	return &State{db: db}, nil
}

// Close closes state.db.
func (s *State) Close() error { return s.db.close() }

// Check reads every page and the structure.
func (s *State) Check(problem func(string)) error { return s.db.check(problem) }

// Checkpoint copies the log into the main file, so that it can be copied.
func (s *State) Checkpoint() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.db.checkpoint()
}

// Copy runs fn while nothing writes to state.db and its log is empty.
func (s *State) Copy(fn func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.db.checkpoint(); err != nil {
		return err
	}
	return s.db.writer.tx(fn)
}

// Generation is the number of the last change that mattered for security.
func (s *State) Generation() (g uint64, err error) {
	err = s.db.read(context.Background(), func(r *conn) error {
		n, _, err := r.number(`SELECT value FROM meta WHERE name = 'generation'`)
		g = uint64(n)
		return err
	})
	return g, err
}

// Tx changes state inside a transaction.
type Tx struct{ c *conn }

// Change runs fn in a transaction that sets the generation.
func (s *State) Change(generation uint64, fn func(Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.db.writer
	return w.tx(func() error {
		if err := fn(Tx{w}); err != nil {
			return err
		}
		return setMeta(w, "generation", int64(generation))
	})
}

// Write runs fn in a transaction that leaves the generation: sessions, the
// progress of runs, counters.
func (s *State) Write(fn func(Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.db.writer
	return w.tx(func() error { return fn(Tx{w}) })
}

// View runs fn with what State and Tx have in common: reading.
func (s *State) View(ctx context.Context, fn func(View) error) error {
	return s.db.read(ctx, func(r *conn) error { return fn(View{r}) })
}

// View reads state.
type View struct{ c *conn }

// View reads inside the transaction.
func (t Tx) View() View { return View(t) }

// Mailbox is what is archived, and has owners.
type Mailbox struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// MaxName is the longest name of a mailbox or user in characters.
const MaxName = 200

// CheckName refuses names that cannot be told apart or shown.
func CheckName(name string) error {
	switch {
	case strings.TrimSpace(name) != name || name == "":
		return fmt.Errorf("name %q: it is empty, or begins or ends with a space", name)
	case len([]rune(name)) > MaxName:
		return fmt.Errorf("name %q...: longer than %d characters", name[:20], MaxName)
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 127 || r == 0xFFFD }):
		return fmt.Errorf("name %q: contains control characters", name)
	}
	return nil
}

// AddMailbox makes a mailbox and returns its id.
func (t Tx) AddMailbox(name string) (int64, error) {
	if err := CheckName(name); err != nil {
		return 0, fmt.Errorf("mailbox: %w", err)
	}
	if err := t.c.run(`INSERT INTO mailboxes (name) VALUES (?)`, name); err != nil {
		return 0, fmt.Errorf("mailbox %q: %w", name, err)
	}
	return t.c.LastInsertRowID(), nil
}

// Mailboxes returns all mailboxes by name.
func (v View) Mailboxes() (out []Mailbox, err error) {
	err = v.c.query(`SELECT id, name FROM mailboxes ORDER BY name`, func(s *sqlite3.Stmt) error {
		out = append(out, Mailbox{s.ColumnInt64(0), s.ColumnText(1)})
		return nil
	})
	return out, err
}

// MailboxNames returns the names of all mailboxes by their ids.
func (s *State) MailboxNames(ctx context.Context) (map[int64]string, error) {
	out := map[int64]string{}
	err := s.View(ctx, func(v View) error {
		ms, err := v.Mailboxes()
		for _, m := range ms {
			out[m.ID] = m.Name
		}
		return err
	})
	return out, err
}

// Mailbox returns the id of a mailbox by name, in any case.
func (v View) Mailbox(name string) (int64, bool, error) {
	return v.c.number(`SELECT id FROM mailboxes WHERE name = ?`, name)
}

// User is somebody who can sign in.
type User struct {
	ID        int64
	Name      string
	Display   string
	Language  string
	Zone      string
	Password  string // PHC form; "" if none is set
	Failures  int
	Failed    time.Time
	Roles     []string
	Mailboxes []int64 // owned
}

// Has tells whether the user has a role.
func (u *User) Has(role string) bool {
	for _, r := range u.Roles {
		if r == role {
			return true
		}
	}
	return false
}

// AddUser makes a user with roles and mailboxes and returns his id.
func (t Tx) AddUser(u User, now time.Time) (int64, error) {
	if err := CheckName(u.Name); err != nil {
		return 0, fmt.Errorf("user: %w", err)
	}
	if err := t.c.run(`INSERT INTO users (name, display, language, zone, password, created) VALUES (?,?,?,?,?,?)`, u.Name, u.Display, u.Language, zone(u.Zone), u.Password, now.Unix()); err != nil {
		return 0, fmt.Errorf("user %q: %w", u.Name, err)
	}
	id := t.c.LastInsertRowID()
	for _, r := range u.Roles {
		if err := t.c.run(`INSERT INTO roles (user, role) VALUES (?,?)`, id, r); err != nil {
			return 0, err
		}
	}
	for _, m := range u.Mailboxes {
		if err := t.c.run(`INSERT INTO owners (user, mailbox) VALUES (?,?)`, id, m); err != nil {
			return 0, err
		}
	}
	return id, nil
}

func zone(z string) string {
	if z == "" {
		return "UTC"
	}
	return z
}

const userColumns = `id, name, display, language, zone, password, failures, failed`

func (v View) user(where string, arg any) (*User, error) {
	var u *User
	err := v.c.query(`SELECT `+userColumns+` FROM users WHERE `+where, func(s *sqlite3.Stmt) error {
		u = &User{ID: s.ColumnInt64(0), Name: s.ColumnText(1), Display: s.ColumnText(2), Language: s.ColumnText(3), Zone: s.ColumnText(4), Password: s.ColumnText(5), Failures: s.ColumnInt(6), Failed: time.Unix(s.ColumnInt64(7), 0)}
		return nil
	}, arg)
	if err != nil {
		return nil, err
	}
	if u == nil {
		return nil, ErrNotFound
	}
	err = v.c.query(`SELECT role FROM roles WHERE user = ? ORDER BY role`, func(s *sqlite3.Stmt) error {
		u.Roles = append(u.Roles, s.ColumnText(0))
		return nil
	}, u.ID)
	if err != nil {
		return nil, err
	}
	return u, v.c.query(`SELECT mailbox FROM owners WHERE user = ? ORDER BY mailbox`, func(s *sqlite3.Stmt) error {
		u.Mailboxes = append(u.Mailboxes, s.ColumnInt64(0))
		return nil
	}, u.ID)
}

// User returns a user by name, in any case.
func (v View) User(name string) (*User, error) { return v.user(`name = ?`, name) }

// UserByID returns a user by id.
func (v View) UserByID(id int64) (*User, error) { return v.user(`id = ?`, id) }

// WithRole returns the names of the users who have a role.
func (v View) WithRole(role string) (names []string, err error) {
	err = v.c.query(`SELECT u.name FROM users u JOIN roles r ON r.user = u.id WHERE r.role = ? ORDER BY u.name`, func(s *sqlite3.Stmt) error {
		names = append(names, s.ColumnText(0))
		return nil
	}, role)
	return names, err
}

// Users counts users.
func (v View) Users() (int64, error) {
	n, _, err := v.c.number(`SELECT count(*) FROM users`)
	return n, err
}

// SetPassword stores a password's hash and forgets failures.
func (t Tx) SetPassword(user int64, phc string) error {
	return t.c.run(`UPDATE users SET password = ?, failures = 0, failed = 0 WHERE id = ?`, phc, user)
}

// SetFailures stores the failed sign-ins of a user.
func (t Tx) SetFailures(user int64, n int, at time.Time) error {
	return t.c.run(`UPDATE users SET failures = ?, failed = ? WHERE id = ?`, n, at.Unix(), user)
}

// SetLanguage stores language and time zone of a user.
func (t Tx) SetLanguage(user int64, language, tz string) error {
	return t.c.run(`UPDATE users SET language = ?, zone = ? WHERE id = ?`, language, zone(tz), user)
}

// Session is a signed-in browser.
type Session struct {
	Token   [32]byte // SHA-256 of the cookie
	User    int64
	Created time.Time
	Seen    time.Time
	Agent   string
}

// AddSession stores a session.
func (t Tx) AddSession(x Session) error {
	return t.c.run(`INSERT INTO sessions (token, user, created, seen, agent) VALUES (?,?,?,?,?)`, x.Token[:], x.User, x.Created.Unix(), x.Seen.Unix(), x.Agent)
}

// Session returns a session by its token's hash.
func (v View) Session(token [32]byte) (x Session, err error) {
	found := false
	err = v.c.query(`SELECT user, created, seen, agent FROM sessions WHERE token = ?`, func(s *sqlite3.Stmt) error {
		found = true
		x = Session{token, s.ColumnInt64(0), time.Unix(s.ColumnInt64(1), 0), time.Unix(s.ColumnInt64(2), 0), s.ColumnText(3)}
		return nil
	}, token[:])
	if err == nil && !found {
		err = ErrNotFound
	}
	return x, err
}

// TouchSession stores when a session was used last.
func (t Tx) TouchSession(token [32]byte, now time.Time) error {
	return t.c.run(`UPDATE sessions SET seen = ? WHERE token = ?`, now.Unix(), token[:])
}

// EndSession removes a session.
func (t Tx) EndSession(token [32]byte) error {
	return t.c.run(`DELETE FROM sessions WHERE token = ?`, token[:])
}

// EndSessions removes a user's sessions but one, and all that are older than
// the cut-off.
func (t Tx) EndSessions(user int64, but [32]byte) error {
	return t.c.run(`DELETE FROM sessions WHERE user = ? AND token != ?`, user, but[:])
}

// ExpireSessions removes sessions that were created before a moment.
func (t Tx) ExpireSessions(created time.Time) error {
	return t.c.run(`DELETE FROM sessions WHERE created < ?`, created.Unix())
}

// Link is a one-time sign-in link that makes an account.
type Link struct {
	Token   [32]byte // SHA-256 of the secret
	Mailbox int64
	Expires time.Time
}

// AddLink stores a link.
func (t Tx) AddLink(l Link) error {
	return t.c.run(`INSERT INTO links (token, mailbox, expires) VALUES (?,?,?)`, l.Token[:], l.Mailbox, l.Expires.Unix())
}

// Link returns a link that has not been used.
func (v View) Link(token [32]byte) (l Link, err error) {
	found := false
	err = v.c.query(`SELECT mailbox, expires FROM links WHERE token = ?`, func(s *sqlite3.Stmt) error {
		found = true
		l = Link{token, s.ColumnInt64(0), time.Unix(s.ColumnInt64(1), 0)}
		return nil
	}, token[:])
	if err == nil && !found {
		err = ErrNotFound
	}
	return l, err
}

// UseLink removes a link.
func (t Tx) UseLink(token [32]byte) error {
	return t.c.run(`DELETE FROM links WHERE token = ?`, token[:])
}

// SetSecret stores sealed bytes under a name.
func (t Tx) SetSecret(name string, sealed []byte) error {
	return t.c.run(`INSERT INTO secrets (name, sealed) VALUES (?,?) ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed`, name, sealed)
}

// Secret returns sealed bytes.
func (v View) Secret(name string) (sealed []byte, err error) {
	err = v.c.query(`SELECT sealed FROM secrets WHERE name = ?`, func(s *sqlite3.Stmt) error {
		sealed = s.ColumnBlob(0, nil)
		return nil
	}, name)
	if err == nil && sealed == nil {
		err = ErrNotFound
	}
	return sealed, err
}

// Secrets returns the names of all secrets.
func (v View) Secrets() (names []string, err error) {
	err = v.c.query(`SELECT name FROM secrets ORDER BY name`, func(s *sqlite3.Stmt) error {
		names = append(names, s.ColumnText(0))
		return nil
	})
	return names, err
}

// SetSetting stores a setting.
func (t Tx) SetSetting(name, value string) error {
	return t.c.run(`INSERT INTO settings (name, value) VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
}

// Setting returns a setting; "" if it was never set.
func (v View) Setting(name string) (value string, err error) {
	err = v.c.query(`SELECT value FROM settings WHERE name = ?`, func(s *sqlite3.Stmt) error {
		value = s.ColumnText(0)
		return nil
	}, name)
	return value, err
}
