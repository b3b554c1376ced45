package search

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/index"
	"github.com/letterhold/letterhold/internal/seal"
)

var ctx = context.Background()

var now = time.Date(2026, 3, 12, 9, 0, 0, 0, time.UTC)

type fixture struct {
	a    *archive.Archive
	x    *index.Index
	s    *Searcher
	me   int64
	you  int64
	name map[seal.ID]string
}

func newArchive(t testing.TB, d durable.FS) *archive.Archive {
	t.Helper()
	o := archive.Options{Now: func() time.Time { return now }}
	ring, err := archive.Create(d, o, func(k *seal.KeyFile, r *seal.Ring) error {
		s, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
		if err != nil {
			return err
		}
		_, err = k.AddSlot(r, s, "", seal.WeakCost, now)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.Open(d, ring, o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{a: newArchive(t, crashfs.New()), name: map[seal.ID]string{}}
	var err error
	if f.x, err = index.Open(f.a); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(f.x.Close(), f.a.Close()); err != nil {
			t.Error(err)
		}
	})
	f.s = New(f.a, f.x)
	if f.me, err = f.a.Mailbox(ctx, "me", "test"); err != nil {
		t.Fatal(err)
	}
	if f.you, err = f.a.Mailbox(ctx, "you", "test"); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) add(t testing.TB, name string, mailbox int64, folder, raw string) {
	t.Helper()
	r, err := f.a.Add(ctx, []byte(raw), archive.Provenance{Mailbox: mailbox, Folder: folder, Source: "test"})
	if err != nil {
		t.Fatal(err)
	}
	f.name[r.ID] = name
}

func (f *fixture) wait(t testing.TB) {
	t.Helper()
	c, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := f.x.Wait(c); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) find(t testing.TB, req Request) (string, *Result) {
	t.Helper()
	req.Count = true
	r, err := f.s.Search(ctx, req)
	if err != nil {
		t.Fatalf("%s: %v", req.Query, err)
	}
	var names []string
	for _, h := range r.Hits {
		names = append(names, f.name[h.ID])
	}
	return strings.Join(names, " "), r
}

func mail(day int, subject, body string, more ...string) string {
	return fmt.Sprintf("From: Ann Smith <ann@example.org>\nTo: bob@example.net\nSubject: %s\nDate: %s\n%s\n%s\n",
		subject, time.Date(2026, 3, day, 8, 0, 0, 0, time.UTC).Format(time.RFC1123Z), strings.Join(append(more, ""), "\n"), body)
}

func (f *fixture) fill(t testing.TB) {
	f.add(t, "a", f.me, "INBOX", mail(1, "Invoice for March", "Please pay the invoice in time. Müller and Straße, café.", "Message-ID: <A@example.org>", "List-Id: Buyers <buyers.example.org>"))
	f.add(t, "b", f.me, "Orders/2026", mail(2, "Re: order", "The Mueller order is late; the payment came.", "Cc: carl@example.com"))
	f.add(t, "c", f.you, "INBOX", mail(3, "Secret invoice", "only for you: payable", "Bcc: dora@example.com"))
	f.add(t, "d", f.me, "INBOX", mail(4, "=?utf-8?B?5p2x5Lqs44G444Gu5peF?=", "東京都へ行きます。한국어 문장", "Content-Type: text/plain; charset=utf-8"))
	f.add(t, "e", f.me, "INBOX", mail(5, "With a file", "", "Content-Type: multipart/mixed; boundary=x")+
		"--x\n\nsee attached\n--x\nContent-Type: application/pdf; name=\"yearly report.pdf\"\nContent-Transfer-Encoding: base64\n\n"+strings.Repeat("QUJD\n", 5000)+"--x--\n")
	f.add(t, "f", f.me, "INBOX", strings.Replace(mail(6, "Old letter", "from the last century: invoice"), "2026", "1999", 1))
	f.add(t, "c", f.me, "INBOX", mail(3, "Secret invoice", "only for you: payable", "Bcc: dora@example.com"))
	f.wait(t)
}

func TestQueries(t *testing.T) {
	f := newFixture(t)
	f.fill(t)
	all := catalog.Scope{All: true}
	for q, want := range map[string]string{
		"":                                   "e d c b a f",
		"invoice":                            "c a f",
		"INVOICE":                            "c a f",
		"invoice march":                      "a",
		"invoice -march":                     "c f",
		"invoice NOT march":                  "c f",
		"-invoice":                           "e d b",
		"order OR century":                   "b f",
		"(order OR century) -late":           "f",
		`"pay the invoice"`:                  "a",
		`"the pay invoice"`:                  "",
		"pay*":                               "c b a",
		"p?y":                                "a",
		"*ayment":                            "b",
		"pa*ble":                             "c",
		"müller":                             "b a",
		"mueller":                            "b a",
		"muller":                             "a",
		"MÜLLER":                             "b a",
		"strasse":                            "a",
		"straße":                             "a",
		"cafe":                               "a",
		"café":                               "a",
		"東京":                                 "d",
		"京都":                                 "d",
		"都":                                  "d",
		"東都":                                 "",
		"국어":                                 "d",
		"subject:東京":                         "d",
		"from:ann":                           "e d c b a f",
		"from:ann@example.org invoice":       "c a f",
		"from:bob":                           "",
		"to:bob@example.net order":           "b",
		"cc:carl":                            "b",
		"bcc:dora":                           "c",
		"subject:invoice":                    "c a",
		"subject:(invoice march)":            "a",
		`subject:"for march"`:                "a",
		"in:inbox":                           "e d c a f",
		"in:orders":                          "b",
		"in:2026":                            "b",
		"folder:Orders/2026":                 "b",
		"in:nowhere":                         "",
		"mailbox:you":                        "c",
		"mailbox:ME invoice":                 "c a f",
		"has:attachment":                     "e",
		"-has:attachment order":              "b",
		`filename:report`:                    "e",
		`filename:"yearly report.pdf"`:       "e",
		"larger:10k":                         "e",
		"smaller:10k order":                  "b",
		"before:2026-03-02":                  "a f",
		"after:2026-03-04":                   "e d",
		"after:2026-03-02 before:2026-03-04": "c b",
		"on:2026-03-04":                      "d",
		"on:1999":                            "f",
		"older_than:1y":                      "f",
		"newer_than:10d":                     "e d c",
		"list:buyers":                        "a",
		"id:a@example.org":                   "a",
		"id:<A@example.org>":                 "a",
		"id:none@example.org":                "",
		"larger:10k OR century":              "e f",
		"-larger:10k in:orders":              "b",
		"(before:2000 OR after:2026-03-05) from:ann": "e f",
		"id:a@example.org OR in:orders":              "b a",
		"nothing":                                    "",
		"from:*@example.org invoice":                 "c a f",
		"from:*@example.com":                         "",
		"from:a*@ex?mple.org invoice":                "c a f",
		"filename:*.pdf":                             "e",
		"*.pdf":                                      "e",
		"filename:*.doc":                             "",
		"filename:ye*ly*.pdf":                        "e",
		"{march late}":                               "b a",
		"{march OR late}":                            "b a",
		"invoice {march century}":                    "a f",
		"subject:{march letter}":                     "a f",
		"{(order late) century}":                     "b f",
		"{(order march) (late OR century)}":          "b f",
		"subject:??????":                             "c f",
		"invoice - march":                            "a",
		"nope:invoice":                               "",
		"...":                                        "",
		"a":                                          "",
	} {
		if q == "a" || q == "..." {
			continue
		}
		got, r := f.find(t, Request{Query: q, Scope: all})
		if got != want {
			t.Errorf("%-40s got %q, want %q", q, got, want)
		}
		if r.Total != len(r.Hits) || !r.Exact {
			t.Errorf("%-40s counts %d (exact %v), has %d", q, r.Total, r.Exact, len(r.Hits))
		}
	}
}

func TestScope(t *testing.T) {
	f := newFixture(t)
	f.fill(t)
	f.add(t, "g", f.you, "Private", mail(7, "hidden folder", "canaryword"))
	f.wait(t)
	me := catalog.Scope{Mailboxes: []int64{f.me}}
	for q, want := range map[string]string{
		"canaryword": "", "in:private": "", "mailbox:you": "", "invoice": "c a f", "-canaryword in:private": "", "canary*": "", "c?naryword": "", "hidden OR order": "b", "larger:1 hidden": "", "id:x OR canaryword": "",
	} {
		for _, sort := range []Sort{Newest, Oldest, Relevance, Size} {
			got, r := f.find(t, Request{Query: q, Scope: me, Sort: sort})
			have := strings.Fields(got)
			slices.Sort(have)
			exp := strings.Fields(want)
			slices.Sort(exp)
			if !slices.Equal(have, exp) || r.Total != len(exp) {
				t.Errorf("%s by %s: %q of %d, want %q", q, sort, got, r.Total, want)
			}
		}
	}
	for _, scope := range []catalog.Scope{{}, {Mailboxes: []int64{99}}} {
		if got, r := f.find(t, Request{Scope: scope}); got != "" || r.Total != 0 {
			t.Errorf("an empty scope sees %q, %d", got, r.Total)
		}
	}
	_, r := f.find(t, Request{Query: "secret", Scope: me})
	if len(r.Hits) != 1 || len(r.Hits[0].Occurrences) != 1 || r.Hits[0].Occurrences[0].Mailbox != f.me {
		t.Errorf("a hit shows occurrences beyond the scope: %+v", r.Hits)
	}
}

// More messages in one second than it has ids, at the end of a day and of a
// year: none is lost, none comes twice, and dates stay exact.
// The index proposes messages that the catalog no longer has: pages are filled
// from those behind them, and no message comes twice.
func TestStaleIndex(t *testing.T) {
	f := newFixture(t)
	var gone []seal.ID
	const n = 120
	for i := range n {
		r, err := f.a.Add(ctx, []byte(mail(1+i%28, fmt.Sprint("number ", i), "word")), archive.Provenance{Mailbox: f.me, Folder: "INBOX", Source: "test"})
		if err != nil {
			t.Fatal(err)
		}
		if i%3 != 0 {
			gone = append(gone, r.ID)
		}
	}
	f.wait(t)
	if err := f.x.Close(); err != nil { // it follows no more
		t.Fatal(err)
	}
	if err := f.a.Dispose(ctx, gone, "test", ""); err != nil {
		t.Fatal(err)
	}
	for _, sort := range []Sort{Newest, Oldest} {
		seen := map[seal.ID]bool{}
		for after := ""; ; {
			r, err := f.s.Search(ctx, Request{Query: "word", Scope: catalog.Scope{All: true}, Sort: sort, Limit: 15, After: after})
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range r.Hits {
				if seen[h.ID] {
					t.Fatalf("%s: %s comes twice", sort, h.Subject)
				}
				seen[h.ID] = true
			}
			if after = r.Next; after == "" {
				break
			}
		}
		if len(seen) != n/3 {
			t.Errorf("%s: %d messages, want %d", sort, len(seen), n/3)
		}
	}
}

// Punctuation restricts nothing.
func TestPunctuation(t *testing.T) {
	f := newFixture(t)
	f.add(t, "one", f.me, "INBOX", mail(1, "one", "hello world"))
	f.add(t, "two", f.me, "INBOX", mail(2, "two", "other"))
	f.wait(t)
	for _, q := range []string{"hello & world", "hello !!!", "hello / world", `"" hello`} {
		if got, _ := f.find(t, Request{Query: q, Scope: catalog.Scope{All: true}}); got != "one" {
			t.Errorf("%s finds %q", q, got)
		}
	}
	if _, err := f.s.Search(ctx, Request{Query: "hello", After: "x"}); !errors.Is(err, ErrPlace) {
		t.Errorf("a place that is none: %v", err)
	}
}

func TestCrowdedSecond(t *testing.T) {
	f := newFixture(t)
	const crowd = 300
	late := time.Date(2025, 12, 30, 23, 59, 59, 0, time.UTC)
	put := func(name string, at time.Time) {
		f.add(t, name, f.me, "INBOX", fmt.Sprintf("From: ann@example.org\nSubject: %s\nDate: %s\n\nword\n", name, at.Format(time.RFC1123Z)))
	}
	for i := range crowd {
		put(fmt.Sprint("late ", i), late)
		put(fmt.Sprint("eve ", i), late.AddDate(0, 0, 1))
	}
	put("next", late.Add(time.Second))
	put("soon", late.Add(3*time.Second))
	put("before", late.Add(-time.Second))
	f.wait(t)
	all := catalog.Scope{All: true}
	for q, want := range map[string]int{
		"word": 2*crowd + 3, "word on:2025-12-30": crowd + 1, "word on:2025-12-31": crowd + 2, "word after:2026-01-01": 0, "word before:2025-12-31": crowd + 1, "word after:2025-12-31": crowd + 2,
		"on:2025-12-30": crowd + 1, "on:2025-12-31 larger:1": crowd + 2,
	} {
		for _, sort := range []Sort{Newest, Oldest} {
			seen := map[seal.ID]bool{}
			for after := ""; ; {
				_, r := f.find(t, Request{Query: q, Scope: all, Sort: sort, Limit: 50, After: after})
				for _, h := range r.Hits {
					if seen[h.ID] {
						t.Fatalf("%s by %s: %s comes twice", q, sort, f.name[h.ID])
					}
					seen[h.ID] = true
				}
				if r.Total != want || !r.Exact {
					t.Fatalf("%s by %s: %d hits counted, want %d", q, sort, r.Total, want)
				}
				if after = r.Next; after == "" {
					break
				}
			}
			if len(seen) != want {
				t.Errorf("%s by %s: %d hits, want %d", q, sort, len(seen), want)
			}
		}
	}
}

func TestSortAndPages(t *testing.T) {
	f := newFixture(t)
	for i := range 130 {
		body := strings.Repeat("word ", 1+i%7) + strings.Repeat("filler ", i)
		f.add(t, fmt.Sprint(i), f.me, "INBOX", mail(1+i%28, fmt.Sprint("number ", i), body))
	}
	f.wait(t)
	for _, sort := range []Sort{Newest, Oldest, Relevance, Size} {
		seen := map[string]bool{}
		after, last := "", int64(1)<<62
		for page := 0; ; page++ {
			_, r := f.find(t, Request{Query: "word", Scope: catalog.Scope{All: true}, Sort: sort, Limit: 50, After: after})
			for _, h := range r.Hits {
				n := f.name[h.ID]
				if seen[n] {
					t.Errorf("%s: %s comes twice", sort, n)
				}
				seen[n] = true
				v := map[Sort]int64{Newest: h.Row.Time().Unix(), Oldest: -h.Row.Time().Unix(), Size: h.Size, Relevance: 0}[sort]
				if v > last {
					t.Errorf("%s: out of order at %s", sort, n)
				}
				last = v
			}
			if after = r.Next; after == "" {
				break
			}
		}
		if len(seen) != 130 {
			t.Errorf("%s: %d of 130", sort, len(seen))
		}
	}
}

func TestSyntaxErrors(t *testing.T) {
	for q, pos := range map[string]int{
		`"open`: 0, "(a": 0, "{a": 0, "{a (b}": 3, "x {a": 2, "larger:NaN": 0, "{": 0, "a)": 1, "a OR": 2, "OR a": 0, "-": 0, "a -": 2, "larger:x": 0, "a before:yesterday": 2, "older_than:5": 0, "has:wings": 0, "from:": 0, strings.Repeat("(", 60): 51,
	} {
		_, _, err := Parse(q)
		var e *SyntaxError
		if !errors.As(err, &e) {
			t.Errorf("%q: %v", q, err)
		} else if e.Pos != pos {
			t.Errorf("%q: at %d, want %d (%s)", q, e.Pos, pos, e)
		}
	}
	// Each says what it is about, in whole words, and where in characters.
	for q, want := range map[string]SyntaxError{
		`grüße larger:x`: {6, BadSize, "x"}, `東京 (a`: {3, NotClosed, ""}, `ü before:yesterday`: {2, BadDate, "yesterday"}, `has:wings`: {0, BadHas, "wings"}, `ä from:`: {2, EmptyField, "from"}, `newer_than:5`: {0, BadAge, "5"},
	} {
		_, _, err := Parse(q)
		var e *SyntaxError
		if !errors.As(err, &e) || *e != want {
			t.Errorf("%q: %v, want %v", q, err, want)
		} else if s := e.Error(); strings.Contains(s, "%!") || !strings.Contains(s, want.Fragment) {
			t.Errorf("%q: %s", q, s)
		}
	}
	if _, w, err := Parse("form:ann"); err != nil || len(w) != 1 {
		t.Error("no warning for an unknown operator:", w, err)
	}
	if _, w, err := Parse("https://example.org 10:30"); err != nil || len(w) != 0 {
		t.Error("a warning for a URL or a time:", w, err)
	}
}

func TestIndexIsACache(t *testing.T) {
	d := crashfs.New()
	a := newArchive(t, d)
	f := &fixture{a: a, name: map[seal.ID]string{}}
	f.me, _ = a.Mailbox(ctx, "me", "test")
	f.you, _ = a.Mailbox(ctx, "you", "test")
	open := func() {
		var err error
		if f.x, err = index.Open(a); err != nil {
			t.Fatal(err)
		}
		f.s = New(a, f.x)
	}
	open()
	f.fill(t)
	f.x.Close()
	old, err := durable.ReadFile(d, "index/2026.db", 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	open()
	f.add(t, "new", f.me, "INBOX", mail(8, "later", "invoice"))
	f.wait(t)
	f.x.Close()
	for name, change := range map[string]func(){
		"yesterday's shard": func() { durable.WriteNew(d, "index/2026.db", old) },
		"no shard":          func() { d.Remove("index/2026.db") },
		"a damaged shard":   func() { b := slices.Clone(old); b[100] ^= 1; durable.WriteNew(d, "index/2026.db", b) },
		"no index":          func() { d.Remove("index/2026.db"); d.Remove("index/1999.db") },
	} {
		change()
		open()
		f.wait(t)
		if got, _ := f.find(t, Request{Query: "invoice", Scope: catalog.Scope{All: true}}); got != "new c a f" {
			t.Errorf("%s: %q", name, got)
		}
		if err := f.x.Close(); err != nil {
			t.Fatal(err)
		}
	}
	open()
	victim, _ := f.find(t, Request{Query: "subject:later", Scope: catalog.Scope{All: true}})
	for id, n := range f.name {
		if n == victim {
			if err := a.Dispose(ctx, []seal.ID{id}, "test", "test"); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.wait(t)
	if got, _ := f.find(t, Request{Query: "invoice", Scope: catalog.Scope{All: true}}); got != "c a f" {
		t.Errorf("after a disposal: %q", got)
	}
	if err := errors.Join(f.x.Close(), a.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestSnippet(t *testing.T) {
	e, _, err := Parse("invoice müll*")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("some text before it all ", 10) + "the Invoice\nof Mr. Müller is here " + strings.Repeat("and after ", 40)
	s, spans := NewMatcher(e).Snippet(text)
	var marked []string
	for _, p := range spans {
		marked = append(marked, s[p.Start:p.End])
	}
	if !strings.Contains(s, "Invoice of Mr. Müller") || !slices.Equal(marked, []string{"Invoice", "Müller"}) || len(s) > 220 {
		t.Errorf("%q %q", s, marked)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "a b", `from:"x y" -z (a OR b*)`, "subject:(a OR -b)", "larger:10M before:2026", "a:b:c", "東京 OR \u3000x", "{a b}"} {
		f.Add(s)
	}
	x := newFixture(f)
	x.fill(f)
	f.Fuzz(func(t *testing.T, q string) {
		_, err := x.s.Search(ctx, Request{Query: q, Scope: catalog.Scope{Mailboxes: []int64{x.me}}, Count: true})
		var se *SyntaxError
		if err != nil && !errors.As(err, &se) {
			t.Fatalf("%q: %v", q, err)
		}
	})
}
