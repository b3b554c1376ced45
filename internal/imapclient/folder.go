package imapclient

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/tlsconf"
)

// Folder is a folder of an account.
type Folder struct {
	Name   string // in UTF-8, levels separated by Delim
	Delim  string // "" if folders have no levels
	Attrs  []string
	wire   string // as the server writes it
	Shared bool   // of somebody else (RFC 2342)
}

// Has tells whether the folder has an attribute, in any case.
func (f *Folder) Has(attr string) bool {
	return slices.ContainsFunc(f.Attrs, func(a string) bool { return strings.EqualFold(a, attr) })
}

// Path is the name with "/" between levels and nothing that a level must not
// have.
func (f *Folder) Path() string {
	levels := []string{f.Name}
	if f.Delim != "" {
		levels = strings.Split(f.Name, f.Delim)
	}
	for i, l := range levels {
		l = strings.Map(func(r rune) rune {
			switch {
			case r < ' ' || r == 127:
				return -1
			case r == '/':
				return '∕' // U+2215: a slash within a name
			}
			return r
		}, strings.ToValidUTF8(l, "\uFFFD"))
		switch l = strings.TrimSpace(l); l {
		case "", ".", "..":
			l = "_" + l
		}
		levels[i] = l
	}
	if strings.EqualFold(levels[0], "INBOX") {
		levels[0] = "INBOX"
	}
	return strings.Join(levels, "/")
}

// Folders lists all folders that can be opened, with their special uses.
func (c *Client) Folders() ([]Folder, error) {
	out, err := c.folders()
	return out, tlsconf.At(tlsconf.StepFolders, err)
}

// maxFolders bounds a list that a hostile server never ends.
const maxFolders = 100_000

func (c *Client) folders() (out []Folder, err error) {
	shared, err := c.shared()
	if err != nil {
		return nil, err
	}
	cmd := `LIST "" "*"`
	if c.Has("SPECIAL-USE") && c.Has("LIST-EXTENDED") || c.Has("IMAP4REV2") {
		cmd += " RETURN (SPECIAL-USE)" // RFC 6154, 2
	}
	err = c.command("LIST", cmd, func(p *response) error {
		if len(p.values) < 4 || !p.values[0].is("LIST") {
			return nil
		}
		if len(out) >= maxFolders {
			return fmt.Errorf("%w: it lists more than %d folders", ErrProtocol, maxFolders)
		}
		f := Folder{Delim: p.values[2].str(), wire: p.values[3].str()}
		if p.values[2].kind == nothing {
			f.Delim = ""
		}
		for _, a := range p.values[1].list {
			f.Attrs = append(f.Attrs, a.str())
		}
		f.Name = f.wire
		if !c.utf8 {
			f.Name = decodeUTF7(f.wire)
		}
		f.Shared = !strings.EqualFold(f.wire, "INBOX") && shared(f.wire)
		if !f.Has(`\Noselect`) && !f.Has(`\NonExistent`) {
			out = append(out, f)
		}
		return nil
	})
	return out, err
}

// shared returns what tells whether a folder belongs to somebody else or to
// several: the longest prefix that fits decides. That of shared folders may be
// empty, as with Cyrus (RFC 2342, 5).
func (c *Client) shared() (func(name string) bool, error) {
	whose := map[string]bool{} // whether shared, by prefix
	if c.Has("NAMESPACE") || c.Has("IMAP4REV2") {
		if err := c.command("NAMESPACE", "NAMESPACE", func(p *response) error {
			if len(p.values) < 4 || !p.values[0].is("NAMESPACE") {
				return nil
			}
			for kind, spaces := range p.values[1:4] {
				for _, ns := range spaces.list {
					if len(ns.list) == 0 {
						continue
					}
					// Personal ones come first: a prefix that is told twice is personal.
					prefix := ns.list[0].str()
					if _, told := whose[prefix]; !told {
						whose[prefix] = kind > 0
					}
				}
			}
			return nil
		}); err != nil && !errors.Is(err, ErrRefused) {
			return nil, err
		}
	}
	return func(name string) bool {
		shared, longest := false, -1
		for prefix, s := range whose {
			if len(prefix) > longest && strings.HasPrefix(name, prefix) {
				shared, longest = s, len(prefix)
			}
		}
		return shared
	}, nil
}

