// Package delivery tells whose a message is: it takes the envelope out of
// journal reports, of copies that carry it in an address, and of the headers
// that mail servers leave, and finds the mailboxes that belong to it.
//
// What no rule assigns goes to the mailbox "unassigned", into a folder that is
// named by the address it was for: nothing is thrown away.
package delivery

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/flate"

	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/pack"
)

// Delivery is a message and what is known of its envelope.
type Delivery struct {
	Raw      []byte
	Envelope pack.Envelope // without Row and Source
	// Report tells that a journal report carried the message.
	Report bool
}

// Told is what came with the bytes.
type Told struct {
	Sender     string   // of the envelope, as the last hop had it
	Recipients []string // named one by one, as in the addresses of copies
	Own        []string // addresses of the account or the journal: nobody's
	Time       time.Time
}

// recipientHeaders are left by mail servers that deliver to one recipient, or
// that pass on a copy for one.
var recipientHeaders = []string{"X-Gm-Original-To", "X-Original-To", "Envelope-To", "X-Envelope-To", "Delivered-To", "X-Delivered-To", "Apparently-To"}

// Of finds the envelope of a message: in a report, in what was told, or in its
// headers. A sender can forge headers, so those that name somebody beside To
// and Cc add to them and replace nothing.
func Of(raw []byte, t Told) Delivery {
	if r, ok := ParseReport(raw); ok {
		return ofReport(raw, r, t)
	}
	d := Delivery{Raw: raw, Envelope: pack.Envelope{Sender: t.Sender}}
	h := message.Parse(raw).Root.Header
	x := &d.Envelope
	for _, a := range t.Recipients {
		add(x, "recipient", a, t.Own)
	}
	if len(x.Recipients) == 0 {
		for _, name := range recipientHeaders {
			for _, a := range addresses(h, name) {
				add(x, "recipient", a, t.Own)
			}
		}
		add(x, "recipient", receivedFor(h), t.Own)
		x.Open = len(x.Recipients) == 0
		for _, kind := range []string{"To", "Cc", "Bcc"} {
			for _, a := range addresses(h, kind) {
				add(x, strings.ToLower(kind), a, t.Own)
			}
		}
	}
	for _, name := range []string{"Return-Path", "From"} {
		if as := addresses(h, name); x.Sender == "" && len(as) > 0 {
			x.Sender = as[0]
		}
	}
	d.finish(raw, h, t.Time)
	return d
}

func ofReport(raw []byte, r *Report, t Told) Delivery {
	d := Delivery{Raw: r.Original, Report: true, Envelope: pack.Envelope{Sender: r.Sender, Recipients: r.Recipients}}
	if r.Original == nil { // cut off: the report is all there is
		d.Raw, d.Report = raw, false
	} else {
		d.Envelope.Report = wrap(r.Before, r.Behind)
	}
	if r.OnBehalfOf != "" {
		d.Envelope.Recipients = append(d.Envelope.Recipients, Recipient{Address: r.OnBehalfOf, Kind: OnBehalfOf})
	}
	d.finish(raw, message.Parse(raw).Root.Header, t.Time)
	return d
}

// OnBehalfOf is the kind of an address for which a message was sent.
const OnBehalfOf = "on-behalf-of"

// finish gives the envelope its name and its key.
func (d *Delivery) finish(raw []byte, h message.Header, at time.Time) {
	x := &d.Envelope
	x.Where, x.Time = strings.Trim(h.Get("Message-ID"), "<> "), at.UTC().Truncate(time.Millisecond)
	if len(x.Where) > maxWhere {
		x.Where = strings.ToValidUTF8(x.Where[:maxWhere], "")
	}
	sum := sha256.New()
	if d.Report {
		sum.Write(raw)
	} else {
		fmt.Fprintf(sum, "%q %q", x.Sender, x.Recipients)
	}
	x.Key = int64(binary.BigEndian.Uint64(sum.Sum(nil)))
}

// maxWhere bounds what is kept of a report's Message-ID, in bytes.
const maxWhere = 500

// add adds a recipient who is not there yet.
func add(x *pack.Envelope, kind, a string, own []string) {
	same := func(b string) bool { return strings.EqualFold(a, b) }
	if a == "" || len(x.Recipients) >= maxRecipients || slices.ContainsFunc(own, same) || slices.ContainsFunc(x.Recipients, func(r Recipient) bool { return same(r.Address) }) {
		return
	}
	x.Recipients = append(x.Recipients, Recipient{Address: a, Kind: kind})
}

// maxHeaderAddresses bounds what is looked at in one kind of header.
const maxHeaderAddresses = 2000

// addresses returns the addresses in all fields of a name.
func addresses(h message.Header, name string) (out []string) {
	for _, f := range h {
		if !strings.EqualFold(f.Name, name) || len(out) >= maxHeaderAddresses {
			continue
		}
		v := message.Unfold(f.Value)
		if as, err := mail.ParseAddressList(v); err == nil {
			for _, a := range as {
				out = append(out, a.Address)
			}
			continue
		}
		for part := range strings.SplitSeq(v, ",") {
			if a := address(part); strings.Contains(a, "@") {
				out = append(out, a)
			}
		}
	}
	return out[:min(len(out), maxHeaderAddresses)]
}

// receivedFor is the recipient that the last server wrote into Received; a
// server names one only if there is one (RFC 5321, 4.4).
func receivedFor(h message.Header) string {
	v := h.Get("Received")
	_, after, ok := strings.Cut(v, " for ")
	if !ok {
		return ""
	}
	word, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	if a := address(strings.TrimRight(word, ";")); strings.Contains(a, "@") {
		return a
	}
	return ""
}

// wrap packs what stood around a message in its report.
func wrap(before, behind []byte) []byte {
	var plain []byte
	for _, b := range [][]byte{before, behind} {
		plain = append(binary.BigEndian.AppendUint32(plain, uint32(len(b))), b...)
	}
	var out bytes.Buffer
	if err := flate.StatelessDeflate(&out, plain, true, nil); err != nil {
		panic(err) // a buffer takes everything
	}
	return out.Bytes()
}

// Rebuild returns the report that carried a message, from what was kept of it.
func Rebuild(kept, original []byte) ([]byte, error) {
	plain, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(kept)), maxWrapping))
	if err != nil {
		return nil, fmt.Errorf("journal report: %w", err)
	}
	var out []byte
	for i := range 2 {
		if len(plain) < 4 {
			return nil, errors.New("journal report: cut off")
		}
		n := int64(binary.BigEndian.Uint32(plain))
		if plain = plain[4:]; n > int64(len(plain)) {
			return nil, errors.New("journal report: cut off")
		}
		out = append(out, plain[:n]...)
		if plain = plain[n:]; i == 0 {
			out = append(out, original...)
		}
	}
	return out, nil
}

// maxWrapping bounds what stands around a message in a report, in bytes: the
// list of its recipients.
const maxWrapping = 64 << 20
