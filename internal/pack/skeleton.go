package pack

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"

	"github.com/letterhold/letterhold/internal/seal"
)

// Base64 is how a base64 body was written, so that its decoded form gives the
// identical text again (RFC 2045, 6.8).
type Base64 struct {
	Line int    // characters in a full line; 0: all in one line
	LF   bool   // lines end in LF, not CRLF
	Last string // what follows the last full or partial line: "", "\n", "\r\n"
}

// Segment is a stretch of a message, in one of three forms: bytes as they are,
// bytes to be written as base64, or an object that holds either.
type Segment struct {
	Text   []byte  // as it is, or decoded when Base64 is set
	Object seal.ID // when Size > 0
	Size   int64   // of the object's content, bytes
	Base64 *Base64
}

// Skeleton is a message as a row of segments.
type Skeleton []Segment

// Encode returns the plaintext of a skeleton object.
func (k Skeleton) Encode() []byte {
	n := 64
	for i := range k {
		n += len(k[i].Text) + 32
	}
	w := make(writer, 0, n)
	var s writer
	for i := range k {
		g := &k[i]
		if g.Base64 == nil && g.Size == 0 {
			w.sub(1, g.Text)
			continue
		}
		s = s[:0]
		s.bytes(1, g.Text)
		if g.Size > 0 {
			s.bytes(2, g.Object[:])
			s.num(3, g.Size)
		}
		if b := g.Base64; b != nil {
			s.num(4, 1)
			s.num(5, int64(b.Line))
			if b.LF {
				s.num(6, 1)
			}
			s.text(7, b.Last)
		}
		w.sub(2, s)
	}
	return w
}

// DecodeSkeleton reads what Encode wrote. The segments share b's memory.
func DecodeSkeleton(b []byte) (Skeleton, error) {
	var k Skeleton
	err := fields(b, func(x field) error {
		switch x.n {
		case 1:
			k = append(k, Segment{Text: x.b})
		case 2:
			g, err := decodeSegment(x.b)
			if err != nil {
				return err
			}
			k = append(k, g)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("skeleton: %w", err)
	}
	return k, nil
}

func decodeSegment(b []byte) (Segment, error) {
	var g Segment
	var b64 Base64
	is64 := false
	err := fields(b, func(x field) (err error) {
		switch x.n {
		case 1:
			g.Text = x.b
		case 2:
			g.Object, err = x.id()
		case 3:
			g.Size, err = x.size()
		case 4:
			is64 = x.v != 0
		case 5:
			if x.v < 0 || x.v > maxBase64Line {
				return ErrFormat
			}
			b64.Line = int(x.v)
		case 6:
			b64.LF = x.v != 0
		case 7:
			b64.Last = string(x.b)
		}
		return err
	})
	if is64 {
		g.Base64 = &b64
	}
	return g, err
}

// maxBase64Line bounds the line length that is recorded; longer lines make a
// body that is kept as it is.
const maxBase64Line = 1 << 20

// DecodeBase64 decodes a base64 body if, and only if, AppendBase64 of the
// result and the returned form gives body again byte for byte.
func DecodeBase64(body []byte) ([]byte, *Base64, bool) {
	f := &Base64{}
	line := body
	if i := bytes.IndexByte(body, '\n'); i >= 0 {
		line = body[:i]
		f.LF = i == 0 || body[i-1] != '\r'
		if !f.LF {
			line = body[:i-1]
		}
	}
	f.Line = len(line)
	if f.Line == 0 || f.Line > maxBase64Line {
		return nil, nil, false
	}
	if bytes.HasSuffix(body, []byte(f.end())) {
		f.Last = f.end()
	}
	plain, err := f.decode(body)
	if err != nil || len(plain) == 0 || !f.matches(plain, body) {
		return nil, nil, false
	}
	return plain, f, true
}

// decode decodes body, line by line where lines are whole groups: Go's decoder
// is half as fast with line ends in what it reads. What is wrong with the lines
// shows in the comparison.
func (f *Base64) decode(body []byte) ([]byte, error) {
	end := []byte(f.end())
	enc := base64.StdEncoding.Strict()
	plain := make([]byte, enc.DecodedLen(len(body)))
	if f.Line%4 != 0 {
		n, err := enc.Decode(plain, body)
		return plain[:n], err
	}
	n := 0
	for len(body) > 0 {
		line, rest := body[:min(f.Line, len(body))], []byte(nil)
		if len(body) > f.Line {
			rest = bytes.TrimPrefix(body[f.Line:], end)
		}
		m, err := enc.Decode(plain[n:], bytes.TrimSuffix(line, end))
		if err != nil {
			return nil, err
		}
		n, body = n+m, rest
	}
	return plain[:n], nil
}

// matches compares the encoding of plain with body without building it whole.
func (f *Base64) matches(plain, body []byte) bool {
	if f.Line%4 != 0 {
		return bytes.Equal(AppendBase64(nil, plain, f), body)
	}
	raw := f.Line / 4 * 3
	buf := make([]byte, 0, f.Line+2)
	for ; len(plain) > raw; plain = plain[raw:] {
		buf = append(base64.StdEncoding.AppendEncode(buf[:0], plain[:raw]), f.end()...)
		if !bytes.HasPrefix(body, buf) {
			return false
		}
		body = body[len(buf):]
	}
	return bytes.Equal(append(base64.StdEncoding.AppendEncode(buf[:0], plain), f.Last...), body)
}

func (f *Base64) end() string {
	if f.LF {
		return "\n"
	}
	return "\r\n"
}

// AppendBase64 appends plain as f says it was written.
func AppendBase64(dst, plain []byte, f *Base64) []byte {
	dst = slices.Grow(dst, f.EncodedLen(len(plain)))
	if f.Line > 0 && f.Line%4 == 0 {
		raw := f.Line / 4 * 3
		for ; len(plain) > raw; plain = plain[raw:] {
			dst = append(base64.StdEncoding.AppendEncode(dst, plain[:raw]), f.end()...)
		}
		dst = base64.StdEncoding.AppendEncode(dst, plain)
		return append(dst, f.Last...)
	}
	text := base64.StdEncoding.AppendEncode(nil, plain)
	for f.Line > 0 && len(text) > f.Line {
		dst = append(append(dst, text[:f.Line]...), f.end()...)
		text = text[f.Line:]
	}
	dst = append(dst, text...)
	return append(dst, f.Last...)
}

// EncodedLen is how many bytes AppendBase64 makes of n.
func (f *Base64) EncodedLen(n int) int {
	chars := base64.StdEncoding.EncodedLen(n)
	lines := 0
	if f.Line > 0 && chars > 0 {
		lines = (chars - 1) / f.Line
	}
	return chars + lines*len(f.end()) + len(f.Last)
}
