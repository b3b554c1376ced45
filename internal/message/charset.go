package message

import (
	"bytes"
	"encoding/base64"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/traditionalchinese"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/encoding/unicode/utf32"
)

// aliases are names that mailers write and no registry knows.
var aliases = map[string]encoding.Encoding{
	"cp932": japanese.ShiftJIS, "ms932": japanese.ShiftJIS, "windows-31j": japanese.ShiftJIS, "x-sjis": japanese.ShiftJIS,
	"cp949": korean.EUCKR, "ks_c_5601-1987": korean.EUCKR, "ms949": korean.EUCKR, "uhc": korean.EUCKR,
	"cp936": simplifiedchinese.GBK, "x-gbk": simplifiedchinese.GBK, "gb2312": simplifiedchinese.GBK, "hz-gb-2312": simplifiedchinese.HZGB2312,
	"iso-2022-jp-2": japanese.ISO2022JP, "iso-2022-jp-3": japanese.ISO2022JP, "cp50220": japanese.ISO2022JP, "x-mac-roman": charmap.Macintosh, "macroman": charmap.Macintosh,
	"iso-8859-8-i": charmap.ISO8859_8, "iso-8859-8-e": charmap.ISO8859_8, "iso8859-8-i": charmap.ISO8859_8,
	"utf-16": unicode.UTF16(unicode.BigEndian, unicode.UseBOM), "utf16": unicode.UTF16(unicode.BigEndian, unicode.UseBOM),
	"utf-32": utf32.UTF32(utf32.BigEndian, utf32.UseBOM), "utf-32be": utf32.UTF32(utf32.BigEndian, utf32.IgnoreBOM), "utf-32le": utf32.UTF32(utf32.LittleEndian, utf32.IgnoreBOM),
	"ansi": charmap.Windows1252, "latin-1": charmap.Windows1252, "latin": charmap.Windows1252, "iso-8859": charmap.Windows1252,
	"chinesebig5": traditionalchinese.Big5, "gb2312_charset": simplifiedchinese.GBK,
}

// DecodeCharset returns b as UTF-8 and whether the charset was known. A wrong
// name never loses text: 8-bit bytes that are no valid UTF-8 come out as
// Windows-1252, UTF-8 that claims to be Latin-1 as UTF-8, ISO-2022-JP that claims
// to be ASCII as Japanese, and invalid sequences among valid ones as U+FFFD.
func DecodeCharset(b []byte, name string) (string, bool) {
	name = strings.ToLower(strings.Trim(strings.TrimSpace(name), `"';`))
	name = strings.TrimPrefix(name, "charset=")
	switch name {
	case "", "us-ascii", "ascii", "utf-8", "utf8", "unknown-8bit", "x-unknown", "unknown", "7bit", "8bit", "binary", "default", "default_charset", "ansi_x3.4-1968":
		b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
		if bytes.Contains(b, []byte("\x1b$")) {
			if s := decode(japanese.ISO2022JP, b); !strings.ContainsRune(s, utf8.RuneError) {
				return s, true
			}
		}
		if utf8.Valid(b) {
			return string(b), true
		}
		if strings.HasPrefix(name, "utf") && hasUTF8(b) {
			return strings.ToValidUTF8(string(b), "\uFFFD"), true
		}
		if s, ok := japaneseText(b); ok {
			return s, name != ""
		}
		return decode(charmap.Windows1252, b), name != ""
	case "iso-8859-1", "latin1", "windows-1252":
		if utf8.Valid(b) {
			return string(b), true
		}
	case "utf-7", "utf7", "unicode-1-1-utf-7":
		return decodeUTF7(b), true
	}
	e := aliases[name]
	if e == nil {
		e, _ = htmlindex.Get(name)
	}
	if e == nil || e == encoding.Replacement {
		e, _ = ianaindex.MIME.Encoding(name)
	}
	if e == nil {
		e, _ = ianaindex.MIB.Encoding(name)
	}
	if e == nil {
		text, _ := DecodeCharset(b, "")
		return text, false
	}
	s := decode(e, b)
	if strings.ContainsRune(s, utf8.RuneError) {
		// Not in that charset after all; converted on the way, perhaps.
		if utf8.Valid(b) {
			return string(b), true
		}
		if s, ok := japaneseText(b); ok {
			return s, true
		}
	}
	return s, true
}

