package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/pop3client"
)

// Clearing deletes at a source what is archived. The source finds what is old
// enough, reads it again and asks; it deletes what it was given leave for.
type Clearing struct {
	Marks  Marks                   // of what has been accounted for: nothing else is touched
	Before time.Time               // only what is older
	Spare  func(where string) bool // what is never touched
	Dry    bool                    // ask, and delete nothing
	// Decide tells which of some messages may go. What it gives leave for must
	// be recorded when it returns.
	Decide func(ctx context.Context, is []Item) ([]bool, error)
	// Deleted is told of each message that is deleted.
	Deleted func(Item)
	// Mark stores a mark: what was looked at in vain is not read again each time.
	Mark func(Mark)
}

const (
	clearBatch   = 100                // messages that are decided on in one go
	clearSession = 1000               // messages that a POP3 session deletes
	lookAgain    = 7 * 24 * time.Hour // after it, what stayed is read again
)

// Clear deletes messages in the folders of the profile. Folders are searched
// and messages read as in a walk, that is, read only; a folder is opened for
// changes once there is something to delete in it.
func (s *IMAP) Clear(ctx context.Context, c *Clearing) error {
	w := &imapWalk{IMAP: s, ctx: ctx, limit: window, strikes: map[string]int{}, done: map[string]bool{}}
	defer w.close()
	var folders []imapclient.Folder
	if err := w.patiently(func() (err error) {
		if !w.c.CanDelete() {
			return imapclient.ErrNoExpunge
		}
		folders, err = w.c.Folders()
		return err
	}); err != nil {
		return err
	}
	for i := range folders {
		f := &folders[i]
		p := parsePlace(c.Marks[f.Name])
		if s.Filter.Why(f.Path(), f.Attrs, f.Shared) != "" || p.last == 0 {
			continue
		}
		x := &imapClear{imapWalk: w, Clearing: c, f: f, place: p, stay: parseStay(c.Marks[stayKey(f)], p.validity, s.now()), looked: map[uint32]bool{}}
		err := w.patiently(x.folder)
		if errors.Is(err, imapclient.ErrRefused) {
			s.note("nothing is deleted in folder %q: %v", f.Path(), err)
			err = nil
		}
		if err != nil {
			return err
		}
		x.remember()
	}
	return nil
}

func (s *IMAP) now() time.Time {
	if s.Options.Now == nil {
		return time.Now()
	}
	return s.Options.Now()
}

// imapClear is one folder being cleared.
type imapClear struct {
	*imapWalk
	*Clearing
	f      *imapclient.Folder
	place  place
	stay   stay
	looked map[uint32]bool // in this clearing
}

func (x *imapClear) where(uid uint32) string { return x.item(x.f, x.place, uid, nil, true).Where }

// same tells whether the folder is the one that was walked.
func (x *imapClear) same(st imapclient.Status) bool {
	if st.UIDValidity == x.place.validity {
		return true
	}
	x.note("folder %q has a new UIDVALIDITY: nothing is deleted there", x.f.Path())
	return false
}

func (x *imapClear) folder() error {
	st, err := x.c.Examine(x.f)
	if err != nil || !x.same(st) {
		return err
	}
	x.folderName = x.f.Name
	// BEFORE compares days in the server's zone: two more, and the time decides.
	uids, err := x.c.Older(st.Exists, x.Before.UTC().AddDate(0, 0, 2))
	if err != nil {
		return err
	}
	uids = slices.DeleteFunc(uids, func(u uint32) bool {
		return u > x.place.last || x.looked[u] || !x.Dry && slices.Contains(x.stay.uids, u) || x.Spare(x.where(u))
	})
	writable := false
	for len(uids) > 0 {
		n := min(x.limit, clearBatch, len(uids))
		if err := x.some(uids[:n], &writable); err != nil {
			return err
		}
		if uids = uids[n:]; x.limit < window {
			x.limit *= 2
		}
	}
	return nil
}

// some deletes what may go of a few messages.
func (x *imapClear) some(uids []uint32, writable *bool) error {
	if len(uids) == 1 && x.strikes[x.strike(uids[0])] >= maxStrikes {
		x.looked[uids[0]] = true
		return nil
	}
	x.asking = uids
	about := map[uint32]*imapclient.Message{}
	if err := x.c.Describe(uids, func(m *imapclient.Message) error {
		about[m.UID] = m
		return nil
	}); err != nil {
		return err
	}
	var old []uint32
	for _, u := range uids {
		if m := about[u]; m != nil && x.may(m) {
			old = append(old, u)
		}
	}
	for len(old) > 0 {
		n, size := 0, int64(0)
		for n < len(old) && (n == 0 || size+about[old[n]].Size <= bodyBatch) {
			size += about[old[n]].Size
			n++
		}
		x.asking = old[:n]
		if err := x.batch(old[:n], about, writable); err != nil {
			return err
		}
		old = old[n:]
	}
	x.asking = nil
	return nil
}

