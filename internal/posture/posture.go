// Package posture says what is weaker than it should be: findings, each with
// what, why it matters, and the way out, in English and German, and a grade.
//
// Every finding is there because something is so at this moment: checks read
// live state, and none is constant. Times come from the archive's clock.
package posture

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"golang.org/x/text/language"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/index"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/target"
)

// State is how bad a finding is.
type State string

// The states.
const (
	Information State = "Information"
	Warning     State = "Warning"
	Critical    State = "Critical"
)

// Group is what a finding is about.
type Group string

// The groups.
const (
	InTransit  Group = "in transit"
	InUse      Group = "in use"
	AtRest     Group = "at rest"
	Identity   Group = "identity"
	Evidence   Group = "evidence"
	Operations Group = "operations"
)

// Finding is something that is weaker than it should be.
type Finding struct {
	ID            string    `json:"id"`
	Group         Group     `json:"group"`
	State         State     `json:"state"`
	Affects       []string  `json:"affects"`
	Since         time.Time `json:"since"`
	Escalates     time.Time `json:"escalates,omitzero"` // when it gets worse by itself
	AcceptedBy    string    `json:"accepted_by,omitempty"`
	AcceptedUntil time.Time `json:"accepted_until,omitzero"`

	args map[string]any
	text string // key of its texts, if not the id
}

// Report is all findings and what they come to.
type Report struct {
	Grade    string    `json:"grade"`
	Score    int       `json:"score"`
	Findings []Finding `json:"findings"`
	Verified time.Time `json:"verified,omitzero"` // when everything was last found as it was written
}

// Around is what lies around the archive.
type Around struct {
	Dir       string   // the archive's folder
	KeyFile   string   // "" if it is not known
	SameDisk  bool     // the key file lies on the archive's device
	Swappable bool     // memory of the process that has the keys may be swapped
	Passwords []string // administrators who sign in with a password alone
	OldTLS    bool     // the journal listener takes TLS 1.2
}