// judged is how much of a text is looked at to guess its charset, in bytes.
const judged = 64 << 10

// japaneseText tries the charsets of Japan on text that names no charset or a
// wrong one. A third of such a text is kana; in other texts read so, there are
// invalid sequences, or hardly any kana.
func japaneseText(b []byte) (string, bool) {
	head := b
	if len(head) > judged {
		head = head[:bytes.LastIndexByte(head[:judged], '\n')+1]
	}
	for _, e := range []encoding.Encoding{japanese.EUCJP, japanese.ShiftJIS} {
		if mostlyKana(decode(e, head)) {
			return decode(e, b), true
		}
	}
	return "", false
}

func mostlyKana(s string) bool {
	kana, wide := 0, 0
	for _, r := range s {
		switch {
		case r == utf8.RuneError:
			return false
		case r >= 0x3040 && r < 0x3100: // hiragana, katakana
			kana++
			wide++
		case r >= utf8.RuneSelf:
			wide++
		}
	}
	return kana > 3 && kana*3 > wide
}

// hasUTF8 tells whether a valid sequence of several bytes is in b.
func hasUTF8(b []byte) bool {
	for len(b) > 0 {
		if b[0] < utf8.RuneSelf {
			b = b[1:]
			continue
		}
		_, n := utf8.DecodeRune(b)
		if n > 1 {
			return true
		}
		b = b[1:]
	}
	return false
}

func decode(e encoding.Encoding, b []byte) string {
	out, err := e.NewDecoder().Bytes(b)
	if err != nil {
		return strings.ToValidUTF8(string(b), "\uFFFD")
	}
	return strings.ToValidUTF8(string(out), "\uFFFD")
}

// decodeUTF7 decodes RFC 2152.
func decodeUTF7(b []byte) string {
	var out strings.Builder
	for len(b) > 0 {
		i := bytes.IndexByte(b, '+')
		if i < 0 {
			i = len(b)
		}
		out.WriteString(strings.ToValidUTF8(string(b[:i]), "\uFFFD"))
		if b = b[i:]; len(b) == 0 {
			break
		}
		b = b[1:]
		j := 0
		for j < len(b) && base64Value(b[j]) >= 0 && b[j] != '-' && b[j] != '_' {
			j++
		}
		if j == 0 {
			out.WriteByte('+')
		}
		raw := make([]byte, base64.RawStdEncoding.DecodedLen(j)+1)
		n, _ := base64.RawStdEncoding.Decode(raw, b[:j])
		u := make([]uint16, n/2)
		for k := range u {
			u[k] = uint16(raw[2*k])<<8 | uint16(raw[2*k+1])
		}
		out.WriteString(string(utf16.Decode(u)))
		if b = b[j:]; len(b) > 0 && b[0] == '-' {
			b = b[1:]
		}
	}
	return out.String()
}

// Decode returns the decoded body of a leaf: the transfer encoding undone
// (RFC 2045, 6), as much of it as can be.
func (m *Message) Decode(p *Part) []byte { return DecodeTransfer(m.BodyOf(p), p.Encoding) }

// DecodeTransfer undoes a transfer encoding. Unknown ones are left as they are.
func DecodeTransfer(b []byte, enc string) []byte {
	switch enc {
	case "base64":
		return bodyBase64(b)
	case "quoted-printable", "quoted": // the latter is "quoted printable", cut at its space
		return decodeQP(b)
	case "x-uuencode", "uuencode", "x-uue", "uue":
		if _, data, _, ok := UUDecode(b); ok {
			return data
		}
	}
	return b
}

