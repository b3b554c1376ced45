// Package internal_test checks the direction of the arrows between packages.
package internal_test

import (
	"errors"
	"go/build"
	"io/fs"
	"os"
	"strings"
	"testing"
)

// rows are the layers, lowest first; within a row arrows point to the right
// neighbour, that is, to packages named later.
var rows = [][]string{
	{"pop3client", "smtpclient", "imapclient", "extract", "mbox", "message", "pack", "spool", "seal", "durable", "token", "tlsconf", "safehtml", "sample"},
	{"store", "ledger", "vault"},
	{"archive", "catalog"},
	{"search", "index", "auth"},
	{"posture", "target", "upload", "ingest", "source", "export", "delivery"},
	{"web", "journal"},
	{"server"},
	{"mailtest"}, // for tests
}

func TestArrowsPointDown(t *testing.T) {
	type place struct{ row, col int }
	places := map[string]place{}
	for r, row := range rows {
		for c, name := range row {
			places[name] = place{r, c}
		}
	}
	const module = "github.com/letterhold/letterhold/internal/"
	err := fs.WalkDir(os.DirFS("."), ".", func(dir string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() || dir == "." {
			return err
		}
		if e.Name() == "testdata" {
			return fs.SkipDir
		}
		p, err := build.ImportDir(dir, 0)
		if none := (*build.NoGoError)(nil); errors.As(err, &none) {
			return nil // templates and the like
		}
		if err != nil {
			return err
		}
		// A package inside another has the other's place.
		top, _, _ := strings.Cut(dir, "/")
		from, ok := places[top]
		if !ok {
			t.Errorf("package %s has no place in the layers", dir)
		}
		for _, imp := range p.Imports {
			name, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			target, _, _ := strings.Cut(name, "/")
			if to := places[target]; target != top && (to.row > from.row || to.row == from.row && to.col <= from.col) {
				t.Errorf("%s imports %s: arrows point down, or to the right within a row", dir, name)
			}
			if top != "mailtest" && (name == "durable/crashfs" || target == "mailtest") {
				t.Errorf("%s imports what is for tests only", dir)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
