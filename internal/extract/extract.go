// Package extract gets the words out of a message: for the search index, for
// snippets, and for reading. What it returns is valid UTF-8 without control
// characters; it says nothing about what is safe to show as markup.
//
// Office and PDF parts are not read yet: their names are, and Unread says that
// their contents were not.
package extract

import (
	"bytes"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/pack"
)

// Limits in bytes of text taken from one message.
const (
	maxBody    = 8 << 20
	maxLine    = 2000 // characters of a subject or a name that are kept
	maxInside  = 8    // messages within messages, encoded ones included
	maxDecoded = 32 << 20
)

// Document is the text of a message, by the fields that can be searched.
type Document struct {
	From, To, Cc, Bcc, Subject string
	List                       string // List-Id
	MessageID                  string // without angle brackets
	Names                      string // file names, one a line
	Body                       string
	Attachments                int
	Unread                     bool // an attachment's contents were not read
}

// Size is about how much memory the document holds, in bytes.
func (d *Document) Size() int {
	return 200 + len(d.From) + len(d.To) + len(d.Cc) + len(d.Bcc) + len(d.Subject) + len(d.List) + len(d.MessageID) + len(d.Names) + len(d.Body)
}

// Of returns the document of a parsed message.
func Of(m *message.Message) *Document {
	h := m.Root.Header
	d := &Document{
		From: addresses(h, "From"), To: addresses(h, "To"), Cc: addresses(h, "Cc"), Bcc: addresses(h, "Bcc"),
		Subject: clip(message.DecodeWords(h.Get("Subject"))), List: clip(message.DecodeWords(h.Get("List-Id"))),
		MessageID: MessageID(h),
	}
	if d.From == "" {
		d.From = addresses(h, "Sender")
	}
	c := collector{d: d}
	c.message(m, 0)
	d.Names = strings.Join(c.names, "\n")
	d.Body = c.body.String()
	return d
}

// MessageID is the first Message-ID without its angle brackets.
func MessageID(h message.Header) string {
	v := strings.TrimSpace(h.Get("Message-ID"))
	if i := strings.IndexByte(v, '<'); i >= 0 {
		v, _, _ = strings.Cut(v[i+1:], ">")
	}
	return strings.ToValidUTF8(strings.TrimSpace(v), "\uFFFD")
}

func addresses(h message.Header, name string) string {
	var b strings.Builder
	for _, v := range h.All(name) {
		for _, a := range message.Addresses(v) {
			if b.Len() > 0 {
				b.WriteString(", ")
			}
			b.WriteString(a.String())
		}
	}
	return strings.ToValidUTF8(b.String(), "\uFFFD")
}

func clip(s string) string {
	for i := range s {
		if i > maxLine {
			return s[:i]
		}
	}
	return s
}

type collector struct {
	d     *Document
	names []string
	body  strings.Builder
}

// message collects the text of m, and of the messages inside it.
func (c *collector) message(m *message.Message, inside int) { c.part(m, m.Root, inside, false) }

func (c *collector) part(m *message.Message, p *message.Part, inside int, alternative bool) {
	if p.Type == "multipart/alternative" && len(p.Children) > 1 {
		c.alternative(m, p, inside)
		return
	}
	for _, q := range p.Children {
		if p.Embedded() {
			c.heads(q.Header)
		}
		c.part(m, q, inside, false)
	}
	if len(p.Children) == 0 {
		c.leaf(m, p, inside)
	}
}

// alternative takes the plain text, and of the other forms only the lines that
// say something the text does not: most HTML repeats it word for word.
func (c *collector) alternative(m *message.Message, p *message.Part, inside int) {
	start := c.body.Len()
	for _, q := range p.Children {
		if q.Type == "text/plain" {
			c.leaf(m, q, inside)
		}
	}
	seen := map[string]bool{}
	for w := range strings.FieldsFuncSeq(c.body.String()[start:], separator) {
		seen[w] = true
	}
	for _, q := range p.Children {
		switch {
		case q.Type == "text/plain":
		case q.Type == "text/html" && len(q.Children) == 0 && q.Disposition != "attachment":
			for line := range strings.SplitSeq(Text(m, q), "\n") {
				if news(line, seen) {
					c.add(line)
				}
			}
		default:
			c.part(m, q, inside, true)
		}
	}
}

func separator(r rune) bool {
	return r < '0' || r > '9' && r < 'A' || r > 'Z' && r < 'a' || r > 'z' && r < 0x80
}

func news(line string, seen map[string]bool) bool {
	for w := range strings.FieldsFuncSeq(line, separator) {
		if !seen[w] {
			return true
		}
	}
	return false
}

// heads adds the header of a message inside the message to its text.
func (c *collector) heads(h message.Header) {
	for _, name := range []string{"From", "To", "Cc"} {
		c.add(addresses(h, name))
	}
	c.add(clip(message.DecodeWords(h.Get("Subject"))))
}

func (c *collector) leaf(m *message.Message, p *message.Part, inside int) {
	if p.Name != "" {
		c.names = append(c.names, clip(p.Name))
	}
	if IsAttachment(p) {
		c.d.Attachments++
	}
	switch {
	case strings.HasPrefix(p.Type, "text/") || p.Type == "message/delivery-status" || p.Type == "message/disposition-notification" || p.Type == "application/json" || p.Type == "application/xml":
		text := Text(m, p)
		if p.Type == "text/plain" {
			text = c.cutUU(text)
		}
		c.add(text)
	case p.Embedded() && inside < maxInside:
		b := m.Decode(p)
		if len(b) < maxDecoded && message.LooksLikeMail(b) {
			in := message.Parse(b)
			c.heads(in.Root.Header)
			c.message(in, inside+1)
		}
	case strings.HasPrefix(p.Type, "image/") || strings.HasPrefix(p.Type, "audio/") || strings.HasPrefix(p.Type, "video/"):
	case p.Type == "application/pgp-signature" || p.Type == "application/pkcs7-signature" || p.Type == "application/x-pkcs7-signature":
	case p.End > p.Body:
		c.d.Unread = true
	}
}