// may tells whether a message is old, and nobody wants to keep it there.
func (x *imapClear) may(m *imapclient.Message) bool {
	flagged := slices.ContainsFunc(m.Flags, func(f string) bool { return strings.EqualFold(f, `\Flagged`) })
	return !flagged && !m.Internal.IsZero() && m.Internal.Before(x.Before) && m.Size <= archive.MaxMessage
}

func (x *imapClear) batch(uids []uint32, about map[uint32]*imapclient.Message, writable *bool) error {
	got := map[uint32][]byte{}
	err := x.c.Bodies(uids, func(m *imapclient.Message) error {
		if m.Body != nil && slices.Contains(uids, m.UID) {
			got[m.UID] = m.Body
		}
		return nil
	})
	if err != nil && !errors.Is(err, imapclient.ErrRefused) {
		return err
	}
	var is []Item
	for _, u := range uids {
		x.looked[u] = true
		if body := got[u]; body != nil {
			is = append(is, x.whole(x.f, x.place, u, about[u], true, body))
		}
	}
	leave, err := x.Decide(x.ctx, is)
	if err != nil {
		return err
	}
	var may []uint32
	for n, i := range is {
		if leave[n] {
			may = append(may, i.Ref.UID)
		} else {
			x.stay.add(i.Ref.UID)
		}
	}
	if x.Dry || len(may) == 0 {
		return nil
	}
	return x.delete(may, is, writable)
}

func (x *imapClear) delete(uids []uint32, is []Item, writable *bool) error {
	if !*writable {
		st, err := x.c.Select(x.f)
		if err != nil || !x.same(st) {
			return err
		}
		*writable = true
	}
	gone, err := x.c.Delete(uids)
	for _, i := range is {
		if err == nil && slices.Contains(gone, i.Ref.UID) {
			x.Deleted(i)
		}
	}
	if err != nil {
		for _, u := range uids {
			delete(x.looked, u) // it may still be there
		}
		return err
	}
	x.moved = true
	return nil
}

// stay is what was looked at and stays, because it is not archived.
type stay struct {
	since time.Time
	uids  []uint32
	old   int // how many were known before
}

// stayKey is the key of the mark; no folder has such a name.
func stayKey(f *imapclient.Folder) string { return "\nstays\n" + f.Name }

func parseStay(s string, validity uint32, now time.Time) stay {
	fields := strings.Fields(s)
	fresh := stay{since: now}
	if len(fields) != 3 || fields[0] != strconv.Itoa(int(validity)) {
		return fresh
	}
	since, err := strconv.ParseInt(fields[1], 10, 64)
	uids, err2 := imapclient.ParseSet(fields[2])
	if err != nil || err2 != nil || now.Sub(time.Unix(since, 0)) > lookAgain {
		return fresh
	}
	return stay{time.Unix(since, 0), uids, len(uids)}
}

func (s *stay) add(uid uint32) {
	if !slices.Contains(s.uids, uid) {
		s.uids = append(s.uids, uid)
	}
}

func (x *imapClear) remember() {
	if x.Dry || len(x.stay.uids) == x.stay.old {
		return
	}
	slices.Sort(x.stay.uids)
	x.Mark(Mark{stayKey(x.f), fmt.Sprintf("%d %d %s", x.place.validity, x.stay.since.Unix(), imapclient.Set(x.stay.uids))})
}

// popPlace is the mark of a message of POP3: its date and, if it was looked at
// in vain, when. Failed ones, and those of earlier versions, have the mark "1".
type popPlace struct {
	gone    bool
	unknown bool
	date    time.Time
	looked  time.Time
}

const popGone = "gone"

func parsePop(s string) (p popPlace) {
	var date, looked int64
	n, _ := fmt.Sscanf(s, "%d %d", &date, &looked)
	p.gone = s == popGone || n == 0
	p.unknown = s == "1"
	p.date = time.Unix(date, 0)
	if n == 2 {
		p.looked = time.Unix(looked, 0)
	}
	return p
}

// popDate is how old a message is taken to be, for POP3 does not say: the later
// of when it arrived and when it was written, by its header; else now.
func popDate(raw []byte, now time.Time) time.Time {
	head := raw[:min(len(raw), 64<<10)]
	h := message.Parse(head).Root.Header
	date, _ := message.ParseDate(h.Get("Date"))
	if arrived, ok := h.ReceivedDate(); ok && arrived.After(date) {
		date = arrived
	}
	if date.IsZero() || date.Unix() <= 1 {
		return now
	}
	return date
}

