package web

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/auth"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/posture"
)

// formView is a form with what was entered and what is wrong with it.
type formView struct {
	Problem string
	Name    string
	To      string
	Secret  string
	Zone    string
	Saved   bool
	Keys    bool // single keys are switched on
}

// local returns an address of ours that a form may lead back to.
func local(to string) string {
	if !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n") {
		return "/search"
	}
	return to
}

func (w *Web) signInPage(r *request) error {
	return w.show(r, http.StatusOK, "signin", formView{To: local(r.FormValue("to"))})
}

func (w *Web) signIn(r *request) error {
	name := strings.TrimSpace(r.PostFormValue("name"))
	secret, err := w.auth.SignIn(r.Context(), name, r.PostFormValue("password"), address(r.Request), r.UserAgent())
	if err != nil {
		what, status := w.problem(r, err)
		if what == "" {
			return err
		}
		return w.show(r, status, "signin", formView{Problem: what, Name: name, To: local(r.PostFormValue("to"))})
	}
	setCookie(r.w, secret)
	http.Redirect(r.w, r.Request, local(r.PostFormValue("to")), http.StatusSeeOther)
	return nil
}

// problem puts an error of sign-in into words; "" for those that are faults.
func (w *Web) problem(r *request, err error) (string, int) {
	var t auth.ThrottleError
	switch {
	case errors.As(err, &t):
		return r.lang.T("signin.throttle", "Count", int(t.Wait.Seconds())+1), http.StatusTooManyRequests
	case errors.Is(err, auth.ErrSignIn):
		return r.lang.T("signin.wrong"), http.StatusForbidden
	case errors.Is(err, auth.ErrLink):
		return r.lang.T("welcome.expired"), http.StatusGone
	case errors.Is(err, auth.ErrTaken):
		return r.lang.T("welcome.taken"), http.StatusConflict
	case errors.Is(err, auth.ErrTooShort):
		return r.lang.T("password.short", "Min", auth.MinPassword), http.StatusBadRequest
	case errors.Is(err, auth.ErrTooLong):
		return r.lang.T("password.long", "Max", auth.MaxPassword), http.StatusBadRequest
	case errors.Is(err, auth.ErrCommon):
		return r.lang.T("password.common"), http.StatusBadRequest
	case errors.Is(err, auth.ErrKnown):
		return r.lang.T("password.known"), http.StatusBadRequest
	case errors.Is(err, auth.ErrNamed):
		return r.lang.T("password.named"), http.StatusBadRequest
	}
	return "", http.StatusInternalServerError
}

func (w *Web) welcomePage(r *request) error {
	secret := r.FormValue("t")
	if _, err := w.auth.Link(r.Context(), secret); err != nil {
		what, status := w.problem(r, err)
		if what == "" {
			return err
		}
		return w.show(r, status, "error", errorView{Status: status, Title: r.lang.T("welcome.title"), What: what})
	}
	return w.show(r, http.StatusOK, "welcome", formView{Secret: secret})
}

func (w *Web) welcome(r *request) error {
	v := formView{Secret: r.PostFormValue("t"), Name: strings.TrimSpace(r.PostFormValue("name"))}
	if r.PostFormValue("password") != r.PostFormValue("again") {
		v.Problem = r.lang.T("password.differ")
		return w.show(r, http.StatusBadRequest, "welcome", v)
	}
	if catalog.CheckName(v.Name) != nil {
		v.Problem = r.lang.T("welcome.name")
		return w.show(r, http.StatusBadRequest, "welcome", v)
	}
	secret, err := w.auth.UseLink(r.Context(), v.Secret, v.Name, r.PostFormValue("password"), r.lang.Code, r.UserAgent())
	if err != nil {
		what, status := w.problem(r, err)
		if what == "" {
			return err
		}
		v.Problem = what
		return w.show(r, status, "welcome", v)
	}
	setCookie(r.w, secret)
	http.Redirect(r.w, r.Request, "/search", http.StatusSeeOther)
	return nil
}

func (w *Web) signOut(r *request) error {
	if err := w.auth.End(r.who.Session); err != nil {
		return err
	}
	setCookie(r.w, "")
	r.w.Header().Set("Clear-Site-Data", `"cache", "cookies", "storage"`)
	http.Redirect(r.w, r.Request, "/signin", http.StatusSeeOther)
	return nil
}