// name is how a folder is named to the server.
func (c *Client) name(f *Folder) string {
	switch {
	case f.wire != "":
		return f.wire
	case c.utf8:
		return f.Name
	}
	return encodeUTF7(f.Name)
}

// Status is the state of a folder.
type Status struct {
	UIDValidity uint32
	UIDNext     uint32 // 0: not told
	Exists      uint32
	ModSeq      uint64 // 0: the folder has none (RFC 7162)
}

// Status asks for the state of a folder without opening it.
func (c *Client) Status(f *Folder) (s Status, err error) {
	items := "(UIDVALIDITY UIDNEXT MESSAGES"
	if c.Has("CONDSTORE") {
		items += " HIGHESTMODSEQ"
	}
	pieces := line("STATUS", c.name(f))
	pieces[len(pieces)-1] += " " + items + ")"
	_, err = c.run("STATUS", pieces, func(p *response) error {
		if len(p.values) < 3 || !p.values[0].is("STATUS") {
			return nil
		}
		l := p.values[2].list
		for i := 0; i+1 < len(l); i += 2 {
			n, err := l[i+1].number()
			if err != nil {
				return err
			}
			switch strings.ToUpper(l[i].str()) {
			case "UIDVALIDITY":
				s.UIDValidity = uint32(n)
			case "UIDNEXT":
				s.UIDNext = uint32(n)
			case "MESSAGES":
				s.Exists = uint32(n)
			case "HIGHESTMODSEQ":
				s.ModSeq = n
			}
		}
		return nil
	})
	return s, tlsconf.At(tlsconf.StepFolders, err)
}

// Examine opens a folder for reading only (RFC 9051, 6.3.3).
func (c *Client) Examine(f *Folder) (Status, error) {
	s, _, err := c.enter("EXAMINE", f)
	return s, err
}

// enter opens a folder; code is what the server says of it in the end.
func (c *Client) enter(word string, f *Folder) (s Status, code string, err error) {
	c.exists, c.writable = 0, false
	pieces := line(word, c.name(f))
	if c.Has("CONDSTORE") {
		pieces[len(pieces)-1] += " (CONDSTORE)"
	}
	p, err := c.run(word, pieces, func(p *response) error {
		word, arg, _ := strings.Cut(p.code, " ")
		n, nerr := strconv.ParseUint(arg, 10, 64)
		if nerr != nil {
			return nil
		}
		switch strings.ToUpper(word) {
		case "UIDVALIDITY":
			s.UIDValidity = uint32(n)
		case "UIDNEXT":
			s.UIDNext = uint32(n)
		case "HIGHESTMODSEQ":
			s.ModSeq = n
		}
		return nil
	})
	s.Exists = c.exists
	if err == nil && s.UIDValidity == 0 {
		err = fmt.Errorf("%w: folder %q has no UIDVALIDITY", ErrProtocol, f.Name)
	}
	if p != nil {
		code = p.code
	}
	return s, code, tlsconf.At(tlsconf.StepFolders, err)
}

// Message is what the server says of a message.
type Message struct {
	UID      uint32
	Size     int64
	Flags    []string
	Internal time.Time
	ModSeq   uint64
	Body     []byte   // nil unless asked for
	Header   []byte   // the fields that were asked for
	Gmail    uint64   // X-GM-MSGID
	Labels   []string // X-GM-LABELS
}

// maxUIDs bounds a folder: 80 MB of numbers, and more than any folder holds.
const maxUIDs = 20_000_000

// UIDs returns the UIDs from one on, in ascending order. It does not use
// SEARCH, which some servers cut off.
func (c *Client) UIDs(from uint32) (uids []uint32, err error) {
	err = c.command("UID FETCH", fmt.Sprintf("UID FETCH %d:* (UID)", max(from, 1)), func(p *response) error {
		m, ok, err := parseFetch(p)
		if ok && err == nil && m.UID >= from { // "*" is the last message, whatever its UID
			uids = append(uids, m.UID)
		}
		if len(uids) > maxUIDs {
			return fmt.Errorf("%w: it lists more than %d messages", ErrProtocol, maxUIDs)
		}
		return err
	})
	slices.Sort(uids)
	return slices.Compact(uids), tlsconf.At(tlsconf.StepFolders, err)
}

