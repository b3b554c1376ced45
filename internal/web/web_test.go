package web

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/search"
)

// views are the view structs of every template, filled.
func views() map[string][]any {
	m := &messageView{ID: "0123", Subject: "s <b>", From: "a", To: "b", Cc: "c", Bcc: "d", When: time.Unix(0, 0), Archived: time.Unix(0, 0), Rule: "arrival", Folders: []string{"x", "y"}, HTML: true, Remote: 2, FrameURL: "/m/0123/html", ImagesURL: "/m/0123?images=1",
		Attachments: []attachmentView{{"a.pdf", "/m/0123/part/2", "application/pdf", 3000}}, Partial: true, Unread: true}
	text := *m
	text.HTML, text.Text = false, []piece{{"a", false}, {"<b>", true}}
	full := searchView{Query: "q", Sort: search.Newest, Sorts: []option{{"date", "Newest", true}}, Warnings: []string{"w"}, Hits: []hitView{{URL: "/x", From: "f", Subject: []piece{{"s", true}}, Snippet: []piece{{"t", false}}, Attachments: true, Selected: true}},
		Total: 1, Exact: true, Behind: 3, Next: "/n", Folders: []folderView{{"INBOX", "/f"}}, Chips: []chip{{"in:x", "/"}}, Message: m}
	form := formView{Problem: "p", Name: "n", To: "/", Secret: "s", Zone: "UTC", Saved: true}
	return map[string][]any{
		"search": {searchView{Empty: true, Exact: true}, full, searchView{Problem: "p"}, searchView{Total: 10000}}, "message": {m, &text}, "source": {sourceView{ID: "1", Text: "x"}, sourceView{Fields: []fieldView{{"a", "b"}}}},
		"signin": {form, formView{}}, "welcome": {form}, "settings": {form, formView{}}, "unlock": {form}, "error": {errorView{404, "t", "w"}}, "help": {nil},
		"profiles":    {profilesView{}, profilesView{Running: true, Notice: "n", Profiles: []profileView{{ID: 1, Name: "n", From: "f", Mailbox: "m", Running: true, State: "running", Rate: "1", Missed: 2, Exception: true, Left: "1", Causes: []causeView{{2, "a", "b", "c"}}, Strip: []stripView{{"done", time.Unix(0, 0), 3}}}, {ID: 2, State: "failed", Error: "a"}, {ID: 3}}}},
		"profile":     {profileForm{}, profileForm{ID: 1, P: ingest.Profile{Name: "n", From: "f", CA: "c", Token: "t", DeleteAfter: 3, Exception: &ingest.Exception{Kind: "cleartext", Owner: "o"}}, Everies: []option{{"0s", "x", true}}, Mailboxes: []string{"m"}, Tokens: []string{"t", "u"}, Problem: "p", Reason: "a", Chain: []ingest.Shown{{Subject: "a", Issuer: "b", Pin: "c"}, {}}, Private: "a"}},
		"profiletest": {testView{}, testView{ID: 1, Name: "n", OK: true, Steps: []ingest.Check{{Step: "dns", OK: true, Detail: "a"}, {Step: "tls", Detail: "b"}}, Folders: []ingest.TestedFolder{{Name: "a", Messages: 3}, {Name: "b", LeftOut: "c"}}, Chain: []ingest.Shown{{Pin: "a"}}, Private: "a"}},
		"jobs": {jobsView{}, jobsView{Runs: "1.2.", Notice: "n", Live: []jobView{{ID: 1, Profile: 1, Name: "n", Who: "w", State: "running", Live: true, Total: 9, Share: 5, Rate: "1", Left: "1", Lines: []catalog.Line{{Time: time.Unix(0, 0), Text: "x"}}}, {ID: 2, Name: "n", State: "running", Live: true, Step: "deleting"}},
			Past: []jobView{{ID: 3, Profile: 1, State: "paused", GoesOn: true}, {ID: 4, Profile: 2, State: "partial", Ended: time.Unix(0, 0), Retry: true, Causes: []causeView{{2, "a", "b", "c"}, {1, "a", "", "c"}}}, {ID: 5, State: "running", Cut: true}}}},
		"import": {importView{}, importView{Problem: "p", Mailbox: "m", Folder: "f", Mailboxes: []string{"a", "b"}, Limit: "5 kB", MaxFiles: 3, Hours: 2, Dropped: true, Waiting: []waitingView{{"X", "f", "m", "1 kB", "2 kB"}}, Past: []pastView{{3, "f", "done", time.Unix(0, 0)}}}},
		"report": {reportView{}, reportView{Run: 3, State: "running", Running: true, Rate: "1"}, reportView{Running: true, Stopping: true}, reportView{State: "failed", Gone: true, Ended: time.Unix(0, 0)}, reportView{State: "failed", Stopped: "a"},
			reportView{State: "partial", Files: "f", Into: "m", Failures: []reasonView{{"s <b>", "c"}}, Skips: []reasonView{{"w", "r"}}, MoreFailures: 1, MoreSkips: 2}},
		"posture": {postureView{}, postureView{Grade: "B", Score: 80, Verified: time.Unix(0, 0), Findings: []finding{{ID: "ID-1", State: "warning", What: "a"}, {ID: "ID-2", State: "information", Fix: "c", Escalates: time.Unix(0, 0), Accepted: "a"}}}},
	}
}

