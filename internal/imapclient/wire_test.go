package imapclient

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestUTF7(t *testing.T) {
	for name, wire := range map[string]string{
		"INBOX": "INBOX", "Grüße": "Gr&APwA3w-e", "&": "&-", "A&B": "A&-B", "台北": "&U,BTFw-", "日本語": "&ZeVnLIqe-", "~peter/mail/台北/日本語": "~peter/mail/&U,BTFw-/&ZeVnLIqe-", "😀": "&2D3eAA-",
	} {
		if got := encodeUTF7(name); got != wire {
			t.Errorf("%s is written %s, want %s", name, got, wire)
		}
		if got := decodeUTF7(wire); got != name {
			t.Errorf("%s is read %s, want %s", wire, got, name)
		}
	}
	for _, bad := range []string{"&", "&U", "&!-", "&2D0-"} {
		if got := decodeUTF7(bad); got != bad {
			t.Errorf("%s is read %s", bad, got)
		}
	}
}

func TestResponses(t *testing.T) {
	for in, want := range map[string]string{
		"* 12 FETCH (UID 7 BODY[] {5}\r\nab\r\nc FLAGS (\\Seen $x))\r\n":                                   "7 \"ab\\r\\nc\" [\\Seen $x]",
		"* 1 FETCH (FLAGS () UID 9 RFC822.SIZE 44 INTERNALDATE \"17-Jul-1996 02:44:25 -0700\")\r\n":        "9 \"\" []",
		"* 1 FETCH (BODY[HEADER.FIELDS (DATE FROM)] NIL UID 3)\r\n":                                        "3 \"\" []",
		"* 3 FETCH (UID 4 BODY[] ~{3}\r\n\x00\x01\x02)\r\n":                                                "4 \"\\x00\\x01\\x02\" []",
		"* 3 FETCH (X-GM-LABELS (\"\\\\Inbox\" \"Gr&APwA3w-e\") X-GM-MSGID 1278455344230334865 UID 5)\r\n": "5 \"\" []",
	} {
		r := newReader(strings.NewReader(in))
		p, err := r.response()
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		m, ok, err := parseFetch(p)
		if err != nil || !ok {
			t.Errorf("%q: %v %v", in, ok, err)
			continue
		}
		if got := strings.TrimSpace(fmt.Sprintf("%d %q %v", m.UID, m.Body, m.Flags)); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// Memory is taken as bytes arrive, not as they are announced.
func TestLiteralGrows(t *testing.T) {
	r := newReader(io.MultiReader(strings.NewReader("* 1 FETCH (UID 1 BODY[] {900000000}\r\n"), bytes.NewReader(make([]byte, 100_000))))
	r.literal = 1 << 30
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := r.response()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 2<<20 {
		t.Errorf("%d bytes were set aside", n)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "100000 of 900000000") {
		t.Error(err)
	}
}

func TestSet(t *testing.T) {
	for want, in := range map[string][]uint32{"1": {1}, "1:3": {1, 2, 3}, "1:2,5,7:9": {1, 2, 5, 7, 8, 9}, "4294967294:4294967295": {1<<32 - 2, 1<<32 - 1}} {
		if got := Set(in); got != want {
			t.Errorf("%v: %s, want %s", in, got, want)
		}
	}
}

func TestPath(t *testing.T) {
	for in, want := range map[string]string{
		"inbox": "INBOX", "Inbox/Sub": "INBOX/Sub", "a/../b": "a/_../b", "..": "_..", "a//b": "a/_/b", "x\x00y\r\nz": "xyz", "😀/ä": "😀/ä", "bad\xff": "bad\uFFFD",
	} {
		f := Folder{Name: in, Delim: "/"}
		if got := f.Path(); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if f := (Folder{Name: "a/b.c", Delim: "."}); f.Path() != "a∕b/c" {
		t.Errorf("a slash within a name: %q", f.Path())
	}
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte("* 12 FETCH (UID 7 BODY[] {5}\r\nab\r\nc FLAGS (\\Seen))\r\n"))
	f.Add([]byte("* LIST (\\HasNoChildren) \"/\" \"a b\"\r\nL1 OK [UIDVALIDITY 3] done\r\n+ \r\n"))
	f.Add([]byte("* NAMESPACE ((\"\" \"/\")) NIL ((\"~\" \"/\"))\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newReader(bytes.NewReader(b))
		for range 100 {
			p, err := r.response()
			if err != nil {
				return
			}
			if m, ok, err := parseFetch(p); ok && err == nil && int64(len(m.Body)) > int64(len(b)) {
				t.Fatal("more than arrived")
			}
		}
	})
}

func FuzzUTF7(f *testing.F) {
	f.Add("Gr&APwA3w-e")
	f.Fuzz(func(t *testing.T, s string) {
		name := decodeUTF7(s)
		if utf8.ValidString(s) && name != s && decodeUTF7(encodeUTF7(name)) != name {
			t.Fatalf("%q becomes %q", s, name)
		}
	})
}

func TestParseSearch(t *testing.T) {
	for in, want := range map[string]string{
		"* SEARCH 2 3 17\r\n":                          "[2 3 17]",
		"* SEARCH 2 3 (MODSEQ 9)\r\n":                  "[2 3]",
		"* SEARCH\r\n":                                 "[]",
		"* ESEARCH (TAG \"L1\") UID ALL 2:4,9\r\n":     "[2 3 4 9]",
		"* ESEARCH (TAG \"L1\") UID\r\n":               "[]",
		"* 4 EXISTS\r\n":                               "[]",
		"* SEARCH 99999999999\r\n":                     "error",
		"* ESEARCH (TAG \"L1\") UID ALL 1:9999999\r\n": "error",
	} {
		p, err := newReader(strings.NewReader(in)).response()
		if err != nil {
			t.Fatal(err)
		}
		uids, err := parseSearch(p)
		got := fmt.Sprint(uids)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s %v, want %s", in, got, err, want)
		}
	}
}

// A path of the archive becomes a folder on any server, and the same path again
// when it is collected from there.
func TestAt(t *testing.T) {
	for _, tc := range []struct{ path, prefix, delim, name, back string }{
		{"a/b", "", "/", "a/b", "a/b"}, {"a/b", "", ".", "a.b", "a/b"}, {"a.b/c", "", ".", "a_b.c", "a_b/c"}, {"a/b", "INBOX.", ".", "INBOX.a.b", "INBOX/a/b"},
		{"INBOX/a", "INBOX.", ".", "INBOX.a", "INBOX/a"}, {"inbox", "INBOX.", ".", "INBOX", "INBOX"}, {"Grüße/日本", "", "/", "Grüße/日本", "Grüße/日本"},
		{"a∕b/c", "", ".", "a/b.c", "a∕b/c"}, {"a/b", "", "", "a_b", "a_b"}, {"", "", "/", "INBOX", "INBOX"}, {"//x//", "", "/", "x", "x"}, {"a*%\r\nb", "", "/", "a____b", "a____b"},
	} {
		f := At(tc.path, tc.prefix, tc.delim)
		if f.Name != tc.name || f.Path() != tc.back {
			t.Errorf("%q with %q %q: %q, and back %q", tc.path, tc.prefix, tc.delim, f.Name, f.Path())
		}
	}
}

func TestPermitted(t *testing.T) {
	some, ok := parsePermitted(`PERMANENTFLAGS (\Answered \Seen $Work)`)
	if !ok || !some.Keeps(`\seen`) || !some.Keeps("$work") || some.Keeps(`\Flagged`) || some.Keeps("$Other") {
		t.Errorf("%+v", some)
	}
	any, ok := parsePermitted(`permanentflags (\Seen \*)`)
	if !ok || !any.Keeps("$Other") || any.Keeps(`\Flagged`) {
		t.Errorf("%+v", any)
	}
	var none Permitted
	if !none.Keeps(`\Flagged`) || none.Keeps("$Other") {
		t.Error("a server that does not say")
	}
	if none, ok := parsePermitted("PERMANENTFLAGS ()"); !ok || none.Keeps(`\Seen`) {
		t.Error("a server that keeps none")
	}
}

func FuzzPermitted(f *testing.F) {
	f.Add(`PERMANENTFLAGS (\Answered \Seen \* $Work)`, `\Seen`)
	f.Fuzz(func(t *testing.T, code, flag string) {
		if p, ok := parsePermitted(code); ok && p.Keeps(flag) && flag != "" && !p.any && !strings.Contains(strings.ToLower(code), strings.ToLower(flag)) && utf8.ValidString(code+flag) && len(flag) == len(strings.ToLower(flag)) && isASCII(code+flag) {
			t.Fatalf("%q keeps %q", code, flag)
		}
	})
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// No path makes a name of more levels, or a command of more than one.
func FuzzAt(f *testing.F) {
	f.Add("a/b.c", "INBOX.", ".")
	f.Fuzz(func(t *testing.T, path, prefix, delim string) {
		if delim = delimiter(value{kind: text, s: []byte(delim)}); strings.ContainsAny(prefix, "\r\n\x00") {
			return
		}
		g := At(path, prefix, delim)
		if strings.ContainsAny(g.Name, "\r\n\x00") {
			t.Fatalf("%q becomes %q", path, g.Name)
		}
		if delim != "" && strings.Count(strings.TrimPrefix(g.Name, prefix), delim) > strings.Count(path, "/") {
			t.Fatalf("%q becomes %q", path, g.Name)
		}
	})
}
