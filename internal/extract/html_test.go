package extract

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestFromHTML(t *testing.T) {
	for in, want := range map[string]string{
		"":                                 "",
		"plain":                            "plain",
		"a<br>b<p>c":                       "a\nb\nc",
		"<b>bo</b>ld  and \n\t more":       "bold and more",
		"a&nbsp;b &lt;c&gt; &uuml; &#228;": "a\u00a0b <c> ü ä",
		"<title>t</title><style>x{}</style><script>y()</script>z": "z",
		"<!-- no --><!doctype html>yes":                           "yes",
		"<table><tr><td>1<td>2<tr><td>3":                          "1\n2\n3",
		"<a href=x>link</a>, text":                                "link, text",
		"<p>open <b":                                              "open",
		"a\x00b\x01c":                                             "a b c",
	} {
		if got := FromHTML(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzHTML(f *testing.F) {
	f.Add("<p>a<b>c</b>&amp;<script>x</script><td>d")
	f.Add("<style><!--</style>a--><title>b")
	f.Fuzz(func(t *testing.T, s string) {
		got := FromHTML(s)
		if !utf8.ValidString(got) || strings.ContainsAny(got, "\x00\r\t\x7f") {
			t.Fatalf("not clean: %q", got)
		}
		if strings.HasPrefix(got, "\n") || strings.HasSuffix(got, "\n") || strings.Contains(got, "\n\n") {
			t.Fatalf("empty lines: %q", got)
		}
		if len(got) > 3*len(s) {
			t.Fatalf("%d bytes become %d", len(s), len(got))
		}
	})
}
