package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/source"
	"github.com/letterhold/letterhold/internal/tlsconf"
	"github.com/letterhold/letterhold/internal/token"
)

// Profile says what is collected, from where, into whose mailbox, and how often.
// The source is left as it is, unless DeleteAfter is set. Its JSON is in
// state.db; the password is a secret of its own and is no part of it.
type Profile struct {
	ID      int64     `json:"-"`
	Name    string    `json:"-"`
	Enabled bool      `json:"-"`
	Created time.Time `json:"-"`

	From    string `json:"from"`    // URL without a password
	Mailbox string `json:"mailbox"` // may hold {account}, {user} and {domain}
	// Multidrop: the account holds everybody's mail, which is assigned by the
	// addresses of mailboxes; Mailbox gets what belongs to nobody.
	Multidrop bool `json:"multidrop,omitempty"`

	Include []string `json:"include,omitempty"` // folders; empty: all but spam, trash and drafts
	Exclude []string `json:"exclude,omitempty"`
	Target  string   `json:"target,omitempty"` // pattern of folders in the archive; default {folder}

	Accounts []Account `json:"accounts,omitempty"` // several of the server, each into its mailbox
	LoginAs  string    `json:"login_as,omitempty"` // how they are opened with the password of Admin
	Admin    string    `json:"admin,omitempty"`

	Every  Duration `json:"every,omitempty"` // 0: by hand
	At     string   `json:"at,omitempty"`    // daily "02:30", or weekly "Mon 02:30"
	Window string   `json:"window,omitempty"`
	Idle   bool     `json:"idle,omitempty"` // also when the server tells of new mail

	Token string `json:"token,omitempty"` // source of tokens, instead of a password

	// DeleteAfter is the age in days from which on messages that are archived
	// are deleted at the source; 0: never.
	DeleteAfter int `json:"delete_after,omitempty"`

	Bandwidth   int64 `json:"bandwidth,omitempty"`   // bytes a second, of all connections together; 0: no limit
	Connections int   `json:"connections,omitempty"` // at a time, of IMAP; 0 is 1

	AllowNet  []string   `json:"allow_net,omitempty"`
	CA        string     `json:"ca,omitempty"`  // PEM
	Pin       string     `json:"pin,omitempty"` // SHA-256 of the server's key
	Exception *Exception `json:"exception,omitempty"`
}