// bodyBase64 decodes RFC 2045, 6.8. Text after the end of base64, such as the
// footer of a mailing list, is left out, and so are lines of text inside; a body
// that begins with a line of text is no base64, whatever its header says, and
// stays as it is.
func bodyBase64(b []byte) []byte {
	if out, ok := strictBase64(b); ok {
		return out
	}
	coded := make([]byte, 0, len(b))
	ended := false // by padding or an empty line
	for pos := 0; pos < len(b); {
		line, next := lineAt(b, pos)
		line = bytes.TrimSpace(line)
		pos = next
		switch n := foreign(line); {
		case len(line) == 0:
			ended = len(coded) > 0
			continue
		case ended && n > 0:
			return looseBase64(coded)
		case n > 1 && (n*10 > len(line) || bytes.Count(line, []byte(" ")) > 1):
			if len(coded) == 0 {
				return b
			}
			ended = true
			continue
		}
		ended = line[len(line)-1] == '='
		for _, c := range line {
			if isBase64(c) {
				coded = append(coded, c)
			}
		}
	}
	return looseBase64(coded)
}

// foreign counts the bytes of a line that are outside the alphabet.
func foreign(line []byte) (n int) {
	for _, c := range line {
		if !isBase64(c) {
			n++
		}
	}
	return n
}

// isBase64 tells the alphabet of RFC 2045 and its padding.
func isBase64(c byte) bool { return c == '=' || c != '-' && c != '_' && base64Value(c) >= 0 }

// decodeQP decodes RFC 2045, 6.7; what is no encoding stays as it is.
func decodeQP(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		i := bytes.IndexByte(b, '=')
		if i < 0 {
			return append(out, b...)
		}
		out = append(out, b[:i]...)
		b = b[i:]
		if len(b) >= 3 && ishex(b[1]) && ishex(b[2]) {
			out = append(out, unhex(b[1])<<4|unhex(b[2]))
			b = b[3:]
			continue
		}
		j := 1 // a soft line break, with white space that was added on the way
		for j < len(b) && (b[j] == ' ' || b[j] == '\t' || b[j] == '\r') {
			j++
		}
		if j < len(b) && (b[j] == '\n' || b[j-1] == '\r') {
			if b[j] == '\n' {
				j++
			}
			b = b[j:]
			continue
		}
		if j == len(b) {
			return out
		}
		out = append(out, '=')
		b = b[1:]
	}
	return out
}

// UUDecode decodes the first uuencoded file in b (POSIX uuencode). It returns
// the file's name, its content, and the offsets of the whole in b.
func UUDecode(b []byte) (name string, data []byte, span [2]int, ok bool) {
	for pos := 0; pos < len(b); {
		i := bytes.Index(b[pos:], []byte("begin "))
		if i < 0 {
			return "", nil, span, false
		}
		at := pos + i
		pos = at + 6
		if at > 0 && b[at-1] != '\n' {
			continue
		}
		line, next := lineAt(b, at)
		f := strings.SplitN(string(line), " ", 3)
		if len(f) < 3 || len(f[1]) < 3 || len(f[1]) > 4 || strings.Trim(f[1], "01234567") != "" {
			continue
		}
		data, end, good := uuBody(b, next)
		if !good {
			continue
		}
		return CleanName(clean(f[2])), data, [2]int{at, end}, true
	}
	return "", nil, span, false
}

func uuBody(b []byte, pos int) (data []byte, end int, ok bool) {
	for pos < len(b) {
		line, next := lineAt(b, pos)
		if string(line) == "end" {
			return data, next, true
		}
		if len(line) == 0 || line[0] < ' ' || line[0] > '`' {
			return nil, 0, false
		}
		n := int(line[0]-' ') & 63
		for i := 1; n > 0; i += 4 {
			var v [4]byte
			for k := range v {
				if i+k < len(line) {
					v[k] = (line[i+k] - ' ') & 63
				}
			}
			three := [3]byte{v[0]<<2 | v[1]>>4, v[1]<<4 | v[2]>>2, v[2]<<6 | v[3]}
			data = append(data, three[:min(n, 3)]...)
			n -= min(n, 3)
		}
		pos = next
	}
	return nil, 0, false
}
