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

// ErrNoExpunge: without UIDPLUS, EXPUNGE takes whatever anybody has marked.
var ErrNoExpunge = errors.New("the server cannot delete single messages (it has no UIDPLUS); nothing is deleted there")

// CanDelete tells whether single messages can be deleted (RFC 4315; part of
// IMAP4rev2).
func (c *Client) CanDelete() bool { return c.Has("UIDPLUS") || c.Has("IMAP4REV2") }

// Select opens a folder for changes (RFC 9051, 6.3.2).
func (c *Client) Select(f *Folder) (Status, error) {
	s, code, err := c.enter("SELECT", f)
	if err == nil && strings.EqualFold(code, "READ-ONLY") {
		err = tlsconf.At(tlsconf.StepFolders, &StatusError{"SELECT", "OK", code, "the folder is open for reading only"})
	}
	c.writable = err == nil
	return s, err
}

// searchWindow is how many messages one SEARCH looks at: some servers cut off
// answers of more than a thousand.
const searchWindow = 1000

// Older returns the UIDs of the messages of the open folder, which has so many,
// that came before a day and are not flagged, in ascending order. Which day it
// was depends on zones: the caller compares INTERNALDATE.
func (c *Client) Older(exists uint32, day time.Time) (uids []uint32, err error) {
	for from := uint32(1); from <= exists && err == nil; from += searchWindow {
		to := strconv.Itoa(int(from + searchWindow - 1))
		if exists-from < searchWindow {
			to = "*"
		}
		err = c.command("UID SEARCH", fmt.Sprintf("UID SEARCH %d:%s BEFORE %s UNFLAGGED", from, to, day.Format("2-Jan-2006")), func(p *response) error {
			found, err := parseSearch(p)
			uids = append(uids, found...)
			return err
		})
	}
	slices.Sort(uids)
	return slices.Compact(uids), tlsconf.At(tlsconf.StepFolders, err)
}

// parseSearch reads "* SEARCH 2 3" (RFC 3501, 7.2.5) and
// "* ESEARCH (TAG "L1") UID ALL 2:3" (RFC 9051, 7.3.4).
func parseSearch(p *response) (uids []uint32, err error) {
	if len(p.values) == 0 {
		return nil, nil
	}
	switch {
	case p.values[0].is("SEARCH"):
		for _, v := range p.values[1:] {
			if v.kind == list { // (MODSEQ 1)
				continue
			}
			n, err := v.number()
			if err != nil || n > 1<<32-1 {
				return nil, fmt.Errorf("%w: SEARCH says %.40q", ErrProtocol, v.s)
			}
			uids = append(uids, uint32(n))
		}
	case p.values[0].is("ESEARCH"):
		for i := 1; i+1 < len(p.values); i++ {
			if p.values[i].is("ALL") {
				return ParseSet(p.values[i+1].str())
			}
		}
	}
	return uids, nil
}

// maxSet bounds what a set stands for.
const maxSet = 1_000_000

// ParseSet reads what Set writes.
func ParseSet(s string) (uids []uint32, err error) {
	if s == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		a, b, isRange := strings.Cut(part, ":")
		if !isRange {
			b = a
		}
		from, err1 := strconv.ParseUint(a, 10, 32)
		to, err2 := strconv.ParseUint(b, 10, 32)
		if from > to {
			from, to = to, from
		}
		if err := errors.Join(err1, err2); err != nil || to-from >= maxSet || len(uids) > maxSet {
			return nil, fmt.Errorf("%w: %.40q is no set of messages", ErrProtocol, s)
		}
		for u := from; u <= to; u++ {
			uids = append(uids, uint32(u))
		}
	}
	return uids, nil
}

// Delete deletes messages of the folder that Select opened, and no others, and
// returns those it deleted: what somebody flags in the meantime stays.
func (c *Client) Delete(uids []uint32) (gone []uint32, err error) {
	if len(uids) == 0 {
		return nil, nil
	}
	switch {
	case !c.CanDelete():
		return nil, ErrNoExpunge
	case !c.writable:
		return nil, errors.New("delete: no folder is open for changes")
	}
	gone, err = c.delete(uids)
	return gone, tlsconf.At(tlsconf.StepMessage, err)
}

func (c *Client) delete(uids []uint32) (gone []uint32, err error) {
	if err := c.command("UID STORE", "UID STORE "+Set(uids)+` +FLAGS.SILENT (\Deleted)`, nil); err != nil {
		return nil, err
	}
	flags := map[uint32][]string{}
	if err := c.fetch(uids, "UID FLAGS", func(m *Message) error {
		flags[m.UID] = m.Flags
		return nil
	}); err != nil {
		return nil, err
	}
	var flagged []uint32
	for _, u := range uids {
		switch has := func(flag string) bool {
			return slices.ContainsFunc(flags[u], func(f string) bool { return strings.EqualFold(f, flag) })
		}; {
		case !has(`\Deleted`):
		case has(`\Flagged`):
			flagged = append(flagged, u)
		default:
			gone = append(gone, u)
		}
	}
	if len(flagged) > 0 {
		if err := c.command("UID STORE", "UID STORE "+Set(flagged)+` -FLAGS.SILENT (\Deleted)`, nil); err != nil {
			return nil, err
		}
	}
	if len(gone) == 0 {
		return nil, nil
	}
	// RFC 4315, 2.1: of these, those that are marked, and no others.
	return gone, c.command("UID EXPUNGE", "UID EXPUNGE "+Set(gone), nil)
}
