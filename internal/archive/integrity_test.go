package archive_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/index"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/vault"
)

// closed is a small archive, cleanly closed: two packs of small objects, one
// with an object of several chunks, an act, a full set of databases.
type closed struct {
	d     *crashfs.FS
	ring  *seal.Ring
	mails map[seal.ID][]byte
}

func testOptions() archive.Options {
	return archive.Options{Now: func() time.Time { return time.Date(2026, 3, 12, 9, 0, 0, 0, time.UTC) }, PackLimit: 400}
}

func makeClosed(t testing.TB) *closed {
	t.Helper()
	c := &closed{d: crashfs.New(), mails: map[seal.ID][]byte{}}
	var err error
	c.ring, err = archive.Create(c.d, testOptions(), func(k *seal.KeyFile, r *seal.Ring) error {
		s, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
		if err != nil {
			return err
		}
		_, err = k.AddSlot(r, s, "", seal.WeakCost, testOptions().Now())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c.change(t, func(a *archive.Archive) {
		chunks := make([]byte, 150_000)
		r := rand.New(rand.NewPCG(1, 1))
		for i := range chunks {
			chunks[i] = byte(r.Uint32())
		}
		head := "From: Ann <ann@example.org>\nSubject: %d\nDate: Thu, 12 Mar 2026 08:00:00 +0000\n"
		part := "Content-Type: multipart/mixed; boundary=x\n\n--x\n\ntext %[1]d\n--x\nContent-Type: application/x\n\n" + strings.Repeat("the same attachment ", 500) + "\n--x--\n"
		c.put(t, a, fmt.Appendf(nil, head+"\nhello\n", 1))
		c.put(t, a, fmt.Appendf(nil, head+part, 2))
		c.put(t, a, fmt.Appendf(nil, head+part, 3))
		c.put(t, a, fmt.Appendf(nil, head+"\nhello again\n", 4))
		c.put(t, a, append(fmt.Appendf(nil, head+"Content-Type: application/x\n\n", 5), chunks...))
	})
	if r := c.verify(t, c.d, nil); !r.Clean() {
		t.Fatalf("problems of an archive as it was made: %+v", r.Problems)
	}
	return c
}

// change opens the archive, runs fn, lets the index follow, and closes it.
func (c *closed) change(t testing.TB, fn func(*archive.Archive)) {
	t.Helper()
	a, err := archive.Open(c.d, c.ring, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	fn(a)
	x, err := index.Open(a)
	if err == nil {
		err = errors.Join(x.Wait(context.Background()), x.Close())
	}
	if err := errors.Join(err, a.Close()); err != nil {
		t.Fatal(err)
	}
}

func (c *closed) put(t testing.TB, a *archive.Archive, raw []byte) {
	t.Helper()
	ctx := context.Background()
	mb, err := a.Mailbox(ctx, "me", "test")
	if err != nil {
		t.Fatal(err)
	}
	r, err := a.Add(ctx, raw, archive.Provenance{Mailbox: mb, Folder: "INBOX", Source: "s"})
	if err != nil {
		t.Fatal(err)
	}
	c.mails[r.ID] = raw
}

// ringOf reads the ring as a new process would.
func (c *closed) ringOf(d durable.FS) (*seal.Ring, error) {
	_, head, err := archive.ReadAbout(d)
	if err != nil {
		return nil, err
	}
	k, err := archive.ReadKeys(d)
	if err != nil {
		return nil, err
	}
	return k.OpenRoot(c.ring.Root, head)
}

func (c *closed) tryVerify(d durable.FS, checkpoint []byte) (*archive.Report, error) {
	ring, err := c.ringOf(d)
	if err != nil {
		return nil, err
	}
	o := testOptions()
	o.Strict = true
	a, err := archive.Open(d, ring, o)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	return a.Verify(context.Background(), archive.VerifyOptions{Checkpoint: checkpoint})
}

func (c *closed) verify(t testing.TB, d durable.FS, checkpoint []byte) *archive.Report {
	t.Helper()
	r, err := c.tryVerify(d, checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// reported tells whether verify reports a change, and names the file.
func (c *closed) reported(d durable.FS, file string) error {
	r, err := c.tryVerify(d, nil)
	if err != nil {
		return nameIn(file, err.Error())
	}
	if r.Clean() {
		return errors.New("goes unnoticed")
	}
	var all []string
	for _, p := range r.Problems {
		all = append(all, p.File+" "+p.What)
	}
	return nameIn(file, strings.Join(all, "\n"))
}

// nameIn tells whether a report names a file: its name, that of the pack's
// other file, or what the user calls it.
func nameIn(file, report string) error {
	base := path.Base(file)
	stem := strings.SplitN(strings.TrimSuffix(strings.TrimSuffix(base, ".keys"), ".pack"), "-", 2)[0]
	if file == "archive.json" && strings.Contains(report, "no archive here") {
		return nil
	}
	for _, s := range []string{file, base, stem} {
		if len(s) > 3 && strings.Contains(report, s) {
			return nil
		}
	}
	if strings.HasPrefix(file, "ledger/") && strings.Contains(report, "ledger/") {
		return nil
	}
	return fmt.Errorf("is reported as %q, which does not name it", report)
}

// harmless opens the archive as the program would and reads every message: an
// error is fine, other bytes are not.
func (c *closed) harmless(d *crashfs.FS) error {
	ring, err := c.ringOf(d)
	if err != nil {
		return nil
	}
	a, err := archive.Open(d, ring, testOptions())
	if err != nil {
		return nil
	}
	defer a.Close()
	for id, want := range c.mails {
		e, err := a.Catalog().Message(context.Background(), id)
		if err != nil {
			continue
		}
		if raw, err := a.Raw(&e); err == nil && !bytes.Equal(raw, want) {
			return fmt.Errorf("wrong bytes of message %s are served", id)
		}
	}
	return nil
}

// with returns a copy of the archive with some files replaced.
func (c *closed) with(t testing.TB, files map[string][]byte) *crashfs.FS {
	d := c.d.Copy()
	for name, b := range files {
		if err := durable.WriteNew(d, name, b); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func filesOf(t testing.TB, d durable.FS) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	if err := durable.Files(d, ".", func(name string, _ int64) (err error) {
		out[name], err = durable.ReadFile(d, name, 1<<30)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// exempt are the files whose bytes mean nothing.
var exempt = []string{"lock"}

// dontCare lists bytes of other files that may change unnoticed, as
// "file offset". There are none.
var dontCare = []string{}

// flips are the offsets of a file that are changed: all, but of a pack with an
// object of many chunks some bytes in each chunk.
func flips(name string, b []byte) (out []int) {
	step := 1
	if len(b) > 20_000 {
		step = 1999
	}
	if testing.Short() {
		step = max(step, len(b)/12)
	}
	for at := 0; at < len(b); at += step {
		out = append(out, at)
	}
	return append(out, len(b)-1)
}

// Every byte of every file is changed in turn, and every file is cut and
// extended: verify names the file, nothing panics, and no other bytes are
// served. Pages of databases have a test of their own.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	c := makeClosed(t)
	type try struct {
		name, what string
		bad        []byte // nil: removed
	}
	tries := make(chan try)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for x := range tries {
				one := func() *crashfs.FS {
					d := c.d.Copy()
					err := error(nil)
					if x.bad == nil {
						err = d.Remove(x.name)
					} else {
						err = durable.WriteNew(d, x.name, x.bad)
					}
					if err != nil {
						t.Error(err)
					}
					return d
				}
				err := c.reported(one(), x.name)
				if slices.Contains(dontCare, x.what) || slices.Contains(exempt, x.name) {
					err = nil
				}
				if err = errors.Join(err, c.harmless(one())); err != nil {
					t.Errorf("%s, %s: %v", x.name, x.what, err)
				}
			}
		})
	}
	n := 0
	files := filesOf(t, c.d)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		b := files[name]
		offsets := flips(name, b)
		if strings.HasSuffix(name, ".db") {
			offsets = nil
			for at := 7; at < len(b); at += len(b) / 40 {
				offsets = append(offsets, at)
			}
		}
		for _, at := range offsets {
			n++
			bad := bytes.Clone(b)
			bad[at] ^= 1 << (at % 8)
			tries <- try{name, fmt.Sprintf("%s %d", name, at), bad}
		}
		for _, cut := range []int{0, 1, len(b) / 2, len(b) - 1} {
			tries <- try{name, fmt.Sprintf("cut to %d bytes", cut), b[:cut:cut]}
		}
		tries <- try{name, "a byte more", append(bytes.Clone(b), 0)}
		tries <- try{name, "a page of zeros more", append(bytes.Clone(b), make([]byte, vault.PageSize)...)}
		tries <- try{name, "itself twice", append(bytes.Clone(b), b...)}
		tries <- try{name, "removed", nil}
	}
	close(tries)
	wg.Wait()
	t.Logf("%d files, %d bytes changed", len(files), n)
}

// keyOf is the key of a database.
func (c *closed) keyOf(name string) seal.Key {
	switch name {
	case catalog.Name:
		return c.ring.Current(seal.PurposeCatalog).Key
	case catalog.StateName:
		return c.ring.Current(seal.PurposeState).Key
	}
	return c.ring.Current(seal.PurposeIndex).Key
}

// Every byte of every database is changed in turn: the check of its pages,
// which verify is made of, says which page does not open.
func TestEveryByteOfDatabases(t *testing.T) {
	t.Parallel()
	c := makeClosed(t)
	n := 0
	for name, b := range filesOf(t, c.d) {
		if !strings.HasSuffix(name, ".db") {
			continue
		}
		n++
		t.Run(path.Base(name), func(t *testing.T) {
			t.Parallel()
			d := c.d.Copy()
			v, err := vault.Open(d, name, c.keyOf(name))
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			f, err := d.OpenFile(name, os.O_RDWR)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			step := 1
			if testing.Short() {
				step = 4001
			}
			for at := 0; at < len(b); at += step {
				f.WriteAt([]byte{b[at] ^ 1<<(at%8)}, int64(at))
				var found []string
				err := v.Check(true, func(what string) { found = append(found, what) })
				f.WriteAt(b[at:at+1], int64(at))
				if want := fmt.Sprintf("page %d does not open", at/vault.PageSize+1); err != nil || !slices.Contains(found, want) {
					t.Fatalf("byte %d: %v, %v", at, found, err)
				}
			}
			t.Logf("%d bytes", len(b))
		})
	}
	if n < 3 {
		t.Errorf("%d databases", n)
	}
}

// A page of a database filled with zeros, as if it had never been written, is
// noticed wherever SQLite may look at it.
func TestZeroedPages(t *testing.T) {
	t.Parallel()
	c := makeClosed(t)
	for name, b := range filesOf(t, c.d) {
		if !strings.HasSuffix(name, ".db") {
			continue
		}
		for at := 0; at < len(b); at += vault.PageSize {
			bad := bytes.Clone(b)
			clear(bad[at : at+vault.PageSize])
			if bytes.Equal(bad, b) {
				continue // a free page that was never written
			}
			if err := c.reported(c.with(t, map[string][]byte{name: bad}), name); err != nil {
				t.Errorf("%s: page %d of %d as zeros: %v", name, at/vault.PageSize+1, len(b)/vault.PageSize, err)
			}
		}
	}
}

// Whatever changes places is noticed: frames, objects, packs, pages.
func TestSwaps(t *testing.T) {
	t.Parallel()
	c := makeClosed(t)
	files := filesOf(t, c.d)
	swapped := func(b []byte, i, j, n int) []byte {
		b = bytes.Clone(b)
		copy(b[i:i+n], b[j:j+n])
		return b
	}
	check := func(what string, change map[string][]byte) {
		t.Helper()
		same := true
		for name, b := range change {
			same = same && bytes.Equal(b, files[name])
		}
		if same {
			t.Fatalf("%s: nothing was swapped", what)
		}
		r, err := c.tryVerify(c.with(t, change), nil)
		if err == nil && r.Clean() {
			t.Errorf("%s: goes unnoticed", what)
		}
		if err := c.harmless(c.with(t, change)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	both := func(what, x, y string) { check(what, map[string][]byte{x: files[y], y: files[x]}) }

	var packs, keys, dbs []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		switch path.Ext(name) {
		case ".pack":
			packs = append(packs, name)
		case ".keys":
			keys = append(keys, name)
		case ".db":
			dbs = append(dbs, name)
		}
	}
	if len(packs) < 2 || len(keys) != len(packs) || len(dbs) < 3 {
		t.Fatal(packs, keys, dbs)
	}
	both("two packs", packs[0], packs[1])
	both("two .keys", keys[0], keys[1])
	check("two packs with their .keys", map[string][]byte{packs[0]: files[packs[1]], packs[1]: files[packs[0]], keys[0]: files[keys[1]], keys[1]: files[keys[0]]})

	// Frames of one .keys: the second where the first belongs.
	for _, name := range keys {
		b := files[name]
		first := 36 + 4 + int(binary.BigEndian.Uint32(b[36:]))
		if first == len(b) {
			continue
		}
		second := first + 4 + int(binary.BigEndian.Uint32(b[first:]))
		check("two frames of "+name, map[string][]byte{name: slices.Concat(b[:36], b[first:second], b[36:first], b[second:])})
	}

	// Objects: the entries say where; swap the ciphertext of two of one pack,
	// and of two packs, cut to the shorter.
	places := c.objects(t)
	for i := range places {
		for j := range i {
			x, y := places[i], places[j]
			n := int(min(x.size, y.size))
			change := map[string][]byte{}
			if x.file == y.file {
				b := swapped(files[x.file], int(x.at), int(y.at), n)
				copy(b[y.at:int(y.at)+n], files[x.file][x.at:int(x.at)+n])
				change[x.file] = b
			} else {
				bx, by := bytes.Clone(files[x.file]), bytes.Clone(files[y.file])
				copy(bx[x.at:int(x.at)+n], files[y.file][y.at:])
				copy(by[y.at:int(y.at)+n], files[x.file][x.at:])
				change[x.file], change[y.file] = bx, by
			}
			check(fmt.Sprintf("objects at %d of %s and at %d of %s", x.at, x.file, y.at, y.file), change)
		}
	}

	// Pages: two of one database, and the same one of two databases.
	for i, name := range dbs {
		b := files[name]
		pages := len(b) / vault.PageSize
		for p := range pages {
			q := (p + 1) % pages
			bad := bytes.Clone(b)
			copy(bad[p*vault.PageSize:(p+1)*vault.PageSize], b[q*vault.PageSize:])
			copy(bad[q*vault.PageSize:(q+1)*vault.PageSize], b[p*vault.PageSize:])
			check(fmt.Sprintf("pages %d and %d of %s", p+1, q+1, name), map[string][]byte{name: bad})
		}
		other := dbs[(i+1)%len(dbs)]
		both("databases "+name+" and "+other, name, other)
		for p := range min(pages, len(files[other])/vault.PageSize) {
			x, y := bytes.Clone(b), bytes.Clone(files[other])
			copy(x[p*vault.PageSize:(p+1)*vault.PageSize], files[other][p*vault.PageSize:])
			copy(y[p*vault.PageSize:(p+1)*vault.PageSize], b[p*vault.PageSize:])
			check(fmt.Sprintf("page %d of %s and of %s", p+1, name, other), map[string][]byte{name: x, other: y})
		}
	}
}

type extent struct {
	file     string
	at, size int64
}

// objects lists where the objects lie.
func (c *closed) objects(t testing.TB) (out []extent) {
	t.Helper()
	o := testOptions()
	o.Strict = true
	a, err := archive.Open(c.d.Copy(), c.ring, o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := archive.Extents(a, func(file string, at, size int64) { out = append(out, extent{file, at, size}) }); err != nil || len(out) < 5 {
		t.Fatal(out, err)
	}
	return out
}

// What was put back is noticed, or caught up where it is a cache.
func TestYesterday(t *testing.T) {
	t.Parallel()
	c := makeClosed(t)
	old := filesOf(t, c.d)
	yesterday := c.d.Copy()
	var cp []byte
	c.change(t, func(a *archive.Archive) {
		if _, err := a.Mailbox(context.Background(), "second", "test"); err != nil {
			t.Fatal(err)
		}
		secret, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.AddSlot(secret, "", "test", seal.WeakCost); err != nil {
			t.Fatal(err)
		}
		c.put(t, a, []byte("Subject: the next day\nDate: Thu, 12 Mar 2026 08:30:00 +0000\n\nfresh\n"))
		if cp, _, err = a.Checkpoint(); err != nil {
			t.Fatal(err)
		}
	})
	// Each part of the truth by itself, beside today's rest.
	for part, file := range map[string]string{catalog.StateName: catalog.StateName, "keys.json": "keys.json", "ledger/": "", "store/": ""} {
		d := c.d.Copy()
		for name := range filesOf(t, d) {
			if strings.HasPrefix(name, part) {
				if err := d.Remove(name); err != nil {
					t.Fatal(err)
				}
			}
		}
		for name, b := range old {
			if strings.HasPrefix(name, part) {
				if err := durable.WriteNew(d, name, b); err != nil {
					t.Fatal(err)
				}
			}
		}
		if r, err := c.tryVerify(d, nil); err == nil && r.Clean() {
			t.Errorf("yesterday's %s goes unnoticed", part)
		}
		if file == "" {
			continue
		}
		if err := c.reported(d, file); err != nil {
			t.Errorf("yesterday's %s: %v", part, err)
		}
	}
	for _, name := range []string{catalog.Name, "index/2026.db"} {
		if old[name] == nil {
			t.Fatalf("%s is missing", name)
		}
		today := c.d
		c.d = c.with(t, map[string][]byte{name: old[name]})
		c.change(t, func(a *archive.Archive) {
			for id, want := range c.mails {
				e, err := a.Catalog().Message(context.Background(), id)
				if err != nil {
					t.Fatalf("yesterday's %s: %v", name, err)
				}
				if raw, err := a.Raw(&e); err != nil || !bytes.Equal(raw, want) {
					t.Errorf("yesterday's %s: %v", name, err)
				}
			}
		})
		if r := c.verify(t, c.d, nil); !r.Clean() {
			t.Errorf("yesterday's %s is not caught up: %+v", name, r.Problems)
		}
		c.d = today
	}
	if r := c.verify(t, yesterday.Copy(), nil); !r.Clean() {
		t.Errorf("the whole folder of yesterday is not sound: %+v", r.Problems)
	}
	if r := c.verify(t, yesterday.Copy(), cp); r.Clean() {
		t.Error("the whole folder put back goes unnoticed although a newer checkpoint is known")
	}
	if r := c.verify(t, c.d, cp); !r.Clean() {
		t.Errorf("%+v", r.Problems)
	}
}
