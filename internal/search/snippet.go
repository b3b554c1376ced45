package search

import (
	"strings"
	"unicode/utf8"

	"github.com/letterhold/letterhold/internal/index"
)

// Matcher finds the words of a query in a text.
type Matcher struct {
	words    map[string]bool
	prefixes []string
}

// NewMatcher returns the matcher of a query's positive words.
func NewMatcher(e *Expr) *Matcher {
	m := &Matcher{words: map[string]bool{}}
	m.collect(e)
	return m
}

func (m *Matcher) collect(e *Expr) {
	switch {
	case e.Op == OpNot:
		return
	case e.Op != OpTerm:
		for _, k := range e.Kids {
			m.collect(k)
		}
		return
	}
	t := e.Term
	if t.Field != "" && columnsOf[t.Field] == "" {
		return
	}
	if !t.Wild {
		m.add(t.Text, t.Prefix)
		return
	}
	for _, w := range wildWords(t.Text) {
		at := strings.IndexAny(w+"*", "*?")
		m.add(w[:at], at < len(w))
	}
}

// add adds the words of a text; the last may be a prefix.
func (m *Matcher) add(text string, prefix bool) {
	var last string
	index.Tokens(text, true, func(token string, _, _ int, same bool) error {
		last = strings.Clone(token)
		m.words[last] = true
		return nil
	})
	if prefix && last != "" {
		delete(m.words, last)
		m.prefixes = append(m.prefixes, last)
	}
}

// Empty tells whether the query has no words to mark.
func (m *Matcher) Empty() bool { return len(m.words) == 0 && len(m.prefixes) == 0 }

// Span is a stretch of text in bytes.
type Span struct{ Start, End int }

// Find returns where words of the query are in text, at most limit of them.
func (m *Matcher) Find(text string, limit int) []Span {
	var out []Span
	if m.Empty() {
		return nil
	}
	index.Tokens(text, false, func(token string, start, end int, _ bool) error {
		if !m.hits(token) {
			return nil
		}
		if n := len(out); n > 0 && out[n-1].End >= start {
			out[n-1].End = max(out[n-1].End, end)
			return nil
		}
		if out = append(out, Span{start, end}); len(out) >= limit {
			return errEnough
		}
		return nil
	})
	return out
}

type enough struct{}

func (enough) Error() string { return "enough" }

var errEnough error = enough{}

func (m *Matcher) hits(token string) bool {
	if m.words[token] {
		return true
	}
	for _, p := range m.prefixes {
		if strings.HasPrefix(token, p) {
			return true
		}
	}
	return false
}

// SnippetSize is the largest message, in bytes, that is read for its snippet: a
// page shows many, and a sender chooses how large his mail is.
const SnippetSize = 4 << 20

// Snippet lengths in bytes.
const (
	snippetLength = 180
	snippetBefore = 40
)

// Snippet returns a stretch of text around the first word of the query, in one
// line, and where the words are in it.
func (m *Matcher) Snippet(text string) (string, []Span) {
	from := 0
	if first := m.Find(text, 1); len(first) > 0 && first[0].Start > snippetBefore {
		from = first[0].Start - snippetBefore
		if i := strings.IndexAny(text[from:first[0].Start], " \n\t"); i >= 0 {
			from += i + 1
		}
	}
	for from < len(text) && !utf8.RuneStart(text[from]) {
		from++
	}
	var b strings.Builder
	if from > 0 {
		b.WriteString("…")
	}
	space, words := false, false
	for _, r := range text[from:] {
		if r == ' ' || r == '\n' || r == '\t' || r == '\u00a0' {
			space = words
			continue
		}
		if b.Len() > snippetLength {
			b.WriteString("…")
			break
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
		words = true
	}
	s := b.String()
	return s, m.Find(s, 20)
}
