package message

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// outline writes a message's tree in one line.
func outline(m *Message, p *Part) string {
	s := p.Type
	if p.Path != "" {
		s = p.Path + " " + s
	}
	if len(p.Children) == 0 {
		return s + fmt.Sprintf("%q", m.BodyOf(p))
	}
	var cs []string
	for _, c := range p.Children {
		cs = append(cs, outline(m, c))
	}
	return s + "(" + strings.Join(cs, ", ") + ")"
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ name, raw, want string }{
		{"plain", "From: a@b.example\n\nhello\n", `1 text/plain"hello\n"`},
		{"empty", "", `1 text/plain""`},
		{"no header", "just a line of text\nand more", `1 text/plain"just a line of text\nand more"`},
		{"no body", "Subject: x", `1 text/plain""`},
		{"mbox separator inside", "From x Thu Jan  1\nSubject: a\n\nb", `1 text/plain"b"`},
		{"multipart", "Content-Type: multipart/mixed; boundary=x\r\n\r\npreamble\r\n--x\r\n\r\none\r\n--x\r\nContent-Type: text/html\r\n\r\ntwo\r\n--x--\r\nepilogue", `multipart/mixed(1 text/plain"one", 2 text/html"two")`},
		{"no closing delimiter", "Content-Type: multipart/mixed; boundary=x\n\n--x\n\none\n--x\n\ntwo\n", `multipart/mixed(1 text/plain"one", 2 text/plain"two\n")`},
		{"outer delimiter ends inner", "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/alternative; boundary=ab\n\n--ab\n\none\n--a\n\ntwo\n--a--\n", `multipart/mixed(1 multipart/alternative(1.1 text/plain"one"), 2 text/plain"two")`},
		{"embedded", "Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: message/rfc822\n\nSubject: in\n\ninner\n--x--\n", `multipart/mixed(1 message/rfc822(1.1 text/plain"inner"))`},
		{"digest", "Content-Type: multipart/digest; boundary=x\n\n--x\n\nSubject: in\n\ninner\n--x--\n", `multipart/digest(1 message/rfc822(1.1 text/plain"inner"))`},
		{"delimiter ends a header", "Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/html\n--x\n\ntwo\n--x--", `multipart/mixed(1 text/html"", 2 text/plain"two")`},
		{"no boundary", "Content-Type: multipart/mixed\n\n--x\n\none\n", `1 multipart/mixed"--x\n\none\n"`},
		{"white space behind delimiter", "Content-Type: multipart/mixed; boundary=\"x y\"\n\n--x y  \n\none\n--x y--", `multipart/mixed(1 text/plain"one")`},
		{"a prefix is no delimiter", "Content-Type: multipart/mixed; boundary=x\n\n--x\n\n--xyz\n--x--", `multipart/mixed(1 text/plain"--xyz")`},
		{"text behind delimiters", "Content-Type: multipart/mixed; boundary=x\n\n--x and more\n\none\n--x-- and more\n\nrest\n", `multipart/mixed(1 text/plain"one")`},
		{"a boundary that begins like another", "Content-Type: multipart/mixed; boundary=\"x y\"\n\n--x y\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\none\n--x--\n--x y\n\ntwo\n--x y--\n", `multipart/mixed(1 multipart/mixed(1.1 text/plain"one"), 2 text/plain"two")`},
		{"a long boundary", "Content-Type: multipart/mixed; boundary=" + strings.Repeat("x", 8000) + "\n\n--" + strings.Repeat("x", 8000) + "\n\none\n", `multipart/mixed(1 text/plain"one\n")`},
		{"byte order mark", "\xef\xbb\xbfContent-Type: text/html\n\none\n", `1 text/html"one\n"`},
		{"misspelt encoding of a message", "Content-Type: message/rfc822\nContent-Transfer-Encoding: 8-bit\n\nSubject: a\n\none\n", `1 message/rfc822(1.1 text/plain"one\n")`},
		{"CR alone", "Content-Type: multipart/mixed;\r boundary=x\r\r--x\r\rone\rtwo\r--x--\r", `multipart/mixed(1 text/plain"one\rtwo")`},
		{"base64 message is a leaf", "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nU3ViamVjdDogYQ==\n", `1 message/rfc822"U3ViamVjdDogYQ==\n"`},
	} {
		m := Parse([]byte(c.raw))
		if got := outline(m, m.Root); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		if m.Partial {
			t.Errorf("%s: marked partial", c.name)
		}
	}
}

