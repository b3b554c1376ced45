package posture

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/delivery"
	"github.com/letterhold/letterhold/internal/index"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
)

var ctx = context.Background()

type fixture struct {
	a      *archive.Archive
	x      *index.Index
	now    time.Time
	around Around
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{now: time.Now().UTC().Truncate(time.Second)}
	f.a = mailtest.Archive(t, func() time.Time { return f.now })
	var err error
	if f.x, err = index.Open(f.a); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.x.Close() })
	return f
}

// look returns the findings as "ID State".
func (f *fixture) look(t *testing.T) (*Report, []string) {
	t.Helper()
	r, err := Look(ctx, f.a, f.x, f.around)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for i := range r.Findings {
		x := &r.Findings[i]
		if x.Since.IsZero() || len(x.Affects) == 0 || x.Group == "" {
			t.Errorf("%+v lacks something", x)
		}
		out = append(out, x.ID+" "+string(x.State))
		for _, lang := range Languages {
			say, err := Speak(lang)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range []string{say.What(x), say.Why(x), say.Fix(x), say.Group(x.Group), say.State(x.State)} {
				if s == "" || strings.Contains(s, "<no value>") || strings.HasPrefix(s, x.ID) || strings.HasPrefix(s, "group.") || strings.HasPrefix(s, "state.") {
					t.Errorf("%s in %s: %q", x.ID, lang, s)
				}
			}
		}
	}
	return r, out
}

func (f *fixture) want(t *testing.T, what string, want ...string) *Report {
	t.Helper()
	r, got := f.look(t)
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
	return r
}

func (f *fixture) state(t *testing.T, fn func(catalog.Tx) error) {
	t.Helper()
	if err := f.a.State().Write(fn); err != nil {
		t.Fatal(err)
	}
}

func TestFresh(t *testing.T) {
	f := newFixture(t)
	// The archive of a test has no recovery slot, and nothing else is weak.
	if r := f.want(t, "fresh", "REST-SLOT-01 Warning"); r.Grade != "A" || r.Score != 93 {
		t.Errorf("grade %s, %d", r.Grade, r.Score)
	}
}

func TestAround(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	f.around = Around{Dir: dir, KeyFile: key, SameDisk: true, Swappable: true, Passwords: []string{"ann"}}
	first := f.want(t, "all weak", "REST-MODE-01 Warning", "REST-KEY-01 Warning", "REST-SWAP-01 Warning", "REST-SLOT-01 Warning", "ID-MFA-01 Warning", "REST-KEY-02 Information")
	f.now = f.now.AddDate(0, 0, 3)
	if again, _ := f.look(t); !again.Findings[0].Since.Equal(first.Findings[0].Since) {
		t.Errorf("first seen %v, then %v", first.Findings[0].Since, again.Findings[0].Since)
	}
	os.Chmod(dir, 0o700)
	os.Chmod(key, 0o400)
	f.around = Around{Dir: dir, KeyFile: key}
	f.want(t, "mended", "REST-SLOT-01 Warning")
}

func TestVerification(t *testing.T) {
	f := newFixture(t)
	verified := func(v archive.Verified) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		f.state(t, func(t catalog.Tx) error { return t.SetSetting("verified", string(b)) })
	}
	f.now = f.now.AddDate(0, 0, 40)
	f.want(t, "never", "REST-SLOT-01 Warning", "EV-VER-01 Warning")
	verified(archive.Verified{Began: f.now, Ended: f.now, Clean: f.now})
	if r := f.want(t, "just now", "REST-SLOT-01 Warning"); !r.Verified.Equal(f.now) {
		t.Errorf("verified %v", r.Verified)
	}
	f.now = f.now.AddDate(0, 0, 36)
	f.want(t, "long ago", "REST-SLOT-01 Warning", "EV-VER-01 Warning")
	verified(archive.Verified{Began: f.now, Ended: f.now, Clean: f.now.AddDate(0, 0, -1), Problems: []archive.Problem{{File: "catalog.db", What: "damaged"}}})
	if r := f.want(t, "damaged", "EV-VER-02 Critical", "REST-SLOT-01 Warning"); r.Grade != "D" {
		t.Errorf("grade %s", r.Grade)
	}
}

