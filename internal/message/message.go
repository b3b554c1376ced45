// Package message takes mail apart (RFC 5322, RFC 2045 to 2049) without
// changing it: every part is a pair of offsets into the raw bytes, so whatever
// is wrong in a message, its bytes stay what they were.
//
// Nothing here returns an error for a broken message. What breaks a rule is
// read as most mail programs read it; what is over a budget stays one leaf and
// the message is marked Partial. Time is linear in the length of the message.
package message

import (
	"bytes"
	"strings"
)

// Budgets for one message. A sender chooses what we parse, so each of them is
// far above honest mail and far below what would hurt.
const (
	MaxParts     = 1000
	MaxDepth     = 32
	MaxHeader    = 512 << 10 // bytes of a header block that are parsed
	MaxAddresses = 2000
	maxFields    = 5000
	maxBoundary  = 8 << 10 // RFC 2046 says 70
)

// Field is one header field. The value is raw: folded and encoded.
type Field struct {
	Name  string // as written
	Value []byte // after the colon, without the line end behind it
}

// Header is the fields of a header block in order.
type Header []Field

// Get returns the unfolded value of the first field with a name, in any case.
func (h Header) Get(name string) string {
	for i := range h {
		if strings.EqualFold(h[i].Name, name) {
			return Unfold(h[i].Value)
		}
	}
	return ""
}

// All returns the unfolded values of all fields with a name.
func (h Header) All(name string) []string {
	var out []string
	for i := range h {
		if strings.EqualFold(h[i].Name, name) {
			out = append(out, Unfold(h[i].Value))
		}
	}
	return out
}

// Unfold removes line ends (RFC 5322, 2.2.3) and outer white space.
func Unfold(v []byte) string {
	v = bytes.TrimSpace(v)
	if bytes.IndexByte(v, '\n') < 0 && bytes.IndexByte(v, '\r') < 0 {
		return string(v)
	}
	out := make([]byte, 0, len(v))
	for _, c := range v {
		if c != '\r' && c != '\n' {
			out = append(out, c)
		}
	}
	return string(out)
}

// Part is one node of a message: offsets into the raw bytes, and what its
// header says.
type Part struct {
	Start, Body, End int // header from Start, body from Body to End
	Header           Header
	Type             string // lower case, such as "text/plain"
	Params           map[string]string
	Encoding         string // lower case; "" for none
	Disposition      string // lower case; "" for none
	Name             string // file name, decoded; a name, never a path
	Children         []*Part
	Path             string // "1.2": IMAP's part number (RFC 9051, 6.4.5.1)
}

// Message is a parsed message.
type Message struct {
	Raw     []byte
	Root    *Part
	Partial bool // over a budget: the rest is in one leaf
}

// Parse takes raw apart. The message shares raw's memory.
func Parse(raw []byte) *Message {
	p := parser{raw: lines(raw)}
	m := &Message{Raw: raw}
	m.Root = p.part(0, 0, "text/plain")
	number(m.Root, "")
	m.Partial = p.over
	return m
}

// lines returns raw with line ends that the parser knows. Only files from old
// Macs lack them: their lines end in CR.
func lines(raw []byte) []byte {
	if bytes.IndexByte(raw, '\n') >= 0 || bytes.IndexByte(raw, '\r') < 0 {
		return raw
	}
	return bytes.ReplaceAll(raw, []byte("\r"), []byte("\n"))
}

// BodyOf returns the encoded body of a part.
func (m *Message) BodyOf(p *Part) []byte { return m.Raw[p.Body:p.End] }

// Leaves calls fn for each part without children, in order.
func (m *Message) Leaves(fn func(*Part)) { leaves(m.Root, fn) }

func leaves(p *Part, fn func(*Part)) {
	if len(p.Children) == 0 {
		fn(p)
	}
	for _, c := range p.Children {
		leaves(c, fn)
	}
}

// Find returns the part with a path.
func (m *Message) Find(path string) *Part { return find(m.Root, path) }

func find(p *Part, path string) *Part {
	if p.Path == path {
		return p
	}
	for _, c := range p.Children {
		if f := find(c, path); f != nil {
			return f
		}
	}
	return nil
}

