// Package safehtml rewrites the HTML of mail so that it can be shown: by
// allow-lists of elements, attributes and style properties. What is not on a
// list is gone; its text stays unless it is a script or a style.
//
// Rewriting is the second wall. The first is where it is shown: a frame of its
// own without scripts and without our origin, whose policy loads nothing.
//
// Rewriting what was rewritten changes nothing. A document for which that does
// not hold is shown as text.
package safehtml

import (
	"net/url"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// Options of a rewriting.
type Options struct {
	// Image returns the data: URI of a picture by its Content-ID, "" if there
	// is none.
	Image func(contentID string) string
	// Remote keeps pictures from elsewhere: the reader asked for them.
	Remote bool
	// Mark returns the stretches of text to highlight.
	Mark func(text string) [][2]int
}

// Result is a rewritten document.
type Result struct {
	HTML   string
	Remote int // pictures from elsewhere that were left out
}

// Limits of a document: beyond them it is shown as text.
const (
	maxBytes = 4 << 20
	maxDepth = 200
	maxNodes = 200_000
)

var allowed = map[atom.Atom]bool{
	atom.A: true, atom.Abbr: true, atom.Address: true, atom.B: true, atom.Bdi: true, atom.Big: true, atom.Blockquote: true, atom.Br: true, atom.Caption: true, atom.Center: true,
	atom.Cite: true, atom.Code: true, atom.Col: true, atom.Colgroup: true, atom.Dd: true, atom.Del: true, atom.Div: true, atom.Dl: true, atom.Dt: true, atom.Em: true, atom.Font: true,
	atom.H1: true, atom.H2: true, atom.H3: true, atom.H4: true, atom.H5: true, atom.H6: true, atom.Hr: true, atom.I: true, atom.Img: true, atom.Ins: true, atom.Kbd: true, atom.Li: true,
	atom.Mark: true, atom.Ol: true, atom.P: true, atom.Pre: true, atom.Q: true, atom.S: true, atom.Samp: true, atom.Small: true, atom.Span: true, atom.Strike: true, atom.Strong: true,
	atom.Sub: true, atom.Sup: true, atom.Table: true, atom.Tbody: true, atom.Td: true, atom.Tfoot: true, atom.Th: true, atom.Thead: true, atom.Tr: true, atom.Tt: true, atom.U: true,
	atom.Ul: true, atom.Var: true,
}

// silent elements go with all they contain.
var silent = map[string]bool{
	"script": true, "style": true, "head": true, "title": true, "iframe": true, "object": true, "embed": true, "applet": true, "svg": true, "math": true, "noscript": true, "template": true,
	"textarea": true, "select": true, "option": true, "audio": true, "video": true, "canvas": true, "xmp": true, "plaintext": true, "noembed": true, "noframes": true, "frameset": true, "portal": true, "base": true, "link": true, "meta": true,
}

var attributes = map[string]bool{
	"align": true, "alt": true, "bgcolor": true, "border": true, "cellpadding": true, "cellspacing": true, "color": true, "colspan": true, "dir": true, "face": true, "height": true,
	"lang": true, "nowrap": true, "rowspan": true, "size": true, "span": true, "start": true, "title": true, "valign": true, "width": true,
}

var properties = map[string]bool{
	"background-color": true, "border": true, "border-bottom": true, "border-collapse": true, "border-color": true, "border-left": true, "border-radius": true, "border-right": true, "border-spacing": true,
	"border-style": true, "border-top": true, "border-width": true, "color": true, "direction": true, "font-family": true, "font-size": true, "font-style": true, "font-variant": true, "font-weight": true,
	"height": true, "letter-spacing": true, "line-height": true, "list-style-type": true, "margin": true, "margin-bottom": true, "margin-left": true, "margin-right": true, "margin-top": true,
	"max-width": true, "padding": true, "padding-bottom": true, "padding-left": true, "padding-right": true, "padding-top": true, "text-align": true, "text-decoration": true, "text-indent": true,
	"text-transform": true, "vertical-align": true, "white-space": true, "width": true, "word-break": true, "word-wrap": true, "overflow-wrap": true,
}

// Rewrite makes a document safe. ok is false for one that must be shown as
// text instead.
func Rewrite(doc string, o Options) (r Result, ok bool) {
	if len(doc) > maxBytes {
		return r, false
	}
	out, remote, ok := once(doc, o)
	if !ok {
		return r, false
	}
	// What a parser makes of our own output must be that output.
	bare := o
	bare.Mark = nil
	plain := out
	if o.Mark != nil {
		if plain, _, ok = once(doc, bare); !ok {
			return r, false
		}
	}
	for range 3 {
		again, _, ok := once(plain, bare)
		if !ok {
			return r, false
		}
		if again == plain {
			if o.Mark == nil {
				return Result{plain, remote}, true
			}
			marked, _, ok := once(plain, o)
			return Result{marked, remote}, ok
		}
		plain = again
	}
	return r, false
}

func once(doc string, o Options) (string, int, bool) {
	body := &html.Node{Type: html.ElementNode, Data: "body", DataAtom: atom.Body}
	nodes, err := html.ParseFragmentWithOptions(strings.NewReader(doc), body, html.ParseOptionEnableScripting(true))
	if err != nil {
		return "", 0, false
	}
	w := &writer{o: o}
	root := &html.Node{Type: html.DocumentNode}
	for _, n := range nodes {
		w.copy(root, n, 0)
	}
	if w.over {
		return "", 0, false
	}
	var b strings.Builder
	if err := html.Render(&b, root); err != nil {
		return "", 0, false
	}
	return strings.TrimSpace(b.String()), w.remote, true
}

type writer struct {
	o      Options
	remote int
	nodes  int
	over   bool
}

func (w *writer) copy(to, n *html.Node, depth int) {
	if w.nodes++; w.nodes > maxNodes || depth > maxDepth {
		w.over = true
		return
	}
	switch n.Type {
	case html.TextNode:
		w.text(to, n.Data)
	case html.ElementNode:
		w.element(to, n, depth)
	}
}

func (w *writer) element(to, n *html.Node, depth int) {
	name := strings.ToLower(n.Data)
	if silent[name] || n.Namespace != "" || isHost(n) || isMark(n) && n.FirstChild == nil {
		return
	}
	into := to
	if allowed[n.DataAtom] && !isMark(n) {
		c := &html.Node{Type: html.ElementNode, Data: n.DataAtom.String(), DataAtom: n.DataAtom}
		w.attributes(c, n)
		to.AppendChild(c)
		into = c
	}
	if n.DataAtom == atom.Img {
		return
	}
	for k := n.FirstChild; k != nil; k = k.NextSibling {
		w.copy(into, k, depth+1)
	}
	if into != to && n.DataAtom == atom.A {
		w.showHost(to, into)
	}
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key && a.Namespace == "" {
			return a.Val
		}
	}
	return ""
}

