package ingest_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
)

// Mail that its owner reads, or that arrives, while an import is interrupted
// lies before the place to go on from: it is archived too, and the numbers add
// up to what there is.
func TestMovedWhileInterrupted(t *testing.T) {
	const n = 3000
	for name, meanwhile := range map[string]func(dir string) error{
		"nothing": func(string) error { return nil },
		"the last were read": func(dir string) error {
			for i := n - 100; i < n; i++ {
				if err := os.Rename(filepath.Join(dir, "new", fmt.Sprintf("%06d.x", i)), filepath.Join(dir, "cur", fmt.Sprintf("%06d.x:2,S", i))); err != nil {
					return err
				}
			}
			return nil
		},
		"all were read": func(dir string) error {
			for i := range n {
				if err := os.Rename(filepath.Join(dir, "new", fmt.Sprintf("%06d.x", i)), filepath.Join(dir, "cur", fmt.Sprintf("%06d.x:2,S", i))); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := mailtest.Archive(t, nil)
			dir := filepath.Join(t.TempDir(), "Maildir")
			bytes := int64(0)
			for _, sub := range []string{"cur", "new", "tmp"} {
				if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for i := range n {
				raw := mail(i)
				bytes += int64(len(raw))
				if err := os.WriteFile(filepath.Join(dir, "new", fmt.Sprintf("%06d.x", i)), raw, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ctx, stop := context.WithCancel(t.Context())
			im := ingest.Import{Paths: []string{dir}, Mailbox: "m", Who: "test"}
			im.Progress = func(c catalog.Counts) {
				if c.Archived > n/2 {
					stop()
				}
			}
			if r, err := ingest.Run(ctx, a, im); err == nil {
				t.Fatalf("it was not interrupted: %+v", r)
			}
			if err := meanwhile(dir); err != nil {
				t.Fatal(err)
			}
			im.Progress = nil
			r, err := ingest.Run(t.Context(), a, im)
			if err != nil || !r.Resumed || !r.AddUp() || r.Seen != n || r.Failed+r.Counts.Skipped != 0 || r.Bytes != bytes {
				t.Fatalf("%+v of %d bytes, %v", r, bytes, err)
			}
			if name == "nothing" && r.Present != 0 {
				t.Errorf("%d were read again", r.Present)
			}
			for i := range n {
				if !a.Has(t.Context(), a.IDOf(mail(i))) {
					t.Fatalf("message %d was passed over", i)
				}
			}
			var rs []catalog.Run
			if err := a.State().View(t.Context(), func(v catalog.View) (err error) { rs, err = v.Runs(5); return err }); err != nil || len(rs) != 1 || rs[0].Counts != r.Counts {
				t.Errorf("stored %+v, %v; reported %+v", rs, err, r.Counts)
			}
		})
	}
}
