package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/sample"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/server"
)

// site is a server over the sample mailbox, with somebody signed in.
type site struct {
	url    string
	link   string
	opened *server.Opened
	client *http.Client // trusts the internal CA
	me     int64
}

func start(t testing.TB) *site {
	t.Helper()
	dir := t.TempDir()
	d, err := durable.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Create(d, archive.Options{}, func(k *seal.KeyFile, r *seal.Ring) error {
		_, err := k.AddSlot(r, secret, "", seal.WeakCost, time.Now())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	d.Close()
	// The clock stands still, so that no throttle ends while a test runs.
	now := time.Now()
	x, err := server.OpenArchive(dir, func() (seal.Secret, error) { return secret, nil }, archive.Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	st := &site{opened: x}
	ctx, stop := context.WithCancel(context.Background())
	if st.me, err = x.Archive.Mailbox(ctx, "me", "test"); err != nil {
		t.Fatal(err)
	}
	for m := range sample.Mailbox(time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)) {
		if err := x.Archive.Enqueue(ctx, m.Raw, archive.Provenance{Mailbox: st.me, Folder: m.Folder, Source: "sample", Flags: m.Flags}, func(archive.Result, error) {}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(x.Archive.Flush(ctx), x.Index.Wait(ctx)); err != nil {
		t.Fatal(err)
	}
	ready := make(chan string, 1)
	s, err := server.New(x, server.Options{HTTPS: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Execute: func(*server.Opened) server.Execute { return nil }, Ready: func(u string) { ready <- u }})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	st.url = <-ready
	if st.link, err = x.Link(st.me); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := insecure.Get(st.url + "/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	block, _ := pem.Decode(b)
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(ca)
	jar, _ := cookiejar.New(nil)
	st.client = &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	return st
}

const password = "a quiet reading room at dusk"

func (s *site) post(t testing.TB, path string, form url.Values) (*http.Response, string) {
	t.Helper()
	resp, err := s.client.PostForm(s.url+path, form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp, string(b)
}

func (s *site) get(t testing.TB, path string) (*http.Response, string) {
	t.Helper()
	resp, err := s.client.Get(s.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp, string(b)
}

func (s *site) signUp(t testing.TB) {
	t.Helper()
	u, _ := url.Parse(s.link)
	resp, body := s.post(t, "/welcome", url.Values{"t": {u.Query().Get("t")}, "name": {"ada"}, "password": {password}, "again": {password}})
	if resp.Request.URL.Path != "/search" || resp.StatusCode != 200 {
		t.Fatalf("welcome leads to %s %d: %.300s", resp.Request.URL, resp.StatusCode, body)
	}
}

func TestSignUpSearchRead(t *testing.T) {
	s := start(t)
	if resp, _ := s.get(t, "/search?q=invoice"); resp.Request.URL.Path != "/signin" {
		t.Fatal("a search without sign-in leads to", resp.Request.URL)
	}
	u, _ := url.Parse(s.link)
	for weak, why := range map[string]string{"short": "shorter than 15", "passwordpassword": "common words", "aaaaaaaaaaaaaaaaaa": "common words", "ada-ada-ada-ada-ada": "your name", "localhost-localhost": "this host", "correct horse battery staple": "lists of common or stolen"} {
		resp, body := s.post(t, "/welcome", url.Values{"t": {u.Query().Get("t")}, "name": {"ada"}, "password": {weak}, "again": {weak}})
		if resp.StatusCode != 400 || !strings.Contains(body, why) {
			t.Errorf("password %q: %d, without %q", weak, resp.StatusCode, why)
		}
	}
	s.signUp(t)
	if resp, _ := s.get(t, "/welcome?"+u.RawQuery); resp.StatusCode != http.StatusGone {
		t.Error("the link works twice:", resp.StatusCode)
	}
	_, body := s.get(t, "/search?q="+url.QueryEscape("subject:invoice has:attachment"))
	if !strings.Contains(body, "<mark>Invoice</mark>") || !strings.Contains(body, "has:attachment") {
		t.Errorf("no hit: %.2000s", body)
	}
	id := regexp.MustCompile(`m=([0-9a-f]{32})`).FindStringSubmatch(body)
	if id == nil {
		t.Fatal("no link to a message")
	}
	for _, p := range []string{"", "/source", "/headers", "/message.eml"} {
		resp, b := s.get(t, "/m/"+id[1]+p)
		if resp.StatusCode != 200 || !strings.Contains(b, "Invoice") {
			t.Errorf("%s: %d %.100s", p, resp.StatusCode, b)
		}
	}
	_, b := s.get(t, "/m/"+id[1])
	part := regexp.MustCompile(`/m/[0-9a-f]{32}/part/[0-9.]+`).FindString(b)
	resp, data := s.get(t, part)
	if d := resp.Header.Get("Content-Disposition"); !strings.HasPrefix(d, "attachment;") || len(data) < 1000 {
		t.Errorf("attachment %s: %q, %d bytes", part, d, len(data))
	}
	for q, want := range map[string]string{"%22open": "cannot be understood", "zzzznothing": "No mail matches", "%E6%9D%B1%E4%BA%AC": "東京", "muenchen+OR+gr%C3%BC%C3%9Fe": "Gr"} {
		if _, body := s.get(t, "/search?q="+q); !strings.Contains(body, want) {
			t.Errorf("%s: no %q", q, want)
		}
	}
	// What is wrong with a query is told in the reader's language.
	s.post(t, "/language", url.Values{"language": {"de"}})
	for q, want := range map[string]string{"grüße larger:viel": "bei Zeichen 7 nicht zu verstehen: „viel“ ist keine Größe", "form:ann": "form: ist kein Suchfeld"} {
		if _, body := s.get(t, "/search?q="+url.QueryEscape(q)); !strings.Contains(body, want) {
			t.Errorf("%s: no %q", q, want)
		}
	}
	s.post(t, "/signout", nil)
	if resp, _ := s.get(t, "/m/"+id[1]); resp.Request.URL.Path != "/signin" {
		t.Error("a message is shown after signing out")
	}
}

// Every route without sign-in, and with somebody else's message.
func TestNobodySeesWhatIsNotHis(t *testing.T) {
	s := start(t)
	ctx := context.Background()
	other, err := s.opened.Archive.Mailbox(ctx, "somebody else", "test")
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.opened.Archive.Add(ctx, []byte("Subject: canarysubject\n\ncanarybody\n"), archive.Provenance{Mailbox: other, Folder: "Hidden"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.opened.Index.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	routes := []string{"/m/ID", "/m/ID/html", "/m/ID/source", "/m/ID/headers", "/m/ID/message.eml", "/m/ID/part/1", "/search?q=canarybody", "/search?m=ID", "/search?q=in:Hidden", "/settings", "/posture", "/help"}
	for _, signedIn := range []bool{false, true} {
		if signedIn {
			s.signUp(t)
		}
		for _, p := range routes {
			resp, body := s.get(t, strings.ReplaceAll(p, "ID", r.ID.String()))
			if strings.Contains(strings.ReplaceAll(body, "q=canarybody", ""), "canarysubject") || strings.Contains(body, "Hidden<") {
				t.Errorf("%s shows somebody else's mail", p)
			}
			// The same for a request that swaps a part of a page.
			req, _ := http.NewRequest("GET", s.url+strings.ReplaceAll(p, "ID", r.ID.String()), nil)
			req.Header.Set("HX-Request", "true")
			req.Header.Set("HX-Target", "section#read")
			part, err := s.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(part.Body)
			part.Body.Close()
			if strings.Contains(strings.ReplaceAll(string(b), "q=canarybody", ""), "canarysubject") || bytes.Contains(b, []byte("Hidden<")) {
				t.Errorf("%s, swapped, shows somebody else's mail", p)
			}
			if to := part.Header.Get("HX-Redirect"); !signedIn && (len(b) > 0 || !strings.HasPrefix(to, "/signin")) {
				t.Errorf("%s, swapped, without sign-in: %d bytes, redirect %q", p, len(b), to)
			}
			if !signedIn && resp.Request.URL.Path != "/signin" {
				t.Errorf("%s without sign-in: %s", p, resp.Request.URL.Path)
			}
			if signedIn && strings.HasPrefix(p, "/m/") && resp.StatusCode != http.StatusNotFound {
				t.Errorf("%s: %d", p, resp.StatusCode)
			}
			if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: headers %v", p, resp.Header)
			}
		}
	}
	req, _ := http.NewRequest("POST", s.url+"/signout", nil)
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	if resp, err := s.client.Do(req); err != nil || resp.StatusCode != http.StatusForbidden {
		t.Error("a request from another site is accepted", resp, err)
	}
}

func TestThrottle(t *testing.T) {
	s := start(t)
	s.signUp(t)
	s.post(t, "/signout", nil)
	codes := map[int]int{}
	for i := range 8 {
		resp, body := s.post(t, "/signin", url.Values{"name": {"ada"}, "password": {fmt.Sprint("wrong ", i)}})
		codes[resp.StatusCode]++
		if resp.StatusCode == 403 && strings.Contains(body, "ada does not exist") {
			t.Error("the answer tells who exists")
		}
	}
	if codes[403] != 5 || codes[429] != 3 {
		t.Errorf("answers: %v", codes)
	}
}

func TestOnlyTLS13(t *testing.T) {
	s := start(t)
	host := strings.TrimPrefix(s.url, "https://")
	if c, err := tls.Dial("tcp", host, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
		c.Close()
		t.Error("TLS 1.2 is accepted")
	}
	c, err := tls.Dial("tcp", host, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if id := c.ConnectionState().CurveID; id != tls.X25519MLKEM768 {
		t.Errorf("group %v", id)
	}
}

// chromium returns a browser that may do what the tests' server offers; where
// it is missing, CI fails and others skip.
func chromium(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("chromium is missing")
		}
		t.Skip("chromium is missing: apt-get install chromium")
	}
	o := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.Flag("ignore-certificate-errors", true), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	alloc, stop := chromedp.NewExecAllocator(context.Background(), o...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	ctx, timeout := context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(timeout)
	return ctx
}

// screenshots is the folder for pictures that a person can look through.
func screenshots(t *testing.T) string {
	dir := os.Getenv("LETTERHOLD_SCREENSHOTS")
	if dir == "" {
		return t.TempDir()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tab is a browser's tab with short ways to drive it.
type tab struct {
	t   *testing.T
	ctx context.Context
	dir string // for pictures
}

func openTab(t *testing.T) *tab {
	b := &tab{t: t, ctx: chromium(t), dir: screenshots(t)}
	b.do(call(network.Enable, network.EnableParams{}), chromedp.EmulateViewport(1440, 900))
	return b
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// until waits for a condition in the page's language.
func (b *tab) until(condition string) {
	b.t.Helper()
	for range 400 {
		if eval[bool](b, "!!("+condition+")") {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.t.Fatalf("never true: %s; at %s, the focus on %s", condition, eval[string](b, "location.href"), eval[string](b, "document.activeElement.outerHTML.slice(0, 300)"))
}

func eval[T any](b *tab, js string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](js))
	if err != nil {
		b.t.Fatalf("%s: %v", js, err)
	}
	return v
}

// signIn gives the tab the session of the client, for the site at an address.
func (b *tab) signIn(s *site, at string) {
	b.t.Helper()
	u, _ := url.Parse(s.url)
	for _, c := range s.client.Jar.Cookies(u) {
		b.do(call(network.SetCookie, network.SetCookieParams{Name: c.Name, Value: c.Value, URL: at, Path: "/", Secure: new(true), HTTPOnly: new(true)}))
	}
}

func call[P, R any](cmd cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, cmd, params)
		return err
	})
}

func (b *tab) shot(name string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		p, err := chromedp.CaptureScreenshot()(ctx, target)
		if err == nil {
			err = os.WriteFile(filepath.Join(b.dir, name+".png"), p, 0o644)
		}
		return err
	})
}

func scheme(name string) chromedp.Action[chromedp.Void] {
	return call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}})
}

func scripts(on bool) chromedp.Action[chromedp.Void] {
	return call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
}

func TestBrowser(t *testing.T) {
	s := start(t)
	b := openTab(t)
	ctx, dir := b.ctx, b.dir
	var mu sync.Mutex
	var foreign, logged []string
	if err := chromedp.Listen(ctx, func(ev any) {
		mu.Lock()
		defer mu.Unlock()
		switch ev := ev.(type) {
		case *network.EventRequestWillBeSent:
			if u := ev.Request.URL; !strings.HasPrefix(u, s.url) && !strings.HasPrefix(u, "data:") && !strings.HasPrefix(u, "about:") {
				foreign = append(foreign, u)
			}
		case *page.EventJavascriptDialogOpening:
			logged = append(logged, "dialog: "+ev.Message)
		}
	}); err != nil {
		t.Fatal(err)
	}
	shot := b.shot
	err := chromedp.Do(ctx, scripts(false),
		chromedp.Navigate(s.link), shot("welcome"),
		chromedp.SendKeys(`input[name=name]`, "ada"), chromedp.SendKeys(`input[name=password]`, password), chromedp.SendKeys(`input[name=again]`, password), chromedp.Submit(`form.stack`),
		chromedp.WaitVisible(`.list li`),
		chromedp.Navigate(s.url+"/search?q=invoice"), chromedp.WaitVisible(`.list li`), chromedp.Click(`.list li a`), chromedp.WaitVisible(`.read h1`), shot("search-no-script"),
		scripts(true), chromedp.Navigate(s.url+"/search?q=invoice"), chromedp.WaitVisible(`#hits a[data-htmx-powered]`), chromedp.Click(`.list li a`), chromedp.WaitVisible(`.read h1`), shot("search-light"),
		scheme("dark"), shot("search-dark"), scheme("light"), chromedp.Evaluate[chromedp.Void](`document.documentElement.dir = "rtl"`), shot("search-rtl"), chromedp.Evaluate[chromedp.Void](`document.documentElement.dir = "ltr"`), scripts(false),
		chromedp.EmulateViewport(390, 800), shot("message-narrow"), chromedp.Navigate(s.url+"/search?q=invoice"), shot("search-narrow"), chromedp.EmulateViewport(1440, 900),
		chromedp.Navigate(s.url+"/posture"), shot("posture"), chromedp.Navigate(s.url+"/help"), shot("help"), chromedp.Navigate(s.url+"/settings"), shot("settings"),
		chromedp.Click(`nav.top button[value=de]`), chromedp.WaitVisible(`button[value=en]`), chromedp.Navigate(s.url+"/search?q="+url.QueryEscape("grüße OR rechnung")), shot("search-german"),
		// The hostile mail, with scripts allowed: nothing of it may run.
		scripts(true),
		chromedp.Navigate(s.url+"/search?q="+url.QueryEscape("from:bank")), chromedp.Click(`.list li a`), chromedp.WaitVisible(`iframe.paper`), chromedp.Sleep(time.Second), shot("hostile"),
	)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(foreign) > 0 {
		t.Errorf("requests left for %v", foreign)
	}
	if len(logged) > 0 {
		t.Errorf("scripts ran: %v", logged)
	}
	for _, f := range []string{"search-light", "search-dark", "hostile"} {
		b, err := os.ReadFile(filepath.Join(dir, f+".png"))
		if err != nil || !bytes.HasPrefix(b, []byte("\x89PNG")) {
			t.Errorf("%s: no picture: %v", f, err)
		}
	}
}
