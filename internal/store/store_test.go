package store

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
)

var testArchive = [16]byte{1, 2, 3}

func open(t testing.TB, d durable.FS, ring *seal.Ring, pos Position) *Store {
	t.Helper()
	if err := d.MkdirAll("store"); err != nil {
		t.Fatal(err)
	}
	s := New(d, testArchive, ring, pos, Options{PackLimit: 10_000})
	t.Cleanup(func() { s.Close() })
	return s
}

// object returns content that does not compress.
func object(i int) []byte {
	r := rand.New(rand.NewPCG(uint64(i), 2))
	b := make([]byte, 500+i*37%9000)
	for j := range b {
		b[j] = byte(r.Uint32())
	}
	return b
}

type saved struct {
	id seal.ID
	at Place
	i  int
}

func commit(s *Store, is ...int) ([]saved, error) {
	var objs []Sealed
	var out []saved
	for _, i := range is {
		b := object(i)
		o := s.Seal(seal.TypePart, b, seal.Sum(b))
		objs = append(objs, o)
		out = append(out, saved{id: o.Entry.ID, i: i})
	}
	at, err := s.Commit(objs, &pack.Frame{})
	for i := range out {
		out[i].at = at
	}
	return out, err
}

func check(t *testing.T, s *Store, all []saved) {
	t.Helper()
	for _, o := range all {
		b, err := s.Load(o.id, o.at)
		if err != nil || !bytes.Equal(b, object(o.i)) {
			t.Fatalf("object %d: %v", o.i, err)
		}
	}
}

func TestCommitLoadAndTail(t *testing.T) {
	d, ring := crashfs.New(), seal.NewRing()
	s := open(t, d, ring, Position{})
	var all []saved
	var third Position
	for i := range 12 {
		o, err := commit(s, 3*i, 3*i+1, 3*i+2)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o...)
		if i == 2 {
			third = s.Position()
		}
	}
	if s.Position().Pack < 3 {
		t.Fatal("the pack does not roll over")
	}
	check(t, s, all)
	tail, err := open(t, d, ring, third).ReadTail(third)
	if err != nil || len(tail.Frames) != 9 || tail.End != s.Position() || tail.Cut != 0 {
		t.Fatalf("tail of %d frames to %+v, cut %d: %v", len(tail.Frames), tail.End, tail.Cut, err)
	}
	n := 0
	if err := s.Frames(Position{}, s.Position().Commit, func(f *pack.Frame, at Place) error {
		n++
		if f.Number != uint64(n) {
			t.Errorf("frame %d comes as number %d", f.Number, n)
		}
		return nil
	}); err != nil || n != 12 {
		t.Fatal(n, err)
	}
}

// Every operation of a commit fails once, and the power is cut after each: what
// was committed stays, what was not is cut.
func TestCommitSurvivesErrorsAndPowerCuts(t *testing.T) {
	for k := 1; ; k++ {
		d, ring := crashfs.New(), seal.NewRing()
		s := open(t, d, ring, Position{})
		var all []saved
		var pos Position
		for i := range 4 {
			o, err := commit(s, 4*i, 4*i+1)
			if err != nil {
				t.Fatal(err)
			}
			all, pos = append(all, o...), s.Position()
		}
		d.StopAt(k)
		o, err := commit(s, 90, 91, 92)
		failed := err != nil
		d.StopAt(0)
		for seed := range uint64(6) {
			after := d.Crash(seed)
			s2 := open(t, after, ring, pos)
			tail, err := s2.ReadTail(pos)
			if err != nil {
				t.Fatalf("stop %d seed %d: %v", k, seed, err)
			}
			if err := s2.Adopt(tail); err != nil {
				t.Fatalf("stop %d seed %d: %v", k, seed, err)
			}
			check(t, s2, all)
			if !failed {
				check(t, s2, o)
			}
			if more, err := commit(s2, 200); err != nil {
				t.Fatalf("stop %d seed %d: commit after recovery: %v", k, seed, err)
			} else {
				check(t, s2, more)
			}
		}
		if !failed {
			return
		}
	}
}