// Set writes UIDs, ascending, as a sequence set (RFC 9051, 9: sequence-set).
func Set(uids []uint32) string {
	var b strings.Builder
	for i := 0; i < len(uids); {
		j := i
		for j+1 < len(uids) && uids[j+1] == uids[j]+1 {
			j++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d", uids[i])
		if j > i {
			fmt.Fprintf(&b, ":%d", uids[j])
		}
		i = j + 1
	}
	return b.String()
}

// Describe asks for everything but the bodies.
func (c *Client) Describe(uids []uint32, fn func(*Message) error) error {
	items := "UID FLAGS INTERNALDATE RFC822.SIZE"
	if c.Has("X-GM-EXT-1") {
		items += " X-GM-MSGID X-GM-LABELS"
	}
	return c.fetch(uids, items, fn)
}

// Changed asks for the labels, sizes and Message-IDs of messages, up to a UID,
// that changed after a MODSEQ (RFC 7162, 3.1.4.1).
func (c *Client) Changed(upTo uint32, since uint64, fn func(*Message) error) error {
	err := c.command("UID FETCH", fmt.Sprintf("UID FETCH 1:%d (UID RFC822.SIZE X-GM-LABELS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)]) (CHANGEDSINCE %d)", upTo, since), func(p *response) error {
		m, ok, err := parseFetch(p)
		if err != nil || !ok || m.UID == 0 || m.UID > upTo {
			return err
		}
		return fn(m)
	})
	return tlsconf.At(tlsconf.StepMessage, err)
}

// Bodies asks for whole messages, without setting \Seen, one after the other.
func (c *Client) Bodies(uids []uint32, fn func(*Message) error) error {
	c.r.literal = c.o.Literal
	defer func() { c.r.literal = 0 }()
	return c.fetch(uids, "UID BODY.PEEK[]", fn)
}

func (c *Client) fetch(uids []uint32, items string, fn func(*Message) error) error {
	if len(uids) == 0 {
		return nil
	}
	err := c.command("UID FETCH", "UID FETCH "+Set(uids)+" ("+items+")", func(p *response) error {
		m, ok, err := parseFetch(p)
		if err != nil || !ok || m.UID == 0 {
			return err
		}
		return fn(m)
	})
	return tlsconf.At(tlsconf.StepMessage, err)
}

// parseFetch reads "* n FETCH (...)" (RFC 9051, 7.5.2).
func parseFetch(p *response) (*Message, bool, error) {
	if len(p.values) < 3 || !p.values[1].is("FETCH") || p.values[2].kind != list {
		return nil, false, nil
	}
	m := &Message{}
	l := p.values[2].list
	for i := 0; i+1 < len(l); i += 2 {
		v := l[i+1]
		var n uint64
		var err error
		switch name := strings.ToUpper(l[i].str()); name {
		case "UID":
			n, err = v.number()
			m.UID = uint32(n)
		case "RFC822.SIZE":
			n, err = v.number()
			m.Size = int64(min(n, 1<<62))
		case "MODSEQ":
			if len(v.list) == 1 {
				m.ModSeq, err = v.list[0].number()
			}
		case "FLAGS":
			for _, f := range v.list {
				// \Recent is of a session, not of the message (RFC 3501, 2.3.2).
				if !f.is(`\Recent`) {
					m.Flags = append(m.Flags, f.str())
				}
			}
		case "X-GM-LABELS":
			for _, f := range v.list {
				m.Labels = append(m.Labels, decodeUTF7(f.str()))
			}
		case "X-GM-MSGID":
			m.Gmail, err = v.number()
		case "INTERNALDATE":
			m.Internal, _ = time.Parse("_2-Jan-2006 15:04:05 -0700", v.str())
		case "BODY[]":
			if v.kind == text {
				m.Body = v.s
			}
		case "BODY[HEADER.FIELDS (MESSAGE-ID)]":
			m.Header = v.s
		}
		if err != nil {
			return nil, false, err
		}
	}
	return m, true, nil
}
