package message

import (
	"net/mail"
	"strings"
	"time"
)

// Address is a mailbox of an address field. Either part may be empty.
type Address struct {
	Name string // decoded
	Addr string // local@domain, as written
}

// String is the address for people.
func (a Address) String() string {
	switch {
	case a.Name == "" || a.Name == a.Addr:
		return a.Addr
	case a.Addr == "":
		return a.Name
	}
	return a.Name + " <" + a.Addr + ">"
}

// Addresses reads an address list (RFC 5322, 3.4) leniently: groups, comments,
// quotes, encoded words, and names with commas that nobody quoted.
func Addresses(v string) []Address {
	var out []Address
	for v != "" && len(out) < MaxAddresses {
		var one string
		one, v = cutAddress(v)
		if a := parseAddress(one); a != (Address{}) {
			out = append(out, a)
		}
	}
	return out
}

// cutAddress cuts at the next comma or semicolon outside quotes, comments and
// angle brackets; a group's name ends at its colon.
func cutAddress(s string) (one, rest string) {
	quoted, angle, comment := false, false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case c == '"' && comment == 0:
			quoted = !quoted
		case quoted:
		case c == '(':
			comment++
		case c == ')' && comment > 0:
			comment--
		case comment > 0:
		case c == '<':
			angle = true
		case c == '>':
			angle = false
		case c == ':' && !angle:
			return "", s[i+1:]
		case (c == ',' || c == ';') && !angle:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func parseAddress(s string) Address {
	s = strings.TrimSpace(s)
	if i := strings.LastIndexByte(s, '<'); i >= 0 {
		addr, _, _ := strings.Cut(s[i+1:], ">")
		if at := strings.LastIndexByte(addr, ':'); at >= 0 && strings.HasPrefix(addr, "@") {
			addr = addr[at+1:] // a source route (RFC 5322, 4.4)
		}
		return Address{Name: phrase(s[:i]), Addr: clean(strings.ReplaceAll(strings.TrimSpace(addr), " ", ""))}
	}
	name := ""
	if i := strings.IndexByte(s, '('); i >= 0 { // addr (Name)
		if j := strings.LastIndexByte(s, ')'); j > i {
			name = DecodeWords(s[i+1 : j])
			s = strings.TrimSpace(s[:i] + s[j+1:])
		}
	}
	if strings.Contains(s, "@") && !strings.ContainsAny(s, " \t") {
		return Address{Name: name, Addr: clean(s)}
	}
	if name == "" {
		name = phrase(s)
	}
	return Address{Name: name}
}

func phrase(s string) string {
	s = strings.TrimSpace(s)
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return strings.TrimSpace(DecodeWords(b.String()))
}

// dateLayouts are what mailers write beside RFC 5322.
var dateLayouts = []string{
	"Mon, 2 Jan 2006 15:04:05 -0700", "2 Jan 2006 15:04:05 -0700", "Mon, 2 Jan 2006 15:04:05", "Mon, 2 Jan 06 15:04:05 -0700", "2 Jan 06 15:04:05 -0700",
	"Mon 2 Jan 2006 15:04:05 -0700", "Mon Jan 2 15:04:05 2006", "Mon Jan 2 15:04:05 -0700 2006", "Mon Jan 2 15:04:05 MST 2006", "Mon, Jan 2 2006 15:04:05 -0700", "Mon, 2 Jan 2006 15:04 -0700",
	"2006-01-02 15:04:05 -0700", "2006-01-02T15:04:05Z07:00", "2006-01-02 15:04:05", "Monday, 2 January 2006 15:04:05 -0700", "Mon, 2 January 2006 15:04:05 -0700",
	"2 Jan 2006 15:04:05", "02-Jan-2006 15:04:05 -0700", "Mon, 02-Jan-2006 15:04:05 -0700", "Mon, 02-Jan-06 15:04:05 MST", "Mon, 2 Jan 2006 15.04.05 -0700", "Mon, 2 Jan 2006 3:04:05 PM -0700",
}

// zones are the obsolete zone names (RFC 5322, 4.3); Go would read an unknown
// name as UTC.
var zones = strings.NewReplacer(" UTC", " +0000", " GMT", " +0000", " UT", " +0000", " Z", " +0000", " EST", " -0500", " EDT", " -0400", " CST", " -0600", " CDT", " -0500",
	" MST", " -0700", " MDT", " -0600", " PST", " -0800", " PDT", " -0700", " CET", " +0100", " CEST", " +0200", " MET", " +0100", " BST", " +0100", " JST", " +0900")

// ParseDate reads a date field. ok is false for what no rule understands.
func ParseDate(v string) (t time.Time, ok bool) {
	if t, err := time.Parse(time.ANSIC, v); err == nil { // of most separators in mbox files
		return t, true
	}
	if t, err := mail.ParseDate(strings.TrimSpace(zones.Replace(v + " "))); err == nil {
		return t, true
	}
	if i := strings.IndexByte(v, '('); i > 0 {
		v = v[:i]
	}
	v = strings.Join(strings.Fields(v), " ")
	named := zones.Replace(strings.ToUpper(v) + " ")
	for _, l := range dateLayouts {
		for _, s := range [2]string{strings.TrimSpace(named), v} {
			if t, err := time.Parse(l, s); err == nil {
				return t, true
			}
		}
	}
	return time.Time{}, false
}

// ReceivedDate is the date of the topmost Received field that has one.
func (h Header) ReceivedDate() (time.Time, bool) {
	for i := range h {
		if strings.EqualFold(h[i].Name, "Received") {
			v := Unfold(h[i].Value)
			if at := strings.LastIndexByte(v, ';'); at >= 0 {
				if t, ok := ParseDate(v[at+1:]); ok {
					return t, true
				}
			}
		}
	}
	return time.Time{}, false
}
