package web

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

// Locked is the door of an archive that nobody has opened: the unlock page, and
// "temporarily unavailable" for everything else.
func Locked(unlock func(passphrase string) error) http.Handler {
	p, err := loadPages()
	if err != nil {
		panic(err) // the same files are tested
	}
	l := &locked{w: &Web{pages: p}, unlock: unlock}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /assets/{name}", func(w http.ResponseWriter, r *http.Request) {
		if l.w.asset(&request{Request: r, w: w}) != nil {
			http.NotFound(w, r)
		}
	})
	mux.HandleFunc("GET /{$}", l.page)
	mux.HandleFunc("POST /unlock", l.try)
	mux.HandleFunc("GET /unlock", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusSeeOther) })
	mux.HandleFunc("POST /language", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		l.w.setLanguage(l.request(w, r)) // of nobody: only the cookie
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "60")
		if r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html") {
			l.w.show(l.request(w, r), http.StatusServiceUnavailable, "unlock", formView{})
			return
		}
		http.Error(w, "temporarily unavailable: the archive is locked", http.StatusServiceUnavailable)
	})
	return secure(http.NewCrossOriginProtection().Handler(mux))
}

type locked struct {
	w      *Web
	unlock func(string) error
	mu     sync.Mutex // one try at a time: each takes half a second
}

func (l *locked) request(w http.ResponseWriter, r *http.Request) *request {
	x := &request{Request: r, w: w}
	x.lang = l.w.pages.language(x)
	return x
}

func (l *locked) page(w http.ResponseWriter, r *http.Request) {
	l.w.show(l.request(w, r), http.StatusOK, "unlock", formView{})
}

func (l *locked) try(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.request(w, r)
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := l.unlock(r.PostFormValue("passphrase")); err != nil {
		time.Sleep(time.Second) // a wrong one costs time
		l.w.show(x, http.StatusForbidden, "unlock", formView{Problem: x.lang.T("unlock.wrong")})
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