func popMark(uidl string, raw []byte, now time.Time) Mark {
	return Mark{uidl, strconv.FormatInt(popDate(raw, now).Unix(), 10)}
}

func (s *POP3) now() time.Time {
	if s.Options.Now == nil {
		return time.Now()
	}
	return s.Options.Now()
}

// Clear deletes messages of the account. POP3 has no flags: whoever wants to
// keep a message there cannot say so.
func (s *POP3) Clear(ctx context.Context, c *Clearing) error {
	x := &popClear{POP3: s, Clearing: c, ctx: ctx, looked: map[string]bool{}, strikes: map[string]int{}}
	for failed := 0; ; {
		more, err := x.session()
		if err == nil && !more || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if err == nil {
			failed = 0
			continue
		}
		if failed++; !broken(err) || failed >= maxAttempts {
			return err
		}
		if s.Note != nil {
			s.Note("the connection broke, connecting again: %v", err)
		}
		if err := pause(ctx, time.Duration(failed)*cmp.Or(s.Patience, time.Second)); err != nil {
			return err
		}
	}
}

type popClear struct {
	*POP3
	*Clearing
	ctx     context.Context
	looked  map[string]bool
	strikes map[string]int
	c       *pop3client.Client
	marked  []Item // that go with QUIT
}

// old tells whether a message is to be read: it is old, or nobody knows.
func (x *popClear) old(m pop3client.Message) bool {
	p := parsePop(x.Marks[m.UIDL])
	switch {
	case x.looked[m.UIDL], p.gone, m.Size > archive.MaxMessage, x.strikes[m.UIDL] >= maxStrikes, x.Spare(popWhere(m.UIDL)):
		return false
	case p.unknown:
		return true
	case !x.Dry && x.now().Sub(p.looked) < lookAgain:
		return false
	}
	return p.date.Before(x.Before)
}

func popWhere(uidl string) string { return "UIDL=" + uidl }

// session deletes over one connection, and tells whether there is more to do.
// Whatever is marked goes with QUIT, or stays.
func (x *popClear) session() (more bool, err error) {
	if x.c, err = x.Connect(x.ctx); err != nil {
		return false, err
	}
	defer x.c.Close()
	x.marked = nil
	list, err := x.c.List()
	if err != nil {
		return false, err
	}
	numbers := map[string]pop3client.Message{}
	var is []Item
	size := 0
	flush := func() error {
		err := x.some(is, numbers)
		is, size = nil, 0
		return err
	}
	for _, m := range list {
		if !x.old(m) {
			continue
		}
		raw, err := x.c.Retrieve(m)
		if errors.Is(err, imapclient.ErrRefused) {
			x.looked[m.UIDL] = true
			continue
		}
		if err != nil {
			x.strikes[m.UIDL]++
			return false, err
		}
		if parsePop(x.Marks[m.UIDL]).unknown {
			if k := popMark(m.UIDL, raw, x.now()); !popDate(raw, x.now()).Before(x.Before) {
				x.looked[m.UIDL] = true
				x.Mark(k)
				continue
			}
		}
		numbers[m.UIDL] = m
		is = append(is, Item{Raw: raw, Folder: "INBOX", Where: popWhere(m.UIDL), Ref: Ref{Folder: "INBOX", UIDL: m.UIDL, Size: m.Size}, Internal: popDate(raw, x.now())})
		if size += len(raw); len(is) >= clearBatch || size >= bodyBatch {
			if err := flush(); err != nil {
				return false, err
			}
		}
		if len(x.marked) >= clearSession {
			more = true
			break
		}
	}
	if err := flush(); err != nil {
		return false, err
	}
	if err := x.c.Quit(); err != nil {
		return false, err
	}
	for _, i := range x.marked {
		x.looked[i.Ref.UIDL] = true
		x.Deleted(i)
		x.Mark(Mark{i.Ref.UIDL, popGone})
	}
	return more, nil
}

func (x *popClear) some(is []Item, numbers map[string]pop3client.Message) error {
	if len(is) == 0 {
		return nil
	}
	leave, err := x.Decide(x.ctx, is)
	if err != nil {
		return err
	}
	for n, i := range is {
		switch {
		case x.Dry:
			x.looked[i.Ref.UIDL] = true
		case !leave[n]:
			x.looked[i.Ref.UIDL] = true
			x.Mark(Mark{i.Ref.UIDL, fmt.Sprintf("%d %d", i.Internal.Unix(), x.now().Unix())})
		default:
			err := x.c.Delete(numbers[i.Ref.UIDL])
			if errors.Is(err, imapclient.ErrRefused) {
				x.looked[i.Ref.UIDL] = true
				continue
			}
			if err != nil {
				return err
			}
			i.Raw = nil
			x.marked = append(x.marked, i)
		}
	}
	return nil
}
