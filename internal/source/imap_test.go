package source

import (
	"testing"

	"github.com/letterhold/letterhold/internal/imapclient"
)

func TestUnchanged(t *testing.T) {
	for _, tc := range []struct {
		name string
		p    place
		st   imapclient.Status
		want bool
	}{
		{"never read", place{}, imapclient.Status{UIDNext: 1}, false},
		{"the same", place{7, 9, 3}, imapclient.Status{UIDValidity: 7, UIDNext: 10, ModSeq: 3}, true},
		{"a flag", place{7, 9, 3}, imapclient.Status{UIDValidity: 7, UIDNext: 10, ModSeq: 4}, true},
		{"a message", place{7, 9, 3}, imapclient.Status{UIDValidity: 7, UIDNext: 11, ModSeq: 4}, false},
		{"empty", place{7, 0, 1}, imapclient.Status{UIDValidity: 7, UIDNext: 1, ModSeq: 1}, true},
		{"recreated", place{7, 9, 3}, imapclient.Status{UIDValidity: 8, UIDNext: 10, ModSeq: 3}, false},
		{"no next UID, the same MODSEQ", place{7, 9, 3}, imapclient.Status{UIDValidity: 7, ModSeq: 3}, true},
		{"no next UID, another MODSEQ", place{7, 9, 3}, imapclient.Status{UIDValidity: 7, ModSeq: 4}, false},
		{"neither", place{7, 9, 0}, imapclient.Status{UIDValidity: 7}, false},
	} {
		if got := tc.p.unchanged(tc.st); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
