// Package web is the HTTPS door: pages that work without scripts. With them,
// htmx swaps parts of a page in place, and a few elements of ours (scripts/)
// add keys and what assistive technology is told.
//
// Every page is a row of the table in routes. Whoever is not signed in sees
// sign-in only; a page with mail asks the catalog with the scope of who asks.
// State never changes on GET. The headers of every answer are set in one place
// (headers.go), mail's own HTML is rewritten by package safehtml and shown
// below an address of its own.
package web

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/auth"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/posture"
	"github.com/letterhold/letterhold/internal/search"
	"github.com/letterhold/letterhold/internal/upload"
)

// Web serves the pages of an archive.
type Web struct {
	archive *archive.Archive
	search  *search.Searcher
	auth    *auth.Auth
	log     *slog.Logger
	ca      []byte              // PEM of the internal CA
	room    *semaphore.Weighted // for whole messages in memory
	runner  *ingest.Runner
	exports func() []ingest.Progress
	uploads *upload.Uploads
	posture func(context.Context) (*posture.Report, error)
	pages   *pages
	handler http.Handler
}

// Options of the door.
type Options struct {
	Log *slog.Logger
	CA  []byte // certificate of the internal CA, to be downloaded
	// Runner runs archiving profiles.
	Runner *ingest.Runner
	// Exports tells which runs of targets are under way.
	Exports func() []ingest.Progress
	// Uploads takes files that are sent.
	Uploads *upload.Uploads
	// Posture looks for what is weaker than it should be.
	Posture func(context.Context) (*posture.Report, error)
}

// New returns the door of an archive.
func New(a *archive.Archive, s *search.Searcher, au *auth.Auth, o Options) (*Web, error) {
	p, err := loadPages()
	if err != nil {
		return nil, err
	}
	w := &Web{archive: a, search: s, auth: au, log: o.Log, ca: o.CA, room: semaphore.NewWeighted(showRoom), runner: o.Runner, exports: o.Exports, uploads: o.Uploads, posture: o.Posture, pages: p}
	w.handler = w.routes()
	return w, nil
}

// who is allowed to use a route.
type access int

const (
	everybody access = iota
	signedIn
	administrators
)

// route is a page or an action.
type route struct {
	pattern string
	access  access
	handle  func(*Web, *request) error
}

// table is every route there is.
var table = []route{
	{"GET /{$}", everybody, (*Web).home},
	{"GET /livez", everybody, (*Web).alive},
	{"GET /assets/{name}", everybody, (*Web).asset},
	{"GET /ca.pem", everybody, (*Web).caFile},
	{"GET /signin", everybody, (*Web).signInPage},
	{"POST /signin", everybody, (*Web).signIn},
	{"GET /welcome", everybody, (*Web).welcomePage},
	{"POST /welcome", everybody, (*Web).welcome},
	{"POST /language", everybody, (*Web).setLanguage},
	{"POST /signout", signedIn, (*Web).signOut},
	{"GET /search", signedIn, (*Web).searchPage},
	{"GET /help", signedIn, (*Web).helpPage},
	{"GET /settings", signedIn, (*Web).settingsPage},
	{"POST /settings", signedIn, (*Web).settings},
	{"POST /settings/password", signedIn, (*Web).changePassword},
	{"GET /posture", administrators, (*Web).posturePage},
	{"GET /admin/profiles", administrators, (*Web).profilesPage},
	{"GET /admin/jobs", administrators, (*Web).jobsPage},
	{"GET /admin/profiles/new", administrators, (*Web).newProfilePage},
	{"POST /admin/profiles/new", administrators, (*Web).saveProfile},
	{"GET /admin/profiles/{id}/edit", administrators, (*Web).editProfilePage},
	{"POST /admin/profiles/{id}/edit", administrators, (*Web).saveProfile},
	{"POST /admin/profiles/{id}/test", administrators, (*Web).testProfile},
	{"POST /admin/profiles/{id}/{action}", administrators, (*Web).profileAction},
	{"GET /admin/import", administrators, (*Web).importPage},
	{"POST /admin/import", administrators, (*Web).importForm},
	{"GET /admin/import/{run}", administrators, (*Web).importReport},
	{"POST /admin/import/{run}/cancel", administrators, (*Web).cancelImport},
	{"POST /admin/import/upload", administrators, (*Web).beginUpload},
	{"GET /admin/import/upload/{id}", administrators, (*Web).uploadState},
	{"PUT /admin/import/upload/{id}", administrators, (*Web).uploadPiece},
	{"POST /admin/import/upload/{id}/drop", administrators, (*Web).dropUpload},
	{"GET /m/{id}", signedIn, (*Web).messagePage},
	{"GET /m/{id}/html", signedIn, (*Web).messageHTML},
	{"GET /m/{id}/source", signedIn, (*Web).messageSource},
	{"GET /m/{id}/headers", signedIn, (*Web).messageHeaders},
	{"GET /m/{id}/message.eml", signedIn, (*Web).messageFile},
	{"GET /m/{id}/part/{path}", signedIn, (*Web).messagePart},
}

