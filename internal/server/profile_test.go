package server_test

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/letterhold/letterhold/internal/mailtest"
)

// An administrator adds a profile on a page: the server is asked how it is
// reached, a private address and an unknown authority are questions with
// answers, and what is weak is refused.
func TestProfileForm(t *testing.T) {
	s := start(t)
	s.signUp(t)
	d := mailtest.StartDovecot(t, "")
	d.Put(t, "alice", "", "1", []byte("Subject: hello\r\n\r\nx\r\n"))
	form := url.Values{"name": {"alice's"}, "from": {fmt.Sprintf("alice@localhost:%d", d.IMAPS)}, "mailbox": {"me"}, "password": {mailtest.Password}, "every": {"15m0s"}, "enabled": {"on"}, "then": {"test"}}
	value := regexp.MustCompile(`name="(?:allow|trust)" value="([^"]+)"`)
	ask := func(why string) string {
		t.Helper()
		resp, body := s.post(t, "/admin/profiles/new", form)
		m := value.FindStringSubmatch(body)
		if resp.StatusCode != 422 || m == nil || !strings.Contains(body, why) {
			t.Fatalf("%d, without a question about %q: %.3000s", resp.StatusCode, why, body)
		}
		if strings.Contains(body, mailtest.Password) {
			t.Error("the password comes back")
		}
		return m[1]
	}
	form.Set("allow", ask("private network"))
	form.Set("nets", form.Get("allow"))
	form.Del("allow")
	form.Set("trust", ask("vouches for this certificate"))
	resp, body := s.post(t, "/admin/profiles/new", form)
	if resp.StatusCode != 200 || !strings.Contains(body, "Everything works") || !strings.Contains(body, "INBOX") {
		t.Fatalf("%d: %.3000s", resp.StatusCode, body)
	}
	edit := regexp.MustCompile(`/admin/profiles/\d+/edit`).FindString(body)
	if _, body := s.get(t, edit); !strings.Contains(body, "imaps://alice@localhost") || !strings.Contains(body, form.Get("trust")) || strings.Contains(body, mailtest.Password) {
		t.Errorf("the form of the profile: %.3000s", body)
	}
	if _, body := s.get(t, "/admin/profiles"); !strings.Contains(body, edit) {
		t.Error("the profile is not listed")
	}
	if resp, _ := s.post(t, strings.TrimSuffix(edit, "edit")+"run", nil); resp.StatusCode != 200 {
		t.Error("run:", resp.StatusCode)
	}
	// A change without a password keeps it.
	changed := url.Values{"name": {"alice's"}, "from": {fmt.Sprintf("imaps://alice@localhost:%d", d.IMAPS)}, "mailbox": {"me"}, "every": {"1h0m0s"}, "nets": {form.Get("nets")}, "pin": {form.Get("trust")}, "then": {"test"}}
	if _, body := s.post(t, edit, changed); !strings.Contains(body, "Everything works") {
		t.Errorf("after a change: %.3000s", body)
	}
	for why, more := range map[string]url.Values{
		"takes no passwords":             {"from": {"imaps://ann@outlook.office365.com"}},
		"no exception is made":           {"from": {"imap://ann@imap.gmx.net"}, "insecure": {"cleartext"}, "owner": {"o"}, "reason": {"r"}, "until": {s.opened.Archive.Now().AddDate(0, 0, 7).Format("2006-01-02")}},
		"somebody who answers for it":    {"insecure": {"unverified"}},
		"An exception ends by":           {"insecure": {"unverified"}, "owner": {"o"}, "reason": {"r"}, "until": {"2099-01-01"}},
		"Give the profile a name":        {"name": {" "}},
		"no pattern of folders":          {"folders": {"[x"}},
		"is not reached with verified":   {"from": {"ann@localhost:1"}},
		"it is written like imaps://":    {"from": {"imaps://"}},
		"does not belong into the addre": {"from": {"imaps://ann:secret@mail.example.org"}},
	} {
		f := url.Values{}
		for _, vs := range []url.Values{changed, more} {
			for k, v := range vs {
				f[k] = v
			}
		}
		if resp, body := s.post(t, edit, f); resp.StatusCode != 422 || !strings.Contains(body, why) {
			t.Errorf("%d without %q: %.1500s", resp.StatusCode, why, body[strings.Index(body, "<main"):])
		}
	}
	// The pages are accessible and fit, the details open as they may be.
	b := openTab(t)
	b.signIn(s, s.url)
	script := axe(t)
	b.do(chromedp.Navigate(s.url+edit), b.shot("profile-edit"))
	eval[bool](b, `document.querySelectorAll("details").forEach(d => d.open = true) || true`)
	b.do(b.shot("profile-edit-open"))
	b.check(script, "profile")
	b.do(chromedp.EmulateViewport(390, 844), scheme("dark"), b.shot("profile-edit-narrow"), scheme("light"), chromedp.EmulateViewport(1440, 900))
	b.do(chromedp.Click(`form.stack button.primary`), chromedp.WaitVisible(`.card table`), b.shot("profile-test"))
	b.check(script, "try of a profile")
	if resp, _ := s.get(t, "/admin/profiles/999/edit"); resp.StatusCode != 404 {
		t.Error("a profile that is not there:", resp.StatusCode)
	}
}
