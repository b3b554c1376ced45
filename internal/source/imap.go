package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// IMAP is an account on an IMAP server. A walk only looks: folders are
// opened with EXAMINE, bodies are read with BODY.PEEK.
//
// The mark of a folder is "UIDVALIDITY UID MODSEQ": everything up to that UID
// is accounted for. When the server gives a folder another UIDVALIDITY, its
// messages are read again, and the archive finds that it has them.
type IMAP struct {
	Options imapclient.Options
	// Credential is asked for at each connection: tokens expire.
	Credential func(context.Context) (imapclient.Credential, error)
	Filter     Filter
	Retry      []Ref // messages that failed before
	Note       func(format string, args ...any)
	Total      func(int64)   // told how many messages there are to walk; may be nil
	Patience   time.Duration // before connecting again; default a second, and longer each time
	// Known tells whether the archive has a message in all of these folders, by
	// its Message-ID field and its size. Without it, labels that a message gets
	// later are not followed.
	Known func(header []byte, size int64, folders []string) bool
	// Connections is how many folders are read at a time, each over a
	// connection of its own; 0 is 1.
	Connections int
}

// Filter says which folders are collected. Patterns are as in path.Match, for
// whole names or for the first levels; an empty list includes all.
type Filter struct {
	Include []string
	Exclude []string
}

// Folders that are left out unless they are included by name: by their special
// use (RFC 6154), and where servers have none, by the names they give them.
var (
	leftOutUses  = []string{`\Junk`, `\Trash`, `\Drafts`}
	leftOutNames = []string{"trash", "junk", "spam", "deleted items", "deleted messages", "junk e-mail", "junk email", "papierkorb", "gelöschte elemente", "gelöschte objekte", "drafts", "entwürfe", "outbox", "postausgang"}
)

// Why returns why a folder is left out; "" if it is not.
func (f *Filter) Why(name string, uses []string, shared bool) string {
	matches := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return matchFolder(p, name) })
	}
	switch {
	case matches(f.Exclude):
		return "excluded by the profile"
	case len(f.Include) > 0 && matches(f.Include):
		return ""
	case len(f.Include) > 0:
		return "not among the profile's folders"
	case shared:
		return "it belongs to somebody else"
	}
	for _, u := range leftOutUses {
		if slices.ContainsFunc(uses, func(a string) bool { return strings.EqualFold(a, u) }) {
			return "its use is " + u
		}
	}
	last := strings.ToLower(path.Base(name))
	if slices.Contains(leftOutNames, last) && strings.Count(name, "/") <= 1 {
		return "by its name: spam, trash or drafts"
	}
	return ""
}

// matchFolder tells whether a pattern stands for a folder or one above it.
func matchFolder(pattern, name string) bool {
	pattern, name = strings.ToLower(strings.Trim(pattern, "/")), strings.ToLower(name)
	for {
		if ok, err := path.Match(pattern, name); err == nil && ok {
			return true
		}
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return false
		}
		name = name[:i]
	}
}

const (
	window      = 500     // messages that are described in one go
	bodyBatch   = 8 << 20 // bytes that are asked for in one go
	maxAttempts = 3       // connections that are tried in a row without a message between
)

// imapWalk is a walk under way. Connections may end at any byte; it goes on
// behind the last message that was handed over.
type imapWalk struct {
	*IMAP
	ctx        context.Context
	marks      Marks
	yield      func(Item) bool
	c          *imapclient.Client
	folderName string // that is open
	all        string // the folder of all mail, if the others are not walked for it
	moved      bool   // something was handed over since the last connection
	failed     int    // connections in a row that brought nothing

	// A message can be such that the server ends the connection over it. It is
	// found by asking for fewer at a time, and passed over.
	asking  []uint32 // what was asked for last
	limit   int      // how many are asked for at a time
	strikes map[string]int
	done    map[string]bool // asked for again, and yielded

	known map[string]imapclient.Status // of folders, when the walk began; only read
}

