package ingest_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
)

// startGmail returns a world with a Gmail, a profile for alice there, and how to
// set the clock forward.
func startGmail(t *testing.T, change func(*ingest.Profile)) (*world, *ingest.Profile, *mailtest.Gmail, func(time.Duration)) {
	t.Helper()
	var offset atomic.Int64
	a := mailtest.Archive(t, func() time.Time { return time.Now().Add(time.Duration(offset.Load())) })
	r := ingest.NewRunner(a)
	r.Patience = 5 * time.Millisecond
	t.Cleanup(r.Close)
	g := mailtest.StartGmail(t)
	p := &ingest.Profile{Name: "gmail", Enabled: true, From: fmt.Sprintf("imaps://alice@localhost:%d", g.IMAPS), Mailbox: "alice", CA: string(g.CA.PEM), AllowNet: []string{"127.0.0.0/8"}}
	if change != nil {
		change(p)
	}
	if err := ingest.Save(a, p, []byte(mailtest.Password), "test"); err != nil {
		t.Fatal(err)
	}
	return &world{a: a, r: r}, p, g, func(d time.Duration) { offset.Add(int64(d)) }
}

// in returns the folders that a message is in.
func (w *world) in(t *testing.T, raw []byte) (names []string) {
	t.Helper()
	e, err := w.a.Catalog().Message(ctx, w.a.IDOf(crlf(raw)))
	if err != nil {
		t.Fatal(err)
	}
	met, err := w.a.Catalog().Occurrences(ctx, e.Row)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range met {
		names = append(names, o.Name)
	}
	slices.Sort(names)
	return names
}

// A message is fetched once and lies in a folder for each label; those that it
// gets later are added.
func TestGmailLabels(t *testing.T) {
	w, p, g, _ := startGmail(t, func(p *ingest.Profile) { p.Exclude = []string{"private"} })
	g.Add(crlf(mail(1)), `\Inbox`, `\Important`, "work/old", "Gr&APwA3w-e")
	two := g.Add(crlf(mail(2)), `\Inbox`)
	g.Add(crlf(mail(3)))
	g.Add(crlf(mail(4)), `\Draft`)
	g.Add(crlf(mail(5)), "private", `\Starred`)
	g.Add(crlf(mail(6)), "private", `\Sent`)
	out := w.run(t, p)
	w.want(t, out, catalog.RunDone, 4, 0, 0)
	if out.Counts.Skipped != 2 {
		t.Errorf("skipped %v", out.Report.Skipped)
	}
	for n, want := range map[int]string{1: "Grüße,INBOX,Important,work/old", 2: "INBOX", 3: "[Gmail]/All Mail", 6: "Sent"} {
		if got := strings.Join(w.in(t, mail(n)), ","); got != want {
			t.Errorf("message %d is in %s, want %s", n, got, want)
		}
	}
	for _, n := range []int{4, 5} {
		if w.has(mail(n)) {
			t.Errorf("message %d is archived", n)
		}
	}
	for what, n := range g.Bodies() {
		if n != 1 || !strings.HasPrefix(what, "[Gmail]/All Mail ") {
			t.Errorf("%s was fetched %d times", what, n)
		}
	}
	if rs := w.marks(t); len(rs) != 1 {
		t.Errorf("marks %v", rs)
	}

	w.want(t, w.run(t, p), catalog.RunDone, 0, 0, 0)
	g.Change(two, `\Seen`, `\Inbox`)
	w.want(t, w.run(t, p), catalog.RunDone, 0, 0, 0)
	if got := g.Bodies(); len(got) > 0 {
		t.Errorf("a flag changed, and %v was fetched", got)
	}
	g.Change(two, `\Seen`, `\Inbox`, "later")
	g.Add(crlf(mail(7)), "later")
	w.want(t, w.run(t, p), catalog.RunDone, 1, 1, 0)
	if got, want := slices.Sorted(maps.Keys(g.Bodies())), []string{fmt.Sprintf("[Gmail]/All Mail %d", two), "[Gmail]/All Mail 118"}; !cmp.Equal(got, want) {
		t.Errorf("fetched %v, want %v", got, want)
	}
	if got := strings.Join(w.in(t, mail(2)), ","); got != "INBOX,later" {
		t.Errorf("message 2 is in %s", got)
	}
	w.want(t, w.run(t, p), catalog.RunDone, 0, 0, 0)
	if got := g.Bodies(); len(got) > 0 {
		t.Errorf("nothing is new, and %v was fetched", got)
	}
}

