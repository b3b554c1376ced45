// Package pack is the encoding of what an archive stores: commit frames with
// their entries, leaves and records, and the skeleton of a message.
//
// Everything is in the wire format of protocol buffers (a tag and a length or
// a varint before each field), because it is boring, can gain fields, and any
// reader of any language can take it apart. docs/format.md lists the fields.
// The package holds no state and touches no file.
package pack

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/letterhold/letterhold/internal/seal"
)

// ErrFormat means that bytes are not what this package wrote.
var ErrFormat = errors.New("malformed")

// Entry is one object of a pack: where its ciphertext lies and how it opens.
type Entry struct {
	ID     seal.ID
	Type   seal.Type
	Offset int64 // in the pack, bytes
	Sealed int64 // length of the ciphertext, bytes
	Plain  int64 // length of the content before compression, bytes
	Stored bool  // not compressed
	Key    seal.Key
}

// Erased tells an entry that only keeps its place: the object's id and key are
// gone, its bytes are noise.
func (e *Entry) Erased() bool { return e.ID == seal.ID{} }

// Erase removes id and key from the entry.
func (e *Entry) Erase() { *e = Entry{Offset: e.Offset, Sealed: e.Sealed} }

// Message is the record of a message: what makes it one, beside its bytes.
type Message struct {
	Leaf     int64     // index of its leaf in the ledger; its sequence number
	ID       seal.ID   // of the complete raw bytes
	Skeleton seal.ID   // the object it is rebuilt from
	Parts    []seal.ID // the objects that the skeleton refers to
	Size     int64     // raw bytes
	Salt     [16]byte  // of the leaf's commitment
	Row      int64     // seconds since 1970 << 24 | counter; its place in time
	DateRule DateRule
	Arrived  time.Time // millisecond precision
	Partial  bool      // over a budget: archived whole, analysed in part
}

// DateRule says where a message's date comes from.
type DateRule byte

// The rules, in the order in which they are tried.
const (
	DateHeader   DateRule = 1 // the Date field
	DateReceived DateRule = 2 // the topmost Received field
	DateSource   DateRule = 3 // INTERNALDATE, the mbox separator or the file's time
	DateArrival  DateRule = 4 // when it was archived
)

// String names the rule.
func (r DateRule) String() string {
	switch r {
	case DateHeader:
		return "date"
	case DateReceived:
		return "received"
	case DateSource:
		return "source"
	case DateArrival:
		return "arrival"
	}
	return fmt.Sprintf("rule %d", byte(r))
}

// Occurrence is one meeting with a message: where it was found, and its place
// in the archive's own folders.
type Occurrence struct {
	Row      int64 // of the message
	Folder   int64
	UID      uint32
	Source   int64
	Where    string // path, offset or UID at the source
	Flags    string // of the source, space-separated, in IMAP's spelling
	Internal time.Time
	ModSeq   int64
}

// Envelope is the record of how a mail server says a message was delivered. A
// message has one for each report of it.
type Envelope struct {
	Row        int64 // of the message
	Key        int64 // tells reports of one message apart
	Source     int64
	Where      string // how the source names the report
	Time       time.Time
	Sender     string
	Recipients []Recipient
	// Report is what stood before and behind the message in the report that
	// carried it, each with its length before it (4 bytes, big-endian), packed
	// by DEFLATE (RFC 1951); empty if there was no report.
	Report []byte
	// Open says that there may be recipients whom nobody named: a plain copy does
	// not tell who had it blind.
	Open bool
}

// Recipient is one of an envelope.
type Recipient struct {
	Address   string
	Kind      string // to, cc, bcc, recipient
	Expanded  string // the list that led to it
	Forwarded string // the recipient who passes mail on to this one
}

// Folder is the record of a folder of a mailbox.
type Folder struct {
	ID          int64
	Mailbox     int64
	Name        string // levels separated by "/"
	UIDValidity uint32
}

// Source is the record of where occurrences came from.
type Source struct {
	ID   int64
	Name string
}

// Act is the record of an administrative act.
type Act struct {
	Leaf   int64
	Salt   [16]byte
	State  uint64 // generation of state.db that the act leads to; 0: none
	Detail []byte // JSON
}