func set(n *html.Node, key, val string) { n.Attr = append(n.Attr, html.Attribute{Key: key, Val: val}) }

func (w *writer) attributes(c, n *html.Node) {
	seen := map[string]bool{}
	for _, a := range n.Attr {
		key := strings.ToLower(a.Key)
		if a.Namespace != "" || seen[key] {
			continue
		}
		seen[key] = true
		switch {
		case key == "style":
			if s := Style(a.Val); s != "" {
				set(c, "style", s)
			}
		case key == "href" && n.DataAtom == atom.A:
			if u := link(a.Val); u != "" {
				set(c, "href", u)
				set(c, "rel", "noopener noreferrer nofollow")
				set(c, "target", "_blank")
			}
		case key == "src" && n.DataAtom == atom.Img:
			w.image(c, a.Val)
		case attributes[key] && len(a.Val) < 1000 && !strings.ContainsAny(a.Val, "<>\x00"):
			set(c, key, a.Val)
		}
	}
}

// link returns an address that may be followed: http, https or mailto.
func link(s string) string {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil {
		return ""
	}
	switch strings.ToLower(u.Scheme) {
	case "http", "https":
		if u.Host == "" || u.User != nil {
			return ""
		}
	case "mailto":
	default:
		return ""
	}
	return u.String()
}

func (w *writer) image(c *html.Node, src string) {
	src = strings.TrimSpace(src)
	lower := strings.ToLower(src)
	switch {
	case strings.HasPrefix(lower, "cid:"):
		id := src[4:]
		if dec, err := url.PathUnescape(id); err == nil {
			id = dec
		}
		if w.o.Image != nil {
			if data := w.o.Image(id); data != "" {
				set(c, "src", data)
			}
		}
	case picture(lower):
		set(c, "src", src)
	case strings.HasPrefix(lower, "https://") || strings.HasPrefix(lower, "http://"):
		if u := link(src); w.o.Remote && u != "" {
			set(c, "src", u)
		} else {
			w.remote++
		}
	}
}

// picture tells a data: URI of a picture that has no script in it.
func picture(lower string) bool {
	for _, t := range []string{"png", "jpeg", "jpg", "gif", "webp"} {
		if strings.HasPrefix(lower, "data:image/"+t+";base64,") {
			return !strings.ContainsAny(lower, "\"'<>\x00")
		}
	}
	return false
}

