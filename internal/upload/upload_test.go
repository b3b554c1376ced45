package upload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/seal"
)

// world is an archive with uploads, whose disk and clock a test sets.
type world struct {
	dir  string
	a    *archive.Archive
	free int64
	s    *Uploads
}

func newWorld(t *testing.T, change func(*Options)) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), free: 1 << 40}
	d, err := durable.OpenFolder(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	o := archive.Options{Log: slog.New(slog.DiscardHandler)}
	ring, err := archive.Create(d, o, func(k *seal.KeyFile, r *seal.Ring) error {
		_, err := k.AddSlot(r, secret, "", seal.WeakCost, time.Now())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.a, err = archive.Open(d, ring, o); err != nil {
		t.Fatal(err)
	}
	uo := Options{Archive: w.a, Dir: filepath.Join(w.dir, "spool"), Free: func() (int64, error) { return w.free, nil }}
	if change != nil {
		change(&uo)
	}
	w.s = New(uo)
	t.Cleanup(func() {
		w.s.Close()
		if err := errors.Join(w.a.Close(), d.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) begin(t *testing.T, size int64) (*Upload, string) {
	t.Helper()
	u, claim, err := w.s.Begin(Plan{Account: 1, Who: "ada", Mailbox: "m", Files: []File{{Name: "a.mbox", Size: size}}})
	if err != nil {
		t.Fatal(err)
	}
	return u, claim
}

// run waits for the end of a run.
func (w *world) run(t *testing.T, id int64) *catalog.Run {
	t.Helper()
	for range 400 {
		var r *catalog.Run
		if err := w.a.State().View(context.Background(), func(v catalog.View) (err error) {
			r, err = v.Run(id)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, running := w.s.Running(1, id); !running && r.State != catalog.RunRunning {
			return r
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the run does not end")
	return nil
}

func box(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "From a@example.org Thu Mar 12 09:14:00 2026\nFrom: a@example.org\nSubject: %d\n\n%s\n\n", i, strings.Repeat(fmt.Sprint(i, " "), 500))
	}
	return b.Bytes()
}

func nothing() {}

func TestDiskNearlyFull(t *testing.T) {
	w := newWorld(t, nil)
	w.free = lowDisk + 1000
	begin := func(name string, size int64) error {
		_, _, err := w.s.Begin(Plan{Account: 1, Mailbox: "m", Files: []File{{Name: name, Size: size}}})
		return err
	}
	if err := begin("a", 1001); !errors.Is(err, ErrDisk) {
		t.Error("more than fits:", err)
	}
	if err := begin("b", 600); err != nil {
		t.Error("what fits:", err)
	}
	if err := begin("c", 600); !errors.Is(err, ErrDisk) {
		t.Error("what was promised to another:", err)
	}
	if _, err := w.s.Stream(1, "ada", 600); !errors.Is(err, ErrDisk) {
		t.Error("the same as a stream:", err)
	}
	// While it comes.
	u, claim := w.begin(t, 300)
	w.free = lowDisk - 1
	if s, err := u.Write(claim, 0, bytes.NewReader(make([]byte, 300)), nothing); !errors.Is(err, ErrDisk) || s.Run != 0 {
		t.Errorf("the disk filled up: %+v %v", s, err)
	}
	w.free = 1 << 40
	s := u.State()
	if s, err := u.Write(claim, s.Offset, bytes.NewReader(make([]byte, 300-s.Offset)), nothing); err != nil || s.Run == 0 {
		t.Errorf("once there is room: %+v %v", s, err)
	}
}

func TestStreamOverTheLimit(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxSize = 1000 })
	if _, err := w.s.Stream(1, "ada", 1001); !errors.Is(err, ErrTooLarge) {
		t.Error("announced:", err)
	}
	u, err := w.s.Stream(1, "ada", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Append("a", bytes.NewReader(make([]byte, 600)), nothing); err != nil {
		t.Error(err)
	}
	if err := u.Append("b", bytes.NewReader(make([]byte, 401)), nothing); !errors.Is(err, ErrTooLarge) {
		t.Error("together:", err)
	}
	u.Drop()
	if _, err := u.Finish("m", ""); !errors.Is(err, ErrGone) {
		t.Error("it is imported after it was dropped:", err)
	}
}

// To what nothing comes is discarded, and its file too.
func TestIdle(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Idle = 300 * time.Millisecond })
	u, claim := w.begin(t, 2<<20)
	for i := range 4 {
		if _, err := u.Write(claim, int64(i)*300_000, bytes.NewReader(make([]byte, 300_000)), nothing); err != nil {
			t.Fatal("while pieces come:", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	for range 100 {
		if _, err := w.s.Find(1, u.ID); err != nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if _, err := w.s.Find(1, u.ID); !errors.Is(err, ErrGone) {
		t.Error("after a while without a piece:", err)
	}
	if _, err := u.Write(claim, u.State().Offset, strings.NewReader("x"), nothing); !errors.Is(err, ErrGone) {
		t.Error("a piece that comes too late:", err)
	}
	if es, _ := os.ReadDir(filepath.Join(w.dir, "spool")); len(es) > 0 {
		t.Error("files are left:", es)
	}
}

// stalls gives a few bytes and then nothing until it is ended.
type stalls struct {
	first io.Reader
	end   chan struct{}
}

func (s stalls) Read(b []byte) (int, error) {
	if n, err := s.first.Read(b); err == nil {
		return n, nil
	}
	<-s.end
	return 0, errors.New("hung up")
}

// A piece takes over from one whose connection was lost without notice.
func TestTakeOver(t *testing.T) {
	w := newWorld(t, nil)
	b := box(20)
	u, claim := w.begin(t, int64(len(b)))
	end := make(chan struct{})
	lost := make(chan error, 1)
	go func() {
		_, err := u.Write(claim, 0, stalls{bytes.NewReader(b[:1000]), end}, func() { close(end) })
		lost <- err
	}()
	for u.State().Offset < 1000 {
		time.Sleep(time.Millisecond)
	}
	s, err := u.Write(claim, 1000, bytes.NewReader(b[1000:]), nothing)
	if err != nil || s.Run == 0 {
		t.Fatalf("%+v %v", s, err)
	}
	if err := <-lost; !errors.Is(err, ErrBroken) {
		t.Error("the lost one:", err)
	}
	if r := w.run(t, s.Run); r.Archived != 20 {
		t.Errorf("%+v", r.Counts)
	}
}

// A stop ends what is being received at once, and an import as failed: it says
// that what was sent is gone.
func TestStop(t *testing.T) {
	w := newWorld(t, nil)
	u, claim := w.begin(t, 5000)
	end := make(chan struct{})
	lost := make(chan error, 1)
	go func() {
		_, err := u.Write(claim, 0, stalls{bytes.NewReader(make([]byte, 1000)), end}, func() { close(end) })
		lost <- err
	}()
	for u.State().Offset < 1000 {
		time.Sleep(time.Millisecond)
	}
	b := box(20_000)
	other, claim := w.begin(t, int64(len(b)))
	s, err := other.Write(claim, 0, bytes.NewReader(b), nothing)
	if err != nil {
		t.Fatal(err)
	}
	if _, running := w.s.Running(2, s.Run); running {
		t.Error("somebody else sees its progress")
	}
	w.s.Cancel(2, s.Run) // somebody else
	w.s.Close()
	if err := <-lost; !errors.Is(err, ErrBroken) {
		t.Error("the piece under way:", err)
	}
	r := w.run(t, s.Run)
	if n := len(r.Failures); r.State != catalog.RunFailed || n == 0 || r.Failures[n-1].Reason != ingest.UploadGone || !r.AddUp() || r.Seen == 20_000 {
		t.Errorf("%s %+v %v", r.State, r.Counts, r.Failures)
	}
	if _, _, err := w.s.Begin(Plan{Account: 1, Mailbox: "m", Files: []File{{Name: "late", Size: 1}}}); err == nil {
		t.Error("something is taken after the end")
	}
}

func TestCancel(t *testing.T) {
	w := newWorld(t, nil)
	b := box(20_000)
	u, claim := w.begin(t, int64(len(b)))
	s, err := u.Write(claim, 0, bytes.NewReader(b), nothing)
	if err != nil {
		t.Fatal(err)
	}
	u.Drop() // nothing any more: it is being imported
	w.s.Cancel(1, s.Run)
	if r := w.run(t, s.Run); r.State != catalog.RunCancelled || !r.AddUp() || r.Seen == 20_000 {
		t.Errorf("%s %+v", r.State, r.Counts)
	}
}

// A process that was killed leaves a run that says so at the next start.
func TestKilled(t *testing.T) {
	w := newWorld(t, nil)
	ctx := context.Background()
	runs := []*catalog.Run{{What: "upload a.mbox\n> m/", Who: "ada"}, {What: "/home/upload a.mbox\n> m/", Who: "ada"}}
	if err := w.a.State().Write(func(tx catalog.Tx) error { return errors.Join(tx.StartRun(runs[0]), tx.StartRun(runs[1])) }); err != nil {
		t.Fatal(err)
	}
	if err := ingest.EndUploads(ctx, w.a); err != nil {
		t.Fatal(err)
	}
	if err := w.a.State().View(ctx, func(v catalog.View) error {
		sent, err := v.Run(runs[0].ID)
		if err != nil || sent.State != catalog.RunFailed || len(sent.Failures) != 1 || sent.Failures[0].Reason != ingest.UploadGone {
			t.Errorf("%+v %v", sent, err)
		}
		file, err := v.Run(runs[1].ID)
		if err != nil || file.State != catalog.RunRunning {
			t.Errorf("an import of files does not go on: %+v %v", file, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestFileNames(t *testing.T) {
	for in, want := range map[string]string{"a.mbox": "a.mbox", `C:\x\a.eml`: "a.eml", "/etc/passwd": "passwd", "../..": "..", "": "_", "/": "_", "a\nb": "a_b", strings.Repeat("ä", 200): strings.Repeat("ä", 127)} {
		if got := fileName(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}