func TestEveryTemplateWithEveryView(t *testing.T) {
	p, err := loadPages()
	if err != nil {
		t.Fatal(err)
	}
	all := views()
	for name, tmpl := range p.templates {
		if len(all[name]) == 0 {
			t.Errorf("template %s has no view here", name)
		}
		for _, v := range all[name] {
			for _, code := range languages {
				var b bytes.Buffer
				if err := tmpl.Execute(&b, page{L: p.speak(code), Who: "ada", Admin: true, Path: "/", Nonce: "n", View: v}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if m := regexp.MustCompile(`\[[a-z]+\.[a-z.]+\]`).FindString(b.String()); m != "" {
					t.Errorf("%s in %s: no translation for %s", name, code, m)
				}
				if strings.Contains(b.String(), "s <b>") || strings.Contains(b.String(), " style=") || strings.Contains(strings.ReplaceAll(b.String(), `<script defer nonce="n" src="/assets/`, ""), "<script") {
					t.Errorf("%s: unescaped text, inline style or script", name)
				}
			}
		}
	}
}

// Every key that is used is translated into every language, and no other.
func TestTranslationsAreComplete(t *testing.T) {
	used := map[string]bool{}
	for _, pattern := range []string{"*.go", "templates/*.html"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`\bT "?\(?"([a-z.]+)"|\.T\("([a-z.]+)"`).FindAllSubmatch(b, -1) {
				used[string(m[1])+string(m[2])] = true
			}
		}
	}
	for _, s := range []string{"date", "oldest", "relevance", "size"} {
		used["sort."+s] = true
	}
	for _, p := range search.Problems() {
		used["syntax."+p.String()] = true
	}
	delete(used, "sort.")
	delete(used, "syntax.")
	for _, l := range languages {
		b, err := fs.ReadFile(messageFiles, "i18n/"+l+".json")
		if err != nil {
			t.Fatal(err)
		}
		var have map[string]map[string]string
		if err := json.Unmarshal(b, &have); err != nil {
			t.Fatal(err)
		}
		for k := range used {
			if have[k]["other"] == "" {
				t.Errorf("%s: %s is missing", l, k)
			}
		}
		for k := range have {
			if !used[k] {
				t.Errorf("%s: %s is not used", l, k)
			}
		}
	}
}

func TestTemplatesNameTheirType(t *testing.T) {
	files, _ := filepath.Glob("templates/*.html")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, []byte("{{- /* page")) {
			t.Errorf("%s does not begin with the type of its data", f)
		}
	}
}

func TestBudgets(t *testing.T) {
	p, err := loadPages()
	if err != nil {
		t.Fatal(err)
	}
	scripts := 0
	for name, a := range p.assets {
		if strings.HasSuffix(name, ".js") {
			scripts += len(a.gzip)
		}
	}
	if scripts > 30_000 {
		t.Errorf("scripts have %d bytes compressed", scripts)
	}
	if n := len(p.assets["letterhold.css"].gzip); n > 14_000 {
		t.Errorf("the style sheet has %d bytes compressed", n)
	}
	// A page of fifty hits with long subjects and snippets.
	v := searchView{Exact: true, Total: 50, Next: "/search?after=x"}
	words := strings.Fields("invoice order meeting minutes contract delivery question answer report budget travel offer training holiday server archive letter")
	for i := range 50 {
		text := ""
		for j := range 20 {
			text += words[(i*7+j*j)%len(words)] + fmt.Sprint(i*j) + " "
		}
		v.Hits = append(v.Hits, hitView{URL: fmt.Sprintf("/search?q=invoice&m=%032x#read", i*7919), From: text[:30], Title: text[:60], Subject: pieces(text[:80], nil), Snippet: pieces(text, nil), Date: "2 Jan 2006"})
	}
	var b bytes.Buffer
	if err := p.templates["search"].Execute(&b, page{L: p.speak("de"), Who: "ada", Nonce: rand.Text(), View: v}); err != nil {
		t.Fatal(err)
	}
	if n := len(compress(b.Bytes())); n > 60_000 {
		t.Errorf("a page of 50 hits has %d bytes compressed", n)
	}
	t.Logf("compressed: scripts %d, style sheet %d, 50 hits %d bytes", scripts, len(p.assets["letterhold.css"].gzip), len(compress(b.Bytes())))
}

// What is committed is what the source gives.
func TestScriptsAreGenerated(t *testing.T) {
	pages, err := os.ReadFile("pages.go")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^//go:generate go (.+) --outfile=(\S+)$`).FindSubmatch(pages)
	if m == nil {
		t.Fatal("pages.go does not say how scripts are made")
	}
	made, err := exec.Command("go", strings.Fields(string(m[1]))...).Output()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(string(m[2])); err != nil || !bytes.Equal(b, made) {
		t.Errorf("%s is not what the source gives: go generate ./internal/web (%v)", m[2], err)
	}
}

// Whatever htmx follows carries the nonce itself, and nothing is evaluated.
func TestSwapsCarryTheNonce(t *testing.T) {
	files, _ := filepath.Glob("templates/*.html")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range regexp.MustCompile(`hx-(get|post|boost)=`).FindAllIndex(b, -1) {
			if rest := b[tag[0]:]; !bytes.Contains(rest[:bytes.IndexByte(append(rest, '\n'), '\n')], []byte(`hx-nonce="{{`)) {
				t.Errorf("%s: no nonce beside %.60s", f, rest)
			}
		}
		if m := regexp.MustCompile(`hx-on|hx-live|js:|javascript:|hx-nonce:inherited| on[a-z]+=`).Find(b); m != nil {
			t.Errorf("%s has %s", f, m)
		}
	}
}

func TestLocal(t *testing.T) {
	for in, want := range map[string]string{"/search?q=a": "/search?q=a", "https://x": "/search", "//x": "/search", `/\x`: "/search", "": "/search"} {
		if got := local(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}
