package catalog

import (
	"errors"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// TokenSource is where access tokens for accounts come from. Its secret is kept
// under TokenSecret.
type TokenSource struct {
	ID      int64
	Name    string
	Spec    []byte // JSON, without secrets
	Created time.Time
}

// TokenSecret names the secret of a source of tokens.
func TokenSecret(id int64) string { return fmt.Sprintf("token source %d", id) }

// AddTokenSource stores a source and gives it its id.
func (t Tx) AddTokenSource(x *TokenSource) error {
	if err := CheckName(x.Name); err != nil {
		return fmt.Errorf("token source: %w", err)
	}
	if err := t.c.run(`INSERT INTO tokens (name, spec, created) VALUES (?,?,?)`, x.Name, string(x.Spec), x.Created.Unix()); err != nil {
		return fmt.Errorf("token source %q: %w", x.Name, err)
	}
	x.ID = t.c.LastInsertRowID()
	return nil
}

// RemoveTokenSource removes a source and its secret.
func (t Tx) RemoveTokenSource(id int64) error {
	return errors.Join(t.c.run(`DELETE FROM secrets WHERE name = ?`, TokenSecret(id)), t.c.run(`DELETE FROM tokens WHERE id = ?`, id))
}

// TokenSources returns all sources by name.
func (v View) TokenSources() (out []TokenSource, err error) {
	err = v.c.query(`SELECT id, name, spec, created FROM tokens ORDER BY name`, func(s *sqlite3.Stmt) error {
		out = append(out, TokenSource{s.ColumnInt64(0), s.ColumnText(1), []byte(s.ColumnText(2)), time.Unix(s.ColumnInt64(3), 0).UTC()})
		return nil
	})
	return out, err
}

// TokenSource returns a source by name, in any case.
func (v View) TokenSource(name string) (x *TokenSource, err error) {
	err = v.c.query(`SELECT id, name, spec, created FROM tokens WHERE name = ?`, func(s *sqlite3.Stmt) error {
		x = &TokenSource{s.ColumnInt64(0), s.ColumnText(1), []byte(s.ColumnText(2)), time.Unix(s.ColumnInt64(3), 0).UTC()}
		return nil
	}, name)
	if err == nil && x == nil {
		err = ErrNotFound
	}
	return x, err
}
