package target

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/extract"
	"github.com/letterhold/letterhold/internal/imapclient"
	parse "github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

const (
	maxAttempts   = 3  // connections that are tried for one message
	maxCandidates = 20 // messages that are read to compare them with one
)

// mailbox is an account on an IMAP server. Connections may end at any byte: the
// message under way is looked for before it is sent again.
//
// A message is there already if one in the same folder has the same Message-ID,
// or without one the same size and date, and the same bytes: their ids are
// compared. Servers keep lines with CRLF and some archives without, so both
// sides are compared with CRLF.
type mailbox struct {
	a         *archive.Archive
	open      func(context.Context) (*imapclient.Client, error)
	pattern   string // of folders
	mailboxes map[int64]string
	note      func(format string, args ...any)
	patience  time.Duration

	c             *imapclient.Client
	prefix, delim string
	folders       []imapclient.Folder // that are there
	instead       map[string]string   // paths that the server does not take, and what they became
	selected      *imapclient.Folder
	permitted     imapclient.Permitted
}

func (b *mailbox) put(ctx context.Context, m *message) (fresh bool, err error) {
	for attempt := 1; ; attempt++ {
		if err := b.connect(ctx); err != nil {
			if attempt == maxAttempts || !broken(err) || ctx.Err() != nil {
				return false, errors.Join(ctx.Err(), err)
			}
		} else if fresh, err = b.deliver(m); err == nil {
			return fresh, nil
		} else if !broken(err) || ctx.Err() != nil {
			return false, errors.Join(ctx.Err(), err)
		} else if attempt == maxAttempts {
			// The server can be reached and ends the connection over this one.
			return false, messageError{fmt.Errorf("the connection broke %d times over this message: %w", attempt, err)}
		} else {
			b.note("the connection broke, connecting again: %v", err)
		}
		b.drop()
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(time.Duration(attempt) * cmp.Or(b.patience, time.Second)):
		}
	}
}

// broken tells an error that another connection may not have. What is unsafe or
// refused stays so.
func broken(err error) bool {
	switch {
	case errors.Is(err, imapclient.ErrUnsafe), errors.Is(err, imapclient.ErrRefused), errors.Is(err, tlsconf.ErrCertificate), errors.Is(err, tlsconf.ErrForbidden):
		return false
	case errors.Is(err, imapclient.ErrBye), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return true
	}
	var ne net.Error
	return errors.As(err, &ne)
}

func (b *mailbox) drop() {
	if b.c != nil {
		b.c.Close()
	}
	b.c, b.selected = nil, nil
}

// connect signs in and sees which folders there are.
func (b *mailbox) connect(ctx context.Context) (err error) {
	if b.c != nil {
		return nil
	}
	if b.c, err = b.open(ctx); err != nil {
		// What a server refuses here it refuses for all messages.
		return fatal(err)
	}
	if b.prefix, b.delim, err = b.c.Personal(); err == nil {
		b.folders, err = b.c.Folders()
	}
	if err != nil {
		b.drop()
		return fatal(err)
	}
	return nil
}

// fatalError does not concern one message alone, though the server refused.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }

func fatal(err error) error { return fatalError{err} }

// messageError concerns one message alone.
type messageError struct{ error }

func (e messageError) Unwrap() error { return e.error }

// alone tells whether an error concerns one message, and the next is tried.
func alone(err error) bool {
	var all fatalError
	var one messageError
	var rule skipError
	return errors.As(err, &one) || errors.As(err, &rule) || errors.Is(err, imapclient.ErrRefused) && !errors.As(err, &all)
}

// deliver takes one message through the open connection.
func (b *mailbox) deliver(m *message) (bool, error) {
	raw := crlf(m.raw)
	f, err := b.folder(b.path(m))
	if err != nil {
		return false, err
	}
	if there, err := b.there(m, raw); err != nil || there {
		return false, err
	}
	at, flags := b.keeps(m)
	err = b.c.Append(f, flags, at, raw)
	var status *imapclient.StatusError
	if errors.As(err, &status) && strings.EqualFold(status.Code, "TRYCREATE") { // somebody removed it meanwhile
		if err = b.c.Create(f); err == nil {
			err = b.c.Append(f, flags, at, raw)
		}
	}
	return err == nil, err
}

