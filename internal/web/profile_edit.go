package web

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/tlsconf"
	"github.com/letterhold/letterhold/internal/token"
)

// profileForm is a profile that is added or changed, with what was entered and
// what is wrong with it.
type profileForm struct {
	ID        int64 // 0: a new one
	P         ingest.Profile
	Folders   string // patterns, separated by commas
	Excluded  string
	Nets      string
	Until     string // of the exception
	Everies   []option
	Mailboxes []string
	Tokens    []string

	Problem string
	Reason  string         // what the server or the check says, as it says it
	Chain   []ingest.Shown // what a server shows that nobody vouches for
	Private string         // network that is not reached without leave
}

// everies are the intervals that the form offers.
var everies = []time.Duration{0, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}

func (w *Web) newProfilePage(r *request) error {
	return w.showProfileForm(r, http.StatusOK, profileForm{P: ingest.Profile{Enabled: true, Every: ingest.Duration(15 * time.Minute)}})
}

func (w *Web) editProfilePage(r *request) error {
	p, err := w.profileOf(r)
	if err != nil {
		return err
	}
	f := profileForm{ID: p.ID, P: *p, Folders: strings.Join(p.Include, ", "), Excluded: strings.Join(p.Exclude, ", "), Nets: strings.Join(p.AllowNet, ", ")}
	if p.Exception != nil {
		f.Until = p.Exception.Until.Format(time.DateOnly)
	}
	return w.showProfileForm(r, http.StatusOK, f)
}

// profileOf is the profile that the path names.
func (w *Web) profileOf(r *request) (*ingest.Profile, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return nil, errNotFound
	}
	ps, err := ingest.Profiles(r.Context(), w.archive)
	if err != nil {
		return nil, err
	}
	for _, p := range ps {
		if p.ID == id {
			return p, nil
		}
	}
	return nil, errNotFound
}

// showProfileForm fills in what the form offers.
func (w *Web) showProfileForm(r *request, status int, f profileForm) error {
	for _, d := range everies {
		o := option{d.String(), r.lang.T("profile.every.hand"), time.Duration(f.P.Every) == d}
		switch {
		case d >= time.Hour:
			o.Label = r.lang.T("profile.every.hours", "Count", int64(d.Hours()))
		case d > 0:
			o.Label = r.lang.T("profile.every.minutes", "Count", int64(d.Minutes()))
		}
		f.Everies = append(f.Everies, o)
	}
	if !slices.Contains(everies, time.Duration(f.P.Every)) {
		d := time.Duration(f.P.Every)
		f.Everies = append(f.Everies, option{d.String(), d.String(), true})
	}
	err := w.archive.State().View(r.Context(), func(v catalog.View) error {
		ms, err := v.Mailboxes()
		ts, err2 := v.TokenSources()
		for _, m := range ms {
			f.Mailboxes = append(f.Mailboxes, m.Name)
		}
		for _, t := range ts {
			f.Tokens = append(f.Tokens, t.Name)
		}
		return errors.Join(err, err2)
	})
	if err != nil {
		return err
	}
	return w.show(r, status, "profile", f)
}

// saveProfile stores a profile and, if that was asked for, tries its connection.
func (w *Web) saveProfile(r *request) error {
	f := profileForm{P: ingest.Profile{Enabled: true}}
	if r.PathValue("id") != "" {
		p, err := w.profileOf(r)
		if err != nil {
			return err
		}
		f.ID, f.P = p.ID, *p
	}
	r.Body = http.MaxBytesReader(r.w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return errNotFound
	}
	w.enter(r, &f)
	if f.Problem == "" {
		w.reach(r, &f)
	}
	if f.Problem == "" {
		if err := f.P.Check(w.archive.Now()); err != nil {
			f.Problem, f.Reason = r.lang.T("profile.bad"), err.Error()
		}
	}
	if f.Problem != "" {
		return w.showProfileForm(r, http.StatusUnprocessableEntity, f)
	}
	var password []byte
	if s := r.PostFormValue("password"); s != "" {
		password = []byte(s)
	}
	if err := ingest.Save(w.archive, &f.P, password, r.who.Name); err != nil {
		f.Problem, f.Reason = r.lang.T("profile.bad"), err.Error()
		return w.showProfileForm(r, http.StatusUnprocessableEntity, f)
	}
	if r.PostFormValue("then") == "test" {
		return w.tryProfile(r, &f.P)
	}
	http.Redirect(r.w, r.Request, "/admin/profiles?done=saved", http.StatusSeeOther)
	return nil
}

