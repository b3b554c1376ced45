package imapclient

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Limits of what a server may say.
const (
	maxLine    = 64 << 10 // bytes of a response without its literals
	maxDepth   = 16       // of lists in lists
	maxItems   = 100_000  // values of one response
	maxShort   = 1 << 20  // bytes of literals that are no message
	literalRun = 64 << 10 // bytes read at once: nothing is set aside for what is only announced
)

// ErrProtocol: what the server said is not IMAP.
var ErrProtocol = errors.New("the server does not follow IMAP")

// TooLargeError: a literal that is larger than what is taken.
type TooLargeError struct{ Size, Limit int64 }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the server announces %d bytes; %d are the most that is taken", e.Size, e.Limit)
}

// kind of a value.
type kind byte

const (
	atom kind = iota
	text      // quoted or literal
	list
	nothing // NIL
)

// value is an atom, a string, a list or NIL (RFC 9051, 9).
type value struct {
	kind kind
	s    []byte
	list []value
}

func (v value) str() string { return string(v.s) }

func (v value) is(s string) bool { return v.kind == atom && strings.EqualFold(string(v.s), s) }

func (v value) number() (uint64, error) {
	if v.kind == list || len(v.s) == 0 {
		return 0, fmt.Errorf("%w: a number is missing", ErrProtocol)
	}
	n, err := strconv.ParseUint(string(v.s), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %.40q is no number", ErrProtocol, v.s)
	}
	return n, nil
}

// response is one line of the server with its literals.
type response struct {
	tag    string // "*", "+" or a command's
	status string // OK, NO, BAD, BYE or PREAUTH; "" for data
	code   string // of a status, without brackets
	text   string // of a status or a continuation
	values []value
}

// reader parses responses.
type reader struct {
	b       *bufio.Reader
	literal int64 // the largest literal, in bytes
	left    int   // of the line
	items   int
}

func newReader(r io.Reader) *reader { return &reader{b: bufio.NewReaderSize(r, 32<<10)} }

func (r *reader) byte() (byte, error) {
	if r.left--; r.left < 0 {
		return 0, fmt.Errorf("%w: a line of more than %d bytes", ErrProtocol, maxLine)
	}
	c, err := r.b.ReadByte()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return c, err
}

func (r *reader) peek() (byte, error) {
	b, err := r.b.Peek(1)
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	return b[0], nil
}

// line reads to the end of the line, which it does not return.
func (r *reader) line() (string, error) {
	var b strings.Builder
	for {
		c, err := r.byte()
		if err != nil {
			return "", err
		}
		if c == '\n' {
			return strings.TrimSuffix(b.String(), "\r"), nil
		}
		b.WriteByte(c)
	}
}

// response reads one.
func (r *reader) response() (*response, error) {
	r.left, r.items = maxLine, 0
	tag, err := r.word()
	if err != nil {
		return nil, err
	}
	p := &response{tag: tag}
	if tag == "+" {
		p.text, err = r.line()
		return p, err
	}
	first, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if s := strings.ToUpper(first.str()); first.kind == atom && (s == "OK" || s == "NO" || s == "BAD" || s == "BYE" || s == "PREAUTH") {
		p.status = s
		rest, err := r.line()
		p.code, p.text = splitCode(strings.TrimPrefix(rest, " "))
		return p, err
	}
	p.values = append(p.values, first)
	for {
		c, err := r.peek()
		if err != nil {
			return nil, err
		}
		switch c {
		case '\r', '\n':
			_, err := r.line()
			return p, err
		case ' ':
			if _, err := r.byte(); err != nil {
				return nil, err
			}
			continue
		}
		v, err := r.value(0)
		if err != nil {
			return nil, err
		}
		p.values = append(p.values, v)
	}
}

// word reads to the next space, which it takes. A line without one is an error.
func (r *reader) word() (string, error) {
	var b strings.Builder
	for {
		c, err := r.byte()
		switch {
		case err != nil:
			return "", err
		case c == ' ':
			return b.String(), nil
		case c == '\r' && b.String() == "+": // a continuation without the space
			return "+", r.b.UnreadByte()
		case c < ' ' || c == 127 || b.Len() > 100:
			return "", fmt.Errorf("%w: a line begins with %.40q", ErrProtocol, b.String())
		}
		b.WriteByte(c)
	}
}