// Folders that are included by name are read as those of any server.
func TestGmailFolders(t *testing.T) {
	w, p, g, _ := startGmail(t, func(p *ingest.Profile) { p.Include = []string{"INBOX", "work"} })
	g.Add(crlf(mail(1)), `\Inbox`, "work", "other")
	g.Add(crlf(mail(2)), "other")
	w.want(t, w.run(t, p), catalog.RunDone, 1, 1, 0)
	if got := strings.Join(w.in(t, mail(1)), ","); got != "INBOX,work" || w.has(mail(2)) {
		t.Errorf("message 1 is in %s", got)
	}
}

// An account that used up its limit is left alone for a while: the run waits and
// goes on by itself, and no message counts as failed.
func TestGmailOverQuota(t *testing.T) {
	for name, bye := range map[string]bool{"NO": false, "BYE": true} {
		t.Run(name, func(t *testing.T) {
			w, p, g, later := startGmail(t, nil)
			for i := range 30 {
				g.Add(crlf(mail(i)), `\Inbox`)
			}
			g.Limit(12, bye)
			out := w.run(t, p)
			if out.State != catalog.RunWaiting || out.Archived != 12 || out.Failed != 0 || len(out.Failures) != 0 || !strings.Contains(out.Error, "exceeded") {
				t.Fatalf("%+v", out)
			}
			rs := w.runs(t, p)
			if len(rs) != 1 || rs[0].State != catalog.RunWaiting || rs[0].Archived != 12 || len(rs[0].Failures) > 0 {
				t.Errorf("%+v", rs)
			}
			var lines []catalog.Line
			var missed []catalog.Missed
			if err := w.a.State().View(ctx, func(v catalog.View) (err error) {
				if lines, err = v.Lines(rs[0].ID, 100); err == nil {
					missed, err = v.Missed(p.ID, 100)
				}
				return err
			}); err != nil || len(missed) > 0 || !strings.Contains(fmt.Sprint(lines), "the run waits") {
				t.Errorf("log %v, missed %v, %v", lines, missed, err)
			}
			g.Limit(-1, false)
			w.serve(t)
			time.Sleep(300 * time.Millisecond)
			if rs := w.runs(t, p); rs[0].State != catalog.RunWaiting {
				t.Errorf("it went on at once: %+v", rs[0])
			}
			later(61 * time.Minute)
			await(t, "the run goes on", func() bool { return w.runs(t, p)[0].State == catalog.RunDone })
			if rs := w.runs(t, p); len(rs) != 1 || rs[0].Archived != 30 || rs[0].Failed != 0 {
				t.Errorf("%+v", rs)
			}
			for what, n := range g.Bodies() {
				if n != 1 {
					t.Errorf("%s was fetched %d times", what, n)
				}
			}
		})
	}
}

// A server that ends connections over messages, while labels are followed, is
// passed in the end; nothing is counted twice.
func TestGmailBreaks(t *testing.T) {
	w, p, g, _ := startGmail(t, nil)
	var uids []uint32
	for i := range 5 {
		uids = append(uids, g.Add(crlf(mail(i)), `\Inbox`))
	}
	w.want(t, w.run(t, p), catalog.RunDone, 5, 0, 0)
	for _, u := range uids {
		g.Change(u, "", `\Inbox`, "later")
	}
	for i := range 5 {
		g.Add(crlf(mail(10+i)), `\Inbox`)
	}
	g.Break(7)
	w.want(t, w.run(t, p), catalog.RunPartial, 2, 5, 3)
	g.Break(-1)
	w.want(t, w.run(t, p), catalog.RunDone, 3, 0, 0)
}
