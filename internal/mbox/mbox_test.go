package mbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"
)

const sep = "From a@example.org Thu Mar 12 09:14:00 2026\n"

func read(t *testing.T, in string, d Dialect) (out []string) {
	t.Helper()
	r := NewReader(strings.NewReader(in), d, 1<<20)
	var places []int64
	for {
		m, err := r.Next()
		if err == io.EOF {
			later(t, in, d, places, out)
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(in[m.Offset:], m.Separator) {
			t.Errorf("offset %d of %q is wrong", m.Offset, m.Separator)
		}
		places, out = append(places, m.Offset), append(out, string(m.Raw))
	}
}

// later reads from each message on, and compares with what was read from the
// beginning.
func later(t *testing.T, in string, d Dialect, places []int64, want []string) {
	t.Helper()
	for i, at := range places {
		r, err := NewReaderAt(strings.NewReader(in), d, 1<<20, at)
		if err != nil {
			t.Fatalf("from %d: %v", at, err)
		}
		for j := i; ; j++ {
			m, err := r.Next()
			if err == io.EOF && j == len(want) {
				break
			}
			if err != nil || j >= len(want) || string(m.Raw) != want[j] || m.Offset != places[j] {
				t.Fatalf("from %d, message %d: %+v, %v", at, j, m, err)
			}
		}
	}
	if r, err := NewReaderAt(strings.NewReader(in+"x"), d, 1<<20, int64(len(in))); err == nil {
		t.Errorf("a message begins at the end: %+v", r)
	}
}

func TestReader(t *testing.T) {
	for _, c := range []struct {
		name, in string
		d        Dialect
		want     []string
	}{
		{"two", sep + "A: 1\n\none\n\n" + sep + "A: 2\n\ntwo\n\n", Auto, []string{"A: 1\n\none\n", "A: 2\n\ntwo\n"}},
		{"one keeps all that follows", sep + "A: 1\n\none\n\n", Auto, []string{"A: 1\n\none\n\n"}},
		{"CRLF", "From x Thu Mar 12 09:14:00 2026\r\nA: 1\r\n\r\none\r\n\r\nFrom x Thu Mar 12 09:14:00 2026\r\nA: 2\r\n\r\ntwo", Auto, []string{"A: 1\r\n\r\none\r\n", "A: 2\r\n\r\ntwo"}},
		{"mboxo is not undone", sep + "A: 1\n\n>From me\n\n" + sep + "b\n", O, []string{"A: 1\n\n>From me\n", "b\n"}},
		{"mboxrd is undone", sep + "A: 1\n\n>From me\n>>From you\n\n" + sep + "b\n", RD, []string{"A: 1\n\nFrom me\n>From you\n", "b\n"}},
		{"mboxcl2", sep + "Content-Length: 51\n\n" + sep + "inside\n\n" + sep + "A: 2\n\ntwo\n", Auto, []string{"Content-Length: 51\n\n" + sep + "inside\n", "A: 2\n\ntwo\n"}},
		{"a wrong length is not believed", sep + "Content-Length: 3\n\nlonger than that\n\n" + sep + "A: 2\n\ntwo\n\n", Auto, []string{"Content-Length: 3\n\nlonger than that\n", "A: 2\n\ntwo\n"}},
		{"a length beyond the end", sep + "Content-Length: 9999\n\none\n\n" + sep + "two\n\n", Auto, []string{"Content-Length: 9999\n\none\n", "two\n"}},
		{"text that begins with From", sep + "A: 1\n\nFrom here on, text\n\nFrom 10:30 to 11:00 we meet\n\n" + sep + "two\n", Auto, []string{"A: 1\n\nFrom here on, text\n\nFrom 10:30 to 11:00 we meet\n", "two\n"}},
		{"missing empty line", sep + "A: 1\n\none\n" + sep + "two\n", Auto, []string{"A: 1\n\none\n", "two\n"}},
		{"no body", sep + "A: 1\n" + sep + "A: 2\n", Auto, []string{"A: 1\n", "A: 2\n"}},
		{"zone before year", "From a Thu Mar 12 09:14:00 +0100 2026\nA\n\nFrom b Thu Mar 12 09:14:00 CET 2026\nB\n", Auto, []string{"A\n", "B\n"}},
		{"no dates", "From - \nTo: a\n\none\n\nFrom -\nnobody\n\nFrom -\nTo: b\n\nFrom x@example.org\nSubject: c\n\ntwo\n", Auto, []string{"To: a\n\none\n\nFrom -\nnobody\n", "To: b\n", "Subject: c\n\ntwo\n"}},
		{"some dates", "From 1@example.org\r\nTo: a\r\nContent-Length: 3\r\n\r\no\r\n\r\nFrom x Thu Mar 12 09:14:00 2026\r\nTo: b\r\n\r\n\r\nFrom -\r\nTo: c\r\n", Auto, []string{"To: a\r\nContent-Length: 3\r\n\r\no\r\n", "To: b\r\n\r\n", "To: c\r\n"}},
		{"no dates, and lengths", "From -\nTo: a\nContent-Length: 21\n\nFrom -\nTo: x\n\nquoted\n\nFrom -\nTo: b\n", Auto, []string{"To: a\nContent-Length: 21\n\nFrom -\nTo: x\n\nquoted\n", "To: b\n"}},
		{"dates of their own", "From () 2026-03-12 09:14:00 +0000\nTo: a\n\nat 9:14 we met\nFrom there at 10:15 we went\n\nFrom x Thu 12 Mar 2026 09:14:00 +0100\nTo: b\n", Auto, []string{"To: a\n\nat 9:14 we met\nFrom there at 10:15 we went\n", "To: b\n"}},
		{"no separator without a date among others", sep + "A: 1\n\nFrom -\nTo: me\n\n" + sep + "two\n", Auto, []string{"A: 1\n\nFrom -\nTo: me\n", "two\n"}},
		{"byte order mark", "\xef\xbb\xbf" + sep + "A: 1\n\none\n\n" + sep + "A: 2\n", Auto, []string{"A: 1\n\none\n", "A: 2\n"}},
		{"empty messages", sep + "\n" + sep + "\n", Auto, []string{"", ""}},
	} {
		if got := read(t, c.in, c.d); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", c.want) {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
}

func TestBegins(t *testing.T) {
	for in, want := range map[string]bool{
		sep + "A: 1\n":                                   true,
		"\xef\xbb\xbf" + sep + "A: 1\n":                  true,
		"From -\r\nTo: a@example.org\r\n":                true,
		"From a@example.org\nTo: b\n":                    true,
		"From a Thu 12 Mar 2026 09:14:00 +0100\nTo: b\n": true,
		"From  : a@example.org at 09:14\nTo: b\n":        false,
		"From 9:00 to 10:30\nwe met\n":                   false,
		"From -\nhere on, text\n":                        false,
		"From \nTo: b\n":                                 false,
		"From here on\nTo: b\n":                          false,
		"From: a@example.org\n":                          false,
		"":                                               false,
	} {
		if got := Begins([]byte(in)); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestDates(t *testing.T) {
	want := time.Date(2026, 3, 12, 9, 14, 0, 0, time.UTC)
	for _, in := range []string{"From a@example.org Thu Mar 12 09:14:00 2026", "From a Thu Mar 12 10:14:00 +0100 2026", "From a Thu 12 Mar 2026 09:14:00 +0000", "From () 2026-03-12 09:14:00 +0000"} {
		m, err := NewReader(strings.NewReader(in+"\nTo: b\n"), Auto, 1000).Next()
		if err != nil || !m.Date.Equal(want) {
			t.Errorf("%q: %v %v", in, m.Date, err)
		}
	}
	if m, err := NewReader(strings.NewReader("From -\nTo: b\n"), Auto, 1000).Next(); err != nil || !m.Date.IsZero() {
		t.Errorf("a separator without a date: %v %v", m.Date, err)
	}
}

func TestTooLargeGoesOn(t *testing.T) {
	in := sep + "A: 1\n\n" + strings.Repeat("x\n", 1000) + "\n" + sep + "A: 2\n\ntwo\n\n"
	r := NewReader(strings.NewReader(in), Auto, 500)
	if _, err := r.Next(); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	if m, err := r.Next(); err != nil || string(m.Raw) != "A: 2\n\ntwo\n" {
		t.Fatal(m, err)
	}
}

func TestWriterRoundTrip(t *testing.T) {
	msgs := []string{"A: 1\n\nFrom me\n>From you\n>>>From\n", "", "A: 2\r\n\r\nx\r\n", sep + "deep\n", "Content-Length: 5\n\nab\n", "A: 3\n\nends\n\n\n"}
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, m := range msgs {
		if err := w.Write([]byte(m), time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
	}
	w.Flush()
	if got := read(t, b.String(), Auto); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", msgs) {
		t.Errorf("got  %q\nwant %q", got, msgs)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(sep+"A: 1\n\n>>From x\n\n"+sep+"Content-Length: 3\n\nabc\n\n"), 0)
	f.Add([]byte("From x\n"), 2)
	f.Fuzz(func(t *testing.T, b []byte, d int) {
		r := NewReader(bytes.NewReader(b), Dialect(d&3), 1000)
		total := 0
		for {
			m, err := r.Next()
			if err != nil && !errors.Is(err, ErrTooLarge) {
				return
			}
			if total += len(m.Raw); total > len(b) {
				t.Fatal("more came out than went in")
			}
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("A: 1\n\nFrom x\n"), []byte(">From\n"))
	f.Fuzz(func(t *testing.T, x, y []byte) {
		if !Whole(x) || !Whole(y) {
			return
		}
		var b bytes.Buffer
		w := NewWriter(&b)
		w.Write(x, time.Time{})
		w.Write(y, time.Time{})
		w.Flush()
		r := NewReader(&b, Auto, 1<<20)
		for _, want := range [][]byte{x, y} {
			m, err := r.Next()
			if err != nil || !bytes.Equal(m.Raw, want) {
				t.Fatalf("%q comes back as %q: %v", want, m.Raw, err)
			}
		}
	})
}

func TestShowsRD(t *testing.T) {
	for in, want := range map[string]bool{
		sep + "A: 1\n\n>>From me\n":                         false,
		sep + "A: 1\n\n>>From me\n\n" + sep + "A: 2\n\nx\n": true,
		sep + "A: 1\n\n>From me\n\n" + sep + "A: 2\n\nx\n":  false,
	} {
		if got, err := ShowsRD(strings.NewReader(in)); got != want || err != nil {
			t.Errorf("%q: %v %v", in, got, err)
		}
	}
}

// One message alone comes back byte for byte too.
func TestWriterOfOne(t *testing.T) {
	for _, raw := range []string{"Subject: a\n\nb\n", "Subject: a\n\nb\n\n", "Subject: a\n\n"} {
		var b bytes.Buffer
		w := NewWriter(&b)
		if err := errors.Join(w.Write([]byte(raw), time.Unix(0, 0)), w.w.Flush()); err != nil {
			t.Fatal(err)
		}
		m, err := NewReader(&b, Auto, 1<<20).Next()
		if err != nil || string(m.Raw) != raw {
			t.Errorf("%q comes back as %q, %v", raw, m.Raw, err)
		}
	}
}

// Lengths that are wrong, in many messages, cost no memory and no message.
func TestWrongLengths(t *testing.T) {
	const n = 20_000
	one := sep + "From: a@example.org\nSubject: s\nContent-Length: 300\n\nbody\nmore\n\n"
	r := NewReader(strings.NewReader(strings.Repeat(one, n)), Auto, 1<<20)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	count := 0
	for {
		m, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil || !strings.HasSuffix(string(m.Raw), "more\n") {
			t.Fatalf("message %d: %q, %v", count, m.Raw, err)
		}
		count++
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); count != n || held > 8<<20 {
		t.Errorf("%d messages, %d bytes held", count, held)
	}
	runtime.KeepAlive(r)
}