func TestErrorLeavesStoreUsable(t *testing.T) {
	for k := 1; ; k++ {
		d, ring := crashfs.New(), seal.NewRing()
		s := open(t, d, ring, Position{})
		first, err := commit(s, 1, 2)
		if err != nil {
			t.Fatal(err)
		}
		d.FailOnce(k)
		if _, err = commit(s, 3, 4); err == nil {
			return
		}
		second, again := commit(s, 5)
		if again != nil {
			t.Fatalf("failure of operation %d: the next commit fails: %v", k, again)
		}
		check(t, s, append(first, second...))
		if tail, terr := s.ReadTail(Position{}); terr != nil || tail.Cut != 0 || tail.End != s.Position() {
			t.Fatalf("failure of operation %d: tail %+v %v", k, tail, terr)
		}
		if !errors.Is(err, crashfs.ErrInjected) {
			t.Fatal(err)
		}
	}
}

func TestRewriteKeepsPlaces(t *testing.T) {
	d, ring := crashfs.New(), seal.NewRing()
	s := open(t, d, ring, Position{})
	var all []saved
	for i := range 6 {
		o, err := commit(s, 2*i, 2*i+1)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o...)
	}
	gone := all[0]
	erase := func(f *pack.Frame) {
		for i := range f.Entries {
			if f.Entries[i].ID == gone.id {
				f.Entries[i].Erase()
			}
		}
	}
	ring = ring.Clone()
	ring.Renew(seal.PurposeEntry)
	s.SetRing(ring)
	for n := uint32(1); n <= s.Position().Pack; n++ {
		if _, err := s.Rewrite(n, false, erase); err != nil {
			t.Fatal(err)
		}
	}
	ring = ring.Clone()
	ring.Drop(seal.PurposeEntry)
	s.SetRing(ring)
	s.Roll()
	o, err := commit(s, 77)
	if err != nil {
		t.Fatal(err)
	}
	all = append(all[1:], o...)
	check(t, s, all)
	if _, err := s.Load(gone.id, gone.at); !errors.Is(err, ErrNotFound) {
		t.Fatalf("an erased object: %v", err)
	}
	if g, _, err := s.Garbage(1); err != nil || g < 500 {
		t.Fatal(g, err)
	}
	if freed, err := s.Rewrite(1, true, nil); err != nil || freed < 500 {
		t.Fatal(freed, err)
	}
	check(t, s, all)
	for n := uint32(1); n <= s.Position().Pack; n++ {
		from := Position{Pack: n}
		if n > 1 {
			from.Commit = s.mustCommitBefore(t, n)
		}
		if _, err := s.CheckPack(from, s.Position(), 0, true, func(p Problem) { t.Error(p) }, func(*pack.Frame, Place, map[seal.ID][]byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *Store) mustCommitBefore(t *testing.T, n uint32) (last uint64) {
	if err := s.Frames(Position{}, s.pos.Commit, func(f *pack.Frame, at Place) error {
		if at.Pack < n {
			last = f.Number
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return last
}

func FuzzFrameFile(f *testing.F) {
	d, ring := crashfs.New(), seal.NewRing()
	s := open(f, d, ring, Position{})
	if _, err := commit(s, 1); err != nil {
		f.Fatal(err)
	}
	b, err := durable.ReadFile(d, keysName(1), 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		e := crashfs.New()
		e.MkdirAll("store/00")
		for name, data := range map[string][]byte{keysName(1): b, (head{pack: 1}).dataName(): nil} {
			if err := durable.WriteNew(e, name, data); err != nil {
				t.Fatal(err)
			}
		}
		s := New(e, testArchive, ring, Position{}, Options{})
		if tail, err := s.ReadTail(Position{}); err == nil && len(tail.Frames) > 0 {
			t.Fatal("a frame without its objects was taken as whole")
		}
	})
}

func TestMissingPack(t *testing.T) {
	d, ring := crashfs.New(), seal.NewRing()
	s := open(t, d, ring, Position{})
	o, err := commit(s, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := d.Remove(keysName(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadTail(s.Position()); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	if _, err := s.Load(o[0].id, o[0].at); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}
