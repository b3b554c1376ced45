package safehtml

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/letterhold/letterhold/internal/mailtest/corpus"
)

func rewrite(t testing.TB, s string) string {
	t.Helper()
	r, ok := Rewrite(s, Options{})
	if !ok {
		return ""
	}
	return r.HTML
}

func TestRewrite(t *testing.T) {
	for in, want := range map[string]string{
		`<p onclick="x()">a<script>b</script>c</p>`:                              `<p>ac</p>`,
		`<a href="javascript:alert(1)">x</a>`:                                    `<a>x</a>`,
		`<a href="https://a.example/p?q=1">go</a>`:                               `<a href="https://a.example/p?q=1" rel="noopener noreferrer nofollow" target="_blank" title="a.example">go</a>`,
		`<img src="https://t.example/1.gif" onerror=x>`:                          `<img/>`,
		`<img src="data:image/png;base64,AAAA">`:                                 `<img src="data:image/png;base64,AAAA"/>`,
		`<img src="data:image/svg+xml;base64,AAAA">`:                             `<img/>`,
		`<div style="color:red;background:url(http://x);position:fixed">a</div>`: `<div style="color:red">a</div>`,
		`<form action="https://x"><input name=a>text</form>`:                     `text`,
		`<svg><script>x</script><a href="javascript:x">a</a></svg>b`:             `b`,
		`<meta http-equiv=refresh content="0;url=x"><base href="//x">a`:          `a`,
		`<iframe srcdoc="<script>x</script>"></iframe>a`:                         `a`,
		`<style>@import "x"</style>a`:                                            `a`,
		`<table><tr><td colspan=2>a`:                                             `<table><tbody><tr><td colspan="2">a</td></tr></tbody></table>`,
		`<noscript><p title="</noscript><img src=x onerror=alert(1)>">`:          `<img/>&#34;&gt;`,
		`<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>`:        ``,
	} {
		if got := rewrite(t, in); got != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
}

func TestHostMismatchIsShown(t *testing.T) {
	got := rewrite(t, `<a href="https://evil.example/login">www.bank.example</a>`)
	if !strings.Contains(got, "→ evil.example") {
		t.Error(got)
	}
	if got := rewrite(t, `<a href="https://login.bank.example/">bank.example</a>`); strings.Contains(got, "→") {
		t.Error(got)
	}
}

func TestRemoteIsCounted(t *testing.T) {
	r, ok := Rewrite(`<img src=http://a.example/1><img src="HTTPS://b.example/2"><img src=cid:x>`, Options{Image: func(id string) string { return "data:image/png;base64," + id }})
	if !ok || r.Remote != 2 || !strings.Contains(r.HTML, "base64,x") {
		t.Error(r, ok)
	}
}

func TestMarks(t *testing.T) {
	r, ok := Rewrite(`<p>an invoice</p><mark>sent</mark>`, Options{Mark: func(s string) [][2]int {
		if i := strings.Index(s, "invoice"); i >= 0 {
			return [][2]int{{i, i + 7}}
		}
		return nil
	}})
	if !ok || r.HTML != `<p>an <mark class="lh-mark">invoice</mark></p>sent` {
		t.Error(r.HTML, ok)
	}
}

// dangerous matches what must never be in rewritten HTML.
var dangerous = regexp.MustCompile(`(?i)<\s*(script|style|iframe|object|embed|svg|math|form|input|meta|link|base|template|noscript|textarea|select|title)\b|\son[a-z]+\s*=\s*["'][^>]*>|href="(javascript|data|vbscript):|url\(|expression\(|@import`)

// inText removes escaped text and attribute values that are harmless words.
func markup(s string) string {
	s = regexp.MustCompile(`(title|alt)="[^"]*"`).ReplaceAllString(s, "")
	return regexp.MustCompile(`>[^<]*`).ReplaceAllString(s, ">")
}

func check(t testing.TB, in string) {
	t.Helper()
	r, ok := Rewrite(in, Options{})
	if !ok {
		return
	}
	if m := dangerous.FindString(markup(r.HTML)); m != "" {
		t.Errorf("%q stays in %q\nof %q", m, r.HTML, in)
	}
	again, ok := Rewrite(r.HTML, Options{})
	if !ok || again.HTML != r.HTML {
		t.Errorf("a second rewriting changes %q\ninto %q", r.HTML, again.HTML)
	}
}

func TestPayloads(t *testing.T) {
	real := corpus.Dir(t)
	b, err := os.ReadFile(filepath.Join(real, "html/dompurify/payloads.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []struct {
		Payload string `json:"payload"`
	}
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		check(t, p.Payload)
	}
	if len(all) < 200 {
		t.Errorf("%d payloads only", len(all))
	}
}

func FuzzRewrite(f *testing.F) {
	for _, s := range []string{`<p>a`, `<table><td><a href="http://x">y</a>`, `<svg><style><img title="</style>`, `<pre>` + "\n\n" + `a`, `<a href=x><table><a href=y>`, `<b><p><i></b>`, `<font><p><b></font>x`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { check(t, s) })
}
