package ingest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
)

// put puts a message into a folder of alice's that is some days old.
func (w *world) put(t *testing.T, folder, name string, raw []byte, days int) {
	t.Helper()
	w.d.Put(t, "alice", folder, name, raw)
	when := time.Now().Add(-time.Duration(days)*24*time.Hour - time.Hour)
	if err := os.Chtimes(filepath.Join(w.d.Maildir(t, "alice", folder), "cur", name), when, when); err != nil {
		t.Fatal(err)
	}
}

// left returns the names in a folder, without flags.
func (w *world) left(t *testing.T, folder string) (names []string) {
	t.Helper()
	dir := w.d.Maildir(t, "alice", folder)
	for _, sub := range []string{"cur", "new"} {
		es, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			name, _, _ := strings.Cut(e.Name(), ".m")
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (w *world) wantLeft(t *testing.T, folder string, want ...string) {
	t.Helper()
	if got := w.left(t, folder); !slices.Equal(got, want) {
		t.Errorf("%q has %v, want %v", folder, got, want)
	}
}

// deletions are the acts of the ledger about deleting.
func (w *world) deletions(t *testing.T) (out []archive.Act) {
	t.Helper()
	acts, err := w.a.Catalog().Acts(ctx, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range acts {
		var x archive.Act
		if err := json.Unmarshal([]byte(a.Detail), &x); err != nil {
			t.Fatal(err)
		}
		if x.What == "delete at the source" {
			out = append(out, x)
		}
	}
	return out
}

// dated is mail(n), written some days ago.
func dated(n, days int) []byte {
	return []byte(strings.Replace(string(mail(n)), "Thu, 12 Mar 2026 08:00:00 +0000", time.Now().AddDate(0, 0, -days).Format(time.RFC1123Z), 1))
}

func TestDeleteAtTheSource(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.put(t, "", fmt.Sprintf("old%d.m:2,S", i), mail(i), 40)
	}
	w.put(t, "", "young.m:2,S", mail(10), 20)
	w.put(t, "", "flagged.m:2,FS", mail(11), 400)
	w.put(t, "", "marked.m:2,ST", mail(12), 2) // by somebody else, and not expunged
	w.put(t, "work", "old.m:2,", mail(13), 40)
	w.put(t, "Trash", "old.m:2,", mail(14), 400) // left out: never collected
	p := w.profile(t, w.d.IMAPS, func(p *ingest.Profile) { p.DeleteAfter = 30 })

	// Before anything was collected, nothing would go.
	d, err := w.r.WouldDelete(ctx, p)
	if err != nil || d.Count != 0 || d.Error != "" {
		t.Fatalf("%+v %v", d, err)
	}
	p.DeleteAfter = 0
	w.want(t, w.run(t, p), catalog.RunDone, 9, 0, 0)
	if _, err := w.r.WouldDelete(ctx, p); !errors.Is(err, ingest.ErrNoDeletion) {
		t.Errorf("%v", err)
	}
	p.DeleteAfter = 30
	w.put(t, "", "late.m:2,", mail(15), 400) // not collected yet
	d, err = w.r.WouldDelete(ctx, p)
	if err != nil || d.Count != 6 || len(d.Messages) != 6 || len(d.Kept) != 0 || d.Error != "" {
		t.Fatalf("%+v %v", d, err)
	}
	all := []string{"flagged", "late", "marked", "old0", "old1", "old2", "old3", "old4", "young"}
	w.wantLeft(t, "", all...)
	if n := len(w.deletions(t)); n != 0 {
		t.Errorf("%d acts of a look", n)
	}

	out := w.run(t, p) // collects the late one too
	if out.State != catalog.RunDone || out.Archived != 1 || out.Deletion == nil || out.Deletion.Count != 7 || out.Deletion.Error != "" {
		t.Fatalf("%+v %+v", out, out.Deletion)
	}
	w.wantLeft(t, "", "flagged", "marked", "young")
	w.wantLeft(t, "work")
	w.wantLeft(t, "Trash", "old")
	acts := w.deletions(t)
	wheres := map[string]int64{}
	for _, a := range acts {
		if a.Of != p.Name || a.Who != "test" || len(a.More) != len(a.Leaf) || !strings.Contains(a.Why, fmt.Sprint("run ", out.Run)) {
			t.Errorf("%+v", a)
		}
		for i, where := range a.More {
			wheres[where] = a.Leaf[i]
		}
	}
	if len(acts) != 2 || len(wheres) != 7 {
		t.Errorf("%+v", acts)
	}
	for _, m := range d.Messages {
		if leaf, ok := wheres[m.Where]; !ok || leaf != m.Leaf {
			t.Errorf("%+v is not in the ledger: %v", m, wheres)
		}
	}
	w.exact(t, mail(3))
	w.exact(t, mail(13))

	out = w.run(t, p)
	if out.Seen != 0 || out.Deletion.Count != 0 || len(w.deletions(t)) != 2 {
		t.Errorf("%+v %+v", out, out.Deletion)
	}
	var lines []catalog.Line
	if err := w.a.State().View(ctx, func(v catalog.View) (err error) {
		lines, err = v.Lines(out.Run-1, 100)
		return err
	}); err != nil || !strings.Contains(fmt.Sprint(lines), "deleted at the source: 7 messages") {
		t.Errorf("%v %v", lines, err)
	}
}

// What the source has now, and not what it had, must be in the archive.
func TestAlteredStays(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"a", "b", "c"} {
		w.put(t, "", name+".m:2,S", mail(len(name)+int(name[0])), 40)
	}
	p := w.profile(t, w.d.IMAPS, nil)
	w.want(t, w.run(t, p), catalog.RunDone, 3, 0, 0)
	changed := filepath.Join(w.d.Maildir(t, "alice", ""), "cur", "b.m:2,S")
	raw, err := os.ReadFile(changed)
	if err != nil {
		t.Fatal(err)
	}
	when := time.Now().AddDate(0, 0, -40)
	if err := os.WriteFile(changed, []byte(strings.Replace(string(raw), "Text", "text", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Chtimes(changed, when, when)
	p.DeleteAfter = 30
	d, err := w.r.WouldDelete(ctx, p)
	if err != nil || d.Count != 2 || len(d.Kept) != 1 {
		t.Fatalf("%+v %v", d, err)
	}
	out := w.run(t, p)
	if out.State != catalog.RunDone || out.Deletion.Count != 2 || len(out.Deletion.Kept) != 1 {
		t.Errorf("%+v", out.Deletion)
	}
	w.wantLeft(t, "", "b")
	// It is known to stay, and is not read again each time.
	if out = w.run(t, p); out.Deletion.Count != 0 || len(out.Deletion.Kept) != 0 {
		t.Errorf("%+v", out.Deletion)
	}
	w.wantLeft(t, "", "b")
}

// A message that failed stays, even if it can be had again and the archive has
// the same from elsewhere: nobody has collected it here.
func TestMissedStays(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		w.put(t, "", fmt.Sprintf("%d.m:2,S", i), mail(i), 40)
	}
	bad := filepath.Join(w.d.Maildir(t, "alice", ""), "cur", "1.m:2,S")
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(bad, 0o700); err != nil {
		t.Fatal(err)
	}
	when := time.Now().AddDate(0, 0, -40)
	os.Chtimes(bad, when, when) // Dovecot remembers when a message came
	p := w.profile(t, w.d.IMAPS, func(p *ingest.Profile) { p.DeleteAfter = 30 })
	out := w.run(t, p)
	w.want(t, out, catalog.RunPartial, 2, 0, 1)
	if out.Deletion == nil || out.Deletion.Count != 2 {
		t.Errorf("%+v", out.Deletion)
	}
	w.wantLeft(t, "", "1")
	for range 4 {
		w.want(t, w.run(t, p), catalog.RunPartial, 0, 0, 1)
	}
	os.Remove(bad)
	w.put(t, "", "1.m:2,S", mail(0), 40)
	out = w.run(t, p) // it was tried often enough
	w.want(t, out, catalog.RunDone, 0, 0, 0)
	if out.Deletion.Count != 0 {
		t.Errorf("%+v", out.Deletion)
	}
	w.wantLeft(t, "", "1")
	wait, err := w.r.Retry(ctx, p, "test")
	if err != nil {
		t.Fatal(err)
	}
	out, err = wait()
	if err != nil || out.Present != 1 || out.Deletion.Count != 1 {
		t.Errorf("%+v %+v %v", out, out.Deletion, err)
	}
	w.wantLeft(t, "")
}

func TestAnotherUIDValidity(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		w.put(t, "box", fmt.Sprintf("%d.m:2,S", i), mail(i), 40)
	}
	p := w.profile(t, w.d.IMAPS, nil)
	w.want(t, w.run(t, p), catalog.RunDone, 3, 0, 0)
	if err := os.RemoveAll(w.d.Maildir(t, "alice", "box")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // Dovecot takes the time in seconds for the UIDVALIDITY
	for i := range 3 {
		w.put(t, "box", fmt.Sprintf("%d.m:2,S", i), mail(i), 40)
	}
	p.DeleteAfter = 30
	d, err := w.r.WouldDelete(ctx, p)
	if err != nil || d.Count != 0 {
		t.Errorf("%+v %v", d, err)
	}
	w.wantLeft(t, "box", "0", "1", "2")
	if out := w.run(t, p); out.Present != 3 || out.Deletion.Count != 3 { // walked again, so they are the same
		t.Errorf("%+v %+v", out.Counts, out.Deletion)
	}
}

// The connection breaks anywhere: what is deleted is in the ledger and in the
// archive, and in the end all of it is gone.
func TestDeletionGoesOn(t *testing.T) {
	w := newWorld(t)
	const n = 30
	for i := range n {
		w.put(t, "", fmt.Sprintf("%02d.m:2,S", i), mail(i), 40)
	}
	p := w.profile(t, w.d.IMAPS, nil)
	w.want(t, w.run(t, p), catalog.RunDone, n, 0, 0)
	var mu sync.Mutex
	step := 0
	port := startCutter(t, w.d.IMAPS, func(c int) int64 {
		mu.Lock()
		defer mu.Unlock()
		step++
		return int64(3000 + 701*step)
	})
	p.DeleteAfter, p.From = 30, fmt.Sprintf("imaps://alice@localhost:%d", port)
	broken := false
	for round := 0; len(w.left(t, "")) > 0; round++ {
		out := w.run(t, p)
		mu.Lock()
		broken = broken || out.State == catalog.RunFailed || out.Deletion.Error != "" || step > round+1
		mu.Unlock()
		if round > 40 {
			t.Fatalf("it does not end: %+v", out)
		}
	}
	if !broken {
		t.Error("no connection broke")
	}
	wheres := map[string]bool{}
	for _, a := range w.deletions(t) {
		for _, where := range a.More {
			wheres[where] = true
		}
	}
	if len(wheres) != n {
		t.Errorf("%d messages in the ledger", len(wheres))
	}
	for i := range n {
		w.exact(t, mail(i))
	}
}

func TestDeleteByPOP3(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.d.Put(t, "alice", "", fmt.Sprintf("old%d.m:2,", i), dated(i, 40))
	}
	w.d.Put(t, "alice", "", "young.m:2,", dated(10, 20))
	w.d.Put(t, "alice", "", "received.m:2,", append([]byte("Received: by mail.example.org; "+time.Now().AddDate(0, 0, -5).Format(time.RFC1123Z)+"\n"), dated(11, 400)...))
	w.d.Put(t, "alice", "", "nodate.m:2,", []byte("From: a@example.org\nSubject: no date\n\ntext\n"))
	w.d.Put(t, "alice", "", "altered.m:2,S", dated(12, 40))
	p := w.profile(t, w.d.POP3S, func(p *ingest.Profile) { p.From = fmt.Sprintf("pop3s://alice@localhost:%d", w.d.POP3S) })
	w.want(t, w.run(t, p), catalog.RunDone, 9, 0, 0)
	altered := filepath.Join(w.d.Maildir(t, "alice", ""), "cur", "altered.m:2,S")
	if err := os.WriteFile(altered, []byte(strings.Replace(string(dated(12, 40)), "Text", "text", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	p.DeleteAfter = 30
	d, err := w.r.WouldDelete(ctx, p)
	if err != nil || d.Count != 5 || len(d.Kept) != 1 || d.Error != "" {
		t.Fatalf("%+v %v", d, err)
	}
	if n := len(w.left(t, "")); n != 9 || len(w.deletions(t)) != 0 {
		t.Errorf("a look deleted: %d left", n)
	}
	w.d.Put(t, "alice", "", "late.m:2,", dated(13, 40))
	out := w.run(t, p)
	if out.State != catalog.RunDone || out.Archived != 1 || out.Deletion.Count != 6 || out.Deletion.Error != "" {
		t.Errorf("%+v %+v", out, out.Deletion)
	}
	w.wantLeft(t, "", "altered", "nodate", "received", "young")
	if acts := w.deletions(t); len(acts) != 1 || len(acts[0].Leaf) != 6 || !strings.HasPrefix(acts[0].More[0], "UIDL=") {
		t.Errorf("%+v", acts)
	}
	if out := w.run(t, p); out.Deletion.Count != 0 || len(out.Deletion.Kept) != 0 || len(w.deletions(t)) != 1 {
		t.Errorf("%+v", out.Deletion)
	}

	// Broken before QUIT, nothing is deleted; the next run goes on.
	for i := 20; i < 30; i++ {
		w.d.Put(t, "alice", "", fmt.Sprintf("more%d.m:2,", i), dated(i, 40))
	}
	p.DeleteAfter = 0
	w.want(t, w.run(t, p), catalog.RunDone, 10, 0, 0)
	var mu sync.Mutex
	step := 0
	port := startCutter(t, w.d.POP3S, func(int) int64 {
		mu.Lock()
		defer mu.Unlock()
		step++
		return int64(3000 + 503*step)
	})
	p.DeleteAfter, p.From = 30, fmt.Sprintf("pop3s://alice@localhost:%d", port)
	for round := 0; len(w.left(t, "")) > 4; round++ {
		if out = w.run(t, p); round > 40 {
			t.Fatalf("it does not end: %+v", out)
		}
	}
	w.wantLeft(t, "", "altered", "nodate", "received", "young")
}

// A server without UIDPLUS would take what others have marked.
func TestNoExpungeNoDeletion(t *testing.T) {
	w := newWorld(t)
	d := mailtest.StartDovecot(t, "imap_capability = IMAP4rev1 AUTH=PLAIN SASL-IR\n")
	w.d = d
	w.put(t, "", "old.m:2,S", mail(1), 40)
	w.put(t, "", "marked.m:2,ST", mail(2), 1)
	p := w.profile(t, d.IMAPS, func(p *ingest.Profile) { p.DeleteAfter = 30 })
	out := w.run(t, p)
	if out.State != catalog.RunDone || out.Archived != 2 || out.Deletion.Count != 0 || !strings.Contains(out.Deletion.Error, "UIDPLUS") {
		t.Errorf("%+v %+v", out, out.Deletion)
	}
	w.wantLeft(t, "", "marked", "old")
	if n := len(w.deletions(t)); n != 0 {
		t.Errorf("%d acts", n)
	}
}

func TestChecksOfRules(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		p    ingest.Profile
		want string
	}{
		{ingest.Profile{From: "imaps://ann@h.example", DeleteAfter: 30}, ""},
		{ingest.Profile{From: "pop3s://ann@h.example", DeleteAfter: 1}, ""},
		{ingest.Profile{From: "imaps://ann@h.example", DeleteAfter: -1}, "1 to 36500"},
		{ingest.Profile{From: "folder:/x", DeleteAfter: 30}, "done/"},
		{ingest.Profile{From: "imaps://ann@h.example", Connections: 8, Bandwidth: 10_000}, ""},
		{ingest.Profile{From: "imaps://ann@h.example", Connections: 9}, "1 to 8"},
		{ingest.Profile{From: "imaps://ann@h.example", Bandwidth: 100}, "the least"},
		{ingest.Profile{From: "pop3s://ann@h.example", Connections: 2}, "locked"},
		{ingest.Profile{From: "imaps://ann@h.example", DeleteAfter: 30, Exception: &ingest.Exception{Kind: ingest.Unverified, Owner: "a", Reason: "b", Until: now.AddDate(0, 0, 3)}}, "exception"},
	} {
		tc.p.Name, tc.p.Mailbox = "p", "m"
		err := tc.p.Check(now)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v, want %q", tc.p, err, tc.want)
		}
	}
}

// A run with nothing to delete reads no mail: neither what is young nor what is
// flagged, nor what was found to differ before.
func TestNothingToDeleteCostsLittle(t *testing.T) {
	w := newWorld(t)
	big := strings.Repeat("0123456789\n", 10_000)
	for i := range 10 {
		w.put(t, "", fmt.Sprintf("young%d.m:2,S", i), append(mail(i), big...), 20)
		w.put(t, "", fmt.Sprintf("flagged%d.m:2,FS", i), append(mail(20+i), big...), 40)
		w.put(t, "", fmt.Sprintf("altered%d.m:2,S", i), append(mail(40+i), big...), 40)
	}
	var bytes atomic.Int64
	port := startCounter(t, w.d.IMAPS, &bytes)
	p := w.profile(t, port, nil)
	w.want(t, w.run(t, p), catalog.RunDone, 30, 0, 0)
	if n := bytes.Load(); n < 3_000_000 {
		t.Fatalf("%d bytes for all", n)
	}
	for i := range 10 {
		w.put(t, "", fmt.Sprintf("altered%d.m:2,S", i), append([]byte(strings.Replace(string(mail(40+i)), "Text", "text", 1)), big...), 40)
	}
	p.DeleteAfter = 30
	for round, most := range []int64{1_500_000, 30_000} {
		bytes.Store(0)
		out := w.run(t, p)
		if n := bytes.Load(); out.Seen != 0 || out.Deletion.Count != 0 || n > most {
			t.Errorf("round %d: %d bytes, %+v %+v", round, n, out.Counts, out.Deletion)
		}
	}
}

// startCounter passes connections on and counts what the server says.
func startCounter(t *testing.T, to int, bytes *atomic.Int64) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
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
			go func() { io.Copy(out, in); out.Close() }()
			go func() { io.Copy(io.MultiWriter(in, adder{bytes}), out); in.Close() }()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

type adder struct{ n *atomic.Int64 }

func (a adder) Write(p []byte) (int, error) { a.n.Add(int64(len(p))); return len(p), nil }
