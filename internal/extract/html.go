package extract

import (
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// FromHTML returns the words of an HTML document, a line for each block.
func FromHTML(s string) string {
	z := html.NewTokenizer(strings.NewReader(s))
	z.SetMaxBuf(maxDecoded)
	var out lines
	skip := 0 // depth inside elements that show nothing
	for {
		switch z.Next() {
		case html.ErrorToken:
			return out.String()
		case html.TextToken:
			if skip == 0 {
				out.text(z.Text())
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			name, _ := z.TagName()
			switch a := atom.Lookup(name); {
			case a == atom.Script || a == atom.Style || a == atom.Title:
				skip = 1
			case block[a]:
				out.end()
			}
		case html.EndTagToken:
			name, _ := z.TagName()
			switch a := atom.Lookup(name); {
			case a == atom.Script || a == atom.Style || a == atom.Title:
				skip = 0
			case block[a]:
				out.end()
			}
		}
	}
}

var block = map[atom.Atom]bool{
	atom.P: true, atom.Div: true, atom.Br: true, atom.Tr: true, atom.Td: true, atom.Th: true, atom.Li: true, atom.Ul: true, atom.Ol: true, atom.Table: true,
	atom.H1: true, atom.H2: true, atom.H3: true, atom.H4: true, atom.H5: true, atom.H6: true, atom.Blockquote: true, atom.Pre: true, atom.Hr: true, atom.Section: true,
	atom.Article: true, atom.Header: true, atom.Footer: true, atom.Dl: true, atom.Dt: true, atom.Dd: true, atom.Center: true, atom.Body: true, atom.Head: true,
}

// lines collects words: white space is one space, blocks are lines, empty
// lines are dropped.
type lines struct {
	b     strings.Builder
	space bool // a space is due before the next word
	start bool // the line has words
}

func (l *lines) text(t []byte) {
	s := string(t)
	if strings.IndexByte(s, '&') >= 0 {
		s = html.UnescapeString(s)
	}
	for i := 0; i < len(s); {
		j := i
		for j < len(s) && s[j] > ' ' && s[j] != 127 {
			j++
		}
		if j > i {
			if l.space && l.start {
				l.b.WriteByte(' ')
			}
			l.b.WriteString(s[i:j])
			l.start, l.space = true, false
		}
		for j < len(s) && (s[j] <= ' ' || s[j] == 127) {
			j++
			l.space = true
		}
		i = j
	}
}

func (l *lines) end() {
	if l.start {
		l.b.WriteByte('\n')
	}
	l.start, l.space = false, false
}

func (l *lines) String() string {
	return strings.ToValidUTF8(strings.TrimRight(l.b.String(), "\n"), "\uFFFD")
}
