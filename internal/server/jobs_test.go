package server_test

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/target"
)

// collecting is a site with a profile that reads slowly, and a message that
// cannot be had.
func collecting(t *testing.T) (*site, *ingest.Profile) {
	t.Helper()
	s := start(t)
	s.signUp(t)
	d := mailtest.StartDovecot(t, "")
	for i := range 8 {
		d.Put(t, "alice", "", fmt.Sprintf("%d.m:2,", i), fmt.Appendf(nil, "Subject: slow %d\n\n%s", i, strings.Repeat("0123456789\n", 3000)))
	}
	bad := filepath.Join(d.Maildir(t, "alice", "broken"), "cur", "1.m:2,")
	if err := os.Mkdir(bad, 0o700); err != nil {
		t.Fatal(err)
	}
	p := &ingest.Profile{Name: "slow", From: fmt.Sprintf("imaps://alice@localhost:%d", d.IMAPS), Mailbox: "me", CA: string(d.CA.PEM), AllowNet: []string{"127.0.0.0/8"}, Bandwidth: 60_000}
	if err := ingest.Save(s.opened.Archive, p, []byte(mailtest.Password), "test"); err != nil {
		t.Fatal(err)
	}
	return s, p
}

// await asks for a page until it has something.
func (s *site) await(t *testing.T, path, want string) string {
	t.Helper()
	body := ""
	for range 400 {
		if _, body = s.get(t, path); strings.Contains(body, want) {
			return body
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("%s has no %q:\n%s", path, want, body)
	return ""
}

func TestJobs(t *testing.T) {
	s, p := collecting(t)
	if _, body := s.get(t, "/admin/jobs"); strings.Contains(body, "hx-get=\"/admin/jobs") {
		t.Error("the page comes again though nothing is under way")
	}
	do := func(action string) {
		t.Helper()
		res, body := s.post(t, fmt.Sprintf("/admin/profiles/%d/%s", p.ID, action), url.Values{"from": {"jobs"}})
		if to := res.Request.URL.RequestURI(); to != "/admin/jobs?done="+action {
			t.Errorf("%s leads to %s: %s", action, to, body)
		}
	}
	do("run")
	body := s.await(t, "/admin/jobs", "<progress")
	live := regexp.MustCompile(`hx-get="(/admin/jobs\?live=[0-9.]+)"`).FindStringSubmatch(body)
	if live == nil || !strings.Contains(body, fmt.Sprintf("/admin/profiles/%d/pause", p.ID)) || !strings.Contains(body, "of 9 messages") {
		t.Fatalf("the run under way is not shown:\n%s", body)
	}
	s.await(t, "/admin/jobs", " left</p>")

	// Asked again by a script: the run alone, or all once it is another.
	swap := func(path string) http.Header {
		t.Helper()
		req, _ := http.NewRequest(http.MethodGet, s.url+path, nil)
		req.Header.Set("HX-Request", "true")
		resp, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.Header
	}
	if h := swap(live[1]); h.Get("HX-Retarget") != "" {
		t.Error("the list comes again with the run")
	}
	if h := swap("/admin/jobs?live=0."); h.Get("HX-Retarget") != "#jobs" || h.Get("HX-Reselect") != "#jobs" {
		t.Errorf("another run does not bring the list: %v", h)
	}

	do("pause")
	body = s.await(t, "/admin/jobs", "Paused")
	if !strings.Contains(body, ">Go on<") || strings.Contains(body, "<progress") {
		t.Errorf("the paused run cannot be gone on with:\n%s", body)
	}
	do("run")
	s.await(t, "/admin/jobs", "<progress")
	do("cancel")
	s.await(t, "/admin/jobs", "Cancelled")

	p.Bandwidth = 0
	if err := ingest.Save(s.opened.Archive, p, nil, "test"); err != nil {
		t.Fatal(err)
	}
	do("run")
	body = s.await(t, "/admin/jobs", "some failed")
	if !strings.Contains(body, "1 × The server") || !strings.Contains(body, ">Try what failed again<") || !strings.Contains(body, "broken;UIDVALIDITY=") || !strings.Contains(body, "begins</code>") {
		t.Errorf("cause, log or a way to retry is missing:\n%s", body)
	}
	if _, body := s.get(t, "/admin/profiles"); !strings.Contains(body, "1 × The server") || !strings.Contains(body, `href="/admin/jobs"`) {
		t.Errorf("the profile does not say why:\n%s", body)
	}
	do("retry")
	s.await(t, "/admin/jobs", "run 3 of &#34;slow&#34; begins")
	s.await(t, "/admin/jobs", ">Try what failed again<")
}

// The run of a target is shown as what it is: mail that goes out.
func TestJobsOfTargets(t *testing.T) {
	s := start(t)
	s.signUp(t)
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mute.Close() })
	p := &target.Profile{Name: "copies", Query: "*", Place: target.Place{To: "imaps://alice@" + mute.Addr().String(), Connection: ingest.Connection{AllowNet: []string{"127.0.0.0/8"}}}}
	if err := target.Save(s.opened.Archive, p, []byte("secret"), "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.opened.Targets.Start(t.Context(), p, "test"); err != nil {
		t.Fatal(err)
	}
	body := s.await(t, "/admin/jobs", "0 found: 0 exported")
	if !strings.Contains(body, "hx-get=\"/admin/jobs?live=") || strings.Contains(body, "Interrupted") || strings.Contains(body, "archived") {
		t.Errorf("a target under way is not shown as such:\n%s", body)
	}
	if err := s.opened.Targets.Pause(p); err != nil {
		t.Fatal(err)
	}
	if body := s.await(t, "/admin/jobs", "Paused"); !strings.Contains(body, "0 found: 0 exported") {
		t.Errorf("the paused run of a target is not shown as such:\n%s", body)
	}
}

// The page follows a run, and shows what became of it, without being loaded anew.
func TestJobsAreFollowed(t *testing.T) {
	s, p := collecting(t)
	b := openTab(t)
	b.signIn(s, s.url)
	if _, err := s.opened.Runner.Start(t.Context(), p, "test"); err != nil {
		t.Fatal(err)
	}
	s.await(t, "/admin/jobs", "<progress")
	b.do(chromedp.Navigate(s.url + "/admin/jobs"))
	b.until(`document.querySelector("#live progress") && customElements.get("lh-live")`)
	eval[bool](b, mark)
	at := eval[string](b, `document.querySelector("#live progress").value + ""`)
	b.until(`document.querySelector("#live progress")?.value > ` + at)
	b.until(`!document.querySelector("#live .card") && [...document.querySelectorAll("#jobs .card")].some(c => c.textContent.includes("some failed"))`)
	if got := eval[string](b, `[window.marked, document.querySelectorAll("#jobs").length, document.querySelectorAll("#live").length, document.activeElement.tagName].join(" ")`); got != "true 1 1 BODY" {
		t.Error("the page was loaded anew, or took the focus:", got)
	}
	b.check(axe(t), "/admin/jobs")
}
