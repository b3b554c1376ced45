package sample

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// Kind is a kind of mail that Scale makes.
type Kind string

// The kinds, with the mean size of their messages.
const (
	Text        Kind = "text"        // 10 KB: threads with quotes, a third with HTML
	Attachments Kind = "attachments" // 43 KB: files of the usual kinds, some of them sent again
	Small       Kind = "small"       // 2 KB: notifications
)

// Kinds lists them.
var Kinds = []Kind{Text, Attachments, Small}

// Scale yields n messages for measuring, oldest first, over four years. Sizes,
// structure and the frequency of words are as in real mail; every word is made
// up. The same kind, n and seed give the same mail.
func Scale(kind Kind, n int, seed uint64) iter.Seq[Mail] {
	return func(yield func(Mail) bool) {
		s := newScale(kind, seed)
		step := 4 * 365 * 24 * time.Hour / time.Duration(n)
		start := time.Date(2022, 1, 1, 0, 0, 0, 0, time.UTC)
		for i := range n {
			at := start.Add(time.Duration(i) * step).Truncate(time.Second)
			if !yield(Mail{Folder: fmt.Sprintf("INBOX/%s", s.folders[i%len(s.folders)]), Flags: `\Seen`, Raw: s.mail(i, at)}) {
				return
			}
		}
	}
}

// Rare words stand in one message of a thousand, common ones in one of two.
const (
	RareWord   = "quillonade"
	CommonWord = "meridano"
	Phrase     = "copper lantern ledger"
)

type scale struct {
	kind    Kind
	r       *rand.Rand
	words   []string
	zipf    *rand.Zipf
	people  []person
	folders []string
	threads []thread
	files   []file
	b       bytes.Buffer
}

type thread struct {
	subject, id, text string
	topic             []string
}

type file struct {
	name, kind string
	data       []byte
}

// Sizes of the vocabulary and of what is kept to be answered or sent again.
const (
	vocabulary  = 60_000
	correspond  = 2_000
	openThreads = 200
	keptFiles   = 60
)

func newScale(kind Kind, seed uint64) *scale {
	s := &scale{kind: kind, r: rand.New(rand.NewPCG(seed, 42))}
	seen := map[string]bool{}
	for len(s.words) < vocabulary {
		if w := s.word(1 + len(s.words)/4000); !seen[w] {
			seen[w] = true
			s.words = append(s.words, w)
		}
	}
	s.zipf = rand.NewZipf(s.r, 1.07, 4, vocabulary-1)
	for i := range correspond {
		first, last := s.words[200+s.r.IntN(5000)], s.words[200+s.r.IntN(5000)]
		s.people = append(s.people, person{title(first) + " " + title(last), fmt.Sprintf("%s.%s@%s.example", first, last, s.words[300+i%150])})
	}
	for i := range 12 {
		s.folders = append(s.folders, title(s.words[100+i]))
	}
	return s
}

func title(w string) string { return strings.ToUpper(w[:1]) + w[1:] }

// word makes a word; rarer ones are longer.
func (s *scale) word(rare int) string {
	const consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"
	var b strings.Builder
	for range 1 + s.r.IntN(2) + s.r.IntN(1+min(3, rare)) {
		b.WriteByte(consonants[s.r.IntN(len(consonants))])
		b.WriteByte(vowels[s.r.IntN(len(vowels))])
		if s.r.IntN(3) == 0 {
			b.WriteByte(consonants[s.r.IntN(len(consonants))])
		}
	}
	return b.String()
}

// size is around a median, with a long tail as sizes of mail have.
func (s *scale) size(median int, spread float64) int {
	return int(float64(median) * math.Exp(s.r.NormFloat64()*spread))
}

// topic is what a thread is about: most words of its mails are among these.
func (s *scale) topic() []string {
	t := make([]string, 160)
	for i := range t {
		t[i] = s.words[s.zipf.Uint64()]
	}
	return t
}

