package message

import (
	"bytes"
	"encoding/base64"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// DecodeWords decodes the encoded words of a header value (RFC 2047), also
// those that break the rules: inside quotes, without white space between them,
// split inside a character, with a charset nobody knows. Raw 8-bit bytes are
// read as UTF-8, else as Windows-1252.
func DecodeWords(v string) string {
	if !strings.Contains(v, "=?") {
		return clean(v)
	}
	var out strings.Builder
	var run encodedRun
	pos := 0
	for pos < len(v) {
		i := strings.Index(v[pos:], "=?")
		if i < 0 {
			break
		}
		w, n, ok := parseWord(v[pos+i:])
		if !ok {
			run.flush(&out)
			out.WriteString(clean(v[pos : pos+i+2]))
			pos += i + 2
			continue
		}
		between := v[pos : pos+i]
		if !run.used || strings.TrimSpace(between) != "" {
			run.flush(&out)
			out.WriteString(clean(between))
		} else if w.charset != run.charset {
			run.flush(&out)
		}
		run.add(w)
		pos += i + n
	}
	run.flush(&out)
	out.WriteString(clean(v[pos:]))
	return out.String()
}

type encodedWord struct {
	charset string
	data    []byte
}

// encodedRun joins neighbours of one charset before they are decoded, since a
// character may be split between words.
type encodedRun struct {
	charset string
	data    []byte
	used    bool
}

func (r *encodedRun) add(w encodedWord) {
	r.charset, r.used = w.charset, true
	r.data = append(r.data, w.data...)
}

func (r *encodedRun) flush(out *strings.Builder) {
	if r.used {
		text, _ := DecodeCharset(r.data, r.charset)
		out.WriteString(strings.Map(noControl, text))
	}
	*r = encodedRun{}
}

func noControl(r rune) rune {
	if r == '\n' || r == '\r' || r == '\t' {
		return ' '
	}
	if r < ' ' || r == 127 {
		return -1
	}
	return r
}

// parseWord parses an encoded word at the beginning of s.
func parseWord(s string) (w encodedWord, n int, ok bool) {
	q1 := strings.IndexByte(s[2:], '?')
	if q1 < 0 || len(s) < 2+q1+4 || s[2+q1+2] != '?' {
		return w, 0, false
	}
	w.charset, _, _ = strings.Cut(s[2:2+q1], "*") // RFC 2231, 5: a language
	if w.charset == "" || strings.ContainsAny(w.charset, " \t=") {
		return w, 0, false
	}
	w.charset = strings.ToLower(w.charset)
	text := s[2+q1+3:]
	end := strings.Index(text, "?=")
	if end < 0 {
		return w, 0, false
	}
	n = 2 + q1 + 3 + end + 2
	switch s[2+q1+1] {
	case 'B', 'b':
		w.data = looseBase64([]byte(text[:end]))
	case 'Q', 'q':
		w.data = decodeQ(text[:end])
	default:
		return w, 0, false
	}
	return w, n, true
}

func decodeQ(s string) []byte {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '_':
			out = append(out, ' ')
		case c == '=' && i+2 < len(s) && ishex(s[i+1]) && ishex(s[i+2]):
			out = append(out, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		default:
			out = append(out, c)
		}
	}
	return out
}

func ishex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	}
	return c - '0'
}

func strictBase64(b []byte) ([]byte, bool) {
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b))+3)
	n, err := base64.StdEncoding.Decode(out, b)
	return out[:n], err == nil
}

// looseBase64 decodes what can be decoded and skips what is no base64.
func looseBase64(b []byte) []byte {
	out, ok := strictBase64(b)
	if ok {
		return out
	}
	out = out[:0]
	var acc uint32
	bits := 0
	for _, c := range b {
		v := base64Value(c)
		if c == '=' {
			acc, bits = 0, 0 // the end of one stretch; some mailers join several
			continue
		}
		if v < 0 {
			continue
		}
		acc, bits = acc<<6|uint32(v), bits+6
		if bits >= 8 {
			bits -= 8
			out = append(out, byte(acc>>bits))
		}
	}
	return out
}

func base64Value(c byte) int {
	switch {
	case c >= 'A' && c <= 'Z':
		return int(c - 'A')
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 26
	case c >= '0' && c <= '9':
		return int(c-'0') + 52
	case c == '+' || c == '-':
		return 62
	case c == '/' || c == '_':
		return 63
	}
	return -1
}

// clean makes raw header text valid UTF-8 without control characters.
func clean(s string) string {
	plain := true
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] >= 127 {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	s, _ = DecodeCharset([]byte(s), "")
	return strings.Map(noControl, s)
}

// describe reads the MIME fields of the header.
func (q *Part) describe(fallback string) {
	q.Type = fallback
	var cdParams map[string]string
	for i := range q.Header {
		f := &q.Header[i]
		if len(f.Name) < 12 || (f.Name[0]|0x20) != 'c' {
			continue
		}
		switch strings.ToLower(f.Name) {
		case "content-type":
			if q.Params != nil {
				continue // the first one counts
			}
			t, params := parseValue(Unfold(f.Value))
			if strings.Count(t, "/") == 1 && !strings.HasPrefix(t, "/") && !strings.HasSuffix(t, "/") {
				q.Type = t
			} else if t == "text" || t == "html" {
				q.Type = map[string]string{"text": "text/plain", "html": "text/html"}[t]
			}
			q.Params = params
		case "content-transfer-encoding":
			if q.Encoding == "" {
				e, _ := parseValue(Unfold(f.Value))
				q.Encoding = e
			}
		case "content-disposition":
			if q.Disposition == "" {
				q.Disposition, cdParams = parseValue(Unfold(f.Value))
			}
		}
	}
	if q.Params == nil {
		q.Params = map[string]string{}
	}
	name := cdParams["filename"]
	if name == "" {
		name = q.Params["name"]
	}
	q.Name = CleanName(DecodeWords(name))
}