// request is one request with what every handler needs.
type request struct {
	*http.Request
	w    http.ResponseWriter
	who  *auth.Who // nil: not signed in
	lang *speech
	held int64 // bytes of the room for messages
	// stream is the body without the limit of forms; who reads it bounds it.
	stream io.ReadCloser
}

const cookieName = "__Host-letterhold"

// maxForm bounds the body of a request in bytes.
const maxForm = 64 << 10

func (w *Web) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range table {
		mux.HandleFunc(r.pattern, func(rw http.ResponseWriter, hr *http.Request) { w.serve(r, rw, hr) })
	}
	mux.HandleFunc("/", func(rw http.ResponseWriter, hr *http.Request) {
		w.serve(route{handle: func(*Web, *request) error { return errNotFound }}, rw, hr)
	})
	return secure(http.NewCrossOriginProtection().Handler(mux))
}

// ServeHTTP implements http.Handler.
func (w *Web) ServeHTTP(rw http.ResponseWriter, r *http.Request) { w.handler.ServeHTTP(rw, r) }

// errNotFound is the answer for what is not there or may not be seen: nobody
// learns which.
var errNotFound = errors.New("not found")

func (w *Web) serve(rt route, rw http.ResponseWriter, hr *http.Request) {
	r := &request{Request: hr, w: rw, stream: hr.Body}
	hr.Body = http.MaxBytesReader(rw, hr.Body, maxForm)
	defer func() { w.room.Release(r.held) }()
	if c, err := hr.Cookie(cookieName); err == nil {
		who, err := w.auth.Session(hr.Context(), c.Value)
		if err != nil && !errors.Is(err, auth.ErrSession) {
			w.fail(r, err)
			return
		}
		r.who = who
	}
	r.lang = w.pages.language(r)
	switch {
	case rt.access == everybody:
	case r.who == nil && hr.Method == http.MethodGet && r.swapping():
		rw.Header().Set("HX-Redirect", "/signin?to="+escape(hr.URL.RequestURI())) // the whole page, not a part of it
		return
	case r.who == nil && hr.Method == http.MethodGet:
		http.Redirect(rw, hr, "/signin?to="+escape(hr.URL.RequestURI()), http.StatusSeeOther)
		return
	case r.who == nil:
		http.Redirect(rw, hr, "/signin", http.StatusSeeOther)
		return
	case rt.access == administrators && !r.who.Administers():
		w.fail(r, errNotFound)
		return
	}
	if err := rt.handle(w, r); err != nil {
		w.fail(r, err)
	}
}

// fail translates an error into a page, once.
func (w *Web) fail(r *request, err error) {
	v := errorView{Status: http.StatusInternalServerError, Title: r.lang.T("error.title"), What: r.lang.T("error.internal")}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, errNotFound):
		v.Status, v.Title, v.What = http.StatusNotFound, r.lang.T("notfound.title"), r.lang.T("notfound.what")
	case errors.Is(err, context.Canceled):
		return
	case errors.As(err, &tooLarge):
		v.Status, v.What = http.StatusRequestEntityTooLarge, r.lang.T("error.toolarge")
	default:
		w.log.Error("request failed", "route", r.Pattern, "err", err)
	}
	r.lang = w.pages.language(r)
	if r.swapping() {
		// An error takes the page, whatever part was asked for.
		h := r.w.Header()
		h.Set("HX-Retarget", "#main")
		h.Set("HX-Reselect", "#main")
		h.Set("HX-Reswap", "outerHTML")
	}
	if err := w.show(r, v.Status, "error", v); err != nil {
		w.log.Error("error page failed", "err", err)
	}
}

// address is where a request comes from.
func address(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.IPv4Unspecified()
	}
	return a
}

func setCookie(rw http.ResponseWriter, secret string) {
	c := &http.Cookie{Name: cookieName, Value: secret, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
	if secret == "" {
		c.MaxAge = -1
	}
	http.SetCookie(rw, c)
}

// Server returns the HTTP server of a handler, with its limits.
func Server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