// number gives parts their paths (RFC 9051, 6.4.5.1): the children of a
// multipart count from 1; the parts of an embedded message count below it.
func number(p *Part, prefix string) {
	if !strings.HasPrefix(p.Type, "multipart/") || len(p.Children) == 0 {
		p.Path = prefix + "1"
		if prefix != "" {
			p.Path = strings.TrimSuffix(prefix, ".")
		}
		if len(p.Children) == 1 { // an embedded message
			number(p.Children[0], p.Path+".")
			if c := p.Children[0]; c.Path == p.Path {
				c.Path = p.Path + ".1"
			}
		}
		return
	}
	p.Path = strings.TrimSuffix(prefix, ".")
	for i, c := range p.Children {
		number(c, prefix+itoa(i+1)+".")
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

type parser struct {
	raw        []byte
	parts      int
	over       bool
	boundaries []string // of the enclosing multiparts, outermost first
}

// Embedded tells whether a part holds a message (RFC 2046, 5.2; RFC 6532).
func (p *Part) Embedded() bool {
	return p.Type == "message/rfc822" || p.Type == "message/global" || p.Type == "message/news"
}

// part parses the part that begins at start. It ends before the next delimiter
// of an enclosing multipart, or at the end of the message.
func (p *parser) part(start, depth int, fallback string) *Part {
	p.parts++
	q := &Part{Start: start}
	q.Header, q.Body = p.header(start)
	q.describe(fallback)
	if p.parts >= MaxParts || depth >= MaxDepth {
		if q.Embedded() || strings.HasPrefix(q.Type, "multipart/") {
			p.over = true
		}
		q.End, _, _ = p.next(q.Body)
		return q
	}
	plain := !encoded(q.Encoding)
	b := q.Params["boundary"]
	switch {
	case strings.HasPrefix(q.Type, "multipart/") && b != "" && len(b) <= maxBoundary:
		p.multipart(q, b, depth)
	case q.Embedded() && plain && q.Body < len(p.raw):
		c := p.part(q.Body, depth+1, "text/plain")
		q.Children = []*Part{c}
		q.End = c.End
	default:
		q.End, _, _ = p.next(q.Body)
	}
	return q
}

// encoded tells a transfer encoding that changes bytes. Misspelt names of the
// others ("7-bit", "8bits") do not; private ones might (RFC 2045, 6.1).
func encoded(enc string) bool {
	switch enc {
	case "base64", "quoted-printable", "quoted", "uuencode", "uue":
		return true
	}
	return strings.HasPrefix(enc, "x-")
}

func (p *parser) multipart(q *Part, boundary string, depth int) {
	fallback := "text/plain"
	if q.Type == "multipart/digest" {
		fallback = "message/rfc822" // RFC 2046, 5.1.5
	}
	p.boundaries = append(p.boundaries, boundary)
	mine := len(p.boundaries) - 1
	end, which, at := p.next(q.Body)
	for which == mine {
		line, closing := p.delimiter(at, boundary)
		if closing {
			p.boundaries = p.boundaries[:mine]
			end, _, _ = p.next(line)
			q.End = max(end, at)
			return
		}
		if p.parts >= MaxParts {
			p.over = true
			p.boundaries = p.boundaries[:mine]
			end, _, _ = p.next(line)
			q.End = end
			return
		}
		c := p.part(line, depth+1, fallback)
		q.Children = append(q.Children, c)
		end, which, at = p.next(c.End)
	}
	p.boundaries = p.boundaries[:mine]
	q.End = end
}

// next finds the first delimiter line at or after from of any enclosing
// multipart. It returns where the content before it ends, which boundary it is
// (-1: none), and where the line begins.
func (p *parser) next(from int) (end, which, at int) {
	for pos := from; ; {
		if pos == 0 || p.raw[pos-1] == '\n' {
			if w := p.match(pos); w >= 0 {
				return max(from, lineBreakBefore(p.raw, pos)), w, pos
			}
		}
		i := bytes.Index(p.raw[pos:], []byte("\n--"))
		if i < 0 {
			return len(p.raw), -1, len(p.raw)
		}
		pos += i + 1
	}
}

func lineBreakBefore(raw []byte, pos int) int {
	if pos > 0 && raw[pos-1] == '\n' {
		pos--
		if pos > 0 && raw[pos-1] == '\r' {
			pos--
		}
	}
	return pos
}

// match tells which boundary the line at pos delimits; the innermost wins. A
// boundary with text behind it is one too (RFC 2046, 5.1.1: the comparison is
// with the beginning of the line), but only behind white space: else the
// boundary "a" would hide the boundary "ab".
func (p *parser) match(pos int) int {
	line := p.raw[pos:]
	if len(line) < 3 || line[0] != '-' || line[1] != '-' {
		return -1
	}
	loose := -1
	for i := len(p.boundaries) - 1; i >= 0; i-- {
		b := p.boundaries[i]
		if len(line)-2 < len(b) || string(line[2:2+len(b)]) != b {
			continue
		}
		rest := line[2+len(b):]
		if len(rest) > 1 && rest[0] == '-' && rest[1] == '-' {
			return i
		}
		n := 0
		for n < len(rest) && (rest[n] == ' ' || rest[n] == '\t' || rest[n] == '\r') {
			n++
		}
		if n == len(rest) || rest[n] == '\n' {
			return i
		}
		if n > 0 && loose < 0 {
			loose = i
		}
	}
	return loose
}

// delimiter returns where the line behind a delimiter begins, and whether it
// is the closing one.
func (p *parser) delimiter(at int, boundary string) (next int, closing bool) {
	rest := p.raw[at+2+len(boundary):]
	closing = len(rest) > 1 && rest[0] == '-' && rest[1] == '-'
	i := bytes.IndexByte(rest, '\n')
	if i < 0 {
		return len(p.raw), closing
	}
	return at + 2 + len(boundary) + i + 1, closing
}

// header parses the header block at start and returns where the body begins.
func (p *parser) header(start int) (Header, int) {
	var h Header
	pos := start
	if pos == 0 && bytes.HasPrefix(p.raw, []byte("\xef\xbb\xbf")) {
		pos = 3 // a byte order mark that an editor put there
	}
	first := true
	for pos < len(p.raw) {
		line, next := lineAt(p.raw, pos)
		if len(line) == 0 {
			return h, next
		}
		if p.match(pos) >= 0 {
			return h, pos // a delimiter ends a header that has no empty line
		}
		if pos-start > MaxHeader || len(h) >= maxFields {
			p.over = true
			return h, p.skipHeader(pos)
		}
		switch name, ok := fieldName(line); {
		case line[0] == ' ' || line[0] == '\t':
			if n := len(h); n > 0 && p.raw[pos-1] == '\n' {
				v := h[n-1].Value
				h[n-1].Value = p.raw[pos-gap(p.raw, pos)-len(v) : pos+len(line)]
			}
		case ok:
			h = append(h, Field{string(name), line[len(name)+colon(line[len(name):]):]})
		case first && (bytes.HasPrefix(line, []byte("From ")) || bytes.HasPrefix(line, []byte(">From "))):
			// the separator of an mbox that lost its file
		case first:
			return nil, start // no header at all
		}
		first = false
		pos = next
	}
	return h, len(p.raw)
}

// gap is the length of the line end before pos.
func gap(raw []byte, pos int) int { return pos - lineBreakBefore(raw, pos) }

func colon(b []byte) int { return bytes.IndexByte(b, ':') + 1 }

// skipHeader returns where the body of an oversized header begins.
func (p *parser) skipHeader(pos int) int {
	for pos < len(p.raw) {
		line, next := lineAt(p.raw, pos)
		if len(line) == 0 {
			return next
		}
		pos = next
	}
	return len(p.raw)
}

// lineAt returns the line at pos without its end, and where the next begins.
func lineAt(raw []byte, pos int) (line []byte, next int) {
	i := bytes.IndexByte(raw[pos:], '\n')
	if i < 0 {
		return raw[pos:], len(raw)
	}
	next = pos + i + 1
	return bytes.TrimSuffix(raw[pos:pos+i], []byte("\r")), next
}

// fieldName returns the name of a field line (RFC 5322, 2.2; white space
// before the colon as in 4.5).
func fieldName(line []byte) ([]byte, bool) {
	for i, c := range line {
		if c == ':' {
			name := bytes.TrimRight(line[:i], " \t")
			return name, len(name) > 0
		}
		if c <= ' ' && c != ' ' && c != '\t' || c == 127 {
			return nil, false
		}
		if (c == ' ' || c == '\t') && len(bytes.TrimLeft(line[i:], " \t")) > 0 && bytes.TrimLeft(line[i:], " \t")[0] != ':' {
			return nil, false
		}
		if i > 255 {
			return nil, false
		}
	}
	return nil, false
}

// LooksLikeMail tells whether bytes begin with a header that mail has: at
// least one field that RFC 5322 or 2045 knows among the first ones.
func LooksLikeMail(head []byte) bool {
	p := parser{raw: lines(head)}
	h, _ := p.header(0)
	for i, f := range h {
		switch strings.ToLower(f.Name) {
		case "from", "to", "cc", "subject", "date", "received", "message-id", "mime-version", "content-type",
			"return-path", "delivered-to", "sender", "reply-to", "x-mailer", "bcc", "content-transfer-encoding", "dkim-signature", "x-original-to", "references", "in-reply-to":
			return true
		}
		if i > 200 {
			break
		}
	}
	return false
}