// An exception gets worse by itself, and at its end the profile rests.
func TestException(t *testing.T) {
	f := newFixture(t)
	p := &ingest.Profile{Name: "Sales", From: "imap://ann@mail.example.org", Mailbox: "m", Enabled: true,
		Exception: &ingest.Exception{Kind: ingest.Cleartext, Owner: "Ann", Reason: "old server", Since: f.now, Until: f.now.AddDate(0, 0, 30)}}
	if err := ingest.Save(f.a, p, nil, "test"); err != nil {
		t.Fatal(err)
	}
	start := f.now
	for _, tc := range []struct {
		day       int
		want      string
		escalates int
	}{{0, "OUT-TLS-01 Information", 10}, {9, "OUT-TLS-01 Information", 10}, {10, "OUT-TLS-01 Warning", 20}, {19, "OUT-TLS-01 Warning", 20}, {20, "OUT-TLS-01 Critical", 30}, {29, "OUT-TLS-01 Critical", 30}, {30, "OUT-TLS-03 Critical", 0}} {
		f.now = start.AddDate(0, 0, tc.day)
		r, got := f.look(t)
		i := slices.IndexFunc(r.Findings, func(x Finding) bool { return x.Group == InTransit })
		if i < 0 || got[i] != tc.want {
			t.Errorf("day %d: %q, want %s", tc.day, got, tc.want)
			continue
		}
		x := r.Findings[i]
		if tc.escalates > 0 && !x.Escalates.Equal(start.AddDate(0, 0, tc.escalates)) || x.AcceptedBy != "Ann" || !slices.Equal(x.Affects, []string{"profile Sales"}) {
			t.Errorf("day %d: %+v", tc.day, x)
		}
	}
	f.now = start
	p.Exception.Kind, p.From = ingest.Unverified, "imaps://ann@mail.example.org"
	if err := ingest.Save(f.a, p, nil, "test"); err != nil {
		t.Fatal(err)
	}
	f.want(t, "unverified", "REST-SLOT-01 Warning", "OUT-TLS-02 Information")
	p.Exception = nil
	if err := ingest.Save(f.a, p, nil, "test"); err != nil {
		t.Fatal(err)
	}
	f.want(t, "mended", "REST-SLOT-01 Warning")
}

func TestRuns(t *testing.T) {
	f := newFixture(t)
	p := &ingest.Profile{Name: "Sales", From: "imaps://ann@mail.example.org", Mailbox: "m", Enabled: true}
	if err := ingest.Save(f.a, p, nil, "test"); err != nil {
		t.Fatal(err)
	}
	run := func(state string, archived int64, reason string) {
		t.Helper()
		f.state(t, func(tx catalog.Tx) error {
			r := catalog.Run{Profile: p.ID, What: p.Name, Started: f.now}
			if err := tx.StartRun(&r); err != nil {
				return err
			}
			r.State, r.Ended, r.Archived, r.Seen = state, f.now, archived, archived
			var fails []catalog.Failure
			if reason != "" {
				fails = append(fails, catalog.Failure{Where: p.Name, Reason: reason})
			}
			return tx.SaveRun(&r, fails, nil)
		})
	}
	for range 8 { // delivers every two hours
		run(catalog.RunDone, 3, "")
		f.now = f.now.Add(time.Hour)
		run(catalog.RunDone, 0, "")
		f.now = f.now.Add(time.Hour)
	}
	f.want(t, "usual", "REST-SLOT-01 Warning")
	for range 8 {
		run(catalog.RunDone, 0, "")
		f.now = f.now.Add(time.Hour)
	}
	f.want(t, "silent", "REST-SLOT-01 Warning", "JOB-STALL-01 Warning")
	run(catalog.RunDone, 1, "")
	f.want(t, "delivers again", "REST-SLOT-01 Warning")
	run(catalog.RunFailed, 0, "tls: certificate refused")
	f.want(t, "fails", "REST-SLOT-01 Warning", "JOB-FAIL-01 Warning")
	run(catalog.RunDone, 1, "")
	f.state(t, func(tx catalog.Tx) error {
		return tx.AddMissed(p.ID, catalog.Missed{Where: "INBOX;UID=3", Folder: "INBOX", UID: 3, Reason: "no", Last: f.now})
	})
	f.want(t, "missed", "REST-SLOT-01 Warning", "JOB-MISS-01 Warning")
	f.state(t, func(tx catalog.Tx) error { return tx.RemoveMissed(p.ID, "INBOX;UID=3") })
	p2 := catalog.Run{What: "x", Started: f.now}
	f.state(t, func(tx catalog.Tx) error { return tx.StartRun(&p2) })
	f.want(t, "import", "REST-SLOT-01 Warning", "RUN-01 Warning")
	p2.State, p2.Failed, p2.Seen = catalog.RunPartial, 2, 2
	f.state(t, func(tx catalog.Tx) error { return tx.SaveRun(&p2, nil, nil) })
	f.want(t, "import with failures", "REST-SLOT-01 Warning", "RUN-02 Warning")
}