func splitCode(s string) (code, text string) {
	if strings.HasPrefix(s, "[") {
		if i := strings.IndexByte(s, ']'); i > 0 {
			return s[1:i], strings.TrimSpace(s[i+1:])
		}
	}
	return "", s
}

func (r *reader) value(depth int) (value, error) {
	if r.items++; r.items > maxItems || depth > maxDepth {
		return value{}, fmt.Errorf("%w: a response of too many parts", ErrProtocol)
	}
	c, err := r.peek()
	if err != nil {
		return value{}, err
	}
	switch c {
	case '(':
		return r.parseList(depth)
	case '"':
		return r.quoted()
	case '{':
		return r.parseLiteral()
	case '~':
		if b, _ := r.b.Peek(2); len(b) == 2 && b[1] == '{' {
			r.b.Discard(1)
			return r.parseLiteral()
		}
	}
	return r.atom()
}

func (r *reader) parseList(depth int) (value, error) {
	v := value{kind: list}
	if _, err := r.byte(); err != nil {
		return v, err
	}
	for {
		c, err := r.peek()
		if err != nil {
			return v, err
		}
		switch c {
		case ')':
			_, err := r.byte()
			return v, err
		case ' ':
			if _, err := r.byte(); err != nil {
				return v, err
			}
			continue
		case '\r', '\n':
			return v, fmt.Errorf("%w: a list does not end", ErrProtocol)
		}
		item, err := r.value(depth + 1)
		if err != nil {
			return v, err
		}
		v.list = append(v.list, item)
	}
}

func (r *reader) quoted() (value, error) {
	v := value{kind: text, s: []byte{}}
	r.byte()
	for {
		c, err := r.byte()
		if err != nil {
			return v, err
		}
		switch c {
		case '"':
			return v, nil
		case '\r', '\n':
			return v, fmt.Errorf("%w: a string does not end", ErrProtocol)
		case '\\':
			if c, err = r.byte(); err != nil {
				return v, err
			}
		}
		v.s = append(v.s, c)
	}
}

// parseLiteral reads {n} and n bytes (RFC 9051, 4.3). What it holds grows with
// what arrives.
func (r *reader) parseLiteral() (value, error) {
	v := value{kind: text, s: []byte{}}
	head, err := r.line()
	if err != nil {
		return v, err
	}
	digits, ok := strings.CutSuffix(strings.TrimPrefix(head, "{"), "}")
	n, err := strconv.ParseInt(strings.TrimSuffix(digits, "+"), 10, 64)
	if !ok || err != nil || n < 0 {
		return v, fmt.Errorf("%w: %.40q announces no literal", ErrProtocol, head)
	}
	if limit := max(r.literal, maxShort); n > limit {
		return v, &TooLargeError{n, limit}
	}
	v.s = make([]byte, 0, min(n, literalRun))
	for int64(len(v.s)) < n {
		room := min(n-int64(len(v.s)), literalRun)
		if free := int64(cap(v.s) - len(v.s)); free > 0 {
			room = min(room, free)
		} else {
			v.s = append(v.s, 0)[:len(v.s)] // let append choose how to grow
			room = min(room, int64(cap(v.s)-len(v.s)))
		}
		m, err := io.ReadFull(r.b, v.s[len(v.s):len(v.s)+int(room)])
		v.s = v.s[:len(v.s)+m]
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return v, fmt.Errorf("%d of %d bytes arrived: %w", len(v.s), n, err)
		}
	}
	r.left = maxLine
	return v, nil
}

// atom reads an atom; what is in square brackets belongs to it, as in
// BODY[HEADER.FIELDS (DATE)].
func (r *reader) atom() (value, error) {
	v := value{kind: atom}
	inside := false
	for {
		c, err := r.peek()
		if err != nil {
			return v, err
		}
		end := c == ' ' || c == '(' || c == ')' || c == '"' || c == '{'
		if c == '\r' || c == '\n' || end && !inside {
			break
		}
		inside = inside && c != ']' || c == '['
		v.s = append(v.s, c)
		if _, err := r.byte(); err != nil {
			return v, err
		}
	}
	if len(v.s) == 0 {
		return v, fmt.Errorf("%w: a value is missing", ErrProtocol)
	}
	if strings.EqualFold(string(v.s), "NIL") {
		v.kind = nothing
	}
	return v, nil
}