// cutUU takes uuencoded files out of a text and keeps their names.
func (c *collector) cutUU(text string) string {
	for range 100 {
		name, _, span, ok := message.UUDecode([]byte(text))
		if !ok {
			break
		}
		c.names = append(c.names, clip(name))
		c.d.Attachments++
		c.d.Unread = true
		text = text[:span[0]] + text[span[1]:]
	}
	return text
}

func (c *collector) add(s string) {
	if s == "" || c.body.Len() > maxBody {
		return
	}
	if c.body.Len() > 0 {
		c.body.WriteByte('\n')
	}
	if room := maxBody - c.body.Len(); len(s) > room && room > 0 {
		s = strings.ToValidUTF8(s[:room], "")
	}
	c.body.WriteString(s)
}

// IsAttachment tells whether a reader would call the part an attachment.
func IsAttachment(p *message.Part) bool {
	if p.Disposition == "attachment" {
		return true
	}
	if strings.HasPrefix(p.Type, "text/") || strings.HasPrefix(p.Type, "multipart/") {
		return p.Name != "" && p.Disposition != "inline" && p.Type != "text/plain" && p.Type != "text/html"
	}
	switch p.Type {
	case "application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature", "message/delivery-status", "application/pgp-encrypted":
		return false
	}
	if strings.HasPrefix(p.Type, "image/") && p.Header.Get("Content-ID") != "" {
		return p.Disposition == "attachment"
	}
	return true
}

// Text returns the text of a leaf as UTF-8 with LF line ends: charset and
// transfer encoding undone, HTML reduced to its words, format=flowed joined.
func Text(m *message.Message, p *message.Part) string {
	b := m.Decode(p)
	if len(b) > maxDecoded {
		b = b[:maxDecoded]
	}
	charset := p.Params["charset"]
	if p.Type == "text/html" {
		if charset == "" {
			charset = MetaCharset(b)
		}
		s, _ := message.DecodeCharset(b, charset)
		return FromHTML(s)
	}
	s, _ := message.DecodeCharset(b, charset)
	s = tidy(s)
	if p.Type == "text/plain" && strings.EqualFold(p.Params["format"], "flowed") {
		s = unflow(s, strings.EqualFold(p.Params["delsp"], "yes"))
	}
	return s
}

// MetaCharset looks for a charset in the first KiB of an HTML document.
func MetaCharset(b []byte) string {
	b = bytes.ToLower(b[:min(len(b), 1024)])
	i := bytes.Index(b, []byte("charset="))
	if i < 0 {
		return ""
	}
	b = bytes.TrimLeft(b[i+8:], `"' `)
	if j := bytes.IndexAny(b, "\"'> ;/"); j >= 0 {
		b = b[:j]
	}
	return string(b)
}

// tidy removes control characters and carriage returns.
func tidy(s string) string {
	bad := false
	for i := 0; i < len(s) && !bad; i++ {
		bad = s[i] < ' ' && s[i] != '\n' && s[i] != '\t' || s[i] == 127
	}
	if !bad {
		return s
	}
	s = strings.ReplaceAll(s, "\r\n", "\n")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r == '\r':
			return '\n'
		case r < ' ' || r == 127:
			return -1
		}
		return r
	}, s)
}

// unflow joins flowed lines (RFC 3676, 4).
func unflow(s string, delsp bool) string {
	var out strings.Builder
	quote, open := -1, false
	for line := range strings.SplitSeq(s, "\n") {
		n := 0
		for n < len(line) && line[n] == '>' {
			n++
		}
		text := line[n:]
		text = strings.TrimPrefix(text, " ")          // space-stuffing
		joined := open && n == quote && text != "-- " // 4.3: a signature begins a line
		open = strings.HasSuffix(text, " ") && text != "-- "
		if open && delsp {
			text = text[:len(text)-1]
		}
		if !joined {
			if quote >= 0 {
				out.WriteByte('\n')
			}
			out.WriteString(line[:n])
			if n > 0 {
				out.WriteByte(' ')
			}
		}
		out.WriteString(text)
		quote = n
	}
	return out.String()
}

// earliest is the first date that is taken for sane, and slack how far ahead
// of its arrival a message may be dated.
var earliest = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

const slack = 48 * time.Hour

// Date is when a message was sent, and by which rule: its Date field if sane,
// else the topmost Received field, else what the source says, else arrival.
func Date(h message.Header, source, arrived time.Time) (time.Time, pack.DateRule) {
	sane := func(t time.Time) bool { return !t.Before(earliest) && t.Before(arrived.Add(slack)) }
	if t, ok := message.ParseDate(h.Get("Date")); ok && sane(t) {
		return t.UTC(), pack.DateHeader
	}
	if t, ok := h.ReceivedDate(); ok && sane(t) {
		return t.UTC(), pack.DateReceived
	}
	if !source.IsZero() && sane(source) {
		return source.UTC(), pack.DateSource
	}
	return arrived.UTC(), pack.DateArrival
}

// Valid tells whether all texts are valid UTF-8; tests ask it.
func (d *Document) Valid() bool {
	for _, s := range []string{d.From, d.To, d.Cc, d.Bcc, d.Subject, d.List, d.MessageID, d.Names, d.Body} {
		if !utf8.ValidString(s) {
			return false
		}
	}
	return true
}
