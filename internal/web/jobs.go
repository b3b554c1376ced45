package web

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
)

// jobsView is what is under way, and what became of the last runs of profiles
// and imports.
type jobsView struct {
	Live   []jobView
	Past   []jobView
	Runs   string // those under way, as the page asks for them again
	Notice string
}

type jobView struct {
	ID      int64
	Profile int64 // 0: an import or a target, or the profile is gone
	Export  bool  // the run of a target
	Name    string
	Who     string
	State   string
	Step    string
	Live    bool
	Cut     bool // it was interrupted, and goes on at the next start
	GoesOn  bool // it is the profile's last run, and can be gone on with
	Retry   bool // it is the profile's last run, and something is missed
	Started time.Time
	Ended   time.Time
	Counts  catalog.Counts
	Total   int64 // 0: nobody knows
	Share   int64 // of the total, in percent
	Rate    string
	Left    string
	Causes  []causeView
	Lines   []catalog.Line
}

// causeView is what several failures have in common.
type causeView struct {
	Count   int
	Reason  string
	Fix     string
	Example string
}

const (
	shownJobs   = 30 // runs that are listed
	shownLines  = 12 // of a run's log
	shownCauses = 5
)

// jobsPage shows runs. Asked for those under way alone, it answers with them,
// or with the whole list once they are others.
func (w *Web) jobsPage(r *request) error {
	live := append(w.runner.Live(), w.exports()...)
	v := jobsView{Notice: r.notice()}
	for _, l := range live {
		v.Runs += fmt.Sprintf("%d.", l.Run)
	}
	some := v.Runs != "" && r.URL.Query().Get("live") == v.Runs
	err := w.archive.State().View(r.Context(), func(s catalog.View) error { return w.jobs(r, s, live, some, &v) })
	if err != nil {
		return err
	}
	if !some && r.URL.Query().Has("live") && r.swapping() {
		h := r.w.Header()
		h.Set("HX-Retarget", "#jobs")
		h.Set("HX-Reselect", "#jobs")
	}
	return w.show(r, http.StatusOK, "jobs", v)
}

// jobs fills in the runs, those under way alone if only is set.
func (w *Web) jobs(r *request, s catalog.View, live []ingest.Progress, only bool, v *jobsView) error {
	names := map[int64]string{}
	ps, err := s.Profiles(catalog.KindSource)
	if err != nil {
		return err
	}
	for _, p := range ps {
		names[p.ID] = p.Name
	}
	runs, err := s.Recent(shownJobs)
	if err != nil {
		return err
	}
	seen := map[int64]bool{} // profiles whose last run was met
	for i := range runs {
		at := slices.IndexFunc(live, func(l ingest.Progress) bool { return l.Run == runs[i].ID })
		last := runs[i].Profile != 0 && !seen[runs[i].Profile]
		seen[runs[i].Profile] = true
		if only && at < 0 {
			continue
		}
		x := jobOf(&runs[i], names)
		if at >= 0 {
			x.follow(&live[at])
		} else {
			x.rest(last)
		}
		if err := x.fill(r.lang, s, last); err != nil {
			return err
		}
		if x.Live {
			v.Live = append(v.Live, x)
		} else {
			v.Past = append(v.Past, x)
		}
	}
	return nil
}

func jobOf(run *catalog.Run, names map[int64]string) jobView {
	x := jobView{ID: run.ID, Name: strings.ReplaceAll(run.What, "\n", " "), Who: run.Who, State: run.State, Started: run.Started, Ended: run.Ended, Counts: run.Counts, Export: run.Kind == catalog.KindTarget}
	if name, ok := names[run.Profile]; ok {
		x.Profile, x.Name = run.Profile, name
	}
	return x
}

// follow is for a run under way.
func (x *jobView) follow(l *ingest.Progress) {
	x.Live, x.State, x.Step, x.Counts, x.Total = true, catalog.RunRunning, l.Step, l.Counts, l.Total
	x.Rate, x.Left = rate(*l), left(*l)
	if l.Total > 0 {
		x.Share = min(100, 100*l.Seen/l.Total)
	}
}

// rest is for a run that is not under way.
func (x *jobView) rest(last bool) {
	x.Cut = x.State == catalog.RunRunning
	x.GoesOn = x.Profile != 0 && last && (x.Cut || x.State == catalog.RunPaused)
}

// fill adds what is stored beside the run.
func (x *jobView) fill(l *speech, s catalog.View, last bool) error {
	fs, err := s.Failures(x.ID, 10_000)
	if err != nil {
		return err
	}
	x.Causes = causesOf(l, fs)
	if x.Lines, err = s.Lines(x.ID, shownLines); err != nil || !last || x.Live || x.Profile == 0 {
		return err
	}
	missed, err := s.Missed(x.Profile, 1)
	x.Retry = len(missed) > 0
	return err
}

// rate is how fast a run under way reads.
func rate(l ingest.Progress) string {
	if l.Speed <= 0 {
		return ""
	}
	return size(int64(l.Speed)) + "/s"
}

// left is how long a run under way still takes.
func left(l ingest.Progress) string {
	if l.Left == nil {
		return ""
	}
	switch d := time.Duration(*l.Left) * time.Second; {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes())+1)
	default:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
}

// causesOf groups failures for people.
func causesOf(l *speech, fs []catalog.Failure) (out []causeView) {
	for _, c := range ingest.Causes(fs) {
		reason, fix := causeText(l, c)
		if out = append(out, causeView{c.Count, reason, fix, c.Example.Where + ": " + c.Example.Reason}); len(out) == shownCauses {
			break
		}
	}
	return out
}

// causeText is a cause in words, and what helps.
func causeText(l *speech, c ingest.Cause) (reason, fix string) {
	switch c.Kind {
	case ingest.CauseAddress:
		return l.T("cause.address"), l.T("cause.address.fix")
	case ingest.CauseBreaks:
		return l.T("cause.breaks"), l.T("cause.breaks.fix")
	case ingest.CauseConnection:
		return l.T("cause.connection"), l.T("cause.connection.fix")
	case ingest.CauseDamaged:
		return l.T("cause.damaged"), l.T("cause.damaged.fix")
	case ingest.CauseException:
		return l.T("cause.exception"), l.T("cause.exception.fix")
	case ingest.CauseFolder:
		return l.T("cause.folder"), l.T("cause.folder.fix")
	case ingest.CauseLarge:
		return l.T("cause.large"), l.T("cause.large.fix")
	case ingest.CauseLeave:
		return l.T("cause.leave"), l.T("cause.leave.fix")
	case ingest.CausePermission:
		return l.T("cause.permission"), l.T("cause.permission.fix")
	case ingest.CauseReach:
		return l.T("cause.reach"), l.T("cause.reach.fix")
	case ingest.CauseRefused:
		return l.T("cause.refused"), l.T("cause.refused.fix")
	case ingest.CauseSignIn:
		return l.T("cause.signin"), l.T("cause.signin.fix")
	case ingest.CauseSpace:
		return l.T("cause.space"), l.T("cause.space.fix")
	case ingest.CauseTLS:
		return l.T("cause.tls"), l.T("cause.tls.fix")
	case ingest.CauseVanished:
		return l.T("cause.vanished"), l.T("cause.vanished.fix")
	case ingest.CauseWithheld:
		return l.T("cause.withheld"), l.T("cause.withheld.fix")
	}
	return c.Reason, ""
}
