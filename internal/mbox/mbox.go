// Package mbox reads and writes mbox files (RFC 4155 and its relatives).
//
// The dialects differ in how a line of a message that begins with "From " is
// kept apart from a separator:
//
//	mboxo    ">" before "From "; cannot be undone, so it is not
//	mboxrd   ">" before ">*From "; undone
//	mboxcl   as mboxo, and Content-Length says how long the body is
//	mboxcl2  Content-Length alone
//
// A separator ends in a date. Some programs leave it out, or write it in their
// own way; in a file that begins so, such lines are separators if a header
// follows.
//
// A message is the bytes after its separator line, without the one empty line
// that stands before the next separator. In a file with a single separator
// nothing was separated, and the message is all that follows it.
package mbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/message"
)

// Dialect is how separators are told from text.
type Dialect int

// The dialects. Auto undoes quoting only where the file shows that it is
// mboxrd: in files that Writer made, and where ShowsRD says so.
const (
	Auto Dialect = iota
	O
	RD
	CL
	CL2
)

// ParseDialect reads a dialect's name.
func ParseDialect(s string) (Dialect, error) {
	for i, n := range []string{"auto", "mboxo", "mboxrd", "mboxcl", "mboxcl2"} {
		if s == n {
			return Dialect(i), nil
		}
	}
	return Auto, fmt.Errorf("mbox dialect %q: it is auto, mboxo, mboxrd, mboxcl or mboxcl2", s)
}

// ErrTooLarge is the error of a message over the reader's limit. Reading goes
// on behind it.
var ErrTooLarge = errors.New("message over the size limit")

// mark is the sender in the separators that Writer writes; it says which
// dialect the file is in.
const mark = "letterhold-mboxrd"

// Message is one message of an mbox.
type Message struct {
	Raw       []byte
	Offset    int64     // of the separator line in the file, bytes
	Separator string    // without its line end
	Date      time.Time // of the separator; zero if it has none
}

// maxWasted is how much is read in vain as far as wrong lengths claim, in bytes,
// beyond twice what has been read: the time for a file stays in proportion.
const maxWasted = 64 << 20

// pushback is a reader to which bytes can be given back.
type pushback struct {
	pending []byte
	r       io.Reader
}

func (p *pushback) Read(b []byte) (int, error) {
	if len(p.pending) == 0 {
		p.pending = nil
		return p.r.Read(b)
	}
	n := copy(b, p.pending)
	p.pending = p.pending[n:]
	return n, nil
}

// Reader reads messages one after the other.
type Reader struct {
	r       *bufio.Reader // of src
	src     *pushback
	dialect Dialect
	limit   int
	offset  int64
	line    []byte // the separator of the next message
	at      int64  // its offset
	count   int
	begun   bool
	done    bool
	wasted  int64 // read as far as wrong lengths claim
	odd     bool  // separators have no dates, or dates of their own
	ours    bool  // Writer wrote it: behind each message stands an empty line
}

// NewReader reads from r, which must begin with a separator line. limit is the
// largest message in bytes.
func NewReader(r io.Reader, d Dialect, limit int) *Reader {
	src := &pushback{r: r}
	return &Reader{r: bufio.NewReaderSize(src, 256<<10), src: src, dialect: d, limit: limit}
}

// NewReaderAt reads from the message whose separator line is at an offset on:
// what the beginning of the file says of its dialect holds for all of it.
func NewReaderAt(f io.ReadSeeker, d Dialect, limit int, offset int64) (*Reader, error) {
	r := NewReader(f, d, limit)
	if err := r.begin(); err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	if offset > r.at {
		r.count = 1 // the message at the offset is not the only one
	}
	r.src.pending = nil
	r.r.Reset(r.src)
	r.at, r.offset = offset, offset
	line, err := r.readLine(nil)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if r.line = line; !IsSeparator(line) && !r.oddHere(line) {
		return nil, fmt.Errorf("no message begins at byte %d", offset)
	}
	return r, nil
}

// begin reads the first separator line and what it says of the file.
func (r *Reader) begin() error {
	line, err := r.readLine(nil)
	if len(line) == 0 {
		return err
	}
	if bytes.HasPrefix(line, bom) {
		line, r.at = line[len(bom):], int64(len(bom))
	}
	r.line, r.odd = line, !IsSeparator(line)
	if !bytes.HasPrefix(line, []byte("From ")) {
		return fmt.Errorf("an mbox begins with a line \"From ...\", this file begins with %q", string(line[:min(len(line), 40)]))
	}
	if r.ours = bytes.HasPrefix(line, []byte("From "+mark+" ")); r.ours && r.dialect == Auto {
		r.dialect = RD
	}
	r.begun = true
	return nil
}

// IsSeparator tells a separator line: "From ", a sender, and a date with a time
// and a year. A line of text that begins with "From" has no such end.
func IsSeparator(line []byte) bool {
	if !bytes.HasPrefix(line, []byte("From ")) {
		return false
	}
	return separatorDate(line) != ""
}