// text makes about n bytes of lines, with numbers, addresses of pages and
// identifiers among the words.
func (s *scale) text(topic []string, n int) string {
	var b strings.Builder
	col := 0
	put := func(w string) {
		if col+len(w) > 76 {
			b.WriteByte('\n')
			col = 0
			if s.r.IntN(9) == 0 {
				b.WriteByte('\n')
			}
		} else if col > 0 {
			b.WriteByte(' ')
			col++
		}
		b.WriteString(w)
		col += len(w)
	}
	if s.r.IntN(2) == 0 {
		put(CommonWord)
	}
	if s.r.IntN(1000) == 0 {
		put(RareWord)
	}
	if s.r.IntN(500) == 0 {
		put(Phrase)
	}
	for b.Len() < n {
		w := topic[min(s.r.IntN(len(topic)), s.r.IntN(len(topic)))]
		if s.r.IntN(8) == 0 {
			w = s.words[s.zipf.Uint64()]
		}
		switch s.r.IntN(120) {
		case 0:
			w = fmt.Sprint(s.r.IntN(100_000))
		case 1:
			w = title(w) + "."
		case 2:
			w = fmt.Sprintf("%s_%s(%d)", w, s.words[s.zipf.Uint64()], s.r.IntN(64))
		case 3:
			if s.r.IntN(6) == 0 {
				w = fmt.Sprintf("https://%s.example/%s/%x", w, s.words[s.zipf.Uint64()], s.r.Uint32())
			}
		case 4, 5, 6:
			w += ","
		}
		put(w)
	}
	b.WriteByte('\n')
	return b.String()
}

func quoted(text string, limit int) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if b.Len() > limit {
			break
		}
		b.WriteString("> ")
		b.WriteString(line)
	}
	return b.String()
}

func (s *scale) mail(i int, at time.Time) []byte {
	from, to := s.people[int(s.zipf.Uint64())%len(s.people)], s.people[int(s.zipf.Uint64())%len(s.people)]
	id := fmt.Sprintf("%x.%x@%s", at.UnixNano(), s.r.Uint64(), from.addr[strings.IndexByte(from.addr, '@')+1:])
	t := thread{id: id, topic: s.topic()}
	var re *thread
	if s.kind != Small && len(s.threads) > 0 && s.r.IntN(5) < 3 {
		re = &s.threads[s.r.IntN(len(s.threads))]
		t.subject, t.topic = re.subject, re.topic
	} else {
		t.subject = title(strings.Join(strings.Fields(s.text(t.topic, 20+s.r.IntN(30))), " "))
	}
	medians := map[Kind]int{Text: 1700, Attachments: 1000, Small: 500}
	t.text = s.text(t.topic, s.size(medians[s.kind], 0.8))
	if re != nil {
		t.text = fmt.Sprintf("On %s, %s wrote:\n%s\n%s", at.Add(-time.Hour).Format(time.DateTime), to.name, quoted(re.text, 6000), t.text)
	}
	s.b.Reset()
	s.header(i, at, from, to, t, re)
	s.body(i, t.text)
	if s.kind != Small {
		if len(s.threads) < openThreads {
			s.threads = append(s.threads, t)
		} else {
			s.threads[s.r.IntN(openThreads)] = t
		}
	}
	return bytes.Clone(s.b.Bytes())
}

func (s *scale) header(i int, at time.Time, from, to person, t thread, re *thread) {
	w := func(format string, args ...any) { fmt.Fprintf(&s.b, format, args...) }
	hops := 4
	if s.kind == Small {
		hops = 1
	}
	w("Return-Path: <%s>\nDelivered-To: %s\n", from.addr, to.addr)
	for h := range hops {
		w("Received: from mx%d.%s.example (mx%[1]d.%[2]s.example [192.0.2.%d])\n\tby mail%d.example.org (Postfix) with ESMTPS id %X\n\tfor <%s>; %s\n",
			h, s.words[300+(i+h)%150], s.r.IntN(256), h, s.r.Uint64(), to.addr, at.Add(time.Duration(hops-h)*time.Second).Format(time.RFC1123Z))
	}
	if s.kind != Small {
		w("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=%s;\n\ts=s%d; h=from:to:subject:date:message-id; bh=%s;\n\tb=%s\n", from.addr[strings.IndexByte(from.addr, '@')+1:], i%3,
			s.base64(32, 0), s.base64(256, 72))
		w("X-Spam-Status: No, score=-%d.%d required=5.0 tests=BAYES_00,DKIM_SIGNED,\n\tDKIM_VALID,SPF_PASS autolearn=ham\n", s.r.IntN(4), s.r.IntN(10))
		w("List-Id: <%s.lists.example>\nList-Unsubscribe: <https://lists.example/%[1]s/unsubscribe>\n", strings.ToLower(s.folders[i%len(s.folders)]))
	}
	w("From: %s <%s>\nTo: %s <%s>\n", from.name, from.addr, to.name, to.addr)
	for range s.r.IntN(4) {
		c := s.people[s.r.IntN(len(s.people))]
		w("Cc: %s <%s>\n", c.name, c.addr)
	}
	if re != nil {
		w("Subject: Re: %s\nIn-Reply-To: <%s>\nReferences: <%s>\n", t.subject, re.id, re.id)
	} else {
		w("Subject: %s\n", t.subject)
	}
	w("Date: %s\nMessage-ID: <%s>\nMIME-Version: 1.0\nUser-Agent: Invented Mail %d.0\n", at.Format(time.RFC1123Z), t.id, 90+i%5)
}

