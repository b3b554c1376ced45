package ingest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

var ctx = context.Background()

// world is an archive with a runner and a Dovecot.
type world struct {
	a *archive.Archive
	r *ingest.Runner
	d *mailtest.Dovecot
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, "")
}

// newWorldWith adds to Dovecot's configuration.
func newWorldWith(t *testing.T, more string) *world {
	t.Helper()
	a := mailtest.Archive(t, nil)
	r := ingest.NewRunner(a)
	r.Patience = 5 * time.Millisecond
	t.Cleanup(r.Close)
	return &world{a, r, mailtest.StartDovecot(t, more)}
}

// marks are how far sources have been read.
func (w *world) marks(t *testing.T) (out map[string]string) {
	t.Helper()
	ps, err := ingest.Profiles(ctx, w.a)
	if err != nil || len(ps) != 1 {
		t.Fatalf("%d profiles, %v", len(ps), err)
	}
	if err := w.a.State().View(ctx, func(v catalog.View) error {
		out, err = v.Marks(ps[0].ID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func (w *world) profile(t *testing.T, port int, change func(*ingest.Profile)) *ingest.Profile {
	t.Helper()
	p := &ingest.Profile{Name: fmt.Sprintf("alice at %d", port), Enabled: true, From: fmt.Sprintf("imaps://alice@localhost:%d", port), Mailbox: "alice", CA: string(w.d.CA.PEM), AllowNet: []string{"127.0.0.0/8"}}
	if change != nil {
		change(p)
	}
	if err := ingest.Save(w.a, p, []byte(mailtest.Password), "test"); err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) run(t *testing.T, p *ingest.Profile) *ingest.Outcome {
	t.Helper()
	wait, err := w.r.Start(ctx, p, "test")
	if err != nil {
		t.Fatal(err)
	}
	out, err := wait()
	if err != nil {
		t.Fatal(err)
	}
	if !out.AddUp() {
		t.Fatalf("%+v", out.Counts)
	}
	return out
}

func (w *world) want(t *testing.T, out *ingest.Outcome, state string, archived, present, failed int64) {
	t.Helper()
	if out.State != state || out.Archived != archived || out.Present != present || out.Failed != failed {
		t.Errorf("%s: %+v %v %s; want %s, %d archived, %d present, %d failed", out.State, out.Counts, out.Failures, out.Error, state, archived, present, failed)
	}
}

func mail(n int) []byte {
	return fmt.Appendf(nil, "From: ann%d@example.org\nTo: alice@example.org\nSubject: number %[1]d\nDate: Thu, 12 Mar 2026 08:00:00 +0000\nMessage-ID: <%[1]d@example.org>\n\nText %[1]d\n%s", n, strings.Repeat("word ", n%50))
}

// folders returns how many occurrences each folder of the archive has.
func (w *world) folders(t *testing.T) map[string]int64 {
	t.Helper()
	fs, err := w.a.Catalog().Folders(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, f := range fs {
		if out[f.Name], err = w.a.Catalog().FolderCount(ctx, f.ID); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestCollect(t *testing.T) {
	w := newWorld(t)
	for i := range 40 {
		w.d.Put(t, "alice", "", fmt.Sprintf("%d.m:2,S", i), mail(i))
	}
	w.d.Put(t, "alice", "Gr&APwA3w-e", "1.m:2,F", mail(100))
	w.d.Put(t, "alice", "a.b", "1.m:2,", mail(101))
	w.d.Put(t, "alice", "Junk", "1.m:2,", mail(102))
	w.d.Put(t, "alice", "Trash", "1.m:2,", mail(103))
	p := w.profile(t, w.d.IMAPS, nil)
	w.want(t, w.run(t, p), catalog.RunDone, 42, 0, 0)
	if got := w.folders(t); got["INBOX"] != 40 || got["Grüße"] != 1 || got["a/b"] != 1 || len(got) != 3 {
		t.Errorf("folders %v", got)
	}
	w.want(t, w.run(t, p), catalog.RunDone, 0, 0, 0) // nothing new is not even looked at
	for i := 40; i < 45; i++ {
		w.d.Put(t, "alice", "", fmt.Sprintf("%d.m:2,", i), mail(i))
	}
	w.want(t, w.run(t, p), catalog.RunDone, 5, 0, 0)

	// Moved: it is met again elsewhere, and is one message.
	from, to := w.d.Maildir(t, "alice", ""), w.d.Maildir(t, "alice", "a.b")
	if err := os.Rename(filepath.Join(from, "cur", "3.m:2,S"), filepath.Join(to, "cur", "3.m:2,S")); err != nil {
		t.Fatal(err)
	}
	w.want(t, w.run(t, p), catalog.RunDone, 0, 1, 0)

	// Recreated: another UIDVALIDITY, the same mail and one more.
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // Dovecot takes the time in seconds for the UIDVALIDITY
	for _, i := range []int{3, 101, 200} {
		w.d.Put(t, "alice", "a.b", fmt.Sprintf("%d.m:2,", i), mail(i))
	}
	w.want(t, w.run(t, p), catalog.RunDone, 1, 2, 0)

	// Renamed: no message twice, none lost.
	if err := os.Rename(to, strings.Replace(to, ".a.b", ".a.c", 1)); err != nil {
		t.Fatal(err)
	}
	w.want(t, w.run(t, p), catalog.RunDone, 0, 3, 0)
	if n, err := w.a.Catalog().Totals(ctx); err != nil || n.Messages != 48 {
		t.Errorf("%d messages, %v", n.Messages, err)
	}
	w.exact(t, mail(100))
}

// exact makes sure that a message is in the archive byte for byte, with the
// line ends of the protocol.
func (w *world) exact(t *testing.T, raw []byte) {
	t.Helper()
	if !w.a.Has(ctx, w.a.IDOf(bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n")))) {
		t.Errorf("not there: %.60q", raw)
	}
}

func TestCollectBySTARTTLS(t *testing.T) {
	w := newWorld(t)
	w.d.Put(t, "alice", "", "1.m:2,", mail(1))
	p := w.profile(t, w.d.IMAP, func(p *ingest.Profile) { p.From = fmt.Sprintf("imap://alice@localhost:%d", w.d.IMAP) })
	w.want(t, w.run(t, p), catalog.RunDone, 1, 0, 0)
}

// cutter passes bytes on and ends the n-th and later connections after so many
// bytes from the server.
type cutter struct {
	net.Listener
	to    int
	after func(connection int) int64 // bytes; 0: never
}

func (c *cutter) serve() {
	for n := 0; ; n++ {
		in, err := c.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.to))
		if err != nil {
			in.Close()
			continue
		}
		go func() { io.Copy(out, in); out.Close() }()
		go func() {
			if limit := c.after(n); limit > 0 {
				io.CopyN(in, out, limit)
			} else {
				io.Copy(in, out)
			}
			in.Close()
			out.Close()
		}()
	}
}

func startCutter(t *testing.T, to int, after func(int) int64) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go (&cutter{l, to, after}).serve()
	return l.Addr().(*net.TCPAddr).Port
}

// The connection breaks, again and again, at places all over the conversation:
// the run goes on behind the last message, and in the end all is there once.
func TestBrokenConnections(t *testing.T) {
	w := newWorld(t)
	const n = 60
	for i := range n {
		w.d.Put(t, "alice", "", fmt.Sprintf("%d.m:2,", i), mail(i))
	}
	for step := range 12 {
		// The handshake and sign-in take about 3 KB, the mail 30 KB.
		port := startCutter(t, w.d.IMAPS, func(c int) int64 { return int64(3500 + 977*step + 3001*(c%3)) })
		p := w.profile(t, port, func(p *ingest.Profile) { p.Mailbox = fmt.Sprint("mailbox ", step) })
		var archived, present int64
		for round := 0; ; round++ {
			out := w.run(t, p)
			archived, present = archived+out.Archived, present+out.Present
			if out.State == catalog.RunDone {
				break
			}
			if round > 40 {
				t.Fatalf("step %d does not end: %+v", step, out)
			}
		}
		if archived+present < n || step == 0 && archived != n {
			t.Errorf("step %d: %d archived, %d present", step, archived, present)
		}
	}
	if n, err := w.a.Catalog().Totals(ctx); err != nil || n.Messages != 60 || n.Occurrences != 60*12 {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestWrong(t *testing.T) {
	w := newWorld(t)
	closed := mailtest.Port(t)
	for name, tc := range map[string]struct {
		change func(*ingest.Profile)
		step   tlsconf.Step
		want   string
	}{
		"password":  {func(p *ingest.Profile) { p.From = fmt.Sprintf("imaps://nobody@localhost:%d", w.d.IMAPS) }, tlsconf.StepSignIn, "refused"},
		"host":      {func(p *ingest.Profile) { p.From = "imaps://alice@no-such-host.invalid" }, tlsconf.StepDNS, "no-such-host.invalid"},
		"port":      {func(p *ingest.Profile) { p.From = fmt.Sprintf("imaps://alice@localhost:%d", closed) }, tlsconf.StepTCP, "refused"},
		"no leave":  {func(p *ingest.Profile) { p.AllowNet = nil }, tlsconf.StepDNS, "--allow-net"},
		"authority": {func(p *ingest.Profile) { p.CA = "" }, tlsconf.StepTLS, "--ca"},
		"no TLS":    {func(p *ingest.Profile) { p.From = fmt.Sprintf("imaps://alice@localhost:%d", w.d.IMAP) }, tlsconf.StepTLS, "does not speak TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			p := w.profile(t, 0, func(p *ingest.Profile) {
				p.Name, p.From = name, fmt.Sprintf("imaps://alice@localhost:%d", w.d.IMAPS)
				tc.change(p)
			})
			test, err := w.r.Test(ctx, p)
			if err != nil {
				t.Fatal(err)
			}
			last := test.Steps[len(test.Steps)-1]
			if last.OK || last.Step != tc.step || !strings.Contains(last.Detail, tc.want) {
				t.Errorf("%+v", test.Steps)
			}
			out := w.run(t, p)
			if out.State != catalog.RunFailed || !strings.HasPrefix(out.Error, string(tc.step)+": ") {
				t.Errorf("%s: %s", out.State, out.Error)
			}
			if strings.Contains(fmt.Sprint(test, out), mailtest.Password) {
				t.Error("the password is shown")
			}
		})
	}
}

// A message that cannot be had is kept and tried again; it blocks no other.
func TestMissed(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.d.Put(t, "alice", "", fmt.Sprintf("%d.m:2,", i), mail(i))
	}
	dir := w.d.Maildir(t, "alice", "")
	bad := filepath.Join(dir, "cur", "2.m:2,")
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(bad, 0o700); err != nil { // Dovecot lists it and cannot read it
		t.Fatal(err)
	}
	p := w.profile(t, w.d.IMAPS, nil)
	out := w.run(t, p)
	if out.Archived != 4 {
		t.Fatalf("%+v %v %s", out.Counts, out.Failures, out.Error)
	}
	w.want(t, out, catalog.RunPartial, 4, 0, 1)
	// Five times it is tried by itself, and then by hand.
	for range 4 {
		w.want(t, w.run(t, p), catalog.RunPartial, 0, 0, 1)
	}
	w.want(t, w.run(t, p), catalog.RunDone, 0, 0, 0)
	wait, err := w.r.Retry(ctx, p, "test")
	if err != nil {
		t.Fatal(err)
	}
	out, err = wait()
	if err != nil || len(out.Causes) != 1 || out.Causes[0].Count != 1 {
		t.Errorf("%+v %v", out.Causes, err)
	}
	w.want(t, out, catalog.RunPartial, 0, 0, 1)
	w.want(t, w.run(t, p), catalog.RunPartial, 0, 0, 1)
	os.Remove(bad)
	w.d.Put(t, "alice", "", "2.m:2,", mail(2))
	w.want(t, w.run(t, p), catalog.RunDone, 1, 0, 0)
	w.want(t, w.run(t, p), catalog.RunDone, 0, 0, 0)
}

func TestOneRunAtATime(t *testing.T) {
	w := newWorld(t)
	for i := range 30 {
		w.d.Put(t, "alice", "", fmt.Sprintf("%d.m:2,", i), mail(i))
	}
	stall := make(chan struct{})
	port := startCutter(t, w.d.IMAPS, func(int) int64 { <-stall; return 0 })
	p := w.profile(t, port, nil)
	wait, err := w.r.Start(ctx, p, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.r.Start(ctx, p, "test"); !errors.Is(err, ingest.ErrRunning) {
		t.Errorf("a second run: %v", err)
	}
	if err := w.r.Pause(p); err != nil {
		t.Fatal(err)
	}
	out, err := wait()
	if err != nil || out.State != catalog.RunPaused {
		t.Fatalf("%+v %v", out, err)
	}
	close(stall)
	again := w.run(t, p)
	if again.Run != out.Run || !again.Resumed || again.Archived != 30 || again.State != catalog.RunDone {
		t.Errorf("%+v does not go on with %+v", again, out)
	}
	if err := w.r.Pause(p); !errors.Is(err, ingest.ErrIdle) {
		t.Errorf("pause of nothing: %v", err)
	}
}

func TestChecks(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	x := func(kind string, until time.Time) *ingest.Exception {
		return &ingest.Exception{Kind: kind, Owner: "ann", Reason: "old server", Until: until}
	}
	soon := now.AddDate(0, 0, 7)
	for _, tc := range []struct {
		p    ingest.Profile
		want string
	}{
		{ingest.Profile{From: "imaps://ann@mail.example.org"}, ""},
		{ingest.Profile{From: "imap://ann@example.org@mail.example.org:143"}, ""},
		{ingest.Profile{From: "ftp://ann@mail.example.org"}, "begins with"},
		{ingest.Profile{From: "imaps://mail.example.org"}, "account is missing"},
		{ingest.Profile{From: "imaps://ann:secret@mail.example.org"}, "--password-file"},
		{ingest.Profile{From: "imaps://ann@"}, "host is missing"},
		{ingest.Profile{From: "imaps://ann@h:99999"}, "port"},
		{ingest.Profile{From: "imaps://ann@h.example", Every: ingest.Duration(time.Minute)}, "least is 5m"},
		{ingest.Profile{From: "imaps://ann@h.example", At: "25:00"}, "written 02:30"},
		{ingest.Profile{From: "imaps://ann@h.example", Window: "8-9"}, "written 22:00-06:00"},
		{ingest.Profile{From: "imaps://ann@h.example", AllowNet: []string{"x"}}, "network"},
		{ingest.Profile{From: "imaps://ann@h.example", Pin: "00"}, "pin"},
		{ingest.Profile{From: "imaps://ann@h.example", Exception: x(ingest.Unverified, soon)}, ""},
		{ingest.Profile{From: "imap://ann@h.example", Exception: x(ingest.Cleartext, soon)}, ""},
		{ingest.Profile{From: "imaps://ann@h.example", Exception: x(ingest.Cleartext, soon)}, "is encrypted"},
		{ingest.Profile{From: "imaps://ann@h.example", Exception: x("ignore", soon)}, "unverified or cleartext"},
		{ingest.Profile{From: "imaps://ann@h.example", Exception: x(ingest.Unverified, now.AddDate(0, 0, 31))}, "30 days"},
		{ingest.Profile{From: "imaps://ann@h.example", Exception: x(ingest.Unverified, now)}, "ended already"},
		{ingest.Profile{From: "imaps://ann@h.example", Exception: &ingest.Exception{Kind: ingest.Unverified, Until: soon}}, "--owner"},
		{ingest.Profile{From: "imaps://ann@outlook.office365.com", Token: "t", Exception: x(ingest.Unverified, soon)}, "no exception"},
		{ingest.Profile{From: "imap://ann@imap.gmail.com", Token: "t", Exception: x(ingest.Cleartext, soon)}, "no exception"},
	} {
		tc.p.Name, tc.p.Mailbox = "p", "m"
		err := tc.p.Check(now)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.p.From, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the password is in the error: %v", err)
		}
	}
}

// At its end an exception stops the profile; nothing is collected any more.
func TestExceptionEnds(t *testing.T) {
	now := time.Now()
	a := mailtest.Archive(t, func() time.Time { return now })
	r := ingest.NewRunner(a)
	r.Patience = 5 * time.Millisecond
	t.Cleanup(r.Close)
	d := mailtest.StartDovecot(t, "")
	d.Put(t, "alice", "", "1.m:2,", mail(1))
	p := &ingest.Profile{Name: "x", Enabled: true, From: fmt.Sprintf("imaps://alice@localhost:%d", d.IMAPS), Mailbox: "alice", AllowNet: []string{"127.0.0.0/8"},
		Exception: &ingest.Exception{Kind: ingest.Unverified, Owner: "ann", Reason: "test", Since: now, Until: now.AddDate(0, 0, 7)}}
	if err := ingest.Save(a, p, []byte(mailtest.Password), "test"); err != nil {
		t.Fatal(err)
	}
	w := &world{a, r, d}
	w.want(t, w.run(t, p), catalog.RunDone, 1, 0, 0)
	d.Put(t, "alice", "", "2.m:2,", mail(2))
	now = now.AddDate(0, 0, 7)
	out := w.run(t, p)
	if out.State != catalog.RunFailed || !strings.Contains(out.Error, "exception has ended") || out.Seen != 0 {
		t.Errorf("%+v", out)
	}
}

func TestPOP3(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		w.d.Put(t, "alice", "", fmt.Sprintf("%d.m:2,", i), mail(i))
	}
	dotted := []byte("From: a@example.org\nSubject: dots\n\n.\n..\n.x\n\xe4\xf6 8 bit\n")
	w.d.Put(t, "alice", "", "dots.m:2,", dotted)
	for scheme, port := range map[string]int{"pop3s": w.d.POP3S, "pop3": w.d.POP3} {
		p := w.profile(t, port, func(p *ingest.Profile) {
			p.From, p.Mailbox = fmt.Sprintf("%s://alice@localhost:%d", scheme, port), scheme
		})
		out := w.run(t, p)
		if out.State != catalog.RunDone || out.Archived+out.Present != 21 {
			t.Errorf("%s: %+v %v", scheme, out.Counts, out.Error)
		}
		w.exact(t, dotted)
		w.want(t, w.run(t, p), catalog.RunDone, 0, 0, 0)
		test, err := w.r.Test(ctx, p)
		if err != nil || len(test.Steps) != 5 || !test.Steps[4].OK {
			t.Errorf("%s: %+v %v", scheme, test, err)
		}
	}
	w.d.Put(t, "alice", "", "new.m:2,", mail(300))
	port := startCutter(t, w.d.POP3S, func(c int) int64 { return int64(2500 + 700*c) })
	p := w.profile(t, port, func(p *ingest.Profile) {
		p.From, p.Mailbox = fmt.Sprintf("pop3s://alice@localhost:%d", port), "cut"
	})
	var all int64
	for range 40 {
		out := w.run(t, p)
		all += out.Archived + out.Present
		if out.State == catalog.RunDone {
			break
		}
	}
	if all != 22 {
		t.Errorf("%d messages over broken connections", all)
	}
}

func TestDropFolder(t *testing.T) {
	a := mailtest.Archive(t, nil)
	r := ingest.NewRunner(a)
	t.Cleanup(r.Close)
	dir := t.TempDir()
	old := time.Now().Add(-time.Minute)
	put := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		os.Chtimes(filepath.Join(dir, name), old, old)
	}
	put("one.eml", mail(1))
	put("two.mbox", []byte("From x Thu Mar 12 09:14:00 2026\n"+string(mail(2))+"\n\nFrom x Thu Mar 12 09:14:00 2026\n"+string(mail(3))+"\n"))
	put("cut.zip", []byte("PK\x03\x04 and no more"))
	put("growing.eml", mail(4))
	os.Chtimes(filepath.Join(dir, "growing.eml"), time.Now(), time.Now())
	p := &ingest.Profile{Name: "drop", Enabled: true, From: "folder:" + dir, Mailbox: "m"}
	if err := ingest.Save(a, p, nil, "test"); err != nil {
		t.Fatal(err)
	}
	w := &world{a: a, r: r}
	w.want(t, w.run(t, p), catalog.RunPartial, 3, 0, 1)
	for _, name := range []string{"done/one.eml", "done/two.mbox", "failed/cut.zip", "failed/cut.zip.reason.txt", "growing.eml"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	os.Chtimes(filepath.Join(dir, "growing.eml"), old, old)
	put("one.eml", mail(1))
	w.want(t, w.run(t, p), catalog.RunDone, 1, 1, 0)
	if _, err := os.Stat(filepath.Join(dir, "done/one.eml (2)")); err != nil {
		t.Error(err)
	}
}