func TestKeyOwner(t *testing.T) {
	f := newFixture(t)
	for range 3 {
		if err := f.a.Record(archive.Act{What: archive.ContentActs[0], Who: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	f.want(t, "read", "REST-SLOT-01 Warning", "EV-OWN-01 Information")
	f.now = f.now.AddDate(0, 0, 31)
	f.want(t, "long ago", "REST-SLOT-01 Warning")
}

func TestIndexStopped(t *testing.T) {
	f := newFixture(t)
	if err := f.x.Close(); err != nil {
		t.Fatal(err)
	}
	mb, err := f.a.Mailbox(ctx, "m", "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.a.Add(ctx, []byte("Subject: a\n\nb"), archive.Provenance{Mailbox: mb, Folder: "INBOX"}); err != nil {
		t.Fatal(err)
	}
	f.want(t, "behind", "REST-SLOT-01 Warning", "IDX-02 Information")
}

func TestGrades(t *testing.T) {
	of := func(ss ...State) (fs []Finding) {
		for _, s := range ss {
			fs = append(fs, Finding{State: s})
		}
		return fs
	}
	for _, tc := range []struct {
		fs   []Finding
		want string
	}{{nil, "A 100"}, {of(Information, Information), "A 96"}, {of(Warning), "A 93"}, {of(Warning, Warning), "B 86"}, {of(Critical), "D 59"}, {of(Critical, Critical, Critical, Critical), "E 20"}} {
		g, s := grade(tc.fs)
		if got := fmt.Sprint(g, " ", s); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.fs, got, tc.want)
		}
	}
}

// What mail servers send weakly, and mail that belongs to nobody, is said.
func TestJournals(t *testing.T) {
	f := newFixture(t)
	unassigned, err := f.a.Mailbox(ctx, delivery.Unassigned, "test")
	if err != nil {
		t.Fatal(err)
	}
	f.want(t, "an empty mailbox", "REST-SLOT-01 Warning")
	f.around.OldTLS = true
	f.want(t, "TLS 1.2", "REST-SLOT-01 Warning", "NET-JOUR-01 Information")
	f.around.OldTLS = false
	for i := range 2 {
		if _, err := f.a.Add(ctx, fmt.Appendf(nil, "Subject: %d\n\nx", i), archive.Provenance{Mailbox: unassigned, Folder: "new@example.org"}); err != nil {
			t.Fatal(err)
		}
		if err := f.x.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		r := f.want(t, "mail for nobody", "REST-SLOT-01 Warning", "OPS-UNAS-01 Information")
		if say, err := Speak(Languages[0]); err != nil || !strings.Contains(say.What(&r.Findings[1]), []string{"One message belongs", "2 messages belong"}[i]) {
			t.Error(say.What(&r.Findings[1]), err)
		}
	}
}