// enter takes what was entered.
func (w *Web) enter(r *request, f *profileForm) {
	field := func(name string) string { return strings.TrimSpace(r.PostFormValue(name)) }
	list := func(name string) []string {
		return slices.DeleteFunc(strings.FieldsFunc(field(name), func(c rune) bool { return c == ',' || c == '\n' || c == '\r' }), func(s string) bool { return strings.TrimSpace(s) == "" })
	}
	p := &f.P
	p.Name, p.From, p.Mailbox, p.Multidrop = field("name"), field("from"), field("mailbox"), field("multidrop") == "on"
	p.Token, p.At, p.Window, p.Target = field("token"), field("at"), field("window"), field("target")
	p.CA, p.Pin, p.Enabled = field("ca"), field("pin"), field("enabled") == "on"
	if s := field("trust"); s != "" {
		p.Pin = s
	}
	f.Folders, f.Excluded, f.Nets, f.Until = field("folders"), field("excluded"), field("nets"), field("until")
	p.Include, p.Exclude, p.AllowNet = list("folders"), list("excluded"), list("nets")
	for _, l := range [][]string{p.Include, p.Exclude, p.AllowNet} {
		for i := range l {
			l[i] = strings.TrimSpace(l[i])
		}
	}
	if s := field("allow"); s != "" {
		p.AllowNet = append(p.AllowNet, s)
		f.Nets = strings.Join(p.AllowNet, ", ")
	}
	every, err := time.ParseDuration(field("every"))
	if err != nil {
		every = 0
	}
	p.Every = ingest.Duration(every)
	if p.DeleteAfter, err = strconv.Atoi(field("delete")); err != nil {
		p.DeleteAfter = 0
		if field("delete") != "" {
			f.Problem = r.lang.T("profile.bad.delete")
		}
	}
	w.enterException(r, f, field)
	for _, pattern := range slices.Concat(p.Include, p.Exclude) {
		if _, err := path.Match(pattern, ""); err != nil {
			f.Problem, f.Reason = r.lang.T("profile.bad.folders"), pattern
		}
	}
	switch {
	case f.Problem != "":
	case p.Name == "":
		f.Problem = r.lang.T("profile.bad.name")
	case p.From == "":
		f.Problem = r.lang.T("profile.bad.from")
	case p.Mailbox == "":
		f.Problem = r.lang.T("profile.bad.mailbox")
	}
	if host := hostOf(p.From); f.Problem == "" && p.Token == "" {
		if way, yes := token.Passwordless(host); yes {
			f.Problem, f.Reason = r.lang.T("profile.bad.password", "Host", host), way
		}
	}
}

// hostOf is the host of user@host and of a URL.
func hostOf(from string) string {
	_, host, _ := strings.Cut(from, "@")
	if i := strings.LastIndexByte(from, '@'); i >= 0 {
		host = from[i+1:]
	}
	host, _, _ = strings.Cut(host, ":")
	return strings.TrimSuffix(host, "/")
}

// enterException takes a weakening, with who answers for it.
func (w *Web) enterException(r *request, f *profileForm, field func(string) string) {
	old := f.P.Exception
	f.P.Exception = nil
	if field("insecure") == "" {
		return
	}
	x := &ingest.Exception{Kind: field("insecure"), Owner: field("owner"), Reason: field("reason"), Since: w.archive.Now().UTC().Truncate(time.Second)}
	if old != nil && old.Kind == x.Kind {
		x.Since = old.Since
	}
	f.P.Exception = x
	until, err := time.Parse(time.DateOnly, f.Until)
	x.Until = until
	switch limit := w.archive.Now().Add(ingest.MaxException); {
	case x.Owner == "" || x.Reason == "":
		f.Problem = r.lang.T("profile.bad.exception")
	case err != nil || !until.After(w.archive.Now()) || until.After(limit):
		f.Problem = r.lang.T("profile.bad.until", "Date", limit.Format(time.DateOnly))
	case token.Known(hostOf(f.P.From)):
		f.Problem = r.lang.T("profile.bad.known", "Host", hostOf(f.P.From))
	}
}

// reach finds the best way to a server of which only user@host is known.
func (w *Web) reach(r *request, f *profileForm) {
	if strings.Contains(f.P.From, "://") || strings.HasPrefix(f.P.From, "folder:") {
		return
	}
	url, err := ingest.Probe(r.Context(), f.P.From, f.P.Connection(), w.archive.Now)
	if err != nil {
		f.Problem = r.lang.T("profile.unreached")
		f.explain(err)
		return
	}
	f.P.From = url
}

// explain says why a server is not reached, and what may be done about it.
func (f *profileForm) explain(err error) {
	f.Reason = err.Error()
	var x *ingest.CertificateError
	if errors.As(err, &x) {
		f.Chain = x.Chain
	}
	var private *tlsconf.PrivateError
	if errors.As(err, &private) {
		f.Private = netip.PrefixFrom(private.Addr, private.Addr.BitLen()).String()
	}
}

// testView is what a try of a connection found.
type testView struct {
	ID      int64
	Name    string
	OK      bool
	Steps   []ingest.Check
	Folders []ingest.TestedFolder
	Chain   []ingest.Shown // if it is not trusted
	Private string
}

// testTime bounds a try: the browser waits for it.
const testTime = 45 * time.Second

func (w *Web) testProfile(r *request) error {
	p, err := w.profileOf(r)
	if err != nil {
		return err
	}
	r.Body = http.MaxBytesReader(r.w, r.Body, maxForm)
	pin, net := strings.TrimSpace(r.PostFormValue("trust")), strings.TrimSpace(r.PostFormValue("allow"))
	if pin != "" || net != "" {
		if pin != "" {
			p.Pin = pin
		}
		if net != "" {
			p.AllowNet = append(p.AllowNet, net)
		}
		if err := ingest.Save(w.archive, p, nil, r.who.Name); err != nil {
			return err
		}
	}
	return w.tryProfile(r, p)
}

// tryProfile connects step by step and shows what comes of it.
func (w *Web) tryProfile(r *request, p *ingest.Profile) error {
	ctx, cancel := context.WithTimeout(r.Context(), testTime)
	defer cancel()
	v := testView{ID: p.ID, Name: p.Name}
	t, err := w.runner.Test(ctx, p)
	if err != nil {
		v.Steps = []ingest.Check{{Step: "", Detail: err.Error()}}
		return w.show(r, http.StatusOK, "profiletest", v)
	}
	v.OK, v.Steps, v.Folders = true, t.Steps, t.Folders
	for _, s := range t.Steps {
		v.OK = v.OK && s.OK
		if !s.OK && s.Step == tlsconf.StepTLS {
			v.Chain = t.Chain
		}
	}
	if t.Private.IsValid() {
		v.Private = netip.PrefixFrom(t.Private, t.Private.BitLen()).String()
	}
	return w.show(r, http.StatusOK, "profiletest", v)
}
