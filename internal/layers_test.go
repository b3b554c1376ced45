// Package internal_test checks the direction of the arrows between packages.
package internal_test

import (
	"go/build"
	"os"
	"strings"
	"testing"
)

// rows are the layers, lowest first; within a row arrows point to the right
// neighbour, that is, to packages named later.
var rows = [][]string{
	{"pop3client", "imapclient", "extract", "mbox", "message", "pack", "seal", "durable", "token", "tlsconf", "safehtml", "sample"},
	{"store", "ledger", "vault"},
	{"archive", "catalog"},
	{"search", "index", "auth"},
	{"posture", "ingest", "source", "export"},
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
	es, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		if !e.IsDir() {
			continue
		}
		from, ok := places[e.Name()]
		if !ok {
			t.Errorf("package %s has no place in the layers", e.Name())
			continue
		}
		p, err := build.ImportDir(e.Name(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range p.Imports {
			name, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			if to := places[name]; to.row > from.row || to.row == from.row && to.col <= from.col {
				t.Errorf("%s imports %s: arrows point down, or to the right within a row", e.Name(), name)
			}
			if e.Name() != "mailtest" && (name == "durable/crashfs" || name == "mailtest" || strings.HasPrefix(name, "mailtest/")) {
				t.Errorf("%s imports what is for tests only", e.Name())
			}
		}
	}
}