// Look looks at everything.
func Look(ctx context.Context, a *archive.Archive, x *index.Index, around Around) (*Report, error) {
	l := &look{ctx: ctx, a: a, x: x, around: around, now: a.Now()}
	l.out = []Finding{}
	for _, check := range []func(*look) error{(*look).files, (*look).machine, (*look).slots, (*look).identity, (*look).search, (*look).verification, (*look).keyOwner, (*look).imports, (*look).profiles, (*look).targets, (*look).journals} {
		if err := check(l); err != nil {
			return nil, err
		}
	}
	if err := l.remember(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(l.out, func(a, b Finding) int { return weight(b.State) - weight(a.State) })
	r := &Report{Findings: l.out, Verified: l.clean}
	r.Grade, r.Score = grade(l.out)
	return r, nil
}

func weight(s State) int {
	return map[State]int{Information: 2, Warning: 7, Critical: 20}[s]
}

// grade counts from 100 down; a Critical finding caps at D. A+ is for archives
// with second factors and a witness outside, which cannot be had yet.
func grade(fs []Finding) (string, int) {
	score, critical := 100, false
	for _, f := range fs {
		score -= weight(f.State)
		critical = critical || f.State == Critical
	}
	score = max(score, 0)
	for _, g := range []struct {
		least int
		name  string
	}{{90, "A"}, {75, "B"}, {60, "C"}, {40, "D"}} {
		if score >= g.least {
			if critical && g.name < "D" {
				return "D", min(score, 59)
			}
			return g.name, score
		}
	}
	return "E", score
}

type look struct {
	ctx    context.Context
	a      *archive.Archive
	x      *index.Index
	around Around
	now    time.Time
	clean  time.Time
	out    []Finding
}

func (l *look) add(f Finding) { l.out = append(l.out, f) }

// files looks at the rights of the archive's folder and key file.
func (l *look) files() error {
	for _, f := range []struct{ id, name string }{{"REST-MODE-01", l.around.Dir}, {"REST-KEY-01", l.around.KeyFile}} {
		if f.name == "" {
			continue
		}
		if fi, err := os.Stat(f.name); err == nil && fi.Mode().Perm()&0o077 != 0 {
			l.add(Finding{ID: f.id, Group: AtRest, State: Warning, Affects: []string{f.name}, args: map[string]any{"Name": f.name, "Mode": fmt.Sprintf("%o", fi.Mode().Perm())}})
		}
	}
	if l.around.SameDisk {
		l.add(Finding{ID: "REST-KEY-02", Group: AtRest, State: Information, Affects: []string{l.around.KeyFile}, args: map[string]any{"Name": l.around.KeyFile}})
	}
	return nil
}

func (l *look) machine() error {
	if l.around.Swappable {
		l.add(Finding{ID: "REST-SWAP-01", Group: InUse, State: Warning, Affects: []string{"server"}})
	}
	return nil
}

func (l *look) slots() error {
	if !slices.ContainsFunc(l.a.Slots(), func(s seal.Slot) bool { return s.Kind == seal.KindRecovery }) {
		l.add(Finding{ID: "REST-SLOT-01", Group: AtRest, State: Warning, Affects: []string{"keys.json"}})
	}
	return nil
}

func (l *look) identity() error {
	for _, name := range l.around.Passwords {
		l.add(Finding{ID: "ID-MFA-01", Group: Identity, State: Warning, Affects: []string{"user " + name}, args: map[string]any{"Name": name}})
	}
	return nil
}

func (l *look) search() error {
	behind, err := l.x.Behind(l.ctx)
	switch {
	case err != nil:
		l.add(Finding{ID: "IDX-01", Group: Operations, State: Critical, Affects: []string{"index"}, args: map[string]any{"Error": err.Error()}})
	case behind > 0:
		l.add(Finding{ID: "IDX-02", Group: Operations, State: Information, Affects: []string{"index"}, args: map[string]any{"Count": behind}})
	}
	return nil
}

// overdue is how long ago a verification may be: a month and a bit.
const overdue = 35 * 24 * time.Hour

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func (l *look) verification() error {
	d, err := l.a.Verified(l.ctx)
	if err != nil {
		return err
	}
	l.clean = d.Clean
	for _, p := range d.Problems {
		l.add(Finding{ID: "EV-VER-02", Group: Evidence, State: Critical, Affects: []string{p.File}, Since: d.Began, args: map[string]any{"What": strings.TrimSpace(p.File+" "+p.Object) + ": " + p.What}})
	}
	switch created := l.a.About().Created; {
	case !d.Clean.IsZero() && l.now.Sub(d.Clean) >= overdue:
		l.add(Finding{ID: "EV-VER-01", Group: Evidence, State: Warning, Affects: []string{"archive"}, Since: d.Clean.Add(overdue), args: map[string]any{"When": day(d.Clean)}})
	case d.Clean.IsZero() && l.now.Sub(created) >= overdue:
		l.add(Finding{ID: "EV-VER-01", text: "EV-VER-00", Group: Evidence, State: Warning, Affects: []string{"archive"}, Since: created.Add(overdue)})
	}
	return nil
}

// recentActs is how long mail that was read at the machine stays a finding.
const recentActs = 30 * 24 * time.Hour

func (l *look) keyOwner() error {
	acts, err := l.a.Catalog().Acts(l.ctx, 1000, archive.ContentActs...)
	if err != nil {
		return err
	}
	n := 0
	var first, last time.Time
	for _, act := range acts {
		if l.now.Sub(act.Time) < recentActs {
			n++
			first = act.Time
			if last.IsZero() {
				last = act.Time
			}
		}
	}
	if n > 0 {
		l.add(Finding{ID: "EV-OWN-01", Group: Evidence, State: Information, Affects: []string{"mail"}, Since: first, args: map[string]any{"Count": n, "When": day(last)}})
	}
	return nil
}

func (l *look) imports() error {
	var runs []catalog.Run
	if err := l.a.State().View(l.ctx, func(v catalog.View) (err error) {
		runs, err = v.RunsOf(0, 20)
		return err
	}); err != nil {
		return err
	}
	for _, r := range runs {
		args := map[string]any{"When": day(r.Started), "Count": r.Failed}
		affects := []string{fmt.Sprintf("import %d", r.ID)}
		switch r.State {
		case catalog.RunRunning:
			l.add(Finding{ID: "RUN-01", Group: Operations, State: Warning, Affects: affects, Since: r.Started, args: args})
		case catalog.RunPartial, catalog.RunFailed:
			l.add(Finding{ID: "RUN-02", Group: Operations, State: Warning, Affects: affects, Since: r.Started, args: args})
		}
	}
	return nil
}

func (l *look) profiles() error {
	ps, err := ingest.Profiles(l.ctx, l.a)
	if err != nil {
		return err
	}
	for _, p := range ps {
		if p.Exception != nil {
			l.add(exception("profile", p.Name, p.Exception, l.now))
		}
		if err := l.runs(p); err != nil {
			return err
		}
	}
	return nil
}

// exception is the finding of a weakening that somebody answers for. It gets
// worse by itself: a third of its time it is announced, a third it is a
// warning, and then it is critical until the profile rests.
func exception(what, name string, x *ingest.Exception, now time.Time) Finding {
	third := (x.Until.Sub(x.Since) / 3).Truncate(time.Second)
	f := Finding{ID: "OUT-TLS-02", Group: InTransit, Affects: []string{what + " " + name}, Since: x.Since, AcceptedBy: x.Owner, AcceptedUntil: x.Until,
		args: map[string]any{"Name": name, "Owner": x.Owner, "Reason": x.Reason, "Until": x.Until.UTC().Format(time.DateOnly)}}
	if x.Kind == ingest.Cleartext {
		f.ID = "OUT-TLS-01"
	}
	switch {
	case !now.Before(x.Until):
		f.ID, f.State, f.Since = "OUT-TLS-03", Critical, x.Until
	case !now.Before(x.Since.Add(2 * third)):
		f.State, f.Escalates = Critical, x.Until
	case !now.Before(x.Since.Add(third)):
		f.State, f.Escalates = Warning, x.Since.Add(2*third)
	default:
		f.State, f.Escalates = Information, x.Since.Add(third)
	}
	return f
}

// targets are looked at as profiles are, in words of their own.
func (l *look) targets() error {
	ps, err := target.Profiles(l.ctx, l.a)
	if err != nil {
		return err
	}
	for _, p := range ps {
		if p.Exception != nil {
			f := exception("target", p.Name, p.Exception, l.now)
			f.text = f.ID + ".target"
			l.add(f)
		}
		var rs []catalog.Run
		var missed []catalog.Missed
		if err := l.a.State().View(l.ctx, func(v catalog.View) (err error) {
			if rs, err = v.RunsOf(p.ID, history); err != nil {
				return err
			}
			missed, err = v.Missed(p.ID, 1000)
			return err
		}); err != nil {
			return err
		}
		affects := []string{"target " + p.Name}
		if len(missed) > 0 {
			l.add(Finding{ID: "JOB-MISS-01", text: "JOB-MISS-01.target", Group: Operations, State: Warning, Affects: affects, Since: missed[0].First, args: map[string]any{"Name": p.Name, "Count": len(missed)}})
		}
		if len(rs) > 0 && rs[0].State == catalog.RunFailed {
			since, why := failing(rs)
			l.add(Finding{ID: "JOB-FAIL-01", text: "JOB-FAIL-01.target", Group: Operations, State: Warning, Affects: affects, Since: since, args: map[string]any{"Name": p.Name, "Error": why, "When": day(since)}})
		}
	}
	return nil
}

// history is how many runs are looked at.
const history = 60

func (l *look) runs(p *ingest.Profile) error {
	var rs []catalog.Run
	var missed []catalog.Missed
	if err := l.a.State().View(l.ctx, func(v catalog.View) (err error) {
		if rs, err = v.RunsOf(p.ID, history); err != nil {
			return err
		}
		missed, err = v.Missed(p.ID, 1000)
		return err
	}); err != nil {
		return err
	}
	affects := []string{"profile " + p.Name}
	if len(missed) > 0 {
		l.add(Finding{ID: "JOB-MISS-01", Group: Operations, State: Warning, Affects: affects, Since: missed[0].First, args: map[string]any{"Name": p.Name, "Count": len(missed)}})
	}
	if len(rs) > 0 && rs[0].State == catalog.RunFailed {
		since, why := failing(rs)
		l.add(Finding{ID: "JOB-FAIL-01", Group: Operations, State: Warning, Affects: affects, Since: since, args: map[string]any{"Name": p.Name, "Error": why, "When": day(since)}})
	}
	if since, ok := stalled(rs, l.now); ok && p.Enabled {
		l.add(Finding{ID: "JOB-STALL-01", Group: Operations, State: Warning, Affects: affects, Since: since, args: map[string]any{"Name": p.Name, "When": day(since)}})
	}
	return nil
}

// failing is since when runs, newest first, have failed, and why the last did.
func failing(rs []catalog.Run) (since time.Time, why string) {
	for i := range rs {
		if rs[i].State != catalog.RunFailed {
			break
		}
		since = rs[i].Started
	}
	if n := len(rs[0].Failures); n > 0 {
		why = rs[0].Failures[n-1].Reason
	}
	return since, why
}

// What a source must have shown before silence means something.
const (
	leastDeliveries = 5
	leastSilence    = time.Hour
	silenceFactor   = 3
)

// stalled tells whether a source that usually delivers has not for long: three
// times its longest usual gap. rs are its runs, newest first.
func stalled(rs []catalog.Run, now time.Time) (since time.Time, ok bool) {
	var gaps []time.Duration
	var last time.Time // the delivery after the one at hand
	quiet, deliveries := 0, 0
	for _, r := range rs {
		if r.State != catalog.RunDone && r.State != catalog.RunPartial {
			continue
		}
		if r.Archived == 0 {
			if deliveries == 0 {
				quiet++
			}
			continue
		}
		if deliveries++; deliveries > 1 {
			gaps = append(gaps, last.Sub(r.Started))
		} else {
			since = r.Started
		}
		last = r.Started
	}
	if deliveries < leastDeliveries || quiet < 2 {
		return since, false
	}
	slices.Sort(gaps)
	usual := max(gaps[len(gaps)*9/10], leastSilence)
	return since, now.Sub(since) > silenceFactor*usual
}

const firstSeen = "findings"

// remember gives findings the time when they were first seen, if they have none
// of their own.
func (l *look) remember() error {
	var text string
	if err := l.a.State().View(l.ctx, func(v catalog.View) (err error) {
		text, err = v.Setting(firstSeen)
		return err
	}); err != nil {
		return err
	}
	seen, still := map[string]time.Time{}, map[string]time.Time{}
	if text != "" {
		if err := json.Unmarshal([]byte(text), &seen); err != nil {
			return fmt.Errorf("findings: %w", err)
		}
	}
	for i := range l.out {
		f := &l.out[i]
		if !f.Since.IsZero() {
			continue
		}
		key := f.ID + " " + strings.Join(f.Affects, ", ")
		if f.Since = seen[key]; f.Since.IsZero() {
			f.Since = l.now.UTC().Truncate(time.Second)
		}
		still[key] = f.Since
	}
	b, err := json.Marshal(still)
	if err != nil || string(b) == text || len(still) == 0 && text == "" {
		return err
	}
	return l.a.State().Write(func(t catalog.Tx) error { return t.SetSetting(firstSeen, string(b)) })
}

//go:embed i18n/*.json
var texts embed.FS

// Languages in which findings speak.
var Languages = []string{"en", "de"}

// Speaker puts findings into words.
type Speaker struct{ l *i18n.Localizer }

// Speak returns a speaker of a language.
func Speak(lang string) (*Speaker, error) {
	b := i18n.NewBundle(language.English)
	b.RegisterUnmarshalFunc("json", json.Unmarshal)
	var errs error
	for _, l := range Languages {
		_, err := b.LoadMessageFileFS(texts, "i18n/"+l+".json")
		errs = errors.Join(errs, err)
	}
	return &Speaker{i18n.NewLocalizer(b, lang)}, errs
}

// What says what is so.
func (s *Speaker) What(f *Finding) string { return s.say(f, "what") }

// Why says why it matters.
func (s *Speaker) Why(f *Finding) string { return s.say(f, "why") }

// Fix says what to do.
func (s *Speaker) Fix(f *Finding) string { return s.say(f, "fix") }

// Group names a group.
func (s *Speaker) Group(g Group) string { return s.say(&Finding{ID: "group"}, string(g)) }

// State names a state.
func (s *Speaker) State(st State) string { return s.say(&Finding{ID: "state"}, string(st)) }

func (s *Speaker) say(f *Finding, part string) string {
	key := f.text
	if key == "" {
		key = f.ID
	}
	c := &i18n.LocalizeConfig{MessageID: key + "." + part, TemplateData: f.args}
	if n, ok := f.args["Count"]; ok && part == "what" {
		c.PluralCount = n
	}
	text, err := s.l.Localize(c)
	if err != nil {
		return key + "." + part
	}
	return text
}
