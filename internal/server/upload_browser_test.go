package server_test

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/letterhold/letterhold/internal/upload"
)

// line is what lies between a browser and a site: a test looks at each piece
// that is sent, and may hold it up or break the connection.
type line struct {
	*httptest.Server
	mu      sync.Mutex
	offsets []int64                           // of the pieces
	each    func(n int) (keep int64, ok bool) // of the n-th piece; only keep bytes arrive if not ok
}

func startLine(t *testing.T, s *site) *line {
	target, _ := url.Parse(s.url)
	l := &line{}
	proxy := &httputil.ReverseProxy{
		Transport:    &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:     log.New(io.Discard, "", 0),
	}
	l.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			at, _ := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
			l.mu.Lock()
			l.offsets = append(l.offsets, at)
			n, each := len(l.offsets), l.each
			l.mu.Unlock()
			if each != nil {
				if keep, ok := each(n); !ok {
					r.Body = io.NopCloser(breaks{io.LimitReader(r.Body, keep)})
				}
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	l.Config.ErrorLog = log.New(io.Discard, "", 0)
	l.StartTLS()
	t.Cleanup(l.Close)
	return l
}

// pieces starts anew to count, and sets what becomes of each.
func (l *line) pieces(each func(n int) (int64, bool)) (before []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, l.offsets, l.each = l.offsets, nil, each
	return before
}

// choose fills the form in and sends it.
func (b *tab) choose(mailbox string, files ...string) {
	b.t.Helper()
	b.do(chromedp.SetValue(`input[name=mailbox]`, mailbox), chromedp.SetUploadFiles(`input[name=files]`, files), chromedp.Click(`fieldset button.primary`))
}

func TestUploadInBrowser(t *testing.T) {
	s := start(t)
	s.signUp(t)
	l := startLine(t, s)
	b := openTab(t)
	b.signIn(s, l.URL)
	dir := t.TempDir()
	box := filepath.Join(dir, "sales.mbox")
	if err := os.WriteFile(box, mails(200, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.zip")
	if err := os.WriteFile(other, zipOf(t, map[string]string{"a.eml": "From: a@example.org\nSubject: other\n\nx\n"}), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() {
		t.Helper()
		b.do(chromedp.Navigate(l.URL + "/admin/import"))
		b.until(`customElements.get("lh-upload")`)
	}

	// A connection breaks in the middle of a piece: it goes on from what came.
	open()
	// The browser itself tries again a few times before the page hears of it.
	var told atomic.Bool
	l.pieces(func(n int) (int64, bool) { return 100_000, n < 2 || told.Load() })
	b.choose("browser", box, other)
	b.until(`document.querySelector("lh-upload .what")?.textContent.startsWith("The connection broke. Trying again in 1 s")`)
	told.Store(true)
	b.do(b.shot("upload-retry"))
	b.until(`/^.admin.import.\d+$/.test(location.pathname) && document.querySelector("#report")`)
	run, _ := s.ended(t, eval[string](b, `location.pathname`))
	if run.Archived != 201 || run.Seen != 201 || !strings.HasPrefix(run.What, "upload sales.mbox\nupload other.zip\n> browser/") {
		t.Errorf("%+v %q", run.Counts, run.What)
	}
	b.until(`document.querySelector("#report strong").textContent == "Done" && !document.querySelector("#report").hasAttribute("hx-get")`)
	if at := l.pieces(nil); len(at) < 5 || at[0] != 0 || at[1] != 1<<20 || !slices.IsSorted(at) || !slices.ContainsFunc(at, func(n int64) bool { return n > 1<<20 && n < 2<<20 }) {
		t.Errorf("the pieces begin at %v", at)
	}

	// Paused, and the page is loaded anew: the same file goes on where it was.
	more := filepath.Join(dir, "more.mbox")
	if err := os.WriteFile(more, mails(150, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	open()
	hold := make(chan struct{})
	l.pieces(func(n int) (int64, bool) {
		if n == 2 {
			<-hold
			return 0, false
		}
		return 0, true
	})
	b.choose("browser", more)
	b.until(`document.querySelector("lh-upload .what").textContent.match(/^1.0 MB of 6.. MB have arrived$/)`)
	b.until(`document.activeElement.name == "pause" && document.querySelector("fieldset").disabled`)
	b.do(b.shot("upload-light"), scheme("dark"), b.shot("upload-dark"), scheme("light"), chromedp.EmulateViewport(390, 1000), b.shot("upload-narrow"), chromedp.EmulateViewport(1440, 900))
	b.do(chromedp.Click(`button[name=pause]`))
	b.until(`document.querySelector("lh-upload .what").textContent.startsWith("Paused; 1.0 MB of ") && document.activeElement.name == "go"`)
	close(hold)
	open()
	b.until(`document.querySelector("form.row span").textContent.includes("more.mbox") && document.querySelector("input[name=mailbox]").value == "browser"`)
	b.do(b.shot("import-waiting"))
	l.pieces(nil)
	b.choose("browser", more)
	b.until(`/^.admin.import.\d+$/.test(location.pathname)`)
	if run, _ := s.ended(t, eval[string](b, `location.pathname`)); run.Archived != 150 {
		t.Errorf("%+v", run.Counts)
	}
	if at := l.pieces(nil); len(at) == 0 || at[0] != 1<<20 {
		t.Errorf("after the page was loaded anew the pieces begin at %v", at)
	}

	// Signed out in the middle; then another window takes over.
	third := filepath.Join(dir, "third.mbox")
	if err := os.WriteFile(third, mails(100, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	open()
	hold, arrived := make(chan struct{}), make(chan struct{}, 1)
	held := func(n int) (int64, bool) {
		if n == 2 {
			arrived <- struct{}{}
			<-hold
		}
		return 0, true
	}
	l.pieces(held)
	b.choose("browser", third)
	<-arrived
	s.post(t, "/signout", nil)
	close(hold)
	b.until(`document.querySelector("lh-upload [role=alert]").checkVisibility() && document.querySelector("lh-upload [role=alert]").textContent.startsWith("You have been signed out.")`)
	s.post(t, "/signin", url.Values{"name": {"ada"}, "password": {password}})
	b.signIn(s, l.URL)
	hold = make(chan struct{})
	l.pieces(held)
	b.do(chromedp.Click(`button[name=go]`))
	<-arrived
	fi, err := os.Stat(third)
	if err != nil {
		t.Fatal(err)
	}
	if _, a := s.begin(t, "browser", upload.File{Name: "third.mbox", Size: fi.Size(), Modified: fi.ModTime().UnixMilli()}); a.Offset < 1<<20 {
		t.Errorf("another window begins at %d", a.Offset)
	}
	close(hold)
	b.until(`document.querySelector("lh-upload [role=alert]").textContent.startsWith("The same files are being sent from another window")`)
	b.do(b.shot("upload-taken"), chromedp.Click(`button[name=cancel]`))
	b.until(`location.search == "?dropped" && document.querySelector(".note.ok") && !document.querySelector("form.row")`)

	// What the server refuses is told in words, and in German.
	b.do(chromedp.Click(`button[value=de]`))
	b.until(`document.documentElement?.lang == "de" && customElements.get("lh-upload")`)
	b.choose("ab", other)
	b.until(`document.querySelector("#report")`)
	open()
	b.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("input[name=mailbox]").required = false`))
	b.choose(" ", other)
	b.until(`document.querySelector("lh-upload [role=alert]").textContent.startsWith("Der Name des Postfachs ist nicht erlaubt")`)
	b.do(b.shot("upload-german"))
}

// The same without scripts: a form, and a report that is loaded anew.
func TestUploadWithoutScripts(t *testing.T) {
	s := start(t)
	s.signUp(t)
	b := openTab(t)
	b.signIn(s, s.url)
	box := filepath.Join(t.TempDir(), "sales.mbox")
	if err := os.WriteFile(box, mails(100, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	b.do(scripts(false), chromedp.Navigate(s.url+"/admin/import"), b.shot("import-no-script"), scheme("dark"), b.shot("import-no-script-dark"), scheme("light"), chromedp.EmulateViewport(390, 1000), b.shot("import-no-script-narrow"), chromedp.EmulateViewport(1440, 900))
	b.choose("plain", box)
	b.until(`document.querySelector("#report")`)
	run, _ := s.ended(t, eval[string](b, `location.pathname`))
	if run.Archived != 100 {
		t.Errorf("%+v", run.Counts)
	}
	b.do(chromedp.Reload(), b.shot("report-no-script"))
	if got := eval[string](b, `document.querySelector("#report strong").textContent`); got != "Done" {
		t.Error("the report says", got)
	}
	// A mistake is told before everything has come, and the browser shows it.
	if err := os.WriteFile(box, mails(400, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Navigate(s.url + "/admin/import"))
	b.choose(" ", box)
	b.until(`document.querySelector(".note.bad[role=alert]")?.textContent.includes("name is not allowed")`)
	b.do(b.shot("import-refused"))
}

func TestUploadAccessibility(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	script := axe(t)
	s := start(t)
	s.signUp(t)
	b := openTab(t)
	b.signIn(s, s.url)
	files := zipOf(t, map[string]string{"a.eml": "From: a@example.org\nSubject: other\n\nx\n", "notes.txt": "x"})
	resp, _ := s.form(t, "m", "", sent{"a-file-with-a-very-long-name-that-has-no-place-to-break-in-it-at-all.zip", files}, sent{"cut.zip", files[:len(files)-9]})
	report := resp.Request.URL.Path
	s.ended(t, report)
	s.begin(t, "m", upload.File{Name: "a-file-with-a-very-long-name-that-has-no-place-to-break-in-it-at-all.mbox", Size: 10})
	for _, on := range []bool{true, false} {
		for _, p := range []string{"/admin/import", "/admin/import?dropped", report} {
			b.do(scripts(on), chromedp.Navigate(s.url+p), scripts(true))
			b.check(script, p)
		}
	}
	b.do(chromedp.Navigate(s.url+report), b.shot("report-light"), scheme("dark"), b.shot("report-dark"), scheme("light"), chromedp.EmulateViewport(390, 1000), b.shot("report-narrow"), chromedp.EmulateViewport(1440, 900))
	// While it sends, and when that went wrong.
	b.do(chromedp.Navigate(s.url + "/admin/import"))
	b.until(`customElements.get("lh-upload")`)
	b.do(chromedp.Evaluate[chromedp.Void](`(() => { const u = document.querySelector("lh-upload"); u.hidden = false; u.querySelector("[role=alert]").hidden = false; u.querySelector("[role=alert]").textContent = "x"; document.querySelector("fieldset").disabled = true })()`))
	b.check(script, "sending")
}
