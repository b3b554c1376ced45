package web

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// profilesView is what is collected, and what is being collected now.
type profilesView struct {
	Profiles []profileView
	Running  bool // something is: the page comes again by itself
	Notice   string
}

type profileView struct {
	ID, Missed int64
	Name, From string
	Mailbox    string
	Enabled    bool
	Exception  bool
	Running    bool
	Step       string
	State      string // of the last run; "" if there was none
	Started    time.Time
	Counts     catalog.Counts
	Error      string
	Rate, Left string // of the run under way
	Causes     []causeView
	Strip      []stripView
}

// stripView is one of the last runs, oldest first.
type stripView struct {
	State   string
	Started time.Time
	New     int64
}

// stripRuns is how many runs a profile shows.
const stripRuns = 30

func (w *Web) profilesPage(r *request) error {
	ps, err := ingest.Profiles(r.Context(), w.archive)
	if err != nil {
		return err
	}
	live := map[int64]ingest.Progress{}
	for _, l := range w.runner.Live() {
		if l.Profile != 0 {
			live[l.Profile] = l
		}
	}
	v := profilesView{Running: len(live) > 0, Notice: r.notice()}
	for _, p := range ps {
		x, err := w.profile(r, p)
		if err != nil {
			return err
		}
		if l, ok := live[p.ID]; ok {
			x.Running, x.State, x.Started, x.Counts = true, catalog.RunRunning, l.Started, l.Counts
			x.Causes, x.Rate, x.Left = nil, rate(l), left(l)
		}
		v.Profiles = append(v.Profiles, x)
	}
	return w.show(r, http.StatusOK, "profiles", v)
}

func (w *Web) profile(r *request, p *ingest.Profile) (profileView, error) {
	x := profileView{ID: p.ID, Name: p.Name, From: p.From, Mailbox: p.Mailbox, Enabled: p.Enabled, Exception: p.Exception != nil}
	err := w.archive.State().View(r.Context(), func(v catalog.View) error {
		rs, err := v.RunsOf(p.ID, stripRuns)
		if err != nil {
			return err
		}
		for i := len(rs) - 1; i >= 0; i-- {
			x.Strip = append(x.Strip, stripView{rs[i].State, rs[i].Started, rs[i].Archived})
		}
		if len(rs) > 0 {
			x.State, x.Started, x.Counts = rs[0].State, rs[0].Started, rs[0].Counts
			if n := len(rs[0].Failures); n > 0 && rs[0].State == catalog.RunFailed {
				x.Error = rs[0].Failures[n-1].Reason
			}
			x.Causes = causesOf(r.lang, rs[0].Failures)
		}
		missed, err := v.Missed(p.ID, 10_000)
		x.Missed = int64(len(missed))
		return err
	})
	return x, err
}

// notice is what an action wants to say on the page after it.
func (r *request) notice() string {
	switch r.URL.Query().Get("done") {
	case "run":
		return r.lang.T("profiles.done.run")
	case "retry":
		return r.lang.T("profiles.done.retry")
	case "pause":
		return r.lang.T("profiles.done.pause")
	case "saved":
		return r.lang.T("profiles.done.saved")
	case "cancel":
		return r.lang.T("profiles.done.cancel")
	case "busy":
		return r.lang.T("profiles.done.busy")
	case "idle":
		return r.lang.T("profiles.done.idle")
	}
	return ""
}

// stateName is a run's state in words.
func stateName(l *speech, state string) string {
	switch state {
	case catalog.RunRunning:
		return l.T("profiles.state.running")
	case catalog.RunPaused:
		return l.T("profiles.state.paused")
	case catalog.RunWaiting:
		return l.T("profiles.state.waiting")
	case catalog.RunDone:
		return l.T("profiles.state.done")
	case catalog.RunPartial:
		return l.T("profiles.state.partial")
	case catalog.RunCancelled:
		return l.T("profiles.state.cancelled")
	}
	return l.T("profiles.state.failed")
}

// stepName is a step of a connection in words.
func stepName(l *speech, s tlsconf.Step) string {
	switch s {
	case tlsconf.StepDNS:
		return l.T("profile.step.dns")
	case tlsconf.StepTCP:
		return l.T("profile.step.tcp")
	case tlsconf.StepTLS:
		return l.T("profile.step.tls")
	case tlsconf.StepSignIn:
		return l.T("profile.step.signin")
	case tlsconf.StepFolders:
		return l.T("profile.step.folders")
	}
	return l.T("profile.step.other")
}

// profileAction runs, retries, pauses or cancels a profile.
func (w *Web) profileAction(r *request) error {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return errNotFound
	}
	ps, err := ingest.Profiles(r.Context(), w.archive)
	if err != nil {
		return err
	}
	for _, p := range ps {
		if p.ID == id {
			return w.act(r, p, r.PathValue("action"))
		}
	}
	return errNotFound
}

func (w *Web) act(r *request, p *ingest.Profile, action string) error {
	var err error
	switch action {
	case "run", "retry":
		start := w.runner.Start
		if action == "retry" {
			start = w.runner.Retry
		}
		if err = w.archive.Record(archive.Act{What: "profile run by hand", Who: r.who.Name, Of: p.Name}); err == nil {
			_, err = start(context.WithoutCancel(r.Context()), p, r.who.Name)
		}
	case "pause":
		err = w.runner.Pause(p)
	case "cancel":
		err = w.runner.Cancel(p)
	default:
		return errNotFound
	}
	switch {
	case errors.Is(err, ingest.ErrRunning):
		action = "busy"
	case errors.Is(err, ingest.ErrIdle):
		action = "idle"
	case err != nil:
		return err
	}
	to := "/admin/profiles"
	if r.PostFormValue("from") == "jobs" {
		to = "/admin/jobs"
	}
	http.Redirect(r.w, r.Request, to+"?done="+action, http.StatusSeeOther)
	return nil
}
