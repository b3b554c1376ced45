package target

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/export"
	"github.com/letterhold/letterhold/internal/mailtest"
)

// unsure is a place where nothing is safe until it is closed, which fails.
type unsure struct{ err error }

func (unsure) put(context.Context, *message) (bool, error) { return true, nil }
func (unsure) flush() (bool, error)                        { return false, nil }
func (u unsure) close() error                              { return u.err }

// What is not safe is not stored: neither the place nor the numbers. If it comes
// to nothing, it was nothing.
func TestNotStoredBeforeItIsSafe(t *testing.T) {
	ctx := context.Background()
	a := mailtest.Archive(t, nil)
	mailbox, err := a.Mailbox(ctx, "alice", "test")
	if err != nil {
		t.Fatal(err)
	}
	r, err := a.Add(ctx, []byte("Subject: a\r\n\r\nb\r\n"), archive.Provenance{Mailbox: mailbox, Folder: "INBOX"})
	if err != nil {
		t.Fatal(err)
	}
	hits, err := a.Catalog().Visible(ctx, everywhere, []catalog.Row{r.Row})
	if err != nil {
		t.Fatal(err)
	}
	p := &Profile{Name: "out", Format: export.Mbox, Place: Place{To: "folder:" + t.TempDir()}}
	if err := Save(a, p, nil, "test"); err != nil {
		t.Fatal(err)
	}
	for _, fails := range []error{nil, errors.New("disk full")} {
		j := &job{r: &Runner{a: a, SaveEvery: time.Nanosecond}, a: a, p: p, to: unsure{fails}}
		j.since.marks = map[string]string{}
		if _, _, err := j.begin(ctx); err != nil {
			t.Fatal(err)
		}
		before := j.counts
		if err := j.each(ctx, []catalog.Placed{{Leaf: hits[0].Leaf, Row: r.Row}}, isNew); err != nil {
			t.Fatal(err)
		}
		var marks map[string]string
		var rs []catalog.Run
		stored := func() {
			t.Helper()
			if err := a.State().View(ctx, func(v catalog.View) (err error) {
				if marks, err = v.Marks(p.ID); err != nil {
					return err
				}
				rs, err = v.RunsOf(p.ID, 1)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		if stored(); marks[markLeaf] != "" || rs[0].Seen != 0 {
			t.Errorf("stored before it is safe: %v %+v", marks, rs[0].Counts)
		}
		err := j.finish()
		if _, eerr := j.end(ctx, err, 0); eerr != nil {
			t.Fatal(eerr)
		}
		stored()
		if fails == nil && (marks[markLeaf] == "" || marks[markLeaf] == "-1" || rs[0].Seen != before.Seen+1 || rs[0].State != catalog.RunDone) {
			t.Errorf("it is safe: %v %+v", marks, rs[0])
		}
		if fails != nil && (marks[markLeaf] != "-1" || rs[0].Seen != 0 || rs[0].State != catalog.RunFailed) {
			t.Errorf("it failed: %v %+v", marks, rs[0])
		}
		if err := a.State().Write(func(tx catalog.Tx) error { return tx.SetMark(p.ID, markLeaf, "") }); err != nil {
			t.Fatal(err)
		}
	}
}

// A file that cannot be moved to its place is not there, and is no success.
func TestFileThatIsNotFinished(t *testing.T) {
	ctx := context.Background()
	a := mailtest.Archive(t, nil)
	mailbox, err := a.Mailbox(ctx, "alice", "test")
	if err != nil {
		t.Fatal(err)
	}
	raw := []byte("Subject: a\r\n\r\nb\r\n")
	r, err := a.Add(ctx, raw, archive.Provenance{Mailbox: mailbox, Folder: "INBOX"})
	if err != nil {
		t.Fatal(err)
	}
	hits, err := a.Catalog().Visible(ctx, everywhere, []catalog.Row{r.Row})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []export.Format{export.Mbox, export.Zip} {
		dir := t.TempDir()
		to := &files{a: a, format: f, path: dir, prefix: prefixOf("näme/..")}
		if _, err := to.put(ctx, &message{Hit: &hits[0], raw: raw}); err != nil {
			t.Fatal(err)
		}
		if safe, err := to.flush(); safe || err != nil {
			t.Errorf("%s: it is not whole yet: %v %v", f, safe, err)
		}
		names, err := filepath.Glob(filepath.Join(dir, unfinished, "n_me___-2*."+string(f)))
		if err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		if err := os.MkdirAll(filepath.Join(dir, filepath.Base(names[0]), "in the way"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := to.close(); err == nil {
			t.Errorf("%s: it was closed", f)
		}
	}
}
