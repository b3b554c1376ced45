package catalog

import (
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// Kinds of profiles.
const (
	KindSource = "source" // mail comes in
	KindTarget = "target" // mail goes out
)

// Profile is an archiving or export profile. Its spec is JSON, which package
// ingest or export reads; its password or token is a secret of its own.
type Profile struct {
	ID      int64
	Kind    string
	Name    string
	Spec    []byte
	Enabled bool
	Created time.Time
}

// AddProfile stores a new profile and returns its id.
func (t Tx) AddProfile(p Profile) (int64, error) {
	if err := CheckName(p.Name); err != nil {
		return 0, fmt.Errorf("profile: %w", err)
	}
	if err := t.c.run(`INSERT INTO profiles (kind, name, spec, enabled, created) VALUES (?,?,?,?,?)`, p.Kind, p.Name, string(p.Spec), p.Enabled, p.Created.Unix()); err != nil {
		return 0, fmt.Errorf("profile %q: %w", p.Name, err)
	}
	return t.c.LastInsertRowID(), nil
}

// SetProfile stores what has changed of a profile.
func (t Tx) SetProfile(p Profile) error {
	return t.c.run(`UPDATE profiles SET name = ?, spec = ?, enabled = ? WHERE id = ?`, p.Name, string(p.Spec), p.Enabled, p.ID)
}

// RemoveProfile removes a profile with its secrets, marks and open failures; its
// runs stay.
func (t Tx) RemoveProfile(id int64) error {
	for _, q := range []string{`DELETE FROM profiles WHERE id = ?`, `DELETE FROM marks WHERE profile = ?`, `DELETE FROM missed WHERE profile = ?`} {
		if err := t.c.run(q, id); err != nil {
			return err
		}
	}
	return t.c.run(`DELETE FROM secrets WHERE name IN (?, ?)`, ProfileSecret(id), AccountsSecret(id))
}

// ProfileSecret is the name of a profile's secret.
func ProfileSecret(id int64) string { return fmt.Sprintf("profile %d", id) }

// AccountsSecret is the name of the secret with the passwords of a profile's
// accounts.
func AccountsSecret(id int64) string { return ProfileSecret(id) + " accounts" }

func (v View) profiles(where string, args ...any) (out []Profile, err error) {
	err = v.c.query(`SELECT id, kind, name, spec, enabled, created FROM profiles `+where, func(s *sqlite3.Stmt) error {
		out = append(out, Profile{s.ColumnInt64(0), s.ColumnText(1), s.ColumnText(2), []byte(s.ColumnText(3)), s.ColumnBool(4), time.Unix(s.ColumnInt64(5), 0).UTC()})
		return nil
	}, args...)
	return out, err
}

// Profiles returns the profiles of a kind by name.
func (v View) Profiles(kind string) ([]Profile, error) {
	return v.profiles(`WHERE kind = ? ORDER BY name`, kind)
}

// Profile returns a profile by name, in any case.
func (v View) Profile(kind, name string) (*Profile, error) {
	ps, err := v.profiles(`WHERE kind = ? AND name = ?`, kind, name)
	if err == nil && len(ps) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return &ps[0], nil
}

// SetMark stores how far a profile has read a folder of its source.
func (t Tx) SetMark(profile int64, key, value string) error {
	return t.c.run(`INSERT INTO marks (profile, key, value) VALUES (?,?,?) ON CONFLICT (profile, key) DO UPDATE SET value = excluded.value`, profile, key, value)
}

// Marks returns how far a profile has read its source.
func (v View) Marks(profile int64) (map[string]string, error) {
	out := map[string]string{}
	err := v.c.query(`SELECT key, value FROM marks WHERE profile = ?`, func(s *sqlite3.Stmt) error {
		out[s.ColumnText(0)] = s.ColumnText(1)
		return nil
	}, profile)
	return out, err
}

// Missed is a message of a source that could not be archived and is still to
// be had there.
type Missed struct {
	Where    string    `json:"where"` // the same for the same message
	Folder   string    `json:"folder"`
	Validity uint32    `json:"uidvalidity,omitempty"`
	UID      uint32    `json:"uid,omitempty"`
	UIDL     string    `json:"uidl,omitempty"`
	Size     int64     `json:"size,omitempty"`
	Reason   string    `json:"reason"`
	Tries    int       `json:"tries"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
}

// AddMissed stores a message that failed, or counts another try.
func (t Tx) AddMissed(profile int64, m Missed) error {
	return t.c.run(`INSERT INTO missed (profile, place, folder, validity, uid, uidl, size, reason, tries, first, last) VALUES (?,?,?,?,?,?,?,?,1,?,?)
		ON CONFLICT (profile, place) DO UPDATE SET reason = excluded.reason, tries = tries + 1, last = excluded.last`,
		profile, m.Where, m.Folder, int64(m.Validity), int64(m.UID), m.UIDL, m.Size, m.Reason, m.Last.Unix(), m.Last.Unix())
}

// RetryMissed makes everything that a profile missed be tried as if it had not
// been before.
func (t Tx) RetryMissed(profile int64) error {
	return t.c.run(`UPDATE missed SET tries = 0 WHERE profile = ?`, profile)
}

// RemoveMissed forgets a message that has been archived after all.
func (t Tx) RemoveMissed(profile int64, where string) error {
	return t.c.run(`DELETE FROM missed WHERE profile = ? AND place = ?`, profile, where)
}

// Missed returns what a profile could not archive, oldest first.
func (v View) Missed(profile int64, limit int) (out []Missed, err error) {
	err = v.c.query(`SELECT place, folder, validity, uid, uidl, size, reason, tries, first, last FROM missed WHERE profile = ? ORDER BY first, place LIMIT ?`, func(s *sqlite3.Stmt) error {
		out = append(out, Missed{s.ColumnText(0), s.ColumnText(1), uint32(s.ColumnInt64(2)), uint32(s.ColumnInt64(3)), s.ColumnText(4), s.ColumnInt64(5), s.ColumnText(6), s.ColumnInt(7),
			time.Unix(s.ColumnInt64(8), 0).UTC(), time.Unix(s.ColumnInt64(9), 0).UTC()})
		return nil
	}, profile, limit)
	return out, err
}
