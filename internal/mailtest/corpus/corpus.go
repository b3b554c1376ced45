// Package corpus finds the real mail that tests read. It is kept outside of the
// source; a test that needs it fails where it is missing in CI.
package corpus

import (
	"os"
	"testing"
)

// None is the value of LETTERHOLD_CORPUS that says, also in CI, that there is no
// real mail: whoever sets it knows that its tests are skipped.
const None = "none"

// Dir returns the folder of the corpora.
func Dir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("LETTERHOLD_CORPUS")
	switch {
	case dir != "" && dir != None:
		return dir
	case dir == "" && os.Getenv("CI") != "":
		t.Fatal("LETTERHOLD_CORPUS names no corpora; LETTERHOLD_CORPUS=" + None + " skips what needs them")
	}
	t.Skip("LETTERHOLD_CORPUS names no corpora")
	return ""
}

// Lacking ends a test to which the corpora lack something: in CI it fails.
func Lacking(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal("the corpora lack something: ", err)
	}
	t.Skip("the corpora lack something: ", err)
}
