package delivery

import (
	"bytes"
	"net/mail"
	"slices"
	"strings"

	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/pack"
)

// Report is an Exchange or Microsoft 365 journal report: what the envelope of
// the message it carries was ([MS-OXCJRNL] and Microsoft's "Journal report").
type Report struct {
	Sender     string
	OnBehalfOf string
	MessageID  string
	Label      string
	Recipients []Recipient
	// Original is the message that is reported about, byte for byte; nil if
	// the report was cut off within it.
	Original []byte
	// Before and Behind are the report without the message.
	Before, Behind []byte
}

// Recipient is one of a message's envelope. Its kind is to, cc or bcc, or
// recipient where the report does not say.
type Recipient = pack.Recipient

// maxRecipients bounds a report: Exchange expands no list beyond a few
// thousand.
const maxRecipients = 100_000

// generator is the domain in the Message-ID of every report.
const generator = "@journal.report.generator"

// ParseReport reads a journal report. ok is false for any other message: the
// header says so, or the structure and the Message-ID where a relay has taken
// the header away.
func ParseReport(raw []byte) (r *Report, ok bool) {
	m := message.Parse(raw)
	h := m.Root.Header
	marked := slices.ContainsFunc(h, func(f message.Field) bool {
		return strings.EqualFold(f.Name, "X-MS-Journal-Report") || strings.EqualFold(f.Name, "X-MS-Exchange-Organization-Journal-Report")
	})
	if !marked && !strings.Contains(strings.ToLower(h.Get("Message-ID")), generator) {
		return nil, false
	}
	if m.Root.Type != "multipart/mixed" || len(m.Root.Children) < 2 {
		return nil, false
	}
	text, carried := m.Root.Children[0], m.Root.Children[1]
	if text.Type != "text/plain" || carried.Type != "message/rfc822" && carried.Type != "application/ms-tnef" {
		return nil, false
	}
	body, _ := message.DecodeCharset(m.Decode(text), text.Params["charset"])
	r = parseFields(body)
	if r.Sender == "" && len(r.Recipients) == 0 {
		return nil, false
	}
	if carried.Type == "message/rfc822" && whole(m, carried) {
		r.Original = original(m, carried)
		r.Before, r.Behind = raw[:carried.Body], raw[carried.End:]
	}
	return r, true
}

// whole tells whether the part's end was there: a report that was cut off has
// no closing delimiter.
func whole(m *message.Message, p *message.Part) bool {
	boundary := m.Root.Params["boundary"]
	return boundary != "" && bytes.Contains(m.Raw[p.End:], []byte("--"+boundary))
}

// original is the carried message. Base64 there is forbidden (RFC 2046, 5.2.1)
// and seen.
func original(m *message.Message, p *message.Part) []byte {
	if p.Encoding == "base64" || p.Encoding == "quoted-printable" {
		return m.Decode(p)
	}
	return slices.Clone(m.Raw[p.Body:p.End])
}

// parseFields reads the lines "Name: value" of a report.
func parseFields(text string) *Report {
	r := &Report{}
	list := false // below "Recipients:", as Exchange 2003 writes it
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		name = strings.ToLower(strings.TrimSpace(name))
		if list && (!ok || strings.ContainsAny(name, " \"@")) {
			r.add("recipient", line)
			continue
		}
		value = strings.TrimSpace(value)
		list = false
		switch name {
		case "sender":
			r.Sender = address(value)
		case "on-behalf-of":
			r.OnBehalfOf = address(value)
		case "message-id":
			r.MessageID = strings.Trim(value, "<> ")
		case "label":
			r.Label = value
		case "to", "cc", "bcc", "recipient":
			r.add(name, value)
		case "recipients":
			if list = value == ""; !list {
				r.add("recipient", value)
			}
		}
	}
	return r
}

// add reads "address, Expanded: list" or "address, Forwarded: address".
func (r *Report) add(kind, value string) {
	if len(r.Recipients) >= maxRecipients {
		return
	}
	x := Recipient{Kind: kind}
	lower := strings.ToLower(value)
	for _, f := range []struct {
		word string
		to   *string
	}{{", expanded:", &x.Expanded}, {", forwarded:", &x.Forwarded}} {
		// Folding may change lengths; then there is nothing to find.
		if i := strings.LastIndex(lower, f.word); i >= 0 && len(lower) == len(value) {
			*f.to = address(value[i+len(f.word):])
			value, lower = value[:i], lower[:i]
		}
	}
	x.Address = address(value)
	if x.Address != "" && !slices.Contains(r.Recipients[max(0, len(r.Recipients)-100):], x) {
		r.Recipients = append(r.Recipients, x)
	}
}

// address takes an address out of its display name: `"Ann" ann@example.org`,
// `Ann <ann@example.org>`, `ann@example.org`.
func address(s string) string {
	s = strings.TrimSpace(s)
	if a, err := mail.ParseAddress(s); err == nil {
		return a.Address
	}
	fields := strings.Fields(s)
	for _, f := range slices.Backward(fields) {
		if f = strings.Trim(f, "<>\"';,"); strings.Contains(f, "@") {
			return f
		}
	}
	return strings.Trim(s, "<>\"")
}