func (s *scale) base64(n, line int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(s.r.Uint32())
	}
	return wrap(base64.StdEncoding.EncodeToString(b), line, "\n\t")
}

func wrap(text string, line int, sep string) string {
	if line == 0 {
		return text
	}
	var b strings.Builder
	for len(text) > line {
		b.WriteString(text[:line])
		b.WriteString(sep)
		text = text[line:]
	}
	b.WriteString(text)
	return b.String()
}

func (s *scale) body(i int, text string) {
	w := func(format string, args ...any) { fmt.Fprintf(&s.b, format, args...) }
	plain := func() { w("Content-Type: text/plain; charset=utf-8\n\n%s", text) }
	boundary := fmt.Sprintf("=_%x", s.r.Uint64())
	switch {
	case s.kind == Attachments:
		w("Content-Type: multipart/mixed; boundary=\"%s\"\n\n--%[1]s\n", boundary)
		plain()
		for range 1 + s.r.IntN(5)/4 {
			f := s.file()
			w("\n--%s\nContent-Type: %s; name=\"%s\"\nContent-Disposition: attachment; filename=\"%[3]s\"\nContent-Transfer-Encoding: base64\n\n%s\n", boundary, f.kind, f.name, wrap(base64.StdEncoding.EncodeToString(f.data), 76, "\n"))
		}
		w("--%s--\n", boundary)
	case s.kind == Text && i%3 == 0:
		w("Content-Type: multipart/alternative; boundary=\"%s\"\n\n--%[1]s\n", boundary)
		plain()
		w("\n--%s\nContent-Type: text/html; charset=utf-8\n\n<html><head><style>p { margin: 0 } .q { color: #666 }</style></head><body>\n", boundary)
		for line := range strings.Lines(text) {
			w("<p class=\"MsoNormal\" style=\"font-family:sans-serif\">%s</p>\n", strings.TrimRight(strings.ReplaceAll(line, ">", "&gt;"), "\n"))
		}
		w("</body></html>\n--%s--\n", boundary)
	default:
		plain()
	}
}

// file makes an attachment, or takes one that was sent before.
func (s *scale) file() file {
	if len(s.files) > 0 && s.r.IntN(6) == 0 {
		return s.files[s.r.IntN(len(s.files))]
	}
	f := file{name: s.words[s.zipf.Uint64()]}
	n := min(s.size(16_000, 0.9), 2<<20)
	switch k := s.r.IntN(10); {
	case k < 5: // PDF, Office, pictures: compressed already
		kinds := [][2]string{{".pdf", "application/pdf"}, {".docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"}, {".jpg", "image/jpeg"}}
		f.name, f.kind = f.name+kinds[k%3][0], kinds[k%3][1]
		f.data = make([]byte, n)
		for i := range f.data {
			f.data[i] = byte(s.r.Uint32())
		}
	case k < 9: // documents and pictures half compressed
		f.name, f.kind = f.name+".doc", "application/msword"
		for topic := s.topic(); len(f.data) < n; {
			f.data = append(f.data, s.text(topic, 400)...)
			for range 300 {
				f.data = append(f.data, byte(s.r.Uint32()))
			}
			f.data = append(f.data, make([]byte, 200)...)
		}
	default: // tables and logs
		f.name, f.kind = f.name+".csv", "text/csv"
		f.data = []byte(s.text(s.topic()[:40], n))
	}
	if len(s.files) < keptFiles {
		s.files = append(s.files, f)
	} else {
		s.files[s.r.IntN(keptFiles)] = f
	}
	return f
}