// path is the folder that a message goes to, with "/" between levels: the
// pattern with {folder} and {mailbox} replaced by its place in the archive.
func (b *mailbox) path(m *message) string {
	folder, name := "INBOX", ""
	if m.at != nil {
		folder, name = m.at.Name, b.mailboxes[m.at.Mailbox]
	}
	if b.pattern == "" {
		return folder
	}
	return strings.NewReplacer("{folder}", folder, "{mailbox}", name).Replace(b.pattern)
}

// folder opens a folder, and makes it if it is missing.
func (b *mailbox) folder(path string) (*imapclient.Folder, error) {
	path = cmp.Or(b.instead[path], path)
	f := imapclient.At(path, b.prefix, b.delim)
	if b.selected != nil && b.selected.Same(f) {
		return b.selected, nil
	}
	if i := slices.IndexFunc(b.folders, func(x imapclient.Folder) bool { return x.Same(f) }); i >= 0 {
		x := b.folders[i]
		f = &x
	} else {
		err := b.c.Create(f)
		if plain := plainPath(path); errors.Is(err, imapclient.ErrRefused) && plain != path {
			b.note("folder %q is refused, %q is taken instead: %v", path, plain, err)
			if b.instead == nil {
				b.instead = map[string]string{}
			}
			b.instead[path] = plain
			return b.folder(plain)
		}
		if err != nil {
			return nil, fmt.Errorf("make folder %q: %w", path, err)
		}
		b.note("folder %q was made", f.Name)
		b.folders = append(b.folders, *f)
	}
	b.selected = nil
	permitted, err := b.c.SelectToAdd(f)
	if err != nil {
		return nil, fmt.Errorf("open folder %q: %w", path, err)
	}
	b.selected, b.permitted = f, permitted
	return f, nil
}

// plainPath is a path without the signs that some servers keep for themselves,
// such as the dot where folders are those of a Maildir.
func plainPath(path string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(`.\~"#&:`, r) {
			return '_'
		}
		return r
	}, path)
}

// there tells whether the open folder has a message.
func (b *mailbox) there(m *message, raw []byte) (bool, error) {
	at, _ := b.keeps(m)
	id := extract.MessageID(parse.Parse(raw).Root.Header)
	uids, err := b.c.Search(imapclient.Search{MessageID: id, Size: int64(len(raw)), Date: at})
	if err != nil || len(uids) == 0 {
		return false, err
	}
	var candidates []imapclient.Message
	if err := b.c.Describe(uids, func(d *imapclient.Message) error {
		if d.Size <= archive.MaxMessage {
			candidates = append(candidates, imapclient.Message{UID: d.UID, Size: d.Size})
		}
		return nil
	}); err != nil {
		return false, err
	}
	// Servers count lines in their own ways; the likeliest are read first.
	off := func(d imapclient.Message) int64 { return max(d.Size-int64(len(raw)), int64(len(raw))-d.Size) }
	slices.SortStableFunc(candidates, func(x, y imapclient.Message) int { return cmp.Compare(off(x), off(y)) })
	want := b.a.IDOf(raw)
	for _, d := range candidates[:min(len(candidates), maxCandidates)] {
		found := false
		if err := b.c.Bodies([]uint32{d.UID}, func(d *imapclient.Message) error {
			found = found || b.a.IDOf(crlf(d.Body)) == want
			return nil
		}); err != nil || found {
			return found, err
		}
	}
	return false, nil
}

// flagsKept are the system flags that a message takes along. \Recent is the
// server's, and \Deleted would lose it.
var flagsKept = []string{`\Seen`, `\Flagged`, `\Answered`, `\Draft`}

// keeps returns a message's date and flags: the date when its first place got
// it, else the message's own.
func (b *mailbox) keeps(m *message) (at time.Time, flags []string) {
	at = m.Row.Time()
	if m.at == nil {
		return at, nil
	}
	if rec, _, err := b.a.Occurrence(m.at); err == nil && !rec.Internal.IsZero() {
		at = rec.Internal
	}
	for _, f := range strings.Fields(m.at.Flags) {
		system := strings.HasPrefix(f, `\`)
		i := slices.IndexFunc(flagsKept, func(k string) bool { return strings.EqualFold(k, f) })
		if system && i < 0 || !imapclient.ValidFlag(f) || !b.permitted.Keeps(f) {
			continue
		}
		if system {
			f = flagsKept[i]
		}
		if !slices.Contains(flags, f) {
			flags = append(flags, f)
		}
	}
	return at, flags
}

func (b *mailbox) flush() (bool, error) { return true, nil }

func (b *mailbox) close() error {
	b.drop()
	return nil
}
