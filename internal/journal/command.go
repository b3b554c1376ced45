package journal

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// command is a line, taken apart.
type command struct {
	verb string // in capitals
	arg  string
}

// parseCommand reads a line without its end (RFC 5321, 2.4 and 4.1.1).
func parseCommand(line string) command {
	verb, arg, _ := strings.Cut(strings.TrimRight(line, " "), " ")
	return command{strings.ToUpper(verb), arg}
}

// printable tells whether nothing in s controls a terminal or a protocol.
// UTF-8 is for those to look at who may not see it.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

var (
	errPath = &Refusal{501, "5.1.7", "The address is not written as RFC 5321 says"}
	errUTF8 = &Refusal{553, "5.6.7", "The address needs SMTPUTF8, which was not said"}
)

// parsePath reads "FROM:<path> parameters" or "TO:<path> parameters" (RFC
// 5321, 4.1.2). The address is "" for <>. Lengths are those of the line: the
// limits of RFC 5321, 4.5.3.1 are ones that senders should keep to.
func parsePath(arg, word string) (address string, params []string, err error) {
	if len(arg) < len(word) || !strings.EqualFold(arg[:len(word)], word) {
		return "", nil, &Refusal{501, "5.5.4", "Expected " + word + "<address>"}
	}
	s := arg[len(word):]
	end := pathEnd(s)
	if end < 0 {
		return "", nil, errPath
	}
	path, rest := s[1:end], s[end+1:]
	if rest != "" && rest[0] != ' ' {
		return "", nil, errPath
	}
	// A source route is taken and ignored (RFC 5321, 4.1.1.3 and appendix C).
	if strings.HasPrefix(path, "@") {
		_, after, ok := strings.Cut(path, ":")
		if !ok {
			return "", nil, errPath
		}
		path = after
		if path == "" {
			return "", nil, errPath
		}
	}
	if path != "" && !isMailbox(path) {
		return "", nil, errPath
	}
	return path, strings.Fields(rest), nil
}

// pathEnd finds the ">" of "<path>", which a quoted string may hold too.
func pathEnd(s string) int {
	if s == "" || s[0] != '<' {
		return -1
	}
	quoted := false
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == '>' && !quoted:
			return i
		}
	}
	return -1
}

// isMailbox tells whether s is an address, or "postmaster", the one that needs
// no domain. Dots may be anywhere in the local part, as some systems have them.
func isMailbox(s string) bool {
	if !utf8.ValidString(s) || !printable(s) {
		return false
	}
	if strings.EqualFold(s, "postmaster") {
		return true
	}
	local := localEnd(s)
	if local <= 0 || local == len(s) || s[local] != '@' {
		return false
	}
	return isDomain(s[local+1:])
}

// localEnd is the length of the local part at the beginning of s.
func localEnd(s string) int {
	if s != "" && s[0] == '"' { // quoted string
		for i := 1; i < len(s); i++ {
			switch s[i] {
			case '\\':
				i++
			case '"':
				return i + 1
			}
		}
		return -1
	}
	if i := strings.IndexAny(s, "()<>@,;:\\\"[] "); i >= 0 { // RFC 5322, 3.2.3
		return i
	}
	return len(s)
}

func isDomain(s string) bool {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && inner != "" && !strings.ContainsAny(inner, "[]\\<> ")
	}
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r < utf8.RuneSelf && !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '.' || r == '_')
	})
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// mailParams are the parameters of MAIL.
type mailParams struct {
	size int64 // 0: not said
	utf8 bool
}

func parseMailParams(params []string) (p mailParams, err error) {
	seen := map[string]bool{}
	for _, s := range params {
		name, value, has := strings.Cut(s, "=")
		name = strings.ToUpper(name)
		if seen[name] {
			return p, &Refusal{501, "5.5.4", "A parameter is there twice"}
		}
		seen[name] = true
		switch {
		case name == "SIZE": // RFC 1870, 4: up to 20 digits
			n, err := strconv.ParseUint(value, 10, 64)
			if errors.Is(err, strconv.ErrRange) {
				n, err = 1<<63-1, nil
			}
			if err != nil || len(value) > 20 {
				return p, &Refusal{501, "5.5.4", "SIZE is a number"}
			}
			p.size = int64(min(n, 1<<63-1))
		case name == "BODY" && (strings.EqualFold(value, "7BIT") || strings.EqualFold(value, "8BITMIME")): // RFC 6152, 2
		case name == "SMTPUTF8" && !has: // RFC 6531, 3.4
			p.utf8 = true
		case name == "AUTH" && value != "": // RFC 4954, 5: who wrote it says the report itself
		default:
			return p, &Refusal{555, "5.5.4", "A parameter that was not offered"}
		}
	}
	return p, nil
}

// parsePlain reads the response of SASL PLAIN (RFC 4616, 2). Nobody signs in
// for somebody else.
func parsePlain(response string) (user, password string, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(response)
	if err != nil {
		return "", "", &Refusal{501, "5.5.2", "The response is not in base64"}
	}
	f := bytes.Split(b, []byte{0})
	if len(f) != 3 || len(f[1]) == 0 || len(f[2]) == 0 {
		return "", "", &Refusal{501, "5.5.2", "The response is not that of PLAIN"}
	}
	if len(f[0]) > 0 && !bytes.Equal(f[0], f[1]) {
		return "", "", &Refusal{535, "5.7.8", "Nobody signs in for somebody else"}
	}
	return string(f[1]), string(f[2]), nil
}

// line is the reply that a refusal makes. Code and text come from elsewhere
// and are made to fit into a reply.
func (r *Refusal) line() (code int, status, text string) {
	if r.Code < 400 || r.Code > 599 {
		return 451, "4.3.0", "Try again later"
	}
	status, text = r.Status, strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f {
			return '?'
		}
		return c
	}, r.Text[:min(len(r.Text), maxText)])
	class, detail, ok := strings.Cut(status, ".")
	if !ok || class != strconv.Itoa(r.Code/100) || strings.Trim(detail, "0123456789.") != "" {
		status = fmt.Sprintf("%d.0.0", r.Code/100)
	}
	return r.Code, status, text
}
