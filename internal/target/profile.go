package target

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/export"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/search"
)

// Profile says what is brought where, and how often. Its JSON is in state.db;
// the password is a secret of its own and is no part of it.
type Profile struct {
	ID      int64     `json:"-"`
	Name    string    `json:"-"`
	Enabled bool      `json:"-"`
	Created time.Time `json:"-"`

	Query  string        `json:"query"`            // "": everything
	Format export.Format `json:"format,omitempty"` // of files in a folder
	Place
	ingest.Timing
}

// Check refuses a profile that cannot work or is not safe.
func (p *Profile) Check(now time.Time) error {
	if err := catalog.CheckName(p.Name); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	e, _, err := search.Parse(p.Query)
	if err != nil {
		return err
	}
	if drifts(e) {
		return errors.New("older_than and newer_than find other mail tomorrow, which is not new; a target's query names dates instead, with before: and after: as in before:2026-01-01")
	}
	a, err := p.address()
	if err != nil {
		return err
	}
	switch {
	case a.kind == kindFolder && p.Folder != "":
		return errors.New("files in a folder are named by the program; --folder is for IMAP")
	case a.kind != kindFolder && p.Format != "":
		return errors.New("--format is for folder:/path; to a server messages go as they are")
	}
	if a.kind == kindFolder {
		if _, err := export.ParseFormat(string(p.Format)); err != nil {
			return err
		}
	}
	if err := p.Place.Check(now); err != nil {
		return err
	}
	return p.Timing.Check()
}

// drifts tells whether mail comes to match by the passing of time.
func drifts(e *search.Expr) bool {
	if e.Op == search.OpTerm {
		return e.Term.Field == "older_than" || e.Term.Field == "newer_than"
	}
	return slices.ContainsFunc(e.Kids, drifts)
}

// everything tells whether the query restricts nothing.
func (p *Profile) everything() bool {
	e, _, err := search.Parse(p.Query)
	return err == nil && e.Op == search.OpAnd && len(e.Kids) == 0
}

func decode(c *catalog.Profile) (*Profile, error) {
	p := &Profile{ID: c.ID, Name: c.Name, Enabled: c.Enabled, Created: c.Created}
	if err := json.Unmarshal(c.Spec, p); err != nil {
		return nil, fmt.Errorf("target %q: %w", c.Name, err)
	}
	return p, nil
}

// Profiles returns all profiles by name.
func Profiles(ctx context.Context, a *archive.Archive) ([]*Profile, error) {
	return ingest.Stored(ctx, a, catalog.KindTarget, decode)
}

// ErrNoTarget: there is no target of that name.
var ErrNoTarget = errors.New("no such target")

// Load returns a profile by name.
func Load(ctx context.Context, a *archive.Archive, name string) (*Profile, error) {
	return ingest.Named(ctx, a, catalog.KindTarget, name, ErrNoTarget, decode)
}

// Save stores a profile, a new one if it has no id. A password of nil stays as
// it is. An exception is an act of its own, with who answers for it. A profile
// whose place or format is another begins anew; so does one with another query,
// unless it goes out by SMTP, where nobody sees what is there already.
func Save(a *archive.Archive, p *Profile, password []byte, who string) error {
	if err := p.Check(a.Now()); err != nil {
		return err
	}
	ctx := context.Background()
	others, err := Profiles(ctx, a)
	if err != nil {
		return err
	}
	at, _ := p.address()
	anew := false
	for _, o := range others {
		was, _ := o.address()
		switch {
		case o.ID == p.ID:
			anew = o.To != p.To || o.Folder != p.Folder || o.Rcpt != p.Rcpt || o.Format != p.Format || o.Query != p.Query && at.kind != kindSMTP
		case at.kind == kindFolder && was.kind == kindFolder && filepath.Clean(was.path) == filepath.Clean(at.path):
			return fmt.Errorf("target %q writes into this folder already; each has a folder of its own", o.Name)
		}
	}
	var missed []catalog.Missed
	if anew {
		if err := a.State().View(ctx, func(v catalog.View) (err error) {
			missed, err = v.Missed(p.ID, 1<<31)
			return err
		}); err != nil {
			return err
		}
	}
	what := "target changed"
	if p.ID == 0 {
		what, p.Created = "target added", a.Now()
	}
	act := archive.Act{What: what, Who: who, Of: p.Name, More: []string{"to " + p.To}}
	p.Exception.Tell(&act)
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	c := catalog.Profile{ID: p.ID, Kind: catalog.KindTarget, Name: p.Name, Spec: b, Enabled: p.Enabled, Created: p.Created}
	key := a.Key(seal.PurposeSecret).Key
	return a.Change(act, func(t catalog.Tx) (err error) {
		if p.ID == 0 {
			p.ID, err = t.AddProfile(c)
		} else {
			err = t.SetProfile(c)
		}
		if err == nil && anew {
			for _, m := range marks {
				err = errors.Join(err, t.SetMark(p.ID, m, ""))
			}
			for _, m := range missed {
				err = errors.Join(err, t.RemoveMissed(p.ID, m.Where))
			}
		}
		if err != nil || password == nil {
			return err
		}
		name := catalog.ProfileSecret(p.ID)
		return t.SetSecret(name, seal.SealBox(key, []byte(name), password))
	})
}

// Remove removes a profile; what it brought out stays where it is.
func Remove(a *archive.Archive, p *Profile, who string) error {
	return a.Change(archive.Act{What: "target removed", Who: who, Of: p.Name}, func(t catalog.Tx) error { return t.RemoveProfile(p.ID) })
}
