package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/server"
)

// axe returns the script of axe-core, which `make need` fetches into the
// user's cache: its licence (MPL) is no reason to carry it along.
func axe(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(cache, "letterhold", "axe-core-4.14.1", "axe.min.js"))
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("axe-core is missing: ", err)
		}
		t.Skip("axe-core is missing, accessibility is not checked: make need (needs npm)")
	}
	return string(b)
}

// violations runs axe-core on what the tab shows.
func (b *tab) violations(script string) []string {
	b.t.Helper()
	eval[bool](b, script+"; true")
	out, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](`axe.run(document, {iframes: false, resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
		.then(r => JSON.stringify(r.violations.map(v => v.id + ": " + v.help + ": " + v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + " " + n.any.concat(n.all).map(x => x.message).join("; ")).join(" | "))))`,
		func(p *runtime.EvaluateParams) { p.AwaitPromise = new(true) }))
	if err != nil {
		b.t.Fatal(err)
	}
	var vs []string
	if err := json.Unmarshal([]byte(out), &vs); err != nil {
		b.t.Fatal(err)
	}
	return vs
}

// check looks at the page at hand with axe-core, light and dark, and at its
// width on the narrowest screens.
func (b *tab) check(script, name string) {
	b.t.Helper()
	for _, colours := range []string{"light", "dark"} {
		b.do(scheme(colours))
		for _, v := range b.violations(script) {
			b.t.Errorf("%s, %s: %s", name, colours, v)
		}
	}
	b.do(chromedp.EmulateViewport(320, 700))
	if n := eval[int](b, `document.documentElement.scrollWidth`); n > 320 {
		b.t.Errorf("%s is %d pixels wide on a screen of 320: %s", name, n, eval[string](b, `[...document.querySelectorAll("body *")].filter(e => e.checkVisibility() && e.getBoundingClientRect().right > 321).map(e => e.outerHTML.slice(0, 120)).slice(0, 3).join(" | ")`))
	}
	b.do(chromedp.EmulateViewport(1440, 900), scheme("light"))
}

func TestAccessibility(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	script := axe(t)
	s := start(t)
	b := openTab(t)
	b.do(chromedp.Navigate(startLocked(t, password)))
	b.check(script, "unlock")
	b.do(chromedp.Navigate(s.link))
	b.check(script, "welcome")
	b.do(chromedp.Navigate(s.url + "/welcome?t=used"))
	b.check(script, "used link")
	b.do(chromedp.Navigate(s.url+"/signin"), chromedp.SendKeys(`input[name=name]`, "nobody"), chromedp.SendKeys(`input[name=password]`, "wrong"), chromedp.Submit(`form.stack`), chromedp.WaitVisible(`.note.bad`))
	b.check(script, "sign-in refused")
	s.signUp(t)
	b.signIn(s, s.url)
	html := s.firstHit(t, "from:bank")
	plain := s.firstHit(t, "invoice has:attachment")
	pages := []string{
		"/search", "/search?q=invoice&m=" + plain, "/search?q=from:bank&m=" + html, "/search?q=" + url.QueryEscape(`subject:invoice has:attachment in:"Orders/2026" form:ann`), "/search?q=zzzz", "/search?q=" + url.QueryEscape(`"open`),
		"/m/" + plain, "/m/" + html, "/m/" + plain + "/source", "/m/" + plain + "/headers", "/help", "/settings", "/posture", "/admin/profiles", "/admin/jobs", "/nothing-here",
	}
	for _, on := range []bool{true, false} {
		for _, p := range pages {
			b.do(scripts(on), chromedp.Navigate(s.url+p), scripts(true))
			if got := eval[bool](b, `!!customElements.get("lh-live")`); got != on {
				t.Fatalf("%s: scripts run: %v", p, got)
			}
			b.check(script, fmt.Sprintf("%s (scripts %v)", p, on))
		}
	}
}

// firstHit is the id of the newest message that a query finds.
func (s *site) firstHit(t testing.TB, q string) string {
	t.Helper()
	_, body := s.get(t, "/search?q="+url.QueryEscape(q))
	_, rest, ok := strings.Cut(body, "/search?m=")
	if !ok {
		t.Fatalf("nothing for %s", q)
	}
	return rest[:32]
}

// startLocked serves an archive that opens with a passphrase.
func startLocked(t *testing.T, passphrase string) string {
	t.Helper()
	dir := t.TempDir()
	d, err := durable.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := seal.Passphrase(passphrase)
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
	ready := make(chan string, 1)
	o := server.Options{HTTPS: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Execute: func(*server.Opened) server.Execute { return nil }, Ready: func(u string) { ready <- u }}
	s, err := server.NewLocked(dir, o, func(secret seal.Secret) (*server.Opened, error) {
		return server.OpenArchive(dir, func() (seal.Secret, error) { return secret, nil }, archive.Options{})
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return <-ready
}

func TestUnlockPage(t *testing.T) {
	at := startLocked(t, password)
	b := openTab(t)
	b.do(chromedp.Navigate(at), b.shot("unlock"), scheme("dark"), b.shot("unlock-dark"), scheme("light"), chromedp.EmulateViewport(390, 700), b.shot("unlock-narrow"), chromedp.EmulateViewport(1440, 900))
	b.do(chromedp.Navigate(at + "/search?q=a"))
	b.until(`document.querySelector("input[name=passphrase]")`)
	b.do(chromedp.SendKeys(`input[name=passphrase]`, "not this one"), chromedp.Submit(`form.stack`), chromedp.WaitVisible(`.note.bad`))
	b.until(`document.querySelector("[role=alert]").textContent.includes("does not open with this passphrase")`)
	b.do(chromedp.Click(`button[value=de]`))
	b.until(`document.documentElement?.lang == "de" && document.querySelector("input[name=passphrase]")`)
	b.do(chromedp.SendKeys(`input[name=passphrase]`, "auch nicht"), chromedp.Submit(`form.stack`), chromedp.WaitVisible(`.note.bad`), b.shot("unlock-german"))
	b.do(chromedp.SendKeys(`input[name=passphrase]`, password), chromedp.Submit(`form.stack`))
	b.until(`location.pathname == "/signin" && document.querySelector("input[name=password]")`)
}
