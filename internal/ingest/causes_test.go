package ingest_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

func TestCauses(t *testing.T) {
	refused := func(command string) error {
		return &imapclient.StatusError{Command: command, Status: "NO", Text: "no"}
	}
	for kind, errs := range map[string][]error{
		ingest.CauseException:  {ingest.ErrException},
		ingest.CauseLeave:      {tlsconf.At(tlsconf.StepDNS, fmt.Errorf("x is 10.0.0.1: %w", tlsconf.ErrForbidden))},
		ingest.CauseAddress:    {tlsconf.At(tlsconf.StepDNS, fmt.Errorf("look up x"))},
		ingest.CauseReach:      {tlsconf.At(tlsconf.StepTCP, fmt.Errorf("connection refused"))},
		ingest.CauseTLS:        {tlsconf.At(tlsconf.StepTLS, tlsconf.ErrCertificate), imapclient.ErrUnsafe},
		ingest.CauseSignIn:     {tlsconf.At(tlsconf.StepSignIn, refused("AUTHENTICATE PLAIN")), fmt.Errorf(`profile "p" has no password`)},
		ingest.CauseFolder:     {fmt.Errorf("folder %q: %w", "x", tlsconf.At(tlsconf.StepFolders, refused("EXAMINE")))},
		ingest.CauseRefused:    {tlsconf.At(tlsconf.StepMessage, refused("UID FETCH"))},
		ingest.CauseConnection: {fmt.Errorf("%w (after 3 connections)", imapclient.ErrBye)},
		ingest.CauseLarge:      {&imapclient.TooLargeError{Size: 9, Limit: 8}, fmt.Errorf("%d bytes: larger than the limit of %d MiB for a message", 9, archive.MaxMessage>>20)},
		ingest.CauseOther:      {fmt.Errorf("something else")},
	} {
		for _, err := range errs {
			if got := ingest.Causes([]catalog.Failure{{Where: "w", Reason: err.Error()}}); len(got) != 1 || got[0].Kind != kind || got[0].Count != 1 || (got[0].Fix == "") != (kind == ingest.CauseOther) {
				t.Errorf("%q: %+v, want %s", err, got, kind)
			}
		}
	}
	got := ingest.Causes([]catalog.Failure{{Where: "a", Reason: `odd part 7 of "x"`}, {Where: "b", Reason: "ZIP: zip: not a valid zip file"}, {Where: "c", Reason: `odd part 12 of "yy"`}})
	if len(got) != 2 || got[0].Count != 2 || got[0].Reason != "odd part … of …" || got[0].Example.Where != "a" || got[1].Kind != ingest.CauseDamaged {
		t.Errorf("%+v", got)
	}
}

// A run under way tells how much there is, how fast it goes, and how long it
// takes; what was collected before does not count.
func TestProgress(t *testing.T) {
	w := newWorld(t)
	body := func(i int) []byte { return append(mail(i), make([]byte, 30_000)...) }
	for i := range 10 {
		w.d.Put(t, "alice", "", fmt.Sprintf("%d.m:2,", i), mail(i))
	}
	p := w.profile(t, w.d.IMAPS, func(p *ingest.Profile) { p.Bandwidth = 200_000 })
	w.want(t, w.run(t, p), catalog.RunDone, 10, 0, 0)
	for i := 10; i < 25; i++ {
		w.d.Put(t, "alice", []string{"", "b"}[i%2], fmt.Sprintf("%d.m:2,", i), body(i))
	}
	wait, err := w.r.Start(ctx, p, "test")
	if err != nil {
		t.Fatal(err)
	}
	var last ingest.Progress
	for {
		live := w.r.Live()
		if len(live) == 0 {
			break
		}
		// The first numbers are those of a connection that is being made.
		if last = live[0]; last.Left != nil && *last.Left <= 5 && last.Speed >= 50_000 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if last.Total != 15 || last.Left == nil || last.Rate <= 0 || *last.Left > 5 || last.Speed < 50_000 || last.Step != ingest.StepCollecting {
		t.Errorf("%+v", last)
	}
	out, err := wait()
	if err != nil || out.Archived != 15 {
		t.Errorf("%+v %v", out, err)
	}
}

// An import under way is among the live runs, as long as it is.
func TestLiveImport(t *testing.T) {
	a := mailtest.Archive(t, nil)
	r := ingest.NewRunner(a)
	t.Cleanup(r.Close)
	var box bytes.Buffer
	for i := range 3000 {
		fmt.Fprintf(&box, "From x Thu Mar 12 09:14:00 2026\n%s\n\n", mail(i))
	}
	file := filepath.Join(t.TempDir(), "box.mbox")
	if err := os.WriteFile(file, box.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := r.Import(ctx, ingest.Import{Paths: []string{file}, Mailbox: "m", Who: "test"})
		ended <- err
	}()
	seen := int64(0)
	for {
		select {
		case err := <-ended:
			if err != nil || seen == 0 || len(r.Live()) != 0 {
				t.Errorf("%v; %d messages were seen on the way; %v", err, seen, r.Live())
			}
			return
		default:
		}
		for _, l := range r.Live() {
			if l.Profile != 0 || l.Run == 0 {
				t.Errorf("%+v", l)
			}
			seen = max(seen, l.Seen)
		}
		time.Sleep(time.Millisecond)
	}
}
