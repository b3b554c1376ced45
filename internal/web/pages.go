package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"golang.org/x/text/language"
)

//go:generate go tool esbuild scripts/letterhold.ts --bundle --minify --format=iife --target=es2022 --charset=utf8 --log-level=warning --outfile=assets/letterhold.js

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets/*
var assetFiles embed.FS

//go:embed i18n/*.json
var messageFiles embed.FS

// languages the interface speaks; the first is the default.
var languages = []string{"en", "de"}

// pages are the templates, translations and assets.
type pages struct {
	templates map[string]*template.Template
	bundle    *i18n.Bundle
	assets    map[string]asset
}

type asset struct {
	data []byte
	gzip []byte // the same, compressed; nothing secret is in it
	kind string
	hash string
}

// speech translates for one request.
type speech struct {
	Code string
	loc  *i18n.Localizer
}

func loadPages() (*pages, error) {
	p := &pages{templates: map[string]*template.Template{}, bundle: i18n.NewBundle(language.English), assets: map[string]asset{}}
	p.bundle.RegisterUnmarshalFunc("json", json.Unmarshal)
	for _, l := range languages {
		if _, err := p.bundle.LoadMessageFileFS(messageFiles, "i18n/"+l+".json"); err != nil {
			return nil, err
		}
	}
	err := fs.WalkDir(assetFiles, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := assetFiles.ReadFile(name)
		sum := sha256.Sum256(b)
		kind, ok := map[string]string{".css": "text/css; charset=utf-8", ".svg": "image/svg+xml", ".js": "text/javascript; charset=utf-8"}[path.Ext(name)]
		if err == nil && ok {
			p.assets[path.Base(name)] = asset{b, compress(b), kind, hex.EncodeToString(sum[:6])}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	names, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		return nil, err
	}
	funcs := template.FuncMap{"asset": p.assetURL, "query": url.QueryEscape, "size": size, "day": day, "state": stateName, "step": stepName, "clock": func(t time.Time) string { return t.Format("15:04") }, "rfc3339": func(t time.Time) string { return t.UTC().Format(time.RFC3339) }}
	for _, n := range names {
		base := strings.TrimSuffix(path.Base(n), ".html")
		if base == "layout" {
			continue
		}
		t, err := template.New("layout.html").Funcs(funcs).ParseFS(templateFiles, "templates/layout.html", n)
		if err != nil {
			return nil, fmt.Errorf("template %s: %w", base, err)
		}
		p.templates[base] = t
	}
	return p, nil
}

func compress(b []byte) []byte {
	var z bytes.Buffer
	w, _ := gzip.NewWriterLevel(&z, gzip.BestCompression) // the level exists
	w.Write(b)                                            // a buffer takes everything
	w.Close()
	return z.Bytes()
}

func (p *pages) assetURL(name string) string { return "/assets/" + name + "?v=" + p.assets[name].hash }

// language chooses: what the user set, the cookie, what the browser asks for.
func (p *pages) language(r *request) *speech {
	var want []string
	if r.who != nil && r.who.Language != "" {
		want = append(want, r.who.Language)
	} else if c, err := r.Cookie("__Host-lang"); err == nil {
		want = append(want, c.Value)
	}
	want = append(want, r.Header.Get("Accept-Language"))
	code := "en"
	if _, i := language.MatchStrings(language.NewMatcher([]language.Tag{language.English, language.German}), want...); i < len(languages) {
		code = languages[i]
	}
	return p.speak(code)
}

func (p *pages) speak(code string) *speech {
	return &speech{code, i18n.NewLocalizer(p.bundle, code)}
}

// T translates a key; pairs fill in what it names.
func (l *speech) T(key string, pairs ...any) string {
	data := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		data[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	s, err := l.loc.Localize(&i18n.LocalizeConfig{MessageID: key, TemplateData: data, PluralCount: data["Count"]})
	if err != nil {
		return "[" + key + "]"
	}
	return s
}

// page is what every template gets.
type page struct {
	L     *speech
	Who   string // name of who is signed in
	Admin bool
	Path  string // address of this page, for the language switch
	Nonce string // of this answer's scripts
	Keys  bool   // single keys are switched on
	Query string // of the search box
	View  any
}

// T is a shorthand for templates.
func (p page) T(key string, pairs ...any) string { return p.L.T(key, pairs...) }

// With is the page for a template inside that shows another view.
func (p page) With(view any) page {
	p.View = view
	return p
}

// show renders a page whole before anything is sent.
func (w *Web) show(r *request, status int, name string, view any) error {
	return w.render(r, status, name, "layout.html", view)
}

// render sends a page, or the part of it that a template defines.
func (w *Web) render(r *request, status int, name, part string, view any) error {
	p := page{L: r.lang, Path: r.URL.RequestURI(), Nonce: r.nonce(), Keys: r.keys(), View: view, Query: r.URL.Query().Get("q")}
	if r.who != nil {
		p.Who, p.Admin = r.who.Name, r.who.Administers()
	}
	var b bytes.Buffer
	if err := w.pages.templates[name].ExecuteTemplate(&b, part, p); err != nil {
		return fmt.Errorf("template %s: %w", name, err)
	}
	r.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	r.w.WriteHeader(status)
	_, err := r.w.Write(b.Bytes())
	return err
}

func escape(s string) string { return url.QueryEscape(s) }

func size(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1_000_000:
		return fmt.Sprintf("%d kB", (n+500)/1000)
	case n < 1_000_000_000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

// duration writes how long a search took.
func duration(l *speech, d time.Duration) string {
	s := fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	if d >= time.Second {
		s = fmt.Sprintf("%.1f s", d.Seconds())
	}
	if l.Code == "de" {
		s = strings.Replace(s, ".", ",", 1)
	}
	return s
}

// day writes a date for a list.
func day(l *speech, t time.Time) string {
	if l.Code == "de" {
		return t.Format("02.01.2006")
	}
	return t.Format("2 Jan 2006")
}

// asset serves a file that is part of the program.
func (w *Web) asset(r *request) error {
	a, ok := w.pages.assets[r.PathValue("name")]
	if !ok {
		return errNotFound
	}
	r.w.Header().Set("Content-Type", a.kind)
	if r.URL.Query().Get("v") == a.hash {
		r.w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	r.w.Header().Set("Vary", "Accept-Encoding")
	b := a.data
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		r.w.Header().Set("Content-Encoding", "gzip")
		b = a.gzip
	}
	_, err := r.w.Write(b)
	return err
}

func (w *Web) alive(r *request) error {
	r.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := r.w.Write([]byte("ok\n"))
	return err
}

func (w *Web) caFile(r *request) error {
	if w.ca == nil {
		return errNotFound
	}
	r.w.Header().Set("Content-Type", "application/x-pem-file")
	r.w.Header().Set("Content-Disposition", `attachment; filename="letterhold-ca.pem"`)
	_, err := r.w.Write(w.ca)
	return err
}

func (w *Web) home(r *request) error {
	to := "/search"
	if r.who == nil {
		to = "/signin"
	}
	http.Redirect(r.w, r.Request, to, http.StatusSeeOther)
	return nil
}

type errorView struct {
	Status      int
	Title, What string
}
