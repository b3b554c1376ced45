package ledger

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/seal"
)

func signer(t testing.TB) *Signer {
	s, err := NewSigner("letterhold/test", seal.Key{7})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func leaf(i int) []byte { return fmt.Appendf(nil, "leaf %d", i) }

func leaves(from, to int) (out [][]byte) {
	for i := from; i < to; i++ {
		out = append(out, leaf(i))
	}
	return out
}

// reference is the tree of n leaves as golang.org/x/mod computes it.
func reference(t testing.TB, n int) tlog.Hash {
	var hs []tlog.Hash
	r := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(idx))
		for i, x := range idx {
			out[i] = hs[x]
		}
		return out, nil
	})
	for i := range n {
		more, err := tlog.StoredHashes(int64(i), leaf(i), r)
		if err != nil {
			t.Fatal(err)
		}
		hs = append(hs, more...)
	}
	h, err := tlog.TreeHash(int64(n), r)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestRootsAndProofs(t *testing.T) {
	d := crashfs.New()
	l, err := Create(d, signer(t), []string{"commit 0"})
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, step := range []int{1, 1, 5, 249, 1, 255, 3, 1000, 600} {
		if err := l.Append(leaves(size, size+step)); err != nil {
			t.Fatal(err)
		}
		size += step
		if err := l.Sign(nil); err != nil {
			t.Fatal(err)
		}
		if got, want := l.Root(), reference(t, size); got != want {
			t.Fatalf("root of %d leaves is %s, want %s", size, got, want)
		}
		if l, err = Open(d, signer(t)); err != nil {
			t.Fatalf("%d leaves: %v", size, err)
		}
		if s, err := l.Strays(); err != nil || len(s) > 0 {
			t.Fatalf("%d leaves: strays %v %v", size, s, err)
		}
	}
	for _, n := range []int{0, 1, 255, 256, 257, 700, size - 1} {
		p, err := l.Inclusion(int64(n))
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(p, int64(size), l.Root(), int64(n), tlog.RecordHash(leaf(n))); err != nil {
			t.Errorf("leaf %d: %v", n, err)
		}
		if n == 0 {
			continue
		}
		tp, err := l.Consistency(int64(n))
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckTree(tp, int64(size), l.Root(), int64(n), reference(t, n)); err != nil {
			t.Errorf("tree of %d: %v", n, err)
		}
	}
	files := map[string]bool{}
	r := NewRebuild(func(name string, data []byte) error {
		files[name] = true
		have, err := durable.ReadFile(d, name, 1<<20)
		if err == nil && !bytes.Equal(have, data) {
			err = fmt.Errorf("%s differs", name)
		}
		return err
	})
	for i := range size {
		if err := r.Add(leaf(i)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := r.Finish()
	if err != nil || root != l.Root() {
		t.Fatal(root, err)
	}
	durable.Files(d, "ledger", func(name string, _ int64) error {
		if name != checkpointName && !files[name] {
			t.Errorf("%s is not expected", name)
		}
		return nil
	})
}

func TestPowerCut(t *testing.T) {
	// The second of these leaves the tile of the next level as it is.
	for _, to := range []int{600, 310, 511} {
		t.Run(fmt.Sprint(to), func(t *testing.T) {
			for k := 1; powerCut(t, k, to); k++ {
			}
		})
	}
}

// powerCut stops at operation k while the ledger grows from 300 leaves, and
// returns whether it came to that.
func powerCut(t *testing.T, k, to int) bool {
	d := crashfs.New()
	l, err := Create(d, signer(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(leaves(0, 300)); err != nil {
		t.Fatal(err)
	}
	if err := l.Sign([]string{"a"}); err != nil {
		t.Fatal(err)
	}
	d.StopAt(k)
	err = l.Append(leaves(300, to))
	if err == nil {
		err = l.Sign([]string{"b"})
	}
	d.StopAt(0)
	for seed := range uint64(5) {
		after := d.Crash(seed)
		l, oerr := Open(after, signer(t))
		if oerr != nil {
			t.Fatalf("stop %d seed %d: %v", k, seed, oerr)
		}
		size := int(l.Size())
		if size != 300 && size != to || err == nil && size != to {
			t.Fatalf("stop %d seed %d: %d leaves", k, seed, size)
		}
		if err := l.Clean(); err != nil {
			t.Fatal(err)
		}
		if err := l.Append(leaves(size, 900)); err != nil {
			t.Fatal(err)
		}
		if err := l.Sign(nil); err != nil {
			t.Fatal(err)
		}
		if l, oerr = Open(after, signer(t)); oerr != nil || l.Root() != reference(t, 900) {
			t.Fatalf("stop %d seed %d: %v", k, seed, oerr)
		}
	}
	return err != nil
}

func TestCheckpointBytesAreFixed(t *testing.T) {
	s := signer(t)
	b, err := s.Sign(Checkpoint{Size: 5, Root: tlog.Hash{1}, Extension: []string{"commit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(b); err != nil {
		t.Fatal(err)
	}
	for at := range b {
		for _, bit := range []byte{1, 2, 0x20, 0x80} {
			bad := bytes.Clone(b)
			bad[at] ^= bit
			if _, err := s.Open(bad); err == nil {
				t.Fatalf("byte %d (%q) can be changed unnoticed", at, b[at])
			}
		}
	}
}

func FuzzCheckpoint(f *testing.F) {
	s := signer(f)
	b, err := s.Sign(Checkpoint{Size: 5, Extension: []string{"x"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		if _, err := s.Open(in); err == nil && !bytes.Equal(in, b) {
			if c, _ := s.Open(in); c.Origin != "letterhold/test" {
				t.Fatal("another origin was accepted")
			}
		}
		ParseCheckpoint(string(in))
	})
}

func FuzzTiles(f *testing.F) {
	f.Add([]byte("\x00\x01a"), 1)
	f.Fuzz(func(t *testing.T, b []byte, w int) {
		splitBundle(b)
		splitTile(b, w)
	})
}
