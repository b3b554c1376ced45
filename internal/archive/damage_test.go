package archive

import (
	"fmt"
	"testing"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/durable/crashfs"
)

// Opening an archive that lacks a file, or has one too many, takes away nothing
// else: what is damaged may be put back, and then all is as it was.
func TestDamageTakesNothingElse(t *testing.T) {
	base := crashfs.New()
	ring := create(t, base)
	a := openArchive(t, base, ring)
	mb := mailbox(t, a, "me")
	for i := range 12 {
		add(t, a, fmt.Appendf(nil, "Subject: %d\nContent-Type: application/x\n\n%x", i, noise(i, 9_000)), mb, "INBOX")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	var names []string
	truth := func(d durable.FS) map[string]bool {
		out := map[string]bool{}
		for _, dir := range []string{"store", "ledger", "index"} {
			if err := durable.Files(d, dir, func(name string, _ int64) error { out[name] = true; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	before := truth(base)
	for name := range before {
		names = append(names, name)
	}
	if len(names) < 8 {
		t.Fatalf("%d files", len(names))
	}
	for _, gone := range names {
		d := base.Copy()
		whole, err := durable.ReadFile(d, gone, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Remove(gone); err != nil {
			t.Fatal(err)
		}
		if b, err := Open(d, ring, testOptions()); err == nil {
			b.Close()
		}
		after := truth(d)
		for name := range before {
			if name != gone && !after[name] {
				t.Errorf("without %s, %s has gone too", gone, name)
			}
		}
		if after[gone] {
			continue
		}
		if err := durable.WriteNew(d, gone, whole); err != nil {
			t.Fatal(err)
		}
		if b, err := Open(d, ring, testOptions()); err != nil {
			t.Errorf("%s was put back: %v", gone, err)
		} else if err := b.Close(); err != nil {
			t.Errorf("%s was put back: %v", gone, err)
		}
		if err := clean(d, ring); err != nil {
			t.Errorf("%s was put back: %v", gone, err)
		}
	}
	for _, strange := range []string{"store/00/00000009.keys.old", "store/00/readme", "ledger/tile/foo", "index/notes.txt", "index/2020.db.backup"} {
		d := base.Copy()
		if err := durable.WriteNew(d, strange, []byte("mine")); err != nil {
			t.Fatal(err)
		}
		b, err := Open(d, ring, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if !truth(d)[strange] {
			t.Errorf("%s, which is not ours, was removed", strange)
		}
	}
}
