package imapclient

import (
	"encoding/base64"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// modified is the base64 of modified UTF-7 (RFC 3501, 5.1.3).
var modified = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").WithPadding(base64.NoPadding)

// decodeUTF7 returns the name of a folder. One that is not valid is returned
// as it is: it must still be possible to open it.
func decodeUTF7(s string) string {
	var b strings.Builder
	for rest := s; rest != ""; {
		i := strings.IndexByte(rest, '&')
		if i < 0 {
			b.WriteString(rest)
			break
		}
		b.WriteString(rest[:i])
		code, after, ok := strings.Cut(rest[i+1:], "-")
		if !ok {
			return s
		}
		rest = after
		if code == "" {
			b.WriteByte('&')
			continue
		}
		raw, err := modified.DecodeString(code)
		if err != nil || len(raw)%2 != 0 {
			return s
		}
		units := make([]uint16, len(raw)/2)
		for i := range units {
			units[i] = uint16(raw[2*i])<<8 | uint16(raw[2*i+1])
		}
		for _, r := range utf16.Decode(units) {
			if r == utf8.RuneError {
				return s
			}
			b.WriteRune(r)
		}
	}
	return b.String()
}

// encodeUTF7 is the other way round.
func encodeUTF7(s string) string {
	var b strings.Builder
	var run []rune
	flush := func() {
		if len(run) == 0 {
			return
		}
		units := utf16.Encode(run)
		raw := make([]byte, 0, 2*len(units))
		for _, u := range units {
			raw = append(raw, byte(u>>8), byte(u))
		}
		b.WriteByte('&')
		b.WriteString(modified.EncodeToString(raw))
		b.WriteByte('-')
		run = run[:0]
	}
	for _, r := range s {
		switch {
		case r < ' ' || r > '~':
			run = append(run, r)
			continue
		case r == '&':
			flush()
			b.WriteString("&-")
			continue
		}
		flush()
		b.WriteRune(r)
	}
	flush()
	return b.String()
}