// odd tells a line that is a separator only where other things say so too:
// "From -" (Mozilla), "From " and an address, or a date in an order of its own.
func odd(line []byte) bool {
	if len(line) > 1000 || !bytes.HasPrefix(line, []byte("From ")) {
		return false
	}
	f := bytes.Fields(line)
	if len(f) == 2 {
		return string(f[1]) == "-" || bytes.IndexByte(f[1], '@') > 0
	}
	return len(f) > 2 && f[1][0] != ':' && slices.ContainsFunc(f[2:], clock)
}

// clock tells "hh:mm" and "hh:mm:ss".
func clock(b []byte) bool {
	c := bytes.Split(b, []byte(":"))
	return (len(c) == 2 || len(c) == 3) && !slices.ContainsFunc(c, func(b []byte) bool { return len(b) > 2 || !digits(string(b)) })
}

// bom is what some editors put before a text in UTF-8.
var bom = []byte("\xef\xbb\xbf")

// Begins tells whether a file that begins with head is an mbox.
func Begins(head []byte) bool {
	line, rest, _ := bytes.Cut(bytes.TrimPrefix(head, bom), []byte("\n"))
	return IsSeparator(line) || odd(line) && message.LooksLikeMail(rest)
}

// separatorDate finds "hh:mm" and a year behind it, or a zone and a year. It
// returns the date as it is written; "" if there is none.
func separatorDate(line []byte) string {
	line = bytes.TrimRight(line, "\r\n \t")
	if len(line) > 1000 {
		return ""
	}
	f := strings.Fields(string(line))
	for i := len(f) - 1; i > 1; i-- {
		c := strings.Split(f[i], ":")
		if len(c) < 2 || len(c) > 3 || !digits(c[0]) || !digits(c[1]) || i+1 >= len(f) && i < 5 {
			continue
		}
		for _, y := range f[i+1:] {
			if len(y) == 4 && digits(y) {
				return strings.Join(f[max(2, i-3):], " ")
			}
		}
	}
	return ""
}

func digits(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// readLine returns a line with its end; a line longer than the buffer comes
// whole, up to the limit.
func (r *Reader) readLine(dst []byte) ([]byte, error) {
	for {
		b, err := r.r.ReadSlice('\n')
		r.offset += int64(len(b))
		dst = append(dst, b...)
		if err != bufio.ErrBufferFull {
			return dst, err
		}
	}
}

// Next returns the next message, or io.EOF. With ErrTooLarge the message has
// no Raw, and the next call goes on behind it.
func (r *Reader) Next() (*Message, error) {
	if r.done {
		return nil, io.EOF
	}
	if !r.begun {
		if err := r.begin(); err != nil {
			return nil, err
		}
	}
	r.count++
	m := &Message{Offset: r.at, Separator: strings.TrimRight(string(r.line), "\r\n")}
	date := separatorDate(r.line)
	if date == "" {
		_, date, _ = strings.Cut(strings.TrimPrefix(m.Separator, "From "), " ")
	}
	m.Date, _ = message.ParseDate(date)
	err := r.body(m)
	return m, err
}

// body reads up to the next separator.
func (r *Reader) body(m *Message) error {
	var b []byte
	inHeader, tooLarge := true, false
	length := -1
	for {
		start := len(b)
		at := r.offset
		var err error
		b, err = r.readLine(b)
		line := b[start:]
		if err != nil && err != io.EOF {
			return err
		}
		if inHeader && r.dialect != O && r.dialect != RD {
			length = contentLength(line, length)
		}
		if inHeader && len(bytes.TrimRight(line, "\r\n")) == 0 && len(line) > 0 {
			inHeader = false
			if length >= 0 && length <= r.limit && r.wasted < maxWasted+2*r.offset && r.dialect != O && r.dialect != RD {
				if whole, ok := r.counted(b, length); ok {
					m.Raw = whole
					return nil
				}
				r.wasted += int64(length)
			}
		}
		if len(line) > 0 && r.separates(line, b[:start], inHeader) {
			r.line, r.at = bytes.Clone(line), at
			m.Raw = dropBlank(b[:start])
			break
		}
		if err == io.EOF {
			r.done = true
			m.Raw = b
			if r.count > 1 || r.ours {
				m.Raw = dropBlank(b)
			}
			break
		}
		if r.dialect == RD && quoted(line) {
			copy(line, line[1:])
			b = b[:len(b)-1]
		}
		if len(b) > r.limit {
			tooLarge = true
			b = append(b[:0], b[len(b)-2:]...) // what dropBlank and separates look at
		}
	}
	if tooLarge {
		m.Raw = nil
		return ErrTooLarge
	}
	return nil
}

// separates tells whether line begins the next message: a separator behind an
// empty line, or one with a full date behind any line of a body.
func (r *Reader) separates(line, before []byte, inHeader bool) bool {
	if !IsSeparator(line) {
		return r.oddHere(line)
	}
	return !inHeader || len(before) == 0 || bytes.HasSuffix(before, []byte("\n"))
}

// oddHere tells whether line is an odd separator: in a file that begins with
// one, and before a header.
func (r *Reader) oddHere(line []byte) bool {
	if !r.odd || !odd(line) {
		return false
	}
	head, _ := r.r.Peek(4096)
	return message.LooksLikeMail(head)
}

// counted takes length bytes of body if a separator or the end follows them.
func (r *Reader) counted(head []byte, length int) ([]byte, bool) {
	var read bytes.Buffer // grows with what is there, not with what is claimed
	n, err := io.CopyN(&read, r.r, int64(length))
	rest := read.Bytes()
	if err == nil {
		var tail []byte
		offset := r.offset + n
		for range 2 { // perhaps an empty line, then the separator or the end
			at := offset + int64(len(tail))
			line, lerr := r.r.ReadBytes('\n')
			tail = append(tail, line...)
			switch {
			case len(line) == 0 && lerr == io.EOF:
				r.done = true
				return append(head, rest...), true
			case IsSeparator(line) || r.oddHere(line):
				r.line, r.at, r.offset = line, at, offset+int64(len(tail))
				return append(head, rest...), true
			case len(bytes.TrimRight(line, "\r\n")) > 0:
				r.unread(append(rest, tail...))
				return nil, false
			}
		}
		if _, perr := r.r.Peek(1); perr == io.EOF {
			r.done = true
			return append(head, rest...), true
		}
		rest = append(rest, tail...)
	}
	r.unread(rest)
	return nil, false
}

// unread gives bytes back, to be read before what follows.
func (r *Reader) unread(b []byte) {
	buffered, _ := r.r.Peek(r.r.Buffered())
	r.src.pending = slices.Concat(b, buffered, r.src.pending)
	r.r.Reset(r.src)
}

func contentLength(line []byte, have int) int {
	const name = "content-length:"
	if len(line) < len(name) || !strings.EqualFold(string(line[:len(name)]), name) {
		return have
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(line[len(name):]))); err == nil && n >= 0 {
		return n
	}
	return have
}