// CleanName makes a file name of what a sender called one: no path, no control
// or direction-changing characters, at most 255 bytes.
func CleanName(s string) string {
	s = strings.ReplaceAll(s, `\`, "/")
	if strings.Contains(s, "/") {
		s = path.Base(s)
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 127 || r == utf8.RuneError || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if s == "." || s == ".." || s == "/" {
		return ""
	}
	for len(s) > 255 {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

// maxParams bounds the parameters of one field.
const maxParams = 200

// parseValue reads "value; name=value; ..." (RFC 2045, 5.1) with the
// extensions of RFC 2231, and with what mailers really write. Value and names
// come in lower case.
func parseValue(s string) (string, map[string]string) {
	value, rest := cutToken(s)
	params := map[string]string{}
	var pieces map[string]*pieced
	for n := 0; rest != "" && n < maxParams; n++ {
		var name, v string
		name, v, rest = cutParam(rest)
		if name == "" {
			continue
		}
		base, idx, ext, isPiece := splitParamName(name)
		if !isPiece {
			if _, dup := params[name]; !dup {
				params[name] = v
			}
			continue
		}
		if pieces == nil {
			pieces = map[string]*pieced{}
		}
		if pieces[base] == nil {
			pieces[base] = &pieced{parts: map[int]string{}, ext: map[int]bool{}}
		}
		pieces[base].parts[idx] = v
		pieces[base].ext[idx] = ext
	}
	for base, p := range pieces {
		if v := p.join(); v != "" {
			params[base] = v
		}
	}
	return value, params
}

// pieced is a parameter that comes in pieces (RFC 2231, 3 and 4).
type pieced struct {
	parts map[int]string
	ext   map[int]bool
}

func (p *pieced) join() string {
	charset := ""
	var b []byte
	first := 0
	if _, ok := p.parts[0]; !ok {
		first = 1 // some count from there
	}
	for i := first; i < maxParams; i++ {
		v, ok := p.parts[i]
		if !ok {
			break
		}
		if !p.ext[i] {
			b = append(b, v...)
			continue
		}
		if i == first {
			if cs, rest, ok := strings.Cut(v, "'"); ok {
				if _, text, ok := strings.Cut(rest, "'"); ok {
					charset, v = cs, text
				}
			}
		}
		b = append(b, decodePercent(v)...)
	}
	if charset == "" {
		return string(b)
	}
	s, _ := DecodeCharset(b, charset)
	return s
}

func decodePercent(s string) []byte {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && ishex(s[i+1]) && ishex(s[i+2]) {
			out = append(out, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return out
}

// splitParamName takes "name*0*" apart.
func splitParamName(name string) (base string, index int, extended, piece bool) {
	base, rest, ok := strings.Cut(name, "*")
	if !ok {
		return name, 0, false, false
	}
	if rest == "" {
		return base, 0, true, true
	}
	extended = strings.HasSuffix(rest, "*")
	for _, c := range strings.TrimSuffix(rest, "*") {
		if c < '0' || c > '9' || index > maxParams {
			return name, 0, false, false
		}
		index = index*10 + int(c-'0')
	}
	return base, index, extended, true
}

func cutToken(s string) (token, rest string) {
	i := strings.IndexByte(s, ';')
	if i < 0 {
		i = len(s)
	}
	token = s[:i]
	if j := strings.IndexByte(token, '('); j >= 0 { // a comment
		token = token[:j]
	}
	rest = strings.TrimPrefix(s[i:], ";")
	token = strings.ToLower(strings.Trim(strings.TrimSpace(token), `"`))
	if f := strings.Fields(token); len(f) > 1 {
		// "text/html charset=utf-8": a semicolon was forgotten
		if strings.Contains(f[1], "=") {
			rest = token[len(f[0]):] + ";" + rest
		}
		token = f[0]
	}
	return token, rest
}

func cutParam(s string) (name, value, rest string) {
	s = strings.TrimLeft(s, " \t;\r\n")
	i := strings.IndexAny(s, "=;")
	if i < 0 {
		return "", "", ""
	}
	if s[i] == ';' {
		return "", "", s[i+1:]
	}
	name = strings.ToLower(strings.TrimSpace(s[:i]))
	s = strings.TrimLeft(s[i+1:], " \t\r\n")
	if !strings.HasPrefix(s, `"`) {
		value, rest, _ = strings.Cut(s, ";")
		if j := strings.Index(value, " ("); j >= 0 {
			value = value[:j]
		}
		return name, strings.TrimSpace(value), rest
	}
	var b []byte
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\') {
				i++
			}
			b = append(b, s[i])
		case '"':
			_, rest, _ = strings.Cut(s[i:], ";")
			return name, string(b), rest
		default:
			b = append(b, s[i])
		}
	}
	return name, string(bytes.TrimSpace(b)), ""
}