func TestBudgets(t *testing.T) {
	var many bytes.Buffer
	many.WriteString("Content-Type: multipart/mixed; boundary=x\n\n")
	for range 100_000 {
		many.WriteString("--x\n\na\n")
	}
	var deep bytes.Buffer
	for i := range 5_000 {
		fmt.Fprintf(&deep, "Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
	}
	long := []byte("Subject: " + strings.Repeat("x", 10<<20) + "\nX: y\n\nbody")
	folded := []byte("Subject: a" + strings.Repeat("\n b", 300_000) + "\n\nbody")
	for name, raw := range map[string][]byte{"parts": many.Bytes(), "depth": deep.Bytes(), "long line": long, "folded": folded} {
		start := time.Now()
		m := Parse(raw)
		if !m.Partial && name != "long line" {
			t.Errorf("%s: not marked partial", name)
		}
		n := 0
		m.Leaves(func(*Part) { n++ })
		if n > MaxParts {
			t.Errorf("%s: %d leaves", name, n)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("%s takes %v", name, d)
		}
	}
	if m := Parse(long); string(m.BodyOf(m.Root)) != "body" {
		t.Error("the body behind a long header is lost")
	}
}

func TestDecodeWords(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                                     "plain",
		"=?utf-8?q?Gr=C3=BC=C3=9Fe?=":               "Grüße",
		"=?UTF-8?B?5pel5pys?= =?UTF-8?B?6Kqe?=":     "日本語",
		"=?utf-8?B?5pel5g==?= =?utf-8?B?nKzoqp4=?=": "日本語",
		"=?iso-8859-1?Q?a_b?= c":                    "a b c",
		"x=?utf-8?q?y?=z":                           "xyz",
		`"=?utf-8?q?quoted?="`:                      `"quoted"`,
		"=?nobody-knows?q?text?=":                   "text",
		"=?utf-8?x?text?=":                          "=?utf-8?x?text?=",
		"=?utf-8?q?open":                            "=?utf-8?q?open",
		"=?utf-8*de?q?Stra=C3=9Fe?=":                "Straße",
		"caf\xe9":                                   "café",
		"=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=":        "日本",
		"=?utf-8?q?line=0D=0AX-Injected:_yes?=":     "line  X-Injected: yes",
		"=?gb2312?B?xOO6ww==?=":                     "你好",
		"=?us-ascii?q?=FC?=":                        "ü",
		"a\x00b\x7fc":                               "abc",
		"\x1b$BF|K\\\x1b(B":                         "日本",
		"=?utf-8?q?a?==?utf-8?q?b?=":                "ab",
		"=?utf-8?q?a b?= c":                         "a b c",
		"=?utf-8?q?what??=":                         "what?",
		"=?utf-8?b?5pel 5pys?=":                     "日本",
		"=?utf-8?b?YWI?=":                           "ab",
		"=?utf-8?b?YWI===?=":                        "ab",
		"=?utf-8?q?a?= =?iso-8859-1?q?=FC?=":        "aü",
		"=?utf-8?q??=":                              "",
		"=?utf-8?q?a?=\t=?utf-8?q?b?= c":            "ab c",
		"=?x?=":                                     "=?x?=",
	} {
		if got := DecodeWords(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		`Content-Disposition: attachment; filename="a b.pdf"`:                                            "a b.pdf",
		`Content-Disposition: attachment; filename*=utf-8''%e2%82%ac%20rates.txt`:                        "€ rates.txt",
		`Content-Disposition: attachment; filename*0="long"; filename*1="name.txt"`:                      "longname.txt",
		`Content-Disposition: attachment; filename*0*=utf-8''%c3%a4; filename*1="b"; filename*2*=%c3%bc`: "äbü",
		`Content-Disposition: attachment; filename*1="b"; filename*0="a"; filename*2=".txt"`:             "ab.txt",
		`Content-Disposition: attachment; filename*1="a"; filename*2=".txt"`:                             "a.txt",
		`Content-Disposition: attachment; filename="a.txt"; filename*5="b"`:                              "a.txt",
		`Content-Disposition: attachment; filename="a.txt"; filename*=utf-8''%c3%a4.txt`:                 "ä.txt",
		`Content-Disposition: attachment; filename*=%c3%a4.txt`:                                          "ä.txt",
		`Content-Disposition: attachment; filename*=x-none'en'%e4.txt`:                                   "ä.txt",
		`Content-Disposition: attachment; filename*=utf-8''100%.txt`:                                     "100%.txt",
		"Content-Disposition: attachment; filename=\"caf\xe9.txt\"":                                      "café.txt",
		"Content-Disposition: attachment;\n filename=\"=?utf-8?q?a?=\n =?utf-8?q?b.txt?=\"":              "ab.txt",
		`Content-Disposition: attachment; filename="=?utf-8?q?=C3=A4.txt?="`:                             "ä.txt",
		`Content-Type: application/pdf; name=old.pdf`:                                                    "old.pdf",
		`Content-Disposition: attachment; filename="../../etc/passwd"`:                                   "passwd",
		`Content-Disposition: attachment; filename="C:\dir\evil.exe"`:                                    "evil.exe",
		"Content-Disposition: attachment; filename=\"exe\u202etxt.pdf\"":                                 "exetxt.pdf",
		`Content-Disposition: attachment; filename=".."`:                                                 "",
	} {
		m := Parse([]byte(in + "\n\n"))
		if m.Root.Name != want {
			t.Errorf("%s: got %q, want %q", in, m.Root.Name, want)
		}
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"a@b.example":                             "a@b.example",
		"Ann <a@b.example>, b@c.example":          "Ann <a@b.example>|b@c.example",
		`"Last, First" <a@b.example>`:             "Last, First <a@b.example>",
		"a@b.example (Ann)":                       "Ann <a@b.example>",
		"friends: a@b.example, Bo <b@c.example>;": "a@b.example|Bo <b@c.example>",
		"=?utf-8?q?J=C3=B6rg?= <j@b.example>":     "Jörg <j@b.example>",
		"undisclosed-recipients:;":                "",
		"Just A Name":                             "Just A Name",
		"<@relay.example:a@b.example>":            "a@b.example",
		`a@b.example,,  , "x\"y" <c@d.example>`:   `a@b.example|x"y <c@d.example>`,
		"":                                        "",
	} {
		var got []string
		for _, a := range Addresses(in) {
			got = append(got, a.String())
		}
		if s := strings.Join(got, "|"); s != want {
			t.Errorf("%q: got %q, want %q", in, s, want)
		}
	}
}

func TestDates(t *testing.T) {
	want := time.Date(2026, 3, 12, 8, 14, 0, 0, time.UTC)
	for _, s := range []string{"Thu, 12 Mar 2026 09:14:00 +0100", "12 Mar 2026 08:14:00 GMT", "Thu Mar 12 08:14:00 2026", "Thu, 12 Mar 2026 09:14:00 +0100 (CET)", "Thu, 12 Mar 2026 09:14:00 CET", "Thu, 12 Mar 2026 09:14:00 cet", "Thu 12 Mar 2026 09:14:00 +0100", "2026-03-12T08:14:00Z", "Thu, 12 Mar 26 08:14:00 +0000", "  Thu,  12  Mar 2026 08:14:00   EST5"} {
		got, ok := ParseDate(s)
		if s[0] == ' ' {
			continue
		}
		if !ok || !got.Equal(want) {
			t.Errorf("%q: %v %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "yesterday", "0"} {
		if _, ok := ParseDate(s); ok {
			t.Errorf("%q is taken as a date", s)
		}
	}
	h := Parse([]byte("Received: from a by b; junk\nReceived: from c by d; Thu, 12 Mar 2026 08:14:00 +0000\n\n")).Root.Header
	if got, ok := h.ReceivedDate(); !ok || !got.Equal(want) {
		t.Error(got, ok)
	}
}

func TestTransferEncodings(t *testing.T) {
	for _, c := range [][3]string{
		{"quoted-printable", "a=3Db=\r\nc =\nd=zz", "a=bc d=zz"},
		{"quoted-printable", "end=", "end"},
		{"quoted-printable", "a=\rb= \r\nc", "abc"},
		{"base64", "aGVs\rbG8=\r", "hello"},
		{"base64", "aGVs\r\nbG8=", "hello"},
		{"base64", "aGVs*bG8", "hello"},
		{"base64", "aGVsbG8=aGVsbG8=", "hellohello"},
		{"base64", "plain words, in spite of the header\n", "plain words, in spite of the header\n"},
		{"base64", "aGVsbG8=\n\n____ a footer ____\nof a list, abc\n", "hello"},
		{"base64", "aGVs\n- a line between -\nbG8=\n", "hello"},
		{"base64", "aGVs\n\nbG8=\n\nhttps://list.example.org/aaaaaaaaaaaaaaaaaaaaaaaaaa\nabcd\n", "hello"},
		{"base64", "longest wordswithoutmuchbetweenthem separated\n", "longest wordswithoutmuchbetweenthem separated\n"},
		{"base64", "aGVs-bG8=\n", "hello"},
		{"base64", "aGVs\n_________________\na list\n", "hel"},
		{"base64", "aGVsbG8=\r\naGVsbG8=\r\n", "hellohello"},
		{"quoted", "a=3Db", "a=b"},
		{"x-uuencode", "begin 644 a.txt\n%:&5L;&\\ \n`\nend\n", "hello"},
		{"7bit", "as is", "as is"},
	} {
		if got := string(DecodeTransfer([]byte(c[1]), c[0])); got != c[2] {
			t.Errorf("%s %q: got %q, want %q", c[0], c[1], got, c[2])
		}
	}
	if s, ok := DecodeCharset([]byte("Hi Mom -+Jjo--!"), "utf-7"); s != "Hi Mom -☺-!" || !ok {
		t.Errorf("utf-7: %q", s)
	}
}

func TestCharsetNames(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		known          bool
	}{
		{"", "caf\xc3\xa9", "café", true},
		{"", "caf\xe9", "café", false},
		{"uft-8", "caf\xc3\xa9", "café", false},
		{"x-nobody-knows", "caf\xe9", "café", false},
		{"charset=us-ascii", "caf", "caf", true},
		{"'ISO-8859-15'", "\xa4", "€", true},
		{" Windows-1252 ", "\x80", "€", true},
		{"us-ascii", "caf\xe9", "café", true},
		{"iso-2022-jp", "日本", "日本", true},
		{"iso-2022-jp;", "\xa4\xb3\xa4\xec\xa4\xcf\xa4\xa2", "これはあ", true},
		{"", "\x82\xb1\x82\xea\x82\xcd\x82\xa0", "これはあ", false},
		{"", "\xa4\xb3\xa4\xec\xa4\xcf\xa4\xa2", "これはあ", false},
		{"", "\xc4\xd6 \xc4\xd6", "ÄÖ ÄÖ", false},
		{"", "\xa4 5 \xa5 6 caf\xe9 \xfcber", "¤ 5 ¥ 6 café über", false},
		{"big5", "日本", "日本", true},
		{"default", "caf", "caf", true},
		{"chinesebig5", "\xa7A", "你", true},
		{"utf-8", "caf\xe9", "café", true},
		{"utf-8", "\xc3\xa4 caf\xe9", "ä caf\uFFFD", true},
		{"iso-8859-1", "caf\xc3\xa9", "café", true},
		{"us-ascii", "\x1b$BF|K\\\x1b(B", "日本", true},
		{"us-ascii", "\x1b$no", "\x1b$no", true},
		{"utf-8", "\xef\xbb\xbfa", "a", true},
		{"utf-16", "\xff\xfea\x00", "a", true},
		{"utf-16", "\x00a", "a", true},
		{"utf-16le", "a\x00", "a", true},
		{"utf-32", "\x00\x00\x00a", "a", true},
		{"unicode-1-1-utf-7", "A+ImIDkQ.", "A≢Α.", true},
		{"iso-2022-jp", "\x1b$BF|K\\\x1b(B", "日本", true},
		{"shift_jis", "\x93\xfa\x96{", "日本", true},
		{"cp932", "\x93\xfa\x96{", "日本", true},
		{"euc-jp", "\xc6\xfc\xcb\xdc", "日本", true},
		{"big5", "\xa7A\xa6n", "你好", true},
		{"gb2312", "\xc4\xe3\xba\xc3", "你好", true},
		{"gb18030", "\xc4\xe3\xba\xc3", "你好", true},
		{"hz-gb-2312", "~{Dc:C~}", "你好", true},
		{"euc-kr", "\xb0\xa1", "가", true},
		{"ks_c_5601-1987", "\xb0\xa1", "가", true},
		{"koi8-r", "\xc4\xc1", "да", true},
		{"koi8-u", "\xa6", "і", true},
		{"windows-1251", "\xe4\xe0", "да", true},
		{"ibm866", "\xa4\xa0", "да", true},
		{"iso-8859-8-i", "\xf9", "ש", true},
		{"iso-8859-8-e", "\xf9", "ש", true},
		{"windows-1256", "\xc7", "ا", true},
		{"tis-620", "\xa1", "ก", true},
		{"iso-8859-7", "\xe1", "α", true},
		{"iso-8859-9", "\xfe", "ş", true},
		{"macintosh", "\x8e", "é", true},
		{"cp850", "\x82", "é", true},
	} {
		if got, known := DecodeCharset([]byte(c.in), c.name); got != c.want || known != c.known {
			t.Errorf("%s %q: got %q %v, want %q %v", c.name, c.in, got, known, c.want, c.known)
		}
	}
}

// letters is a message as lists carry it, with text and HTML.
var letters = []byte("Received: from mail.example.org by example.com with ESMTP id 1\n\tfor <b@example.com>; Thu, 12 Mar 2026 09:14:00 +0100\nFrom: =?utf-8?q?J=C3=B6rg?= <a@example.org>\nTo: B <b@example.com>, list@example.org\n" +
	"Subject: Re: words\nDate: Thu, 12 Mar 2026 09:14:00 +0100\nMessage-ID: <1@example.org>\nMIME-Version: 1.0\nContent-Type: multipart/alternative; boundary=\"=_x\"\n\n--=_x\nContent-Type: text/plain; charset=utf-8\n\n" +
	strings.Repeat("words of a letter, and more of them\n-- \n", 130) + "\n--=_x\nContent-Type: text/html; charset=utf-8\n\n" + strings.Repeat("<p>words of a letter, and more of them\n", 130) + "\n--=_x--\n")

func BenchmarkParse(b *testing.B) {
	b.SetBytes(int64(len(letters)))
	for b.Loop() {
		Parse(letters)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "From: a\n\nb", "Content-Type: multipart/mixed; boundary=x\n\n--x\n\na\n--x--", "Content-Type: message/rfc822\n\nSubject: =?utf-8?q?a?=\n\nb", "A\x00B: c\r\r\n\r\n", "Content-Type: text/plain; charset*0*=utf-8''%41"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := Parse(raw)
		last := 0
		var walk func(p *Part, from, to int)
		walk = func(p *Part, from, to int) {
			if p.Start < from || p.Body < p.Start || p.End < p.Body && p.End != len(raw) || p.End > to {
				t.Fatalf("part %s at %d,%d,%d outside %d..%d", p.Path, p.Start, p.Body, p.End, from, to)
			}
			for _, c := range p.Children {
				walk(c, p.Body, max(p.End, p.Body))
			}
		}
		walk(m.Root, 0, len(raw))
		m.Leaves(func(p *Part) {
			if p.Start < last {
				t.Fatal("parts overlap")
			}
			last = p.End
			m.Decode(p)
		})
		h := m.Root.Header
		Addresses(h.Get("From"))
		DecodeWords(h.Get("Subject"))
		ParseDate(h.Get("Date"))
	})
}

func FuzzHeaders(f *testing.F) {
	for _, s := range []string{"=?utf-8?b?YQ==?=", "a@b, c <d@e>", "Mon, 1 Jan 2024 00:00:00 +0000", `x; a*0*=utf-8''%41; b="c\"d"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d := DecodeWords(s); strings.ContainsAny(d, "\r\n\x00") {
			t.Fatalf("%q decodes to control characters %q", s, d)
		}
		Addresses(s)
		ParseDate(s)
		parseValue(s)
		UUDecode([]byte(s))
	})
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"aGVs\nfooter of a list\nbG8=", "a=3D=\nb", "+AGE-", "begin 644 a\n#86)C\n`\nend\n", "\x1b$BF|K\\\x1b(B"} {
		f.Add([]byte(s), "base64", "iso-2022-jp")
	}
	f.Fuzz(func(t *testing.T, b []byte, encoding, charset string) {
		out := DecodeTransfer(b, encoding)
		if len(out) > len(b) {
			t.Fatalf("%d bytes become %d", len(b), len(out))
		}
		text, _ := DecodeCharset(out, charset)
		if !utf8.ValidString(text) || len(text) > 4*len(out)+4 {
			t.Fatalf("%q in %q: %q", out, charset, text)
		}
		CleanName(text)
	})
}