// Walk yields the messages that are new since the marks.
func (s *IMAP) Walk(ctx context.Context, marks Marks, yield func(Item) bool) error {
	w := &imapWalk{IMAP: s, ctx: ctx, marks: marks, yield: yield, limit: window, strikes: map[string]int{}, done: map[string]bool{}}
	defer w.close()
	var folders []imapclient.Folder
	if err := w.patiently(func() (err error) {
		folders, err = w.c.Folders()
		return err
	}); err != nil {
		return err
	}
	folders = w.allMail(folders)
	folders = slices.DeleteFunc(folders, func(f imapclient.Folder) bool {
		why := s.Filter.Why(f.Path(), f.Attrs, f.Shared)
		if why != "" {
			s.note("folder %q is left out: %s", f.Path(), why)
		}
		return why != ""
	})
	if err := w.count(folders); err != nil {
		return err
	}
	err := w.walkAll(folders)
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// count asks for the state of all folders, and tells how much there is to walk.
func (w *imapWalk) count(folders []imapclient.Folder) error {
	w.known = map[string]imapclient.Status{}
	total := int64(0)
	for i := range folders {
		f := &folders[i]
		var st imapclient.Status
		err := w.patiently(func() (err error) {
			st, err = w.c.Status(f)
			return err
		})
		if errors.Is(err, imapclient.ErrRefused) {
			continue // opening it may say why
		}
		if err != nil {
			return err
		}
		w.moved = true
		w.known[f.Name] = st
		total += parsePlace(w.marks[f.Name]).left(st) + int64(len(w.retries(f)))
	}
	if w.Total != nil {
		w.Total(total)
	}
	return nil
}

// left is how many messages of a folder are not accounted for, at most.
func (p place) left(st imapclient.Status) int64 {
	n := int64(st.Exists)
	if p.validity == st.UIDValidity && p.last > 0 {
		n = min(n, max(0, int64(st.UIDNext)-1-int64(p.last)))
	}
	return n
}

// walkAll walks folders over as many connections as there may be. What each yields
// is in order; a folder is walked by one of them.
func (w *imapWalk) walkAll(folders []imapclient.Folder) error {
	queue := make(chan *imapclient.Folder, len(folders))
	for i := range folders {
		queue <- &folders[i]
	}
	close(queue)
	if w.Connections <= 1 || len(folders) <= 1 {
		return w.each(queue)
	}
	group, ctx := errgroup.WithContext(w.ctx)
	var mu sync.Mutex
	stopped := false
	yield := func(i Item) bool {
		mu.Lock()
		defer mu.Unlock()
		stopped = stopped || !w.yield(i)
		return !stopped
	}
	for n := range min(w.Connections, len(folders)) {
		x := &imapWalk{IMAP: w.IMAP, ctx: ctx, marks: maps.Clone(w.marks), yield: yield, limit: window, strikes: map[string]int{}, done: map[string]bool{}, known: w.known, all: w.all}
		if n == 0 {
			x.c, w.c = w.c, nil
		}
		group.Go(func() error {
			defer x.close()
			// A server may refuse a further connection: then there are fewer.
			if err := x.once(func() error { return nil }); err != nil && n > 0 && ctx.Err() == nil {
				w.note("there are fewer than %d connections: %v", w.Connections, err)
				return nil
			}
			return x.each(queue)
		})
	}
	return group.Wait()
}

func (w *imapWalk) close() {
	if w.c != nil {
		w.c.Close()
	}
}

// each walks the folders of a queue.
func (w *imapWalk) each(queue <-chan *imapclient.Folder) error {
	for f := range queue {
		err := w.patiently(func() error { return w.folder(f) })
		if errors.Is(err, imapclient.ErrRefused) {
			// One folder that cannot be opened does not block the others.
			err = w.emit(Item{Where: f.Path(), Err: err, Ref: Ref{Folder: f.Path()}})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *IMAP) note(format string, args ...any) {
	if s.Note != nil {
		s.Note(format, args...)
	}
}

// Connect opens a connection and signs in.
func (s *IMAP) Connect(ctx context.Context) (*imapclient.Client, error) {
	cr, err := s.Credential(ctx)
	if err != nil {
		return nil, tlsconf.At(tlsconf.StepSignIn, err)
	}
	c, err := imapclient.Dial(ctx, s.Options)
	if err != nil {
		return nil, err
	}
	if err := c.SignIn(cr); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// patiently runs fn with a connection, and again with a new one when it broke.
func (w *imapWalk) patiently(fn func() error) error {
	for {
		err := w.once(fn)
		if err == nil || w.ctx.Err() != nil || !broken(err) {
			return errors.Join(err, w.ctx.Err())
		}
		if w.c != nil {
			w.c.Close()
			w.c = nil
		}
		if w.moved || w.narrow() {
			w.failed, w.moved = 0, false
		}
		if w.failed++; w.failed >= maxAttempts {
			return fmt.Errorf("%w (after %d connections)", err, w.failed)
		}
		w.note("the connection broke, connecting again: %v", err)
		if err := pause(w.ctx, time.Duration(w.failed)*cmp.Or(w.Patience, time.Second)); err != nil {
			return err
		}
	}
}

// narrow makes the next connection ask for fewer messages at a time, and tells
// whether that is something new to try.
func (w *imapWalk) narrow() bool {
	asking := w.asking
	w.asking = nil
	switch {
	case len(asking) > 1:
		w.limit = 1
		return true
	case len(asking) == 1:
		w.strikes[w.strike(asking[0])]++
		return true
	}
	return false
}

func (w *imapWalk) strike(uid uint32) string { return fmt.Sprintf("%s %d", w.folderName, uid) }

// maxStrikes is how many connections may end over one message.
const maxStrikes = 2

func (w *imapWalk) once(fn func() error) (err error) {
	if w.c == nil {
		if w.c, err = w.Connect(w.ctx); err != nil {
			return err
		}
	}
	return fn()
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// broken tells an error that another connection may not have. What is unsafe or
// refused stays so.
func broken(err error) bool {
	var step *tlsconf.StepError
	var large *imapclient.TooLargeError
	switch {
	case errors.Is(err, errStop), errors.Is(err, imapclient.ErrLater), errors.Is(err, imapclient.ErrUnsafe), errors.Is(err, imapclient.ErrRefused), errors.Is(err, tlsconf.ErrCertificate), errors.Is(err, tlsconf.ErrForbidden):
		return false
	case errors.As(err, &large), errors.Is(err, imapclient.ErrBye):
		return true
	case errors.As(err, &step) && (step.Step == tlsconf.StepDNS || step.Step == tlsconf.StepTLS):
		return false
	}
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, net.ErrClosed) || isEOF(err)
}

// place is a folder's mark.
type place struct {
	validity uint32
	last     uint32
	modseq   uint64
}

func parsePlace(s string) (p place) {
	fmt.Sscanf(s, "%d %d %d", &p.validity, &p.last, &p.modseq)
	return p
}

// unchanged tells by a folder's STATUS that it holds nothing new, so that it is
// not even opened. The next UID is enough: MODSEQ (RFC 7162) grows with every
// flag as well, and flags are kept as they were when the message was archived.
// It stands in for the next UID where a server does not tell that, and is needed
// where labels are followed (gmail.go). QRESYNC would tell of messages that have
// been deleted, which an archive does not follow either.
func (p place) unchanged(st imapclient.Status) bool {
	if p.validity == 0 || p.validity != st.UIDValidity {
		return false
	}
	if st.UIDNext == 0 {
		return p.modseq > 0 && p.modseq == st.ModSeq
	}
	return p.last+1 == st.UIDNext
}

func (p place) String() string { return fmt.Sprintf("%d %d %d", p.validity, p.last, p.modseq) }

// folder yields what is new in a folder.
func (w *imapWalk) folder(f *imapclient.Folder) error {
	p := parsePlace(w.marks[f.Name])
	retry := w.retries(f)
	if st, ok := w.known[f.Name]; ok && p.unchanged(st) && len(retry) == 0 && (w.all != f.Name || p.modseq == st.ModSeq) {
		return w.cure(f, st.UIDValidity)
	}
	before := p
	st, err := w.c.Examine(f)
	if err != nil {
		return fmt.Errorf("folder %q: %w", f.Path(), err)
	}
	w.folderName = f.Name
	if err := w.cure(f, st.UIDValidity); err != nil {
		return err
	}
	if p.validity != st.UIDValidity {
		if p.validity != 0 {
			w.note("folder %q has a new UIDVALIDITY: it is read again", f.Path())
		}
		p = place{validity: st.UIDValidity}
		w.marks[f.Name] = p.String()
		retry = nil
	}
	if err := w.fetch(f, p, retry, true); err != nil {
		return err
	}
	if err := w.relabel(f, p, st); err != nil {
		return err
	}
	p = parsePlace(w.marks[f.Name]) // as far as it came, should it be a second try
	p.validity = st.UIDValidity
	if w.all == f.Name {
		p.modseq = st.ModSeq // the labels of all before are as they are
	}
	var uids []uint32
	if st.Exists > 0 {
		if uids, err = w.c.UIDs(p.last + 1); err != nil {
			return err
		}
	}
	if err := w.fetch(f, p, uids, false); err != nil {
		return err
	}
	// Up to the next UID nothing is left, whatever has been deleted between.
	end := place{st.UIDValidity, parsePlace(w.marks[f.Name]).last, st.ModSeq}
	if st.UIDNext > 0 {
		end.last = max(end.last, st.UIDNext-1)
	}
	if end != before {
		return w.emit(Item{Mark: Mark{f.Name, end.String()}, Quiet: true})
	}
	return nil
}

// retries are the UIDs of a folder's messages that failed before.
func (w *imapWalk) retries(f *imapclient.Folder) (uids []uint32) {
	validity := parsePlace(w.marks[f.Name]).validity
	for _, r := range w.Retry {
		if r.Folder == f.Path() && r.Validity == validity && r.UID != 0 {
			uids = append(uids, r.UID)
		}
	}
	slices.Sort(uids)
	return uids
}

// cure takes from the list of what failed a folder that can be opened now, and
// messages of an earlier UIDVALIDITY: they are walked again under the new one.
func (w *imapWalk) cure(f *imapclient.Folder, validity uint32) error {
	for _, r := range w.Retry {
		where := f.Path()
		switch {
		case r.Folder != f.Path() || r.UID != 0 && r.Validity == validity:
			continue
		case r.UID != 0:
			where = w.item(f, place{validity: r.Validity}, r.UID, nil, true).Where
		}
		if err := w.emit(Item{Where: where, Again: true, Quiet: true}); err != nil {
			return err
		}
	}
	return nil
}

func (w *imapWalk) emit(i Item) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if !w.yield(i) {
		return errStop
	}
	w.moved = true
	if i.Again {
		w.done[w.strike(i.Ref.UID)] = true
	}
	if i.Mark.Key != "" {
		w.marks[i.Mark.Key] = i.Mark.Value
	}
	return nil
}

// fetch yields messages by UID, window by window.
func (w *imapWalk) fetch(f *imapclient.Folder, p place, uids []uint32, again bool) error {
	if again { // there is no mark to tell that a broken connection came behind it
		uids = slices.DeleteFunc(slices.Clone(uids), func(u uint32) bool { return w.done[w.strike(u)] })
	}
	for len(uids) > 0 {
		n := min(w.limit, len(uids))
		if err := w.window(f, p, uids[:n], again); err != nil {
			return err
		}
		if uids = uids[n:]; w.limit < window {
			w.limit *= 2 // the bad one lies behind, or there is none
		}
	}
	return nil
}

func (w *imapWalk) window(f *imapclient.Folder, p place, uids []uint32, again bool) error {
	if len(uids) == 1 && w.strikes[w.strike(uids[0])] >= maxStrikes {
		i := w.item(f, p, uids[0], nil, again)
		i.Err = errors.New("the server ends the connection over this message")
		return w.emit(i)
	}
	about := map[uint32]*imapclient.Message{}
	w.asking = uids
	if err := w.c.Describe(uids, func(m *imapclient.Message) error {
		about[m.UID] = m
		return nil
	}); err != nil {
		return err
	}
	for len(uids) > 0 {
		n, size := 0, int64(0)
		for n < len(uids) && (n == 0 || size < bodyBatch) {
			if m := about[uids[n]]; m != nil {
				if m.Size > archive.MaxMessage && n > 0 {
					break
				}
				size += m.Size
			}
			n++
		}
		w.asking = uids[:n]
		if err := w.bodies(f, p, uids[:n], about, again); err != nil {
			return err
		}
		uids = uids[n:]
	}
	w.asking = nil
	return nil
}

// bodies reads a few messages and yields them in the order of their UIDs.
func (w *imapWalk) bodies(f *imapclient.Folder, p place, uids []uint32, about map[uint32]*imapclient.Message, again bool) error {
	var ask []uint32
	for _, u := range uids {
		if m := about[u]; m != nil && m.Size <= archive.MaxMessage {
			ask = append(ask, u)
		}
	}
	// Bodies may come in any order; they are handed over in that of their UIDs.
	got := map[uint32][]byte{}
	next := 0
	handOver := func(all bool) error {
		for ; next < len(uids); next++ {
			u := uids[next]
			body, ok := got[u]
			if !ok && !all {
				return nil
			}
			delete(got, u)
			i := w.missing(f, p, u, about[u], again)
			if ok {
				i = w.whole(f, p, u, about[u], again, body)
			}
			if err := w.emit(i); err != nil {
				next++
				return err
			}
		}
		return nil
	}
	err := w.c.Bodies(ask, func(m *imapclient.Message) error {
		if m.Body == nil || about[m.UID] == nil || !slices.Contains(uids[next:], m.UID) {
			return nil
		}
		got[m.UID] = m.Body
		return handOver(false)
	})
	var large *imapclient.TooLargeError
	var status *imapclient.StatusError
	switch {
	case errors.Is(err, imapclient.ErrLater):
		return err
	case errors.As(err, &large) && next < len(uids):
		// It lied about a size: this one is passed over, the connection is lost.
		i := w.item(f, p, uids[next], about[uids[next]], again)
		i.Err = large
		next++
		return errors.Join(w.emit(i), err)
	case errors.As(err, &status) && len(uids)-next > 1:
		// One bad message refuses the whole command: one by one.
		for _, u := range uids[next:] {
			if err := w.bodies(f, p, []uint32{u}, about, again); err != nil {
				return err
			}
		}
		return nil
	case errors.As(err, &status) && next < len(uids):
		i := w.item(f, p, uids[next], about[uids[next]], again)
		i.Err = status
		return w.emit(i)
	case err != nil:
		return err
	}
	return handOver(true)
}

// whole is a message with its bytes.
func (w *imapWalk) whole(f *imapclient.Folder, p place, uid uint32, d *imapclient.Message, again bool, body []byte) Item {
	i := w.item(f, p, uid, d, again)
	i.Raw, i.Flags, i.Internal = body, strings.Join(d.Flags, " "), d.Internal
	if w.all == f.Name && f.Name != "" {
		i.Labels, i.Skip = w.labels(f, d.Labels)
	}
	return i
}

// item is a message's place, without its bytes.
func (w *imapWalk) item(f *imapclient.Folder, p place, uid uint32, d *imapclient.Message, again bool) Item {
	i := Item{Folder: f.Path(), Where: fmt.Sprintf("%s;UIDVALIDITY=%d;UID=%d", f.Path(), p.validity, uid), Ref: Ref{Folder: f.Path(), Validity: p.validity, UID: uid}, Again: again}
	if d != nil {
		i.Ref.Size = d.Size
	}
	if !again {
		i.Mark = Mark{f.Name, place{p.validity, uid, p.modseq}.String()}
	}
	return i
}

// missing is a message that was listed and did not come.
func (w *imapWalk) missing(f *imapclient.Folder, p place, uid uint32, d *imapclient.Message, again bool) Item {
	i := w.item(f, p, uid, d, again)
	switch {
	case d == nil:
		i.Skip = "deleted at the source before it was read"
	case d.Size > archive.MaxMessage:
		i.Err = tooLarge(d.Size)
	default:
		i.Err = errors.New("the server lists it and does not send it")
	}
	return i
}

// ParsePort reads a port; "" is the default.
func ParsePort(s string, def int) (int, error) {
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 65535 {
		return 0, fmt.Errorf("port %q: it is a number from 1 to 65535", s)
	}
	return n, nil
}
