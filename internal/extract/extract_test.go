package extract

import (
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/pack"
)

func of(raw string) *Document { return Of(message.Parse([]byte(raw))) }

func TestOf(t *testing.T) {
	d := of("From: =?utf-8?q?J=C3=B6rg?= <joerg@example.org>\nTo: a@example.org, b@example.org\nSubject: Gr=?utf-8?q?=C3=BC?=n\n" +
		"List-Id: The list <list.example.org>\nMessage-ID: <1@example.org>\nContent-Type: multipart/mixed; boundary=x\n\n" +
		"--x\nContent-Type: multipart/alternative; boundary=y\n\n--y\n\nplain words\n--y\nContent-Type: text/html\n\n<p>plain words<p>only in html &amp; more<script>no()</script>\n--y--\n" +
		"--x\nContent-Type: application/pdf; name=r.pdf\nContent-Transfer-Encoding: base64\n\nJVBERi0=\n" +
		"--x\nContent-Type: message/rfc822\n\nSubject: inner subject\n\ninner text\n--x--\n")
	want := Document{From: "Jörg <joerg@example.org>", To: "a@example.org, b@example.org", Subject: "Grün", List: "The list <list.example.org>", MessageID: "1@example.org",
		Names: "r.pdf", Body: "plain words\nonly in html & more\ninner subject\ninner text", Attachments: 1, Unread: true}
	if *d != want {
		t.Errorf("got  %+v\nwant %+v", *d, want)
	}
}

func TestBodies(t *testing.T) {
	for name, c := range map[string][2]string{
		"flowed":        {"Content-Type: text/plain; format=flowed\n\none \ntwo\n> q \n> r\n", "one two\n> q r\n"},
		"delsp":         {"Content-Type: text/plain; format=flowed; delsp=yes\n\nJap \nan\n", "Japan\n"},
		"signature":     {"Content-Type: text/plain; format=flowed\n\none \n-- \nme\n", "one \n-- \nme\n"},
		"stuffed":       {"Content-Type: text/plain; format=flowed\n\n >no quote \n From\n", ">no quote From\n"},
		"calendar":      {"Content-Type: text/calendar; method=REQUEST\n\nBEGIN:VEVENT\nSUMMARY:we meet\nEND:VEVENT\n", "BEGIN:VEVENT\nSUMMARY:we meet\nEND:VEVENT\n"},
		"html alone":    {"Content-Type: multipart/alternative; boundary=x\n\n--x\nContent-Type: text/html\n\n<p>one<p>two\n--x--\n", "one\ntwo"},
		"wrong base64":  {"Content-Transfer-Encoding: base64\n\nplain words, in spite of that\n", "plain words, in spite of that\n"},
		"latin1":        {"Content-Type: text/plain; charset=iso-8859-1\n\ncaf\xe9", "café"},
		"lying":         {"Content-Type: text/plain; charset=us-ascii\n\ncaf\xc3\xa9", "café"},
		"unknown":       {"Content-Type: text/plain; charset=x-none\n\ncaf\xe9", "café"},
		"meta charset":  {"Content-Type: text/html\n\n<meta charset=\"iso-8859-2\"><b>\xe8</b>", "č"},
		"uuencode":      {"\n\nbefore\nbegin 644 a.bin\n#86)C\n`\nend\nafter", "before\nafter"},
		"control":       {"\n\na\x00b\x01c\r\nd", "abc\nd"},
		"base64 rfc822": {"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nU3ViamVjdDogaW5uZXIKCnRleHQ=\n", "inner\ntext"},
		"html blocks":   {"Content-Type: text/html\n\n<html><head><title>t</title><style>x{}</style></head><body>a<br>b <i>c</i>d<table><tr><td>e</td><td>f</td></tr></table>", "a\nb cd\ne\nf"},
	} {
		if got := of(c[0]).Body; strings.TrimLeft(got, "\n") != c[1] {
			t.Errorf("%s: got %q, want %q", name, got, c[1])
		}
	}
}

func TestDate(t *testing.T) {
	arrived := time.Date(2026, 3, 12, 0, 0, 0, 0, time.UTC)
	source := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		head   string
		source time.Time
		want   string
		rule   pack.DateRule
	}{
		{"Date: Mon, 2 Mar 2026 10:00:00 +0100", source, "2026-03-02T09:00:00Z", pack.DateHeader},
		{"Date: Thu, 1 Jan 1970 00:00:00 +0000\nReceived: x; Tue, 3 Mar 2026 10:00:00 +0000", source, "2026-03-03T10:00:00Z", pack.DateReceived},
		{"Date: 1 Jan 2099 00:00:00 +0000", source, "2020-01-01T00:00:00Z", pack.DateSource},
		{"Subject: no date", source, "2020-01-01T00:00:00Z", pack.DateSource},
		{"Date: Tue, 3 Mar 2026 10:00:00 cet\nDate: junk", source, "2026-03-03T09:00:00Z", pack.DateHeader},
		{"Date: junk", time.Time{}, "2026-03-12T00:00:00Z", pack.DateArrival},
		{"Date: Fri, 13 Mar 2026 23:00:00 +0000", source, "2026-03-13T23:00:00Z", pack.DateHeader},
	} {
		got, rule := Date(message.Parse([]byte(c.head+"\n\n")).Root.Header, c.source, arrived)
		if got.Format(time.RFC3339) != c.want || rule != c.rule {
			t.Errorf("%q: %v by %v", c.head, got, rule)
		}
	}
}

func FuzzOf(f *testing.F) {
	f.Add([]byte("Content-Type: text/html\n\n<p>a<b>c"))
	f.Add([]byte("Content-Type: text/plain; charset=utf-7; format=flowed\n\n+AGE- \nb"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d := Of(message.Parse(raw))
		if !d.Valid() || strings.ContainsRune(d.Body, 0) {
			t.Fatalf("not clean: %+v", d)
		}
	})
}

func BenchmarkOf(b *testing.B) {
	raw := []byte("From: a@example.org\nTo: b@example.org\nSubject: s\n\n" + strings.Repeat("words of a letter, and more of them\n", 280))
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		Of(message.Parse(raw))
	}
}