// Frame is one commit.
type Frame struct {
	Number      uint64 // of the commit, from 1
	Time        time.Time
	FirstLeaf   int64
	Entries     []Entry
	Leaves      [][]byte
	Messages    []Message
	Occurrences []Occurrence
	Folders     []Folder
	Sources     []Source
	Acts        []Act
	Envelopes   []Envelope
}

// writer appends fields; zero values are left out.
type writer []byte

func (w *writer) num(f protowire.Number, v int64) {
	if v != 0 {
		*w = protowire.AppendVarint(protowire.AppendTag(*w, f, protowire.VarintType), uint64(v))
	}
}

func (w *writer) bytes(f protowire.Number, b []byte) {
	if len(b) > 0 {
		*w = protowire.AppendBytes(protowire.AppendTag(*w, f, protowire.BytesType), b)
	}
}

func (w *writer) text(f protowire.Number, s string) {
	if s != "" {
		*w = protowire.AppendString(protowire.AppendTag(*w, f, protowire.BytesType), s)
	}
}

// sub writes a message field, also when it is empty: its presence counts.
func (w *writer) sub(f protowire.Number, b []byte) {
	*w = protowire.AppendBytes(protowire.AppendTag(*w, f, protowire.BytesType), b)
}

func (w *writer) time(f protowire.Number, t time.Time) {
	if !t.IsZero() {
		w.num(f, t.UnixMilli())
	}
}

// field is one decoded field: a number or bytes.
type field struct {
	n protowire.Number
	v int64
	b []byte
}

