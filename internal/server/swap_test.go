package server_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// stays is whether the document is still the one that was marked, that is,
// whether nothing was loaded anew.
const (
	mark  = `window.marked = true`
	stays = `window.marked === true && ["main", "read", "hits", "q"].every(id => document.querySelectorAll("#" + id).length == 1)`
)

func TestResultsAreSwappedInPlace(t *testing.T) {
	s := start(t)
	s.signUp(t)
	b := openTab(t)
	b.signIn(s, s.url)
	b.do(chromedp.Navigate(s.url + "/search?q=invoice"))
	b.until(`customElements.get("lh-live") && document.querySelector("#hits a[data-htmx-powered]")`)
	eval[bool](b, mark)

	// A hit is read beside the list, which stays, and so does the focus.
	b.do(chromedp.Click(`#hits li:nth-child(2) a`))
	b.until(`document.querySelector("#read article")`)
	b.until(stays + ` && location.search.includes("m=") && document.querySelectorAll("#hits [aria-current]").length == 1`)
	b.until(`document.activeElement.matches("#hits li:nth-child(2) a")`)
	b.until(`document.querySelector("lh-live").textContent == document.querySelector("#read h1").textContent`)
	first := eval[string](b, `location.href`)

	// The link that is copied leads to the message alone.
	b.do(chromedp.Evaluate[chromedp.Void](`navigator.clipboard.writeText = async (text) => { window.copied = text }`), chromedp.Click(`lh-copy button`))
	b.until(`window.copied == location.origin + "/m/" + new URLSearchParams(location.search).get("m") && document.querySelector("lh-live").textContent == "Copied"`)
	b.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#hits li:nth-child(2) a").focus()`))

	// Another search: the box keeps the focus, the count is said.
	b.do(chromedp.Evaluate[chromedp.Void](`(() => { const q = document.querySelector("#q"); q.focus(); q.value = "order" })()`), chromedp.KeyEvent(kb.Enter))
	b.until(`location.search == "?q=order" && document.title.startsWith("order")`)
	b.until(stays + ` && document.activeElement.id == "q" && document.querySelector("lh-live").textContent == document.querySelector("main h1").textContent`)

	// Sorting and dropping a chip.
	b.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#sort").value = "oldest"`), chromedp.Click(`#resort`))
	b.until(stays + ` && location.search.includes("sort=oldest") && document.activeElement.id == "resort"`)

	// Back and forth: the address is the whole state.
	b.do(chromedp.Evaluate[chromedp.Void](`history.go(-2)`))
	b.until(`location.href == ` + strconv.Quote(first) + ` && document.querySelector("#read article") && document.querySelector("#q").value == "invoice"`)
	b.until(`document.querySelectorAll("#hits [aria-current]").length == 1`)
	b.do(chromedp.Evaluate[chromedp.Void](`history.forward()`))
	b.until(`document.querySelector("#q").value == "order" && !document.querySelector("#read article")`)

	// An error is a part of the page like others.
	b.do(chromedp.Evaluate[chromedp.Void](`(() => { const q = document.querySelector("#q"); q.focus(); q.value = '"open' })()`), chromedp.KeyEvent(kb.Enter))
	b.until(`document.querySelector("main .note.bad")`)

	// Whoever is signed out meanwhile gets the page to sign in, as a whole.
	b.do(chromedp.Navigate(s.url + "/search"))
	b.until(`document.querySelector("#hits a[data-htmx-powered]")`)
	s.post(t, "/signout", nil)
	b.do(chromedp.Click(`#hits li:nth-child(2) a`))
	b.until(`location.pathname == "/signin" && document.querySelector("input[name=password]") && !document.querySelector("lh-live")`)
}

func TestLoadMore(t *testing.T) {
	s := start(t)
	s.signUp(t)
	b := openTab(t)
	b.signIn(s, s.url)
	b.do(chromedp.Navigate(s.url + "/search"))
	b.until(`document.querySelector("#more a[data-htmx-powered]")`)
	eval[bool](b, mark)
	for want := 100; want <= 150; want += 50 {
		b.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#more a").focus()`), chromedp.KeyEvent(kb.Enter))
		b.until(stays + ` && document.querySelectorAll("#hits li:not(#more)").length == ` + strconv.Itoa(want))
		b.until(`document.activeElement == document.querySelectorAll("#hits a")[` + strconv.Itoa(want-50) + `]`)
	}
	if n := eval[int](b, `new Set([...document.querySelectorAll("#hits li:not(#more) a")].map(a => new URL(a.href).searchParams.get("m"))).size`); n != 150 {
		t.Errorf("%d different messages in three pages", n)
	}
	// A hit of the third page is in the list that its address gives.
	b.do(chromedp.KeyEvent("o"))
	b.until(`document.querySelector("#read article")`)
	b.do(chromedp.Reload())
	b.until(`document.querySelectorAll("#hits [aria-current]").length == 1`)

	// A list of 500 rows does not grow any more: the next page follows.
	b.until(`document.querySelector("#more a[data-htmx-powered]")`)
	eval[bool](b, mark)
	b.do(chromedp.Evaluate[chromedp.Void](`for (let more = document.querySelector("#more"), i = 50; i < 500; i++) more.before(document.querySelector("#hits li").cloneNode(true))`))
	next := eval[string](b, `document.querySelector("#more a").href`)
	b.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#more a").focus()`), chromedp.KeyEvent(kb.Enter))
	b.until(`location.href == ` + strconv.Quote(next) + ` && !window.marked && document.querySelectorAll("#hits li").length <= 51`)
}

