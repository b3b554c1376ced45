package catalog

import (
	_ "embed"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"

	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/vault"
)

//go:embed testdata/state-1.sql
var state1 string

//go:embed testdata/state-2.sql
var state2Shape string

// A state.db of each earlier version becomes what a new one is, and keeps what
// it holds.
func TestMigrate(t *testing.T) {
	columns := func(s *State) (out []string) {
		t.Helper()
		err := s.db.writer.query(`SELECT m.type || ' ' || m.name || coalesce('.' || p.name || ' ' || p.type || ' ' || p."notnull" || ' ' || coalesce(p.dflt_value, '-') || ' ' || p.pk, '')
			FROM sqlite_schema m LEFT JOIN pragma_table_info(m.name) p WHERE m.name NOT LIKE 'sqlite_%'`, func(st *sqlite3.Stmt) error {
			out = append(out, st.ColumnText(0))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(out)
		return out
	}
	fresh, err := OpenState(crashfs.New(), seal.Key{1})
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	for version, schema := range map[int]string{1: state1, 2: state2Shape} {
		d := crashfs.New()
		db, err := openDatabase(d, StateName, seal.Key{1}, shape{newest: schema, steps: make([]string, version-1)}, vault.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.writer.Exec(`INSERT INTO mailboxes (name) VALUES ('kept'); INSERT INTO runs (what, state, started) VALUES ('w', 'done', 7)`); err != nil {
			t.Fatal(err)
		}
		if err := db.close(); err != nil {
			t.Fatal(err)
		}
		s, err := OpenState(d, seal.Key{1})
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		if diff := cmp.Diff(columns(fresh), columns(s)); diff != "" {
			t.Errorf("version %d becomes something else (-new +migrated):\n%s", version, diff)
		}
		rs, err := View{s.db.writer}.Runs(5)
		if err != nil || len(rs) != 1 || rs[0].What != "w" || rs[0].Started.Unix() != 7 {
			t.Errorf("version %d: runs %+v, %v", version, rs, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
