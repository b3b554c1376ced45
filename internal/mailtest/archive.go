package mailtest

import (
	"context"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/seal"
)

// Archive returns an open archive in memory; it is closed with the test, and
// then must be sound. now is its clock; nil is the system's.
func Archive(t testing.TB, now func() time.Time) *archive.Archive {
	t.Helper()
	d, o := crashfs.New(), archive.Options{Now: now}
	ring, err := archive.Create(d, o, func(k *seal.KeyFile, r *seal.Ring) error {
		s, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
		if err == nil {
			_, err = k.AddSlot(r, s, "", seal.WeakCost, time.Now())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.Open(d, ring, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r, err := a.Verify(context.Background(), archive.VerifyOptions{})
		if err == nil && !r.Clean() {
			t.Errorf("the archive is not sound: %v", r.Problems)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}