// fields calls fn for each field of b. Unknown fields are the caller's to skip.
func fields(b []byte, fn func(field) error) error {
	for len(b) > 0 {
		n, t, l := protowire.ConsumeTag(b)
		if l < 0 {
			return ErrFormat
		}
		b = b[l:]
		f := field{n: n}
		switch t {
		case protowire.VarintType:
			v, l := protowire.ConsumeVarint(b)
			if l < 0 {
				return ErrFormat
			}
			f.v, b = int64(v), b[l:]
		case protowire.BytesType:
			v, l := protowire.ConsumeBytes(b)
			if l < 0 {
				return ErrFormat
			}
			f.b, b = v, b[l:]
		default:
			return ErrFormat
		}
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

func (f field) id() (seal.ID, error) {
	if len(f.b) != len(seal.ID{}) {
		return seal.ID{}, ErrFormat
	}
	return seal.ID(f.b), nil
}

func (f field) salt() ([16]byte, error) {
	if len(f.b) != 16 {
		return [16]byte{}, ErrFormat
	}
	return [16]byte(f.b), nil
}

func (f field) size() (int64, error) {
	if f.v < 0 {
		return 0, ErrFormat
	}
	return f.v, nil
}

func (f field) time() time.Time { return time.UnixMilli(f.v).UTC() }

// Encode returns the plaintext of the frame.
func (f *Frame) Encode() []byte {
	w := make(writer, 0, 256+200*len(f.Messages)+90*len(f.Entries))
	w.num(1, int64(f.Number))
	w.time(2, f.Time)
	w.num(3, f.FirstLeaf)
	var s writer
	for i := range f.Entries {
		s = s[:0]
		f.Entries[i].encode(&s)
		w.sub(4, s)
	}
	for _, l := range f.Leaves {
		w.sub(5, l)
	}
	for i := range f.Messages {
		s = s[:0]
		f.Messages[i].encode(&s, f.FirstLeaf)
		w.sub(6, s)
	}
	for i := range f.Occurrences {
		s = s[:0]
		f.Occurrences[i].encode(&s)
		w.sub(7, s)
	}
	for _, x := range f.Folders {
		s = s[:0]
		s.num(1, x.ID)
		s.num(2, x.Mailbox)
		s.text(3, x.Name)
		s.num(4, int64(x.UIDValidity))
		w.sub(8, s)
	}
	for _, x := range f.Sources {
		s = s[:0]
		s.num(1, x.ID)
		s.text(2, x.Name)
		w.sub(9, s)
	}
	for _, x := range f.Acts {
		s = s[:0]
		s.num(1, x.Leaf-f.FirstLeaf)
		s.bytes(2, x.Salt[:])
		s.num(3, int64(x.State))
		s.bytes(4, x.Detail)
		w.sub(10, s)
	}
	for i := range f.Envelopes {
		s = s[:0]
		f.Envelopes[i].encode(&s)
		w.sub(11, s)
	}
	return w
}

func (e *Entry) encode(s *writer) {
	if e.Erased() {
		s.num(3, e.Offset)
		s.num(4, e.Sealed)
		return
	}
	s.bytes(1, e.ID[:])
	s.num(2, int64(e.Type))
	s.num(3, e.Offset)
	s.num(4, e.Sealed)
	s.num(5, e.Plain)
	if e.Stored {
		s.num(6, 1)
	}
	s.bytes(7, e.Key[:])
}

func (m *Message) encode(s *writer, first int64) {
	s.num(1, m.Leaf-first)
	s.bytes(2, m.ID[:])
	s.bytes(3, m.Skeleton[:])
	for i := range m.Parts {
		s.bytes(4, m.Parts[i][:])
	}
	s.num(5, m.Size)
	s.bytes(6, m.Salt[:])
	s.num(7, m.Row)
	s.num(8, int64(m.DateRule))
	s.time(9, m.Arrived)
	if m.Partial {
		s.num(10, 1)
	}
}

func (o *Occurrence) encode(s *writer) {
	s.num(1, o.Row)
	s.num(2, o.Folder)
	s.num(3, int64(o.UID))
	s.num(4, o.Source)
	s.text(5, o.Where)
	s.text(6, o.Flags)
	s.time(7, o.Internal)
	s.num(8, o.ModSeq)
}

func (x *Envelope) encode(s *writer) {
	s.num(1, x.Row)
	s.num(2, x.Key)
	s.num(3, x.Source)
	s.text(4, x.Where)
	s.time(5, x.Time)
	s.text(6, x.Sender)
	for _, r := range x.Recipients {
		var sub writer
		sub.text(1, r.Address)
		sub.text(2, r.Kind)
		sub.text(3, r.Expanded)
		sub.text(4, r.Forwarded)
		s.sub(7, sub)
	}
	s.bytes(8, x.Report)
	if x.Open {
		s.num(9, 1)
	}
}

// DecodeFrame reads what Encode wrote.
func DecodeFrame(b []byte) (*Frame, error) {
	f := &Frame{}
	err := fields(b, func(x field) (err error) {
		switch x.n {
		case 1:
			f.Number = uint64(x.v)
		case 2:
			f.Time = x.time()
		case 3:
			f.FirstLeaf, err = x.size()
		case 4:
			var e Entry
			e, err = decodeEntry(x.b)
			f.Entries = append(f.Entries, e)
		case 5:
			f.Leaves = append(f.Leaves, x.b)
		case 6:
			var m Message
			m, err = decodeMessage(x.b, f.FirstLeaf)
			f.Messages = append(f.Messages, m)
		case 7:
			var o Occurrence
			o, err = decodeOccurrence(x.b)
			f.Occurrences = append(f.Occurrences, o)
		case 8:
			var d Folder
			d, err = decodeFolder(x.b)
			f.Folders = append(f.Folders, d)
		case 9:
			var s Source
			s, err = decodeSource(x.b)
			f.Sources = append(f.Sources, s)
		case 10:
			var a Act
			a, err = decodeAct(x.b, f.FirstLeaf)
			f.Acts = append(f.Acts, a)
		case 11:
			var e Envelope
			e, err = decodeEnvelope(x.b)
			f.Envelopes = append(f.Envelopes, e)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("commit frame: %w", err)
	}
	return f, nil
}

func decodeEntry(b []byte) (e Entry, err error) {
	keyed := false
	err = fields(b, func(x field) (err error) {
		switch x.n {
		case 1:
			e.ID, err = x.id()
		case 2:
			e.Type = seal.Type(x.v)
		case 3:
			e.Offset, err = x.size()
		case 4:
			e.Sealed, err = x.size()
		case 5:
			e.Plain, err = x.size()
		case 6:
			e.Stored = x.v != 0
		case 7:
			if len(x.b) != seal.KeySize {
				return ErrFormat
			}
			e.Key, keyed = seal.Key(x.b), true
		}
		return err
	})
	if err == nil && keyed == e.Erased() {
		err = ErrFormat
	}
	return e, err
}

func decodeMessage(b []byte, first int64) (m Message, err error) {
	m.Leaf = first
	err = fields(b, func(x field) (err error) {
		switch x.n {
		case 1:
			m.Leaf = first + x.v
		case 2:
			m.ID, err = x.id()
		case 3:
			m.Skeleton, err = x.id()
		case 4:
			var id seal.ID
			id, err = x.id()
			m.Parts = append(m.Parts, id)
		case 5:
			m.Size, err = x.size()
		case 6:
			m.Salt, err = x.salt()
		case 7:
			m.Row = x.v
		case 8:
			m.DateRule = DateRule(x.v)
		case 9:
			m.Arrived = x.time()
		case 10:
			m.Partial = x.v != 0
		}
		return err
	})
	return m, err
}

func decodeOccurrence(b []byte) (o Occurrence, err error) {
	err = fields(b, func(x field) error {
		switch x.n {
		case 1:
			o.Row = x.v
		case 2:
			o.Folder = x.v
		case 3:
			o.UID = uint32(x.v)
		case 4:
			o.Source = x.v
		case 5:
			o.Where = string(x.b)
		case 6:
			o.Flags = string(x.b)
		case 7:
			o.Internal = x.time()
		case 8:
			o.ModSeq = x.v
		}
		return nil
	})
	return o, err
}

func decodeEnvelope(b []byte) (e Envelope, err error) {
	err = fields(b, func(x field) (err error) {
		switch x.n {
		case 1:
			e.Row = x.v
		case 2:
			e.Key = x.v
		case 3:
			e.Source = x.v
		case 4:
			e.Where = string(x.b)
		case 5:
			e.Time = x.time()
		case 6:
			e.Sender = string(x.b)
		case 7:
			var r Recipient
			r, err = decodeRecipient(x.b)
			e.Recipients = append(e.Recipients, r)
		case 8:
			e.Report = x.b
		case 9:
			e.Open = x.v != 0
		}
		return err
	})
	return e, err
}

func decodeRecipient(b []byte) (r Recipient, err error) {
	err = fields(b, func(x field) error {
		switch x.n {
		case 1:
			r.Address = string(x.b)
		case 2:
			r.Kind = string(x.b)
		case 3:
			r.Expanded = string(x.b)
		case 4:
			r.Forwarded = string(x.b)
		}
		return nil
	})
	return r, err
}

func decodeFolder(b []byte) (d Folder, err error) {
	err = fields(b, func(x field) error {
		switch x.n {
		case 1:
			d.ID = x.v
		case 2:
			d.Mailbox = x.v
		case 3:
			d.Name = string(x.b)
		case 4:
			d.UIDValidity = uint32(x.v)
		}
		return nil
	})
	return d, err
}

func decodeSource(b []byte) (s Source, err error) {
	err = fields(b, func(x field) error {
		switch x.n {
		case 1:
			s.ID = x.v
		case 2:
			s.Name = string(x.b)
		}
		return nil
	})
	return s, err
}

func decodeAct(b []byte, first int64) (a Act, err error) {
	a.Leaf = first
	err = fields(b, func(x field) (err error) {
		switch x.n {
		case 1:
			a.Leaf = first + x.v
		case 2:
			a.Salt, err = x.salt()
		case 3:
			a.State = uint64(x.v)
		case 4:
			a.Detail = x.b
		}
		return err
	})
	return a, err
}

// FindEntry looks for one object in the plaintext of a frame without decoding
// the rest.
func FindEntry(frame []byte, id seal.ID) (e Entry, found bool, err error) {
	err = fields(frame, func(x field) (err error) {
		// An entry begins with its id: tag, length, 16 bytes.
		if x.n != 4 || len(x.b) < 2+len(id) || seal.ID(x.b[2:2+len(id)]) != id {
			return nil
		}
		if e, err = decodeEntry(x.b); err == nil {
			found = true
			err = errFound
		}
		return err
	})
	if err == errFound {
		err = nil
	}
	return e, found, err
}

// FindMessage looks for the record of one message in the plaintext of a frame.
func FindMessage(frame []byte, id seal.ID) (m Message, found bool, err error) {
	first := int64(0)
	err = fields(frame, func(x field) (err error) {
		if x.n == 3 {
			first = x.v
		}
		if x.n != 6 {
			return nil
		}
		if m, err = decodeMessage(x.b, first); err == nil && m.ID == id {
			found = true
			err = errFound
		}
		return err
	})
	if err == errFound {
		err = nil
	}
	return m, found, err
}

var errFound = errors.New("found")