// Style keeps the declarations whose property is on the list and whose value
// can load, cover or run nothing.
func Style(s string) string {
	var out []string
	for decl := range strings.SplitSeq(s, ";") {
		prop, val, ok := strings.Cut(decl, ":")
		prop, val = strings.ToLower(strings.TrimSpace(prop)), strings.TrimSpace(val)
		if !ok || !properties[prop] || val == "" || len(val) > 200 || !harmless(val) {
			continue
		}
		out = append(out, prop+":"+val)
	}
	return strings.Join(out, ";")
}

func harmless(val string) bool {
	for _, c := range val {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(" #%.,-+'\"!()", c)
		if !ok {
			return false
		}
	}
	lower := strings.ToLower(val)
	if i := strings.IndexByte(lower, '('); i >= 0 {
		f := strings.TrimSpace(lower[:i])
		if !strings.HasSuffix(f, "rgb") && !strings.HasSuffix(f, "rgba") && !strings.HasSuffix(f, "hsl") && !strings.HasSuffix(f, "hsla") {
			return false
		}
	}
	return !strings.Contains(lower, "url") && !strings.Contains(lower, "expression") && strings.Count(val, "(") <= 1 && strings.Count(val, `"`)%2 == 0 && strings.Count(val, "'")%2 == 0
}

// Classes of what is added.
const (
	hostClass = "lh-host"
	markClass = "lh-mark"
)

func isHost(n *html.Node) bool { return n.DataAtom == atom.Span && attr(n, "class") == hostClass }
func isMark(n *html.Node) bool { return n.DataAtom == atom.Mark }

// showHost says behind a link where it really leads, if its text names another
// host.
func (w *writer) showHost(to, a *html.Node) {
	u, err := url.Parse(attr(a, "href"))
	if err != nil || u.Host == "" {
		return
	}
	set(a, "title", u.Host)
	for i := range a.Attr[:len(a.Attr)-1] { // ours replaces the sender's
		if a.Attr[i].Key == "title" {
			a.Attr = append(a.Attr[:i], a.Attr[i+1:]...)
			break
		}
	}
	said := hostIn(textOf(a))
	if said == "" || strings.EqualFold(said, u.Hostname()) || strings.HasSuffix(strings.ToLower(u.Hostname()), "."+strings.ToLower(said)) {
		return
	}
	s := &html.Node{Type: html.ElementNode, Data: "span", DataAtom: atom.Span}
	set(s, "class", hostClass)
	s.AppendChild(&html.Node{Type: html.TextNode, Data: "→ " + u.Hostname()})
	to.AppendChild(s)
}

func textOf(n *html.Node) string {
	if n.Type == html.TextNode {
		return n.Data
	}
	var b strings.Builder
	for k := n.FirstChild; k != nil && b.Len() < 500; k = k.NextSibling {
		b.WriteString(textOf(k))
	}
	return b.String()
}

// hostIn returns the host that a link's text claims, "" if it claims none.
func hostIn(text string) string {
	text = strings.TrimSpace(text)
	for _, p := range []string{"https://", "http://"} {
		if len(text) > len(p) && strings.EqualFold(text[:len(p)], p) {
			text = text[len(p):]
			break
		}
	}
	if i := strings.IndexAny(text, "/?# \n\t"); i >= 0 {
		text = text[:i]
	}
	text = strings.TrimPrefix(strings.ToLower(text), "www.")
	i := strings.LastIndexByte(text, '.')
	if i <= 0 || len(text)-i < 3 || strings.ContainsAny(text, "@,;:!()") {
		return ""
	}
	for _, c := range text[i+1:] {
		if c < 'a' || c > 'z' {
			return ""
		}
	}
	return text
}

// text adds text, with highlights.
func (w *writer) text(to *html.Node, s string) {
	if w.o.Mark != nil {
		at := 0
		for _, m := range w.o.Mark(s) {
			if m[0] < at || m[1] > len(s) {
				continue
			}
			add(to, s[at:m[0]])
			c := &html.Node{Type: html.ElementNode, Data: "mark", DataAtom: atom.Mark}
			set(c, "class", markClass)
			add(c, s[m[0]:m[1]])
			to.AppendChild(c)
			at = m[1]
		}
		s = s[at:]
	}
	add(to, s)
}

func add(to *html.Node, s string) {
	if s != "" {
		if last := to.LastChild; last != nil && last.Type == html.TextNode {
			last.Data += s
			return
		}
		to.AppendChild(&html.Node{Type: html.TextNode, Data: s})
	}
}