func (w *Web) setLanguage(r *request) error {
	code := "en"
	if r.PostFormValue("language") == "de" {
		code = "de"
	}
	if r.who != nil {
		if err := w.archive.State().Write(func(t catalog.Tx) error { return t.SetLanguage(r.who.ID, code, r.who.Zone) }); err != nil {
			return err
		}
	}
	http.SetCookie(r.w, &http.Cookie{Name: "__Host-lang", Value: code, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: 365 * 86400})
	http.Redirect(r.w, r.Request, local(r.PostFormValue("to")), http.StatusSeeOther)
	return nil
}

func (w *Web) settingsPage(r *request) error {
	return w.show(r, http.StatusOK, "settings", formView{Zone: r.who.Zone, Keys: r.keys()})
}

func (w *Web) settings(r *request) error {
	v := formView{Zone: strings.TrimSpace(r.PostFormValue("zone")), Keys: r.PostFormValue("keys") == "on", Saved: true}
	if _, err := time.LoadLocation(v.Zone); err != nil || v.Zone == "" || v.Zone == "Local" {
		v.Saved, v.Problem = false, r.lang.T("settings.zone.bad")
		return w.show(r, http.StatusBadRequest, "settings", v)
	}
	if err := w.archive.State().Write(func(t catalog.Tx) error { return t.SetLanguage(r.who.ID, r.who.Language, v.Zone) }); err != nil {
		return err
	}
	setKeys(r.w, v.Keys)
	return w.show(r, http.StatusOK, "settings", v)
}

func (w *Web) changePassword(r *request) error {
	v := formView{Zone: r.who.Zone, Keys: r.keys(), Saved: true}
	err := error(nil)
	if r.PostFormValue("password") != r.PostFormValue("again") {
		v.Saved, v.Problem = false, r.lang.T("password.differ")
		return w.show(r, http.StatusBadRequest, "settings", v)
	}
	if err = w.auth.SetPassword(r.Context(), r.who, r.PostFormValue("old"), r.PostFormValue("password")); err != nil {
		what, status := w.problem(r, err)
		if what == "" {
			return err
		}
		if errors.Is(err, auth.ErrSignIn) {
			what = r.lang.T("password.old.wrong")
		}
		v.Saved, v.Problem = false, what
		return w.show(r, status, "settings", v)
	}
	return w.show(r, http.StatusOK, "settings", v)
}

const keysCookie = "__Host-keys"

// keys tells whether single keys act in this browser. It is a matter of the
// keyboard and of who sits there, so the browser keeps it.
func (r *request) keys() bool {
	c, err := r.Cookie(keysCookie)
	return err != nil || c.Value != "off"
}

func setKeys(rw http.ResponseWriter, on bool) {
	c := &http.Cookie{Name: keysCookie, Value: "off", Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: 365 * 86400}
	if on {
		c.MaxAge = -1
	}
	http.SetCookie(rw, c)
}

// postureView lists what is weaker than it should be.
type postureView struct {
	Grade    string
	Score    int
	Verified time.Time // when everything was last found as it was written
	Findings []finding
}

type finding struct {
	ID, State, Group string
	Name             string // of the state
	What, Why, Fix   string
	Since, Escalates time.Time
	Affects          string
	Accepted         string
	Until            time.Time
}

func (w *Web) posturePage(r *request) error {
	report, err := w.posture(r.Context())
	if err != nil {
		return err
	}
	say, err := posture.Speak(r.lang.Code)
	if err != nil {
		return err
	}
	v := postureView{Grade: report.Grade, Score: report.Score, Verified: report.Verified}
	for i := range report.Findings {
		f := &report.Findings[i]
		v.Findings = append(v.Findings, finding{
			ID: f.ID, State: strings.ToLower(string(f.State)), Group: say.Group(f.Group), Name: say.State(f.State), What: say.What(f), Why: say.Why(f), Fix: say.Fix(f),
			Since: f.Since, Escalates: f.Escalates, Affects: strings.Join(f.Affects, ", "), Accepted: f.AcceptedBy, Until: f.AcceptedUntil,
		})
	}
	return w.show(r, http.StatusOK, "posture", v)
}