// dropBlank removes the one empty line that a writer puts before a separator.
func dropBlank(b []byte) []byte {
	for _, end := range []string{"\r\n", "\n"} {
		if rest, ok := bytes.CutSuffix(b, []byte(end)); ok && (len(rest) == 0 || rest[len(rest)-1] == '\n') {
			return rest
		}
	}
	return b
}

// quoted tells a line that mboxrd quotes: ">", any number of ">", "From ".
func quoted(line []byte) bool {
	rest := bytes.TrimLeft(line, ">")
	return len(rest) < len(line) && bytes.HasPrefix(rest, []byte("From "))
}

// ShowsRD tells whether a file shows that it is mboxrd: it holds several
// messages and a line with ">>From ", which is how that dialect quotes a quote.
// In a file of one message such a line is somebody's answer to somebody.
func ShowsRD(r io.Reader) (bool, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	separators, quotes := 0, false
	for fresh := true; ; {
		b, err := br.ReadSlice('\n')
		if fresh {
			if IsSeparator(b) {
				separators++
			}
			quotes = quotes || bytes.HasPrefix(b, []byte(">>")) && bytes.HasPrefix(bytes.TrimLeft(b, ">"), []byte("From "))
			if quotes && separators > 1 {
				return true, nil
			}
		}
		fresh = err == nil
		if err == io.EOF {
			return false, nil
		}
		if err != nil && err != bufio.ErrBufferFull {
			return false, err
		}
	}
}

// Writer writes an mboxrd.
type Writer struct{ w *bufio.Writer }

// NewWriter writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{bufio.NewWriterSize(w, 256<<10)} }

// Write appends one message. A reader of this dialect gets raw back, byte for
// byte, unless raw is empty-handed of a final line end: then one is added,
// because a separator begins a line. Whole tells such messages.
func (w *Writer) Write(raw []byte, date time.Time) error {
	fmt.Fprintf(w.w, "From %s %s\n", mark, date.UTC().Format(time.ANSIC))
	for rest := raw; len(rest) > 0; {
		line := rest
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			line = rest[:i+1]
		}
		if bytes.HasPrefix(bytes.TrimLeft(line, ">"), []byte("From ")) {
			w.w.WriteByte('>')
		}
		w.w.Write(line)
		rest = rest[len(line):]
	}
	if !Whole(raw) {
		w.w.WriteByte('\n')
	}
	return w.w.WriteByte('\n')
}

// Whole tells whether an mbox can hold raw unchanged: it ends in a line end.
func Whole(raw []byte) bool { return len(raw) == 0 || raw[len(raw)-1] == '\n' }

// Flush writes what is buffered.
func (w *Writer) Flush() error { return w.w.Flush() }
