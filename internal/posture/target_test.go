package posture

import (
	"slices"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/target"
)

// A target's exception gets worse by itself as a profile's does; its failures
// are findings until they are cured.
func TestTargets(t *testing.T) {
	f := newFixture(t)
	p := &target.Profile{Name: "out", Enabled: true, Place: target.Place{To: "imap://a@mail.example.org"}}
	p.Exception = &ingest.Exception{Kind: ingest.Cleartext, Owner: "IT", Reason: "old", Since: f.now, Until: f.now.Add(30 * 24 * time.Hour)}
	if err := target.Save(f.a, p, nil, "test"); err != nil {
		t.Fatal(err)
	}
	begin := f.now
	for days, want := range map[time.Duration]string{0: "OUT-TLS-01 Information", 11: "OUT-TLS-01 Warning", 21: "OUT-TLS-01 Critical", 30: "OUT-TLS-03 Critical"} {
		f.now = begin.Add(days * 24 * time.Hour)
		if _, got := f.look(t); !slices.Contains(got, want) {
			t.Errorf("after %d days: %v, want %s", days, got, want)
		}
	}
	f.now = begin
	if err := f.a.Change(archive.Act{What: "test", Who: "test"}, func(tx catalog.Tx) error {
		r := catalog.Run{Profile: p.ID, What: "out", Started: f.now}
		if err := tx.StartRun(&r); err != nil {
			return err
		}
		r.State = catalog.RunFailed
		if err := tx.AddMissed(p.ID, catalog.Missed{Where: "x", Reason: "full", Last: f.now}); err != nil {
			return err
		}
		return tx.SaveRun(&r, []catalog.Failure{{Where: "out", Reason: "no way"}}, nil)
	}); err != nil {
		t.Fatal(err)
	}
	r, got := f.look(t)
	if !slices.Contains(got, "JOB-FAIL-01 Warning") || !slices.Contains(got, "JOB-MISS-01 Warning") {
		t.Errorf("%v", got)
	}
	for i := range r.Findings {
		if x := &r.Findings[i]; x.ID == "JOB-FAIL-01" && !slices.Equal(x.Affects, []string{"target out"}) {
			t.Errorf("%v", x.Affects)
		}
	}
	if err := target.Remove(f.a, p, "test"); err != nil {
		t.Fatal(err)
	}
	if _, got := f.look(t); slices.Contains(got, "JOB-FAIL-01 Warning") || slices.Contains(got, "OUT-TLS-01 Information") {
		t.Errorf("removed: %v", got)
	}
}
