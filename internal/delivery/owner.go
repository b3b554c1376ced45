package delivery

import (
	"strings"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/pack"
)

// Unassigned is the mailbox of messages that no rule assigns.
const Unassigned = "unassigned"

// Folders of what was sent and received, as far as a delivery tells.
const (
	received = "INBOX"
	sent     = "Sent"
)

// Spots returns the folders that a message belongs to: for each recipient whose
// address a mailbox has, and for its sender. Whom nobody knows although the
// domain is one of ours, and everything that would belong to nobody, goes to
// the mailbox with the id unassigned.
func Spots(v catalog.View, x *pack.Envelope, unassigned int64) ([]archive.Spot, error) {
	s := sorter{v: v, seen: map[archive.Spot]bool{}, unassigned: unassigned}
	s.add(x.Sender, sent)
	for _, r := range x.Recipients {
		folder := received
		if r.Kind == OnBehalfOf {
			folder = sent
		}
		s.add(r.Address, folder)
		s.known(r.Expanded, received)
		s.known(r.Forwarded, received)
	}
	if len(s.spots) == 0 && s.err == nil {
		name := x.Sender
		if len(x.Recipients) > 0 {
			name = x.Recipients[0].Address
		}
		s.put(archive.Spot{Mailbox: unassigned, Folder: folderFor(name)})
	}
	return s.spots, s.err
}

type sorter struct {
	v          catalog.View
	unassigned int64
	spots      []archive.Spot
	seen       map[archive.Spot]bool
	err        error
}

func (s *sorter) put(x archive.Spot) {
	if !s.seen[x] {
		s.seen[x] = true
		s.spots = append(s.spots, x)
	}
}

// add finds the mailbox of an address; one of ours that has none is noted.
func (s *sorter) add(a, folder string) {
	if ours := s.known(a, folder); ours {
		s.put(archive.Spot{Mailbox: s.unassigned, Folder: folderFor(a)})
	}
}

// known finds the mailbox of an address. ours tells that there is none although
// the domain is one of ours.
func (s *sorter) known(a, folder string) (ours bool) {
	if a == "" || s.err != nil {
		return false
	}
	mailbox, ours, err := s.v.Owner(a)
	if s.err = err; mailbox != 0 && err == nil {
		s.put(archive.Spot{Mailbox: mailbox, Folder: folder})
		return false
	}
	return ours
}

// folderFor names a folder by an address: one level, whatever stands in it.
func folderFor(a string) string {
	a = strings.Map(func(r rune) rune {
		if r == '/' || r < ' ' || r == 127 {
			return '_'
		}
		return r
	}, strings.ToLower(strings.ToValidUTF8(a, "_")))
	switch {
	case a == "":
		return "unknown"
	case len(a) > maxWhere:
		return a[:strings.LastIndexFunc(a[:maxWhere], func(rune) bool { return true })]
	}
	return a
}
