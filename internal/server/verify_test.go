package server

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/index"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/vault"
)

func TestVerifiesMonthly(t *testing.T) {
	ctx := context.Background()
	now := time.Date(2026, 3, 12, 9, 0, 0, 0, time.UTC)
	o := archive.Options{Now: func() time.Time { return now }}
	d := crashfs.New()
	ring, err := archive.Create(d, o, func(k *seal.KeyFile, r *seal.Ring) error {
		s, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
		if err == nil {
			_, err = k.AddSlot(r, s, "", seal.WeakCost, now)
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
	defer a.Close()
	mb, err := a.Mailbox(ctx, "me", "test")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := a.Add(ctx, fmt.Appendf(nil, "Subject: %d\n\nx", i), archive.Provenance{Mailbox: mb}); err != nil {
			t.Fatal(err)
		}
	}
	x, err := index.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { x.Close() }()
	if err := x.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s := &Server{o: Options{Log: slog.New(slog.NewTextHandler(&log, nil))}}
	look := func() archive.Verified {
		t.Helper()
		if err := s.verifyIfDue(ctx, a, x.Check); err != nil {
			t.Fatal(err)
		}
		v, err := a.Verified(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	day := 24 * time.Hour
	if now = now.Add(29 * day); !look().Began.IsZero() {
		t.Error("verified before a month is over")
	}
	now = now.Add(2 * day)
	first := look()
	if !first.Clean.Equal(now) {
		t.Fatalf("a month later: %+v", first)
	}
	if now = now.Add(29 * day); !look().Clean.Equal(first.Clean) {
		t.Error("verified twice within a month")
	}

	// A byte of the pack changes: the object and its message are found, kept, and
	// looked for daily.
	pack, err := durable.ReadFile(d, "store/00/00000001.pack", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(pack)
	bad[40] ^= 1
	if err := durable.WriteNew(d, "store/00/00000001.pack", bad); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * day)
	found := look()
	if len(found.Problems) != 2 || !found.Clean.Equal(first.Clean) || !bytes.Contains(log.Bytes(), []byte("not as it was written")) {
		t.Fatalf("damage: %+v\n%s", found, log.String())
	}
	if err := durable.WriteNew(d, "store/00/00000001.pack", pack); err != nil {
		t.Fatal(err)
	}
	if now = now.Add(23 * time.Hour); len(look().Problems) != 2 {
		t.Error("what was found is forgotten within the day")
	}
	now = now.Add(2 * time.Hour)
	if again := look(); !again.Clean.Equal(now) || len(again.Problems) != 0 {
		t.Errorf("after the repair: %+v", again)
	}

	// So does a byte of the index, while it is in use.
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if x, err = index.Open(a); err != nil {
		t.Fatal(err)
	}
	shard := fmt.Sprintf("index/%d.db", now.Year())
	f, err := d.OpenFile(shard, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	flip := func() {
		b := make([]byte, 1)
		f.ReadAt(b, 2*vault.PageSize+100)
		b[0] ^= 1
		f.WriteAt(b, 2*vault.PageSize+100)
	}
	flip()
	now = now.Add(31 * day)
	if found := look(); len(found.Problems) != 1 || found.Problems[0].File != shard {
		t.Errorf("a page of the index: %+v", found)
	}
	flip()
	f.Close()

	// One that is stopped is due again at once, however little time has passed.
	now = now.Add(31 * day)
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.verifyIfDue(stopped, a, x.Check); err == nil {
		t.Fatal("a verification that was stopped ends without an error")
	}
	if v := look(); !v.Clean.Equal(now) {
		t.Errorf("after a stop: %+v", v)
	}
}

func TestThrottleOfVerification(t *testing.T) {
	now := time.Unix(0, 0)
	var slept time.Duration
	pause := throttle(func() time.Time { return now }, func(_ context.Context, d time.Duration) error {
		slept, now = d, now.Add(d)
		return nil
	})
	for _, c := range []struct{ worked, rest time.Duration }{{50 * time.Millisecond, 200 * time.Millisecond}, {time.Second, 4 * time.Second}, {time.Minute, longestRest}, {0, 0}} {
		now = now.Add(c.worked)
		if err := pause(context.Background()); err != nil || slept != c.rest {
			t.Errorf("after %v of work: rests %v, want %v; %v", c.worked, slept, c.rest, err)
		}
	}
}
