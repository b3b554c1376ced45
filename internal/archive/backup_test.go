package archive

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/seal"
)

// backedUp is an archive with a backup.
type backedUp struct {
	d, back *crashfs.FS
	ring    *seal.Ring
	secret  seal.Secret
	a       *Archive
	mb      int64
	n       int
}

func newBackedUp(t *testing.T) *backedUp {
	t.Helper()
	b := &backedUp{d: crashfs.New(), back: crashfs.New()}
	b.ring = create(t, b.d)
	b.a = openArchive(t, b.d, b.ring)
	b.mb = mailbox(t, b.a, "me")
	var err error
	if b.secret, err = seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.a.AddSlot(b.secret, "", "test", seal.WeakCost); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *backedUp) add(t *testing.T) {
	t.Helper()
	b.n++
	add(t, b.a, fmt.Appendf(nil, "Subject: %d\n\n%s", b.n, strings.Repeat(fmt.Sprint(b.n, " "), 500*b.n)), b.mb, "INBOX")
}

func (b *backedUp) backup(t *testing.T) error {
	t.Helper()
	testNow = testNow.Add(time.Minute)
	_, err := b.a.Backup(ctx, b.back, time.Hour, "test", nil)
	return err
}

// restored restores the backup elsewhere and returns how many messages are
// there, all of them sound.
func (b *backedUp) restored(t *testing.T) int64 {
	t.Helper()
	d := crashfs.New()
	if err := Restore(ctx, b.back, d, b.secret, nil); err != nil {
		t.Fatal(err)
	}
	ring, _, err := Unlock(d, b.secret)
	if err != nil {
		t.Fatal(err)
	}
	a := openArchive(t, d, ring)
	totals, err := a.Catalog().Totals(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, d, ring)
	return totals.Messages
}

func change(t *testing.T, d durable.FS, name string, fn func(durable.File, int64)) {
	t.Helper()
	f, err := d.OpenFile(name, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	fn(f, size)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

const firstPack = packsDir + "/00/00000001.pack"

// Bytes in the backup's pack that no parcel vouches for are replaced: those of
// a commit that was undone, of an interrupted backup, of a damaged disk.
func TestBackupReplacesStrangeBytes(t *testing.T) {
	for name, spoil := range map[string]func(durable.File, int64){
		"bytes at the end": func(f durable.File, size int64) { f.WriteAt(bytes.Repeat([]byte("x"), 9000), size) },
		"a changed byte":   func(f durable.File, size int64) { f.WriteAt([]byte("x"), size/2) },
		"cut":              func(f durable.File, size int64) { f.Truncate(size / 2) },
		"emptied":          func(f durable.File, size int64) { f.Truncate(0) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackedUp(t)
			b.add(t)
			b.add(t)
			if err := b.backup(t); err != nil {
				t.Fatal(err)
			}
			change(t, b.back, firstPack, spoil)
			b.add(t)
			if err := b.backup(t); err != nil {
				t.Fatal(err)
			}
			if n := b.restored(t); n != 3 {
				t.Errorf("%d messages", n)
			}
			b.a.Close()
		})
	}
}

// A backup that went on behind one that never became whole.
func TestBackupAfterARestore(t *testing.T) {
	b := newBackedUp(t)
	b.add(t)
	if err := b.backup(t); err != nil {
		t.Fatal(err)
	}
	b.add(t)
	if err := b.backup(t); err != nil {
		t.Fatal(err)
	}
	all, err := parcels(b.back)
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	if err := b.back.Remove(path.Join(all[1].name, doneName)); err != nil {
		t.Fatal(err)
	}
	if err := b.a.Close(); err != nil {
		t.Fatal(err)
	}
	d := crashfs.New()
	if err := Restore(ctx, b.back, d, b.secret, nil); err != nil {
		t.Fatal(err)
	}
	b.d, b.a = d, openArchive(t, d, b.ring)
	b.n = 10
	b.add(t)
	if err := b.backup(t); err != nil {
		t.Fatal(err)
	}
	if n := b.restored(t); n != 2 {
		t.Errorf("%d messages", n)
	}
	if err := durable.Files(b.back, all[1].name, func(name string, _ int64) error { return fmt.Errorf("%s is still there", name) }); err != nil {
		t.Error(err)
	}
	b.a.Close()
}

// A damaged archive does not spoil its backup.
func TestBackupOfADamagedArchive(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, d durable.FS){
		"cut": func(t *testing.T, d durable.FS) {
			change(t, d, "store/00/00000001.pack", func(f durable.File, n int64) { f.Truncate(n / 2) })
		},
		"changed": func(t *testing.T, d durable.FS) {
			change(t, d, "store/00/00000001.pack", func(f durable.File, n int64) { f.WriteAt([]byte("x"), n/2) })
		},
		"gone": func(t *testing.T, d durable.FS) {
			for _, ext := range []string{"pack", "keys"} {
				if err := d.Remove("store/00/00000001." + ext); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackedUp(t)
			b.add(t)
			b.add(t)
			if err := b.backup(t); err != nil {
				t.Fatal(err)
			}
			spoil(t, b.d)
			if err := b.backup(t); err == nil {
				t.Error("it was backed up without a word")
			}
			if n := b.restored(t); n != 2 {
				t.Errorf("%d messages", n)
			}
		})
	}
}

// Which parcel is the newest is told by what it covers, not by a clock.
func TestRestoreDespiteTheClock(t *testing.T) {
	b := newBackedUp(t)
	b.add(t)
	real := testNow
	testNow = testNow.AddDate(70, 0, 0)
	if err := b.backup(t); err != nil {
		t.Fatal(err)
	}
	testNow = real
	b.add(t)
	if err := b.backup(t); err != nil {
		t.Fatal(err)
	}
	if n := b.restored(t); n != 2 {
		t.Errorf("%d messages", n)
	}
	b.a.Close()
}

// A wrong key makes nothing.
func TestRestoreWithAWrongKey(t *testing.T) {
	b := newBackedUp(t)
	b.add(t)
	if err := b.backup(t); err != nil {
		t.Fatal(err)
	}
	wrong, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	d := crashfs.New()
	if err := Restore(ctx, b.back, d, wrong, nil); err == nil {
		t.Fatal("a wrong key opens it")
	}
	if es, err := d.ReadDir("."); err != nil || len(es) > 0 {
		t.Errorf("left behind: %v %v", es, err)
	}
	b.a.Close()
}
