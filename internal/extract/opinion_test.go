package extract

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"path/filepath"
	"strings"
	"testing"

	"github.com/letterhold/letterhold/internal/mbox"
	"github.com/letterhold/letterhold/internal/message"
)

// Suites that ship samples without results are compared with what the standard
// library makes of them, where it makes anything: it gives up at the first rule
// that is broken, so much of these suites is beyond it.
func TestSuitesAgainstStandardLibrary(t *testing.T) {
	for name, least := range map[string]map[string][2]int{
		"enmime":                {"subject": {59, 59}, "addresses": {113, 115}, "parts": {72, 72}, "type": {80, 80}},
		"cpython":               {"subject": {33, 33}, "addresses": {70, 70}, "parts": {36, 38}, "type": {41, 43}},
		"ruby-mail":             {"subject": {91, 93}, "addresses": {192, 194}, "parts": {91, 91}, "type": {79, 79}},
		"nodemailer-mailparser": {"addresses": {16, 16}, "parts": {10, 10}, "type": {10, 10}, "subject": {7, 7}},
		"mox":                   {"subject": {9, 10}, "addresses": {19, 19}, "parts": {12, 12}, "type": {12, 12}},
		"sisimai":               {"subject": {832, 836}, "addresses": {1564, 1567}, "type": {684, 684}, "parts": {757, 757}},
		"mimekit":               {"subject": {16, 16}, "addresses": {32, 33}, "parts": {16, 16}, "type": {16, 16}},
		"../spamassassin":       {"subject": {5862, 6027}, "addresses": {12915, 12969}, "parts": {5982, 5982}, "type": {5229, 5229}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := mimeSuite(t, name)
			s := newSuite(t, filepath.Base(name)+", library")
			for _, f := range files(t, dir, func(n string) bool {
				return strings.HasSuffix(n, ".eml") || strings.HasSuffix(n, ".raw") || strings.HasPrefix(n, "msg_") || filepath.Base(name) == "spamassassin" && strings.HasSuffix(n, ".txt")
			}) {
				raw := slurp(t, f)
				if mbox.Begins(raw) { // of one message
					_, raw, _ = bytes.Cut(raw, []byte("\n"))
				}
				s.library(strings.TrimPrefix(f, dir+string(filepath.Separator)), raw)
			}
			s.report(least)
		})
	}
}

var words = mime.WordDecoder{CharsetReader: charsetReader}

func charsetReader(charset string, r io.Reader) (io.Reader, error) {
	b, err := io.ReadAll(r)
	s, _ := message.DecodeCharset(b, charset)
	return strings.NewReader(s), err
}

func (s *suite) library(sample string, raw []byte) {
	lines := raw
	if bytes.IndexByte(raw, '\n') < 0 { // it does not know CR as a line end
		lines = bytes.ReplaceAll(raw, []byte("\r"), []byte("\n"))
	}
	theirs, err := mail.ReadMessage(bytes.NewReader(lines))
	if err != nil {
		return
	}
	m := message.Parse(raw)
	h := m.Root.Header
	if v, err := words.DecodeHeader(theirs.Header.Get("Subject")); err == nil {
		s.compare(sample, "subject", strings.TrimSpace(message.DecodeWords(h.Get("Subject"))), strings.TrimSpace(v))
	}
	p := mail.AddressParser{WordDecoder: &words}
	for _, f := range []string{"From", "To", "Cc"} {
		list, err := p.ParseList(theirs.Header.Get(f))
		if err != nil {
			continue
		}
		var a, b []string
		for _, x := range message.Addresses(h.Get(f)) {
			a = append(a, x.String())
		}
		for _, x := range list {
			b = append(b, message.Address{Name: x.Name, Addr: x.Address}.String())
		}
		s.compare(sample, "addresses", strings.Join(a, "|"), strings.Join(b, "|"))
	}
	shape, ok := libraryShape(theirs.Header.Get("Content-Type"), "text/plain", theirs.Body)
	if ok {
		s.compare(sample, "parts", shallow(m.Root), shape)
	}
	typ, params, err := mime.ParseMediaType(theirs.Header.Get("Content-Type"))
	if err == nil {
		s.compare(sample, "type", m.Root.Type+" "+m.Root.Params["charset"]+" "+m.Root.Params["name"], typ+" "+params["charset"]+" "+params["name"])
	}
}

// libraryShape is the tree of multiparts as mime/multipart reads it.
func libraryShape(contentType, fallback string, body io.Reader) (string, bool) {
	typ, params, err := mime.ParseMediaType(contentType)
	if contentType == "" {
		typ, err = fallback, nil
	}
	if err != nil {
		return "", false
	}
	if !strings.HasPrefix(typ, "multipart/") || params["boundary"] == "" {
		return typ, true
	}
	if fallback = "text/plain"; typ == "multipart/digest" {
		fallback = "message/rfc822"
	}
	var cs []string
	r := multipart.NewReader(body, params["boundary"])
	for {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return typ + "(" + strings.Join(cs, " ") + ")", true
		}
		if err != nil {
			return "", false
		}
		c, ok := libraryShape(p.Header.Get("Content-Type"), fallback, p)
		if !ok {
			return "", false
		}
		cs = append(cs, c)
	}
}

// shallow is the tree without what is inside embedded messages.
func shallow(p *message.Part) string {
	if !strings.HasPrefix(p.Type, "multipart/") || p.Params["boundary"] == "" {
		return p.Type
	}
	var cs []string
	for _, c := range p.Children {
		cs = append(cs, shallow(c))
	}
	return p.Type + "(" + strings.Join(cs, " ") + ")"
}
