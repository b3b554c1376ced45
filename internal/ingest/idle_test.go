package ingest_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
)

// serve lets the runner serve until the test or the returned function ends it.
func (w *world) serve(t *testing.T) (stop func()) {
	t.Helper()
	w.r.Tick = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.r.Serve(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("the runner does not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

// await waits for something to become true.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("does not happen: %s", what)
		}
	}
}

func (w *world) has(raw []byte) bool { return w.a.Has(ctx, w.a.IDOf(crlf(raw))) }

func (w *world) runs(t *testing.T, p *ingest.Profile) (rs []catalog.Run) {
	t.Helper()
	if err := w.a.State().View(ctx, func(v catalog.View) (err error) {
		rs, err = v.RunsOf(p.ID, 100)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return rs
}

// deliver delivers a message by LMTP.
func (w *world) deliver(t *testing.T, account string, raw []byte) {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.d.LMTP))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "LHLO test\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<%s>\r\nDATA\r\n", account)
	time.Sleep(100 * time.Millisecond)
	fmt.Fprintf(c, "%s\r\n.\r\nQUIT\r\n", raw)
	if b, err := io.ReadAll(c); err != nil || !strings.Contains(string(b), "250 2.0.0 <") {
		t.Fatalf("%s %v", b, err)
	}
}

// With --idle a message is archived as soon as it is delivered, without a
// schedule; no run is ever beside another.
func TestIdle(t *testing.T) {
	w := newWorld(t)
	w.d.Put(t, "alice", "", "1.m:2,", mail(1))
	port, cut := startRelay(t, w.d.IMAPS)
	p := w.profile(t, port, func(p *ingest.Profile) { p.Idle = true })
	stop := w.serve(t)
	await(t, "what was there is archived", func() bool { return w.has(mail(1)) })
	w.d.Put(t, "alice", "", "2.m:2,", mail(2))
	await(t, "a message put into the Maildir is archived", func() bool { return w.has(mail(2)) })
	before := len(w.runs(t, p))
	w.deliver(t, "alice", []byte("Subject: by LMTP\r\n\r\nx"))
	await(t, "a message delivered by LMTP is archived", func() bool { rs := w.runs(t, p); return len(rs) > before && rs[0].Archived == 1 })

	// The connection breaks: it is made again, and what came meanwhile is found.
	cut(true)
	w.d.Put(t, "alice", "", "3.m:2,", mail(3))
	time.Sleep(300 * time.Millisecond)
	if w.has(mail(3)) {
		t.Fatal("the connection was not cut")
	}
	cut(false)
	await(t, "what came while it was broken is archived", func() bool { return w.has(mail(3)) })

	// At the end of the server it ends, and nothing is collected any more.
	stop()
	w.d.Put(t, "alice", "", "4.m:2,", mail(4))
	time.Sleep(1500 * time.Millisecond)
	if w.has(mail(4)) {
		t.Error("a message is archived after the stop")
	}
	for _, r := range w.runs(t, p) {
		if r.Who != "new mail" || r.State != catalog.RunDone && r.State != catalog.RunFailed {
			t.Errorf("%+v", r)
		}
	}
}

// startRelay passes connections on. While it is cut there are none.
func startRelay(t *testing.T, to int) (port int, cut func(bool)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var mu sync.Mutex
	var off bool
	open := map[net.Conn]bool{}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", to))
			if err != nil {
				in.Close()
				continue
			}
			mu.Lock()
			open[in], open[out] = true, true
			if off {
				in.Close()
			}
			mu.Unlock()
			for _, c := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() { io.Copy(c[0], c[1]); c[0].Close(); c[1].Close() }()
			}
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, func(on bool) {
		mu.Lock()
		defer mu.Unlock()
		off = on
		for c := range open {
			if on {
				c.Close()
			}
		}
		clear(open)
	}
}

// Waiting ends when the profile is disabled, edited, paused, or its exception is
// over, and begins again when it may.
func TestIdleRests(t *testing.T) {
	var offset atomic.Int64
	a := mailtest.Archive(t, func() time.Time { return time.Now().Add(time.Duration(offset.Load())) })
	r := ingest.NewRunner(a)
	r.Patience = 5 * time.Millisecond
	t.Cleanup(r.Close)
	d := mailtest.StartDovecot(t, "")
	w := &world{a, r, d}
	p := &ingest.Profile{Name: "x", Enabled: true, Idle: true, From: fmt.Sprintf("imaps://alice@localhost:%d", d.IMAPS), Mailbox: "alice", AllowNet: []string{"127.0.0.0/8"},
		Exception: &ingest.Exception{Kind: ingest.Unverified, Owner: "ann", Reason: "test", Since: time.Now(), Until: time.Now().AddDate(0, 0, 7)}}
	save := func() {
		t.Helper()
		if err := ingest.Save(a, p, []byte(mailtest.Password), "test"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond) // some ticks
	}
	n := 0
	arrives := func(want bool) {
		t.Helper()
		n++
		d.Put(t, "alice", "", fmt.Sprintf("%d.m:2,", n), mail(n))
		if want {
			await(t, fmt.Sprintf("message %d is archived", n), func() bool { return w.has(mail(n)) })
			return
		}
		time.Sleep(1700 * time.Millisecond)
		if w.has(mail(n)) {
			t.Errorf("message %d is archived although the profile rests", n)
		}
	}
	d.Maildir(t, "alice", "")
	save()
	w.serve(t)
	arrives(true)
	p.Enabled = false
	save()
	arrives(false)
	p.Enabled = true
	save()
	arrives(true)
	await(t, "the run has ended", func() bool { return len(r.Live()) == 0 })
	if err := a.State().Write(func(t catalog.Tx) error { // as Pause leaves a run
		run := catalog.Run{Profile: p.ID, What: p.Name, Who: "test", Started: a.Now()}
		if err := t.StartRun(&run); err != nil {
			return err
		}
		run.State = catalog.RunPaused
		return t.SaveRun(&run, nil, nil)
	}); err != nil {
		t.Fatal(err)
	}
	arrives(false)
	w.run(t, p) // goes on
	arrives(true)
	offset.Store(int64(8 * 24 * time.Hour))
	time.Sleep(300 * time.Millisecond)
	arrives(false)
}

// A server without IDLE is left to the schedule.
func TestNoIdle(t *testing.T) {
	w := newWorldWith(t, "imap_capability = IMAP4rev1 UIDPLUS\nprotocol imap {\n  rawlog_dir = %h/rawlog\n}\n")
	w.d.Put(t, "alice", "", "1.m:2,", mail(1))
	protocols := w.protocols(t)
	p := w.profile(t, w.d.IMAPS, func(p *ingest.Profile) { p.Idle, p.Every = true, ingest.Duration(5*time.Minute) })
	w.serve(t)
	await(t, "the schedule collects", func() bool { return w.has(mail(1)) })
	time.Sleep(500 * time.Millisecond)
	if rs := w.runs(t, p); len(rs) > 2 {
		t.Errorf("%d runs", len(rs))
	}
	for _, s := range mailtest.Said(t, protocols) {
		if strings.HasPrefix(s, "IDLE") {
			t.Errorf("it was asked to %s", s)
		}
	}
}

// protocols makes the folder in which Dovecot keeps what alice's sessions say.
func (w *world) protocols(t *testing.T) string {
	t.Helper()
	w.d.Maildir(t, "alice", "")
	return w.d.Folder(t, filepath.Join("mail", "alice", "rawlog"))
}