func TestKeys(t *testing.T) {
	s := start(t)
	s.signUp(t)
	b := openTab(t)
	b.signIn(s, s.url)
	b.do(chromedp.Navigate(s.url + "/search?q=invoice"))
	b.until(`customElements.get("lh-keys") && document.querySelector("#hits a[data-htmx-powered]")`)
	b.do(chromedp.KeyEvent("j"), chromedp.KeyEvent("j"), chromedp.KeyEvent("j"), chromedp.KeyEvent("k"))
	b.until(`document.activeElement.matches("#hits li:nth-child(2) a")`)
	b.do(chromedp.KeyEvent("o"))
	b.until(`document.querySelector("#read article")`)
	b.do(chromedp.KeyEvent("/"), chromedp.KeyEvent("j?"))
	b.until(`document.activeElement.id == "q" && document.activeElement.value.endsWith("j?")`)

	// On a narrow page u leads back to the list.
	b.do(chromedp.EmulateViewport(390, 800), chromedp.Evaluate[chromedp.Void](`document.activeElement.blur()`), chromedp.KeyEvent("u"))
	b.until(`!document.querySelector("#read article") && document.querySelector("#hits").checkVisibility()`)
	b.do(chromedp.EmulateViewport(1440, 900), chromedp.KeyEvent("?"))
	b.until(`location.pathname == "/help"`)

	// Switched off, they are letters.
	b.do(chromedp.Navigate(s.url+"/settings"), chromedp.Click(`input[name=keys]`), chromedp.Submit(`form[action="/settings"]`), chromedp.WaitVisible(`.note.ok`), chromedp.Navigate(s.url+"/search"))
	b.until(`document.querySelector("#hits a[data-htmx-powered]") && !document.querySelector("lh-keys")`)
	b.do(chromedp.KeyEvent("j"))
	b.until(`document.activeElement == document.body`)
}

// injected serves the pages of a site with markup put into every article, as
// if the rewriting of mail had a hole.
func injected(t *testing.T, s *site, markup string) *httptest.Server {
	target, _ := url.Parse(s.url)
	proxy := &httputil.ReverseProxy{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(r *http.Response) error {
			if !strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") {
				return nil
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			nonce := ""
			if m := regexp.MustCompile(`'nonce-(\w+)'`).FindStringSubmatch(r.Header.Get("Content-Security-Policy")); m != nil {
				nonce = m[1]
			}
			body = bytes.ReplaceAll(body, []byte("<article>"), []byte("<article>"+strings.ReplaceAll(markup, "NONCE", nonce)))
			r.Body = io.NopCloser(bytes.NewReader(body))
			r.ContentLength = int64(len(body))
			r.Header.Del("Content-Length")
			return nil
		},
	}
	srv := httptest.NewTLSServer(proxy)
	t.Cleanup(srv.Close)
	return srv
}

const hole = `<a hx-get="/help?stolen" hx-trigger="load">a</a><a data-hx-get="/help?stolen" data-hx-trigger="load">b</a><a hx-get="/help?stolen" hx-trigger="load" hx-nonce="guessed">c</a>
<img src="data:," onerror="document.documentElement.dataset.ran='handler'"><script>document.documentElement.dataset.ran='script'</script><p hx-on:click="1" hx-on::load="document.documentElement.dataset.ran='on'">d</p>`

// Whether swapped in or part of the page, injected markup neither runs nor
// sends requests; with the nonce it does, so the test can tell.
func TestInjectedMarkupIsInert(t *testing.T) {
	s := start(t)
	s.signUp(t)
	b := openTab(t)
	var stolen atomic.Int32
	if err := chromedp.Listen(b.ctx, func(ev any) {
		if ev, ok := ev.(*network.EventRequestWillBeSent); ok && strings.Contains(ev.Request.URL, "stolen") {
			stolen.Add(1)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, markup string
		requests     bool
	}{{"injected", hole, false}, {"of ours", `<a hx-get="/help?stolen" hx-trigger="load" hx-swap="none" hx-push-url="false" hx-nonce="NONCE">a</a>`, true}} {
		at := injected(t, s, c.markup).URL
		b.signIn(s, at)
		for _, swapped := range []bool{true, false} {
			b.do(chromedp.Navigate(at + "/search?q=invoice"))
			b.until(`document.querySelector("#hits a[data-htmx-powered]")`)
			stolen.Store(0)
			if swapped {
				eval[bool](b, mark)
				b.do(chromedp.Click(`#hits a`))
				b.until(stays + ` && document.querySelector("#read article > a")`)
			} else {
				b.do(chromedp.Navigate(at + eval[string](b, `document.querySelector("#hits a").getAttribute("href")`)))
				b.until(`document.querySelector("#hits a[data-htmx-powered]") && document.querySelector("#read article > a")`)
			}
			time.Sleep(300 * time.Millisecond)
			if n := stolen.Load(); n > 0 != c.requests {
				t.Errorf("%s, swapped %v: %d requests were sent", c.name, swapped, n)
			}
			if ran := eval[string](b, `document.documentElement.dataset.ran ?? ""`); ran != "" {
				t.Errorf("%s, swapped %v: a %s ran", c.name, swapped, ran)
			}
		}
	}
}
