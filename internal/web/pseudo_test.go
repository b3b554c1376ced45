package web

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"golang.org/x/net/html"
	"golang.org/x/text/language"
)

// pseudo is English with other letters, and 40 % longer: a text that is still
// readable on a page was not translated. Nobody is offered it.
const pseudo = "en-XA"

func accented(s string) string {
	var b strings.Builder
	letters := 0
	for part := range fields(s) {
		if strings.HasPrefix(part, "{{") {
			b.WriteString(part)
			continue
		}
		b.WriteString(strings.NewReplacer("a", "á", "b", "ƀ", "c", "ç", "d", "ð", "e", "é", "f", "ƒ", "g", "ĝ", "h", "ĥ", "i", "í", "j", "ĵ", "k", "ķ", "l", "ļ", "m", "ɱ", "n", "ñ", "o", "ó", "p", "þ", "q", "ǫ", "r", "ŕ", "s", "š", "t", "ţ", "u", "ú", "v", "ṽ", "w", "ŵ", "x", "ẋ", "y", "ý", "z", "ž",
			"A", "Á", "B", "Ɓ", "C", "Ç", "D", "Ð", "E", "É", "F", "Ƒ", "G", "Ĝ", "H", "Ĥ", "I", "Í", "J", "Ĵ", "K", "Ķ", "L", "Ļ", "M", "Ṁ", "N", "Ñ", "O", "Ó", "P", "Þ", "Q", "Ǫ", "R", "Ŕ", "S", "Š", "T", "Ţ", "U", "Ú", "V", "Ṽ", "W", "Ŵ", "X", "Ẋ", "Y", "Ý", "Z", "Ž").Replace(part))
		letters += len(part)
	}
	return b.String() + strings.Repeat("·", letters*2/5)
}

// fields cuts a message into what is filled in and the text between.
func fields(s string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for s != "" {
			i := strings.Index(s, "{{")
			switch {
			case i < 0:
				i = len(s)
			case i == 0:
				i = strings.Index(s, "}}") + 2
			}
			if !yield(s[:i]) {
				return
			}
			s = s[i:]
		}
	}
}

// loadPseudo adds the pseudo-locale to the pages.
func loadPseudo(t *testing.T) *pages {
	t.Helper()
	p, err := loadPages()
	if err != nil {
		t.Fatal(err)
	}
	var ms []*i18n.Message
	for id, forms := range translations(t, "en") {
		m := &i18n.Message{ID: id, Other: accented(forms["other"])}
		if forms["one"] != "" {
			m.One = accented(forms["one"])
		}
		ms = append(ms, m)
	}
	if err := p.bundle.AddMessages(language.MustParse(pseudo), ms...); err != nil {
		t.Fatal(err)
	}
	return p
}

func translations(t *testing.T, l string) map[string]map[string]string {
	t.Helper()
	b, err := fs.ReadFile(messageFiles, "i18n/"+l+".json")
	if err != nil {
		t.Fatal(err)
	}
	var have map[string]map[string]string
	if err := json.Unmarshal(b, &have); err != nil {
		t.Fatal(err)
	}
	return have
}

// visible yields every text of a page that somebody sees or hears.
func visible(n *html.Node, yield func(string)) {
	if n.Type == html.TextNode {
		yield(n.Data)
	}
	if n.Type == html.ElementNode {
		if slices.Contains([]string{"script", "style", "code", "kbd"}, n.Data) || slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == "lang" && n.Data != "html" }) {
			return // queries, keys and names of languages are the same everywhere
		}
		for _, a := range n.Attr {
			if slices.Contains([]string{"title", "alt", "placeholder", "aria-label", "data-loaded", "done"}, a.Key) {
				yield(a.Val)
			}
		}
	}
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		visible(c, yield)
	}
}

func TestNoTextBypassesTranslation(t *testing.T) {
	p := loadPseudo(t)
	all := views()
	for name, tmpl := range p.templates {
		for _, v := range all[name] {
			var b bytes.Buffer
			if err := tmpl.Execute(&b, page{L: p.speak(pseudo), Who: "ada", Admin: true, Path: "/", Nonce: "n", Keys: true, View: v}); err != nil {
				t.Fatal(err)
			}
			doc, err := html.Parse(&b)
			if err != nil {
				t.Fatal(err)
			}
			visible(doc, func(s string) {
				// Two letters of ours in a row; views have single ones, names and units.
				for _, w := range regexp.MustCompile(`[A-Za-z]{2,}`).FindAllString(s, -1) {
					if !slices.Contains([]string{"Letterhold", "ada", "INBOX", "pdf", "application", "kB", "ID", "in", "Newest", "UTC", "Jan"}, w) {
						t.Errorf("%s shows %q in %q", name, w, s)
					}
				}
			})
		}
	}
}

// Plural forms of English and German are one and other; a key has them in both
// or in neither, and both fill in the same.
func TestPluralFormsAgree(t *testing.T) {
	en, de := translations(t, "en"), translations(t, "de")
	filled := regexp.MustCompile(`{{\.(\w+)}}`)
	names := func(s string) []string {
		seen := map[string]bool{}
		for _, m := range filled.FindAllStringSubmatch(s, -1) {
			seen[m[1]] = true
		}
		return slices.Sorted(maps.Keys(seen))
	}
	for k := range en {
		if !maps.EqualFunc(en[k], de[k], func(a, b string) bool { return slices.Equal(names(a), names(b)) }) {
			t.Errorf("%s: %v in English, %v in German", k, en[k], de[k])
		}
		if strings.Contains(en[k]["other"], "{{.Count}}") && en[k]["one"] == "" {
			t.Errorf("%s counts without a form for one", k)
		}
	}
	for k := range de {
		if en[k] == nil {
			t.Errorf("%s is in German only", k)
		}
	}
}

func TestPseudoIsNotOffered(t *testing.T) {
	if slices.Contains(languages, pseudo) {
		t.Error("the pseudo-locale is offered")
	}
	if got := accented("at {{.Pos}}: no."); strings.ContainsFunc(got[:4], func(r rune) bool { return r < unicode.MaxASCII && unicode.IsLetter(r) }) || !strings.Contains(got, "{{.Pos}}") {
		t.Errorf("%q", got)
	}
}

// The pages are mirrored by their language's direction alone.
func TestLogicalPropertiesOnly(t *testing.T) {
	b, err := assetFiles.ReadFile("assets/letterhold.css")
	if err != nil {
		t.Fatal(err)
	}
	physical := regexp.MustCompile(`(?m)[;{ ](left|right|top|bottom|(margin|padding|border)-(left|right|top|bottom)[a-z-]*|text-align:(left|right)|float:(left|right)|clear:(left|right))\s*[:;}]`)
	for _, m := range physical.FindAll(b, -1) {
		t.Errorf("the style sheet has %s", m)
	}
	for _, m := range regexp.MustCompile(`(?:padding|margin|inset|border-width):[^\s;}]+ ([^\s;}]+) [^\s;}]+ ([^\s;}]+)`).FindAllSubmatch(b, -1) {
		if !bytes.Equal(m[1], m[2]) {
			t.Errorf("the style sheet has %s, which differs left and right", m[0])
		}
	}
	files, _ := filepath.Glob("templates/*.html")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if m := regexp.MustCompile(` (align|style)=`).Find(b); m != nil {
			t.Errorf("%s has%s", f, m)
		}
	}
}
