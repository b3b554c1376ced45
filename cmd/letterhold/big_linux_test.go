package main

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// browser is somebody signed in.
type browser struct {
	t    *testing.T
	base string
	c    http.Client
}

// newBrowser makes an account with a one-time link and signs it in.
func newBrowser(t *testing.T, base, link string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t, base, http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}}
	at, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	const password = "wholly invented for this test 7"
	form := url.Values{"t": {at.Query().Get("t")}, "name": {"ann"}, "password": {password}, "again": {password}}
	r, err := b.c.PostForm(base+"/welcome", form)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", at.Path, r.Status)
	}
	return b
}

// get returns a page, read as a browser reads it.
func (b *browser) get(path string) string {
	b.t.Helper()
	r, err := b.c.Get(b.base + path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer r.Body.Close()
	page, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		b.t.Fatalf("%s: %s, %v", path, r.Status, err)
	}
	return string(page)
}

// hits returns the ids that a query finds.
func hits(t *testing.T, dir, query string) (ids []string) {
	t.Helper()
	var found struct{ Hits []struct{ ID string } }
	if err := json.Unmarshal([]byte(ok(t, dir, "search", query, "--json")), &found); err != nil {
		t.Fatal(err)
	}
	for _, h := range found.Hits {
		ids = append(ids, h.ID)
	}
	return ids
}

// A server that takes in and gives out messages of 100 MB stays within bounds.
func TestServerWithBigMessages(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	bin, dir := binary(t), t.TempDir()
	for _, name := range []string{"100 MB text", "100 MB attachment"} {
		if err := os.WriteFile(filepath.Join(dir, name+".eml"), bigMessages()[name](), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ok(t, dir, "init", "a", "--json")
	cmd := exec.Command(bin, "--archive", "a", "--key-file", "key", "serve", "--https", "127.0.0.1:0")
	cmd.Dir = dir
	base, stop := startServerAt(t, cmd)
	defer stop()
	if out := ok(t, dir, "import", "100 MB text.eml", "100 MB attachment.eml", "--mailbox", "m"); !strings.Contains(out, "2 seen = 2 archived") {
		t.Error(out)
	}
	if out := ok(t, dir, "search", "innermost OR word17"); !strings.Contains(out, "1 found") {
		t.Error(out)
	}
	ok(t, dir, "export", "*", "--format", "zip", "--to", "out.zip")
	ok(t, dir, "verify")
	_, link, _ := strings.Cut(strings.TrimSpace(ok(t, dir, "user", "link", "--mailbox", "m")), "link ")
	b := newBrowser(t, base, link)
	for _, h := range hits(t, dir, "*") {
		if page := b.get("/m/" + h); !strings.Contains(page, "big") {
			t.Errorf("the page of a message of 100 MB has no subject: %.300s", page)
		}
	}
	peak := highWater(cmd.Process.Pid)
	t.Logf("%d MiB", peak>>20)
	if peak == 0 || peak > peakMemory {
		t.Errorf("the server held %d MiB, the limit is %d", peak>>20, peakMemory>>20)
	}
}
