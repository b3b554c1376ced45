package archive

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/seal"
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

// Whatever byte of one of the two copies of the keys changes, the archive opens
// with its key, and verify names the file.
func TestEitherKeys(t *testing.T) {
	base := crashfs.New()
	secret, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	ring, err := Create(base, testOptions(), func(k *seal.KeyFile, r *seal.Ring) error {
		_, err := k.AddSlot(r, secret, "", seal.WeakCost, testNow)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := openArchive(t, base, ring).Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{keysName, backupName} {
		whole, err := durable.ReadFile(base, name, maxKeys)
		if err != nil {
			t.Fatal(err)
		}
		step := 29
		if soak() {
			step = 1
		}
		for i := 0; i < len(whole); i += step {
			d := base.Copy()
			bad := bytes.Clone(whole)
			bad[i] ^= 1
			if err := durable.WriteNew(d, name, bad); err != nil {
				t.Fatal(err)
			}
			ring, _, err := Unlock(d, secret)
			if err != nil {
				t.Fatalf("byte %d of %s: %v", i, name, err)
			}
			o := testOptions()
			o.Strict = true
			a, err := Open(d, ring, o)
			if err != nil {
				t.Fatalf("byte %d of %s: %v", i, name, err)
			}
			r, err := a.Verify(ctx, VerifyOptions{})
			if err != nil || r.Clean() || !strings.HasPrefix(r.Problems[0].File, "keys.json") {
				t.Fatalf("byte %d of %s: %+v, %v", i, name, r, err)
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			if b, err := Open(d, ring, testOptions()); err != nil {
				t.Fatalf("byte %d of %s: %v", i, name, err)
			} else if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if err := clean(d, ring); err != nil {
				t.Fatalf("byte %d of %s is not mended: %v", i, name, err)
			}
		}
	}
	other, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Unlock(base, other); !errors.Is(err, seal.ErrWrongKey) || strings.Contains(err.Error(), "\n") {
		t.Errorf("a wrong key: %v", err)
	}
}