// Exception is a weakening that somebody answers for, for a limited time.
type Exception struct {
	Kind   string    `json:"kind"` // unverified, cleartext
	Owner  string    `json:"owner"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
}

// Kinds of exceptions.
const (
	Unverified = "unverified" // TLS, whatever certificate the server shows
	Cleartext  = "cleartext"  // no TLS
)

// MaxException is how long an exception may last; then somebody looks again.
const MaxException = 30 * 24 * time.Hour

// Duration is a time.Duration that JSON shows as text.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	x, err := time.ParseDuration(string(b))
	*d = Duration(x)
	return err
}

// minEvery is how often a source is asked at most.
const minEvery = 5 * time.Minute

// Check refuses a profile that cannot work or is not safe.
func (p *Profile) Check(now time.Time) error {
	if err := catalog.CheckName(p.Name); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	e, err := p.endpoint()
	if err != nil {
		return err
	}
	if err := p.checkAccounts(e); err != nil {
		return err
	}
	if err := p.timing().Check(); err != nil {
		return err
	}
	for _, pattern := range slices.Concat(p.Include, p.Exclude) {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("folders %q: %w", pattern, err)
		}
	}
	if way, yes := token.Passwordless(e.host); yes && p.Token == "" {
		return fmt.Errorf("%s: %s (--token-source)", e.host, way)
	}
	if p.Token != "" && e.scheme == "folder" {
		return errors.New("a folder needs no token")
	}
	if err := errors.Join(p.checkLimits(e), p.checkDelete(e), p.checkIdle(e)); err != nil {
		return err
	}
	return p.Connection().Check(e.host, now)
}

const (
	// minBandwidth lets a command and its answer pass within a second.
	minBandwidth = 10_000
	// maxConnections is what servers commonly allow an account, and each may
	// hold a large message in memory.
	maxConnections = 8
)

func (p *Profile) checkLimits(e endpoint) error {
	switch {
	case p.Bandwidth != 0 && p.Bandwidth < minBandwidth:
		return fmt.Errorf("bandwidth of %d bytes a second: the least is %d; 0 is no limit", p.Bandwidth, minBandwidth)
	case p.Connections < 0 || p.Connections > maxConnections:
		return fmt.Errorf("%d connections: it is 1 to %d", p.Connections, maxConnections)
	case p.Connections > 1 && !strings.HasPrefix(e.scheme, "imap"):
		return errors.New("more than one connection is for IMAP: a POP3 account is locked by the first, a folder has none")
	}
	return nil
}

// Connection is how the profile's server is reached.
func (p *Profile) Connection() Connection {
	return Connection{p.AllowNet, p.CA, p.Pin, p.Exception}
}

// SetConnection changes how the profile's server is reached.
func (p *Profile) SetConnection(c Connection) {
	p.AllowNet, p.CA, p.Pin, p.Exception = c.AllowNet, c.CA, c.Pin, c.Exception
}

func (p *Profile) timing() Timing { return Timing{p.Every, p.At, p.Window} }

// endpoint is what the profile's URL says.
type endpoint struct {
	scheme   string // imap, imaps, pop3, pop3s, folder
	user     string
	host     string
	port     int
	path     string
	security imapclient.Security
}

// schemes with their ports. Without the "s", STARTTLS is mandatory.
var schemes = map[string]struct {
	port     int
	security imapclient.Security
}{
	"imaps": {993, imapclient.ImplicitTLS}, "imap": {143, imapclient.StartTLS},
	"pop3s": {995, imapclient.ImplicitTLS}, "pop3": {110, imapclient.StartTLS},
}

func (p *Profile) endpoint() (e endpoint, err error) {
	if path, ok := strings.CutPrefix(p.From, "folder:"); ok {
		if !strings.HasPrefix(path, "/") {
			return e, fmt.Errorf("source %q: a folder is written folder:/path", p.From)
		}
		return endpoint{scheme: "folder", path: path}, nil
	}
	u, err := url.Parse(p.From)
	if err != nil {
		return e, errors.New("source: it is written like imaps://user@host:993")
	}
	s, ok := schemes[u.Scheme]
	switch {
	case !ok:
		return e, fmt.Errorf("source %q: it begins with imaps://, imap://, pop3s://, pop3:// or folder:/", u.Scheme)
	case u.Hostname() == "":
		return e, fmt.Errorf("source: the host is missing; it is written like %s://user@host:%d", u.Scheme, s.port)
	case len(p.Accounts) > 0 && u.User != nil:
		return e, fmt.Errorf("source: with several accounts it is written like %s://host:%d", u.Scheme, s.port)
	case len(p.Accounts) == 0 && (u.User == nil || u.User.Username() == ""):
		return e, fmt.Errorf("source: the account is missing; it is written like %s://user@host:%d", u.Scheme, s.port)
	}
	if _, set := u.User.Password(); set {
		return e, errors.New("source: the password does not belong into the address, where logs would show it; use --password-file")
	}
	e = endpoint{scheme: u.Scheme, user: u.User.Username(), host: u.Hostname(), security: s.security}
	if e.port, err = source.ParsePort(u.Port(), s.port); err != nil {
		return e, err
	}
	if p.Exception != nil && p.Exception.Kind == Cleartext {
		if strings.HasSuffix(u.Scheme, "s") {
			return e, fmt.Errorf("source: %s:// is encrypted; an exception for %s is for %s://", u.Scheme, Cleartext, strings.TrimSuffix(u.Scheme, "s"))
		}
		e.security = imapclient.Cleartext
	}
	return e, nil
}

// ErrException: the exception that a profile rests on has ended.
var ErrException = errors.New("the exception has ended: the profile rests and the mail stays at its source")

// open returns the source of a profile.
func (p *Profile) open(a *archive.Archive, r *Runner, missed []catalog.Missed, note func(string, ...any), total func(int64)) (source.Source, error) {
	e, err := p.endpoint()
	if err != nil {
		return nil, err
	}
	if p.Exception.Over(a.Now()) {
		return nil, ErrException
	}
	if e.scheme == "folder" {
		return &source.Drop{Dir: e.path}, nil
	}
	o, err := p.Connection().Options(e.host, e.port, e.security, a.Now)
	if err != nil {
		return nil, err
	}
	o.Dialer.Limit = tlsconf.NewLimit(p.Bandwidth)
	one := func(account string, missed []catalog.Missed) source.Source {
		var retry []source.Ref
		for _, m := range missed {
			if m.Tries < maxTries {
				retry = append(retry, source.Ref{Folder: m.Folder, Validity: m.Validity, UID: m.UID, UIDL: m.UIDL, Size: m.Size})
			}
		}
		note, total := note, total
		if len(p.Accounts) > 0 {
			all := note
			note = func(format string, args ...any) { all("%s: "+format, append([]any{account}, args...)...) }
			total = nil // each account tells its own
		}
		if strings.HasPrefix(e.scheme, "pop3") {
			return &source.POP3{Options: o, Credential: r.credential(p, account), Retry: retry, Note: note, Total: total, Patience: r.Patience}
		}
		return &source.IMAP{Options: o, Credential: r.credential(p, account), Filter: source.Filter{Include: p.Include, Exclude: p.Exclude}, Retry: retry, Note: note, Total: total, Patience: r.Patience, Connections: p.Connections}
	}
	if len(p.Accounts) > 0 {
		return openAccounts(p.accounts(e), missed, one), nil
	}
	return one(e.user, missed), nil
}

// maxTries is how often a message that fails is tried by itself.
const maxTries = 5

// decode reads a profile as the catalog has it.
func decode(c *catalog.Profile) (*Profile, error) {
	p := &Profile{ID: c.ID, Name: c.Name, Enabled: c.Enabled, Created: c.Created}
	if err := json.Unmarshal(c.Spec, p); err != nil {
		return nil, fmt.Errorf("profile %q: %w", c.Name, err)
	}
	return p, nil
}

func (p *Profile) encode() (catalog.Profile, error) {
	b, err := json.Marshal(p)
	return catalog.Profile{ID: p.ID, Kind: catalog.KindSource, Name: p.Name, Spec: b, Enabled: p.Enabled, Created: p.Created}, err
}

// Profiles returns all profiles by name.
func Profiles(ctx context.Context, a *archive.Archive) ([]*Profile, error) {
	return Stored(ctx, a, catalog.KindSource, decode)
}

// ErrNoProfile: there is no profile of that name.
var ErrNoProfile = errors.New("no such profile")

// Load returns a profile by name.
func Load(ctx context.Context, a *archive.Archive, name string) (*Profile, error) {
	return Named(ctx, a, catalog.KindSource, name, ErrNoProfile, decode)
}

// Save stores a profile, a new one if it has no id. A password of nil stays as
// it is. An exception is an act of its own, with who answers for it.
func Save(a *archive.Archive, p *Profile, password []byte, who string) error {
	return SaveWith(a, p, Secrets{Password: password}, who)
}

// SaveWith is Save with the passwords of accounts.
func SaveWith(a *archive.Archive, p *Profile, secrets Secrets, who string) error {
	if len(secrets.Accounts) > 0 && p.LoginAs != "" {
		return errors.New("accounts: they are opened with the administrator's password; those in the file would not be used")
	}
	if err := p.Check(a.Now()); err != nil {
		return err
	}
	what := "profile changed"
	if p.ID == 0 {
		what, p.Created = "profile added", a.Now()
	}
	act := archive.Act{What: what, Who: who, Of: p.Name}
	p.Exception.Tell(&act)
	if p.DeleteAfter > 0 {
		act.More = append(act.More, fmt.Sprintf("deletes at the source after %d days", p.DeleteAfter))
	}
	c, err := p.encode()
	if err != nil {
		return err
	}
	key := a.Key(seal.PurposeSecret).Key
	return a.Change(act, func(t catalog.Tx) (err error) {
		if p.ID == 0 {
			p.ID, err = t.AddProfile(c)
		} else {
			err = t.SetProfile(c)
		}
		if err != nil {
			return err
		}
		return secrets.store(t, key, p.ID)
	})
}

// Remove removes a profile; what it collected stays.
func Remove(a *archive.Archive, p *Profile, who string) error {
	return a.Change(archive.Act{What: "profile removed", Who: who, Of: p.Name}, func(t catalog.Tx) error { return t.RemoveProfile(p.ID) })
}

// schedule is when a profile runs by itself.
type schedule struct {
	every  time.Duration
	day    int // of the week; -1: any
	minute int // of the day; -1: not daily
	from   int // minutes of the day between which it runs; both 0: always
	to     int
	err    error
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func (t Timing) schedule() schedule {
	s := schedule{every: time.Duration(t.Every), day: -1, minute: -1}
	if t.At != "" {
		fields := strings.Fields(strings.ToLower(t.At))
		if len(fields) == 2 {
			s.day = slices.IndexFunc(weekdays, func(d string) bool { return strings.HasPrefix(fields[0], d) })
			if s.day < 0 {
				s.err = fmt.Errorf("time %q: it is written 02:30, or Mon 02:30", t.At)
			}
			fields = fields[1:]
		}
		var err error
		if s.minute, err = clock(fields[0]); err != nil || len(fields) != 1 {
			s.err = fmt.Errorf("time %q: it is written 02:30, or Mon 02:30", t.At)
		}
	}
	if t.Window != "" {
		a, b, ok := strings.Cut(t.Window, "-")
		var err1, err2 error
		s.from, err1 = clock(a)
		s.to, err2 = clock(b)
		if !ok || err1 != nil || err2 != nil || s.from == s.to {
			s.err = fmt.Errorf("time window %q: it is written 22:00-06:00", t.Window)
		}
	}
	return s
}

func clock(s string) (int, error) {
	h, m, ok := strings.Cut(strings.TrimSpace(s), ":")
	hours, err1 := strconv.Atoi(h)
	minutes, err2 := strconv.Atoi(m)
	if !ok || err1 != nil || err2 != nil || hours < 0 || hours > 23 || minutes < 0 || minutes > 59 {
		return 0, fmt.Errorf("time of day %q", s)
	}
	return hours*60 + minutes, nil
}

func (s schedule) check() error { return s.err }

// open tells whether a moment lies in the time window.
func (s schedule) open(now time.Time) bool {
	minute := now.Hour()*60 + now.Minute()
	return s.from == s.to || s.from < s.to && minute >= s.from && minute < s.to || s.from > s.to && (minute >= s.from || minute < s.to)
}

// due tells whether a run is due at a moment, the last having begun at another.
func (s schedule) due(last, now time.Time) bool {
	if !s.open(now) {
		return false
	}
	switch {
	case s.minute >= 0:
		at := time.Date(now.Year(), now.Month(), now.Day(), s.minute/60, s.minute%60, 0, 0, now.Location())
		if s.day >= 0 {
			at = at.AddDate(0, 0, -((int(now.Weekday()) - s.day + 7) % 7))
		}
		if at.After(now) {
			return false
		}
		return last.Before(at)
	case s.every > 0:
		return !now.Before(last.Add(s.every))
	}
	return false
}
