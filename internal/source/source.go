// Package source is where mail comes from: here files, that is Maildir and
// Maildir++, mbox, single messages, and ZIP, tar and gzip of these. The kind of
// a file is told by its content.
//
// A walk is in a fixed order, and each item says where it was found, so that a
// walk can go on behind an item. One item that cannot be read never ends it.
package source

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/mbox"
	"github.com/letterhold/letterhold/internal/message"
)

// Item is something that was met: a message, something skipped by rule, or
// something that failed.
type Item struct {
	Raw      []byte
	Account  string // of several; "" if there is one
	Folder   string
	Where    string // path, with "!entry" in an archive and "@offset" in an mbox
	Flags    string
	Internal time.Time
	Skip     string // the rule that skipped it
	Err      error

	Labels []string // folders it is in at the same time, instead of Folder
	Mark   Mark     // what is known once it and all before it are accounted for
	Sum    uint64   // of the names of all files up to this one
	Ref    Ref      // how to find it again
	Again  bool     // it failed before and is tried again
	Quiet  bool     // no message: a mark, or with Again, what need not be tried again

	// Done, if set, is called once the item is accounted for: archived and
	// durable, or failed.
	Done func(where string, err error)
}

// Rules by which files are skipped, and why a ZIP fails.
const (
	NotMail    = "not mail"
	OfSystem   = "not mail (a file of the operating system)"
	Outlook    = "an Outlook or Office file; these are not read yet"
	OutlookPST = "an Outlook PST file; these are not read yet"
	Empty      = "an empty file"
	CutZip     = "a ZIP that was cut off or is damaged; the list of what is in it stands at its end"
)

// Mark is how far a source has been read, for one of its folders or files.
type Mark struct{ Key, Value string }

// Marks are the last marks of a source, by key.
type Marks map[string]string

// Ref is a message at its source.
type Ref struct {
	Folder   string
	Validity uint32
	UID      uint32
	UIDL     string // of POP3
	Size     int64
}

// Source is an account or a folder from which mail is collected, again and
// again. Walk yields what is new since the marks, and stops when yield returns
// false; it may change marks. An item that failed does not end the walk.
type Source interface {
	Walk(ctx context.Context, marks Marks, yield func(Item) bool) error
}

// Options of a walk.
type Options struct {
	Folder string       // put everything below this folder
	Mbox   mbox.Dialect // of all mbox files
	After  string       // go on behind the item with this Where
	// Before is the Sum of the item to go on behind. If other files lie before
	// it now, or it is gone, the walk is from the beginning, and Again is called.
	Before uint64
	Again  func()
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// maxNesting is how deep archives may lie in archives.
const maxNesting = 3

// errMoved ends a walk that would pass over something.
var errMoved = errors.New("something lies elsewhere than before")

// errStop ends a walk because the consumer wants no more.
var errStop = errors.New("stop")

// Paths are files and folders as a Source. Their mark has the key PathMark.
type Paths struct {
	Paths   []string
	Options Options
}

// mark writes how far a walk is: the sum of what lies before, and the place.
func mark(i Item) string { return fmt.Sprintf("%016x %s", i.Sum, i.Where) }

// parseMark reads what mark wrote. Without a sum, none is compared.
func parseMark(s string) (after string, sum uint64) {
	digits, where, ok := strings.Cut(s, " ")
	if n, err := strconv.ParseUint(digits, 16, 64); ok && err == nil && len(digits) == 16 {
		return where, n
	}
	return s, 0
}

// PathMark is the key of the mark of Paths.
const PathMark = "path"

// Walk implements Source.
func (p Paths) Walk(ctx context.Context, marks Marks, yield func(Item) bool) error {
	o := p.Options
	o.After, o.Before = parseMark(marks[PathMark])
	return Files(ctx, p.Paths, o, func(i Item) bool {
		i.Mark = Mark{PathMark, mark(i)}
		return yield(i)
	})
}

// Files walks paths in order and calls yield for each item until it returns
// false. The error is the context's.
func Files(ctx context.Context, paths []string, o Options, yield func(Item) bool) error {
	w := newWalker(ctx, o, yield)
	err := w.paths(paths)
	if errors.Is(err, errMoved) || err == nil && o.After != "" && !w.seen {
		// Mail that moved since to a place before the item is not passed over.
		if o.Again != nil {
			o.Again()
		}
		w.o.After = ""
		w.sum.Reset()
		err = w.paths(paths)
	}
	if errors.Is(err, errStop) {
		return nil
	}
	return errors.Join(err, ctx.Err())
}

func (w *walker) paths(paths []string) error {
	for _, p := range paths {
		if err := w.path(filepath.Clean(p)); err != nil {
			return err
		}
	}
	return nil
}

// Size is about how many bytes a walk will read, for progress.
func Size(paths []string) (n int64) {
	for _, p := range paths {
		filepath.WalkDir(p, func(_ string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if fi, err := d.Info(); err == nil {
					n += fi.Size()
				}
			}
			return nil
		})
	}
	return n
}

type walker struct {
	ctx   context.Context
	o     Options
	yield func(Item) bool
	seen  bool // the item to go on behind has been met
	sum   hash.Hash64
}

func newWalker(ctx context.Context, o Options, yield func(Item) bool) *walker {
	return &walker{ctx: ctx, o: o, yield: yield, sum: fnv.New64a()}
}

// emit hands an item over, unless it lies before the place to go on behind.
func (w *walker) emit(i Item) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.skips(i.Where) {
		return w.passed()
	}
	i.Sum = w.sum.Sum64()
	if w.o.Folder != "" {
		i.Folder = path.Join(w.o.Folder, i.Folder)
	}
	if i.Folder == "" || i.Folder == "." {
		i.Folder = "INBOX"
	}
	if !w.yield(i) {
		return errStop
	}
	return nil
}

// skips tells whether an item was accounted for by an earlier walk.
func (w *walker) skips(where string) bool {
	if w.o.After == "" || w.seen {
		return false
	}
	if where == w.o.After {
		w.seen = true
	}
	return true
}

// passed looks, at the item to go on behind, whether the same files lie before it.
func (w *walker) passed() error {
	if w.seen && w.o.Before != 0 && w.o.Before != w.sum.Sum64() {
		return errMoved
	}
	return nil
}

// meet notes a file that the walk comes to.
func (w *walker) meet(name string) { io.WriteString(w.sum, name+"\x00") }

// before tells whether all of a file lies before the item to go on behind, so
// that it need not be opened.
func (w *walker) before(name string) bool {
	if w.o.After == "" || w.seen {
		return false
	}
	a := w.o.After
	return !(a == name || strings.HasPrefix(a, name+"/") || strings.HasPrefix(a, name+"!") || strings.HasPrefix(a, name+"@") || strings.HasPrefix(a, name+":"))
}

func (w *walker) fail(where string, err error) error { return w.emit(Item{Where: where, Err: err}) }

func (w *walker) path(p string) error {
	fi, err := os.Stat(p)
	if err != nil {
		return w.fail(p, err)
	}
	if fi.IsDir() {
		return w.dir(p, "")
	}
	return w.file(p, "", fi)
}

// isMaildir tells a folder that has cur and new.
func isMaildir(names []os.DirEntry) bool {
	cur, fresh := false, false
	for _, e := range names {
		cur = cur || e.IsDir() && e.Name() == "cur"
		fresh = fresh || e.IsDir() && e.Name() == "new"
	}
	return cur && fresh
}

// dir walks a folder of the file system; folder is what it is called in the
// mailbox.
func (w *walker) dir(p, folder string) error {
	es, err := os.ReadDir(p)
	if err != nil {
		return w.fail(p, err)
	}
	maildir := isMaildir(es)
	if maildir {
		for _, sub := range []string{"cur", "new"} {
			if err := w.maildir(filepath.Join(p, sub), folder); err != nil {
				return err
			}
		}
	}
	for _, e := range es {
		name := e.Name()
		full := filepath.Join(p, name)
		if !e.IsDir() {
			w.meet(full)
		}
		switch {
		case w.before(full):
			continue
		case e.IsDir() && maildir && slices.Contains([]string{"cur", "new", "tmp"}, name):
			continue
		case e.IsDir():
			if name == "__MACOSX" {
				continue
			}
			if err := w.dir(full, subfolder(folder, full, name)); err != nil {
				return err
			}
		case maildir && e.Type().IsRegular() && serversOwn(name):
			if err := w.emit(Item{Folder: folder, Where: full, Skip: "not mail (a file of the mail server)"}); err != nil {
				return err
			}
		case !e.Type().IsRegular():
			if err := w.emit(Item{Folder: folder, Where: full, Skip: notRegular(e.Type())}); err != nil {
				return err
			}
		default:
			fi, err := e.Info()
			if err != nil {
				err = w.fail(full, err)
			} else {
				err = w.file(full, folder, fi)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// notRegular says why something is not read. Links are not followed: they could
// lead anywhere, or in a circle; whoever means them names where they lead.
func notRegular(t os.FileMode) string {
	switch {
	case t&os.ModeSymlink != 0:
		return "a link; name the file or folder that it leads to"
	case t.IsDir():
		return "a folder among the messages"
	}
	return "no file: a pipe, a socket or a device"
}

// serversOwn tells the files that mail servers keep in a Maildir.
func serversOwn(name string) bool {
	if slices.Contains([]string{"maildirfolder", "maildirsize", "subscriptions", "dovecot-keywords", "dovecot-acl", "dovecot-acl-list", "dovecot-shared", ".uidvalidity", ".mbsyncstate", "shared-maildirs", "cyrus.header", "cyrus.index", "cyrus.cache", "cyrus.squat"}, name) {
		return true
	}
	return slices.ContainsFunc([]string{"dovecot-uidlist", "dovecot-uidvalidity", "dovecot.index", "dovecot.list.index", "dovecot.mailbox.log", "dovecot.map.index", "courierimap", "courierpop3", ".mbsyncstate."}, func(p string) bool { return strings.HasPrefix(name, p) })
}

// subfolder names a folder of the file system in the mailbox: ".A.B" of
// Maildir++ is A/B.
func subfolder(parent, full, name string) string {
	if strings.HasPrefix(name, ".") && len(name) > 1 {
		if es, err := os.ReadDir(full); err == nil && isMaildir(es) {
			name = strings.ReplaceAll(name[1:], ".", "/")
			if t, ok := decodeUTF7(name); ok {
				name = t
			}
		}
	}
	return path.Join(parent, strings.ToValidUTF8(name, "_"))
}

// maildir walks cur or new: every file is a message.
func (w *walker) maildir(p, folder string) error {
	es, err := os.ReadDir(p)
	if err != nil {
		return w.fail(p, err)
	}
	for _, e := range es {
		full := filepath.Join(p, e.Name())
		w.meet(full)
		if w.before(full) {
			continue
		}
		if !e.Type().IsRegular() {
			if err := w.emit(Item{Folder: folder, Where: full, Skip: notRegular(e.Type())}); err != nil {
				return err
			}
			continue
		}
		fi, err := e.Info()
		if err != nil {
			if err := w.fail(full, err); err != nil {
				return err
			}
			continue
		}
		if w.skips(full) {
			if err := w.passed(); err != nil {
				return err
			}
			continue
		}
		item := Item{Folder: folder, Where: full, Flags: flags(e.Name()), Internal: fi.ModTime()}
		item.Raw, item.Err = readWhole(full, fi.Size())
		if err := w.emit(item); err != nil {
			return err
		}
	}
	return nil
}

// flags reads the info part of a Maildir name (cr.yp.to/proto/maildir.html).
func flags(name string) string {
	i := strings.LastIndex(name, ":2,")
	if i < 0 {
		if i = strings.LastIndex(name, ";2,"); i < 0 {
			return ""
		}
	}
	var out []string
	for _, f := range []struct{ c, flag string }{{"S", `\Seen`}, {"R", `\Answered`}, {"F", `\Flagged`}, {"T", `\Deleted`}, {"D", `\Draft`}, {"P", "$Forwarded"}} {
		if strings.Contains(name[i+3:], f.c) {
			out = append(out, f.flag)
		}
	}
	return strings.Join(out, " ")
}

func tooLarge(size int64) error {
	return fmt.Errorf("%d bytes: larger than the limit of %d MiB for a message", size, archive.MaxMessage>>20)
}

func readWhole(name string, size int64) ([]byte, error) {
	if size > archive.MaxMessage {
		return nil, tooLarge(size)
	}
	return os.ReadFile(name)
}

// kind is what a file is.
type kind int

const (
	kindOther kind = iota
	kindMail
	kindMbox
	kindGzip
	kindZip
	kindTar
	kindOutlook
	kindPST
)

// sniffed is how much of a file is looked at to tell its kind, in bytes.
const sniffed = 64 << 10

func sniff(head []byte) kind {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		return kindGzip
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")):
		return kindZip
	case len(head) > 262 && string(head[257:262]) == "ustar":
		return kindTar
	case bytes.HasPrefix(head, []byte("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")):
		return kindOutlook
	case bytes.HasPrefix(head, []byte("!BDN")):
		return kindPST
	}
	if mbox.Begins(head) {
		return kindMbox
	}
	if message.LooksLikeMail(head) {
		return kindMail
	}
	return kindOther
}

// named tells what a file name claims, for content that says nothing.
func named(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".eml", ".mail", ".rfc822":
		return true
	}
	return false
}

func (w *walker) file(p, folder string, fi os.FileInfo) error {
	base := filepath.Base(p)
	if ofSystem(base) {
		return w.emit(Item{Where: p, Skip: OfSystem})
	}
	f, err := os.Open(p)
	if err != nil {
		return w.fail(p, err)
	}
	defer f.Close()
	again := func() (io.ReadCloser, error) { return os.Open(p) }
	return w.whole(f, again, entry{where: p, name: base, folder: folder, size: fi.Size(), time: fi.ModTime()})
}

// ofSystem tells files that operating systems leave among others.
func ofSystem(name string) bool {
	return strings.HasPrefix(name, "._") || name == ".DS_Store" || name == "Thumbs.db"
}

// whole reads a file that can be read from any place.
func (w *walker) whole(f readerAt, again func() (io.ReadCloser, error), e entry) error {
	zr, err := w.zip(f, e.size)
	switch {
	case err != nil:
		return w.fail(e.where, fmt.Errorf("%s: %w", CutZip, err))
	case zr != nil:
		return w.zipFile(zr, e.where, e.folder, 1)
	}
	return w.stream(f, again, e, 1)
}

type readerAt interface {
	io.Reader
	io.ReaderAt
}

// entry is a file, or a file in an archive.
type entry struct {
	where, name, folder string
	size                int64
	time                time.Time
}

// stream reads one file of unknown kind. again opens it a second time; it is
// nil where that cannot be done.
func (w *walker) stream(r io.Reader, again func() (io.ReadCloser, error), e entry, depth int) error {
	br := bufio.NewReaderSize(r, sniffed)
	head, err := br.Peek(sniffed)
	if err != nil && len(head) == 0 && err != io.EOF {
		return w.fail(e.where, err)
	}
	if depth > maxNesting {
		return w.emit(Item{Where: e.where, Skip: fmt.Sprintf("archives nested more than %d deep", maxNesting)})
	}
	switch k := sniff(head); k {
	case kindGzip:
		return w.gzip(br, again, e, depth)
	case kindTar:
		return w.tar(tar.NewReader(br), again, e, depth)
	case kindZip:
		return w.zipStream(br, e, depth)
	case kindMbox:
		return w.mbox(br, again, e)
	case kindOutlook:
		return w.emit(Item{Where: e.where, Skip: Outlook})
	case kindPST:
		return w.emit(Item{Where: e.where, Skip: OutlookPST})
	case kindOther:
		if !named(e.name) {
			return w.emit(Item{Where: e.where, Skip: NotMail})
		}
	}
	item := Item{Folder: e.folder, Where: e.where, Internal: e.time}
	if item.Raw, err = io.ReadAll(io.LimitReader(br, archive.MaxMessage+1)); err != nil {
		item.Err = err
	} else if len(item.Raw) > archive.MaxMessage {
		item.Raw, item.Err = nil, tooLarge(int64(len(item.Raw)))
	}
	return w.emit(item)
}

func (w *walker) gzip(br io.Reader, again func() (io.ReadCloser, error), e entry, depth int) error {
	zr, err := gzip.NewReader(br)
	if err != nil {
		return w.fail(e.where, err)
	}
	if again != nil {
		plain := again
		again = func() (io.ReadCloser, error) {
			f, err := plain()
			if err != nil {
				return nil, err
			}
			zr, err := gzip.NewReader(f)
			return struct {
				io.Reader
				io.Closer
			}{zr, f}, err
		}
	}
	e.name = strings.TrimSuffix(e.name, ".gz")
	return w.stream(zr, again, e, depth+1)
}

// tar reads the files of a tar. Hard links to them are read in a second pass: a
// mail server keeps a message of two folders once.
func (w *walker) tar(tr *tar.Reader, again func() (io.ReadCloser, error), e entry, depth int) error {
	links := map[string][]*tar.Header{}
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return w.fail(e.where, fmt.Errorf("tar: %w", err))
		}
		switch h.Typeflag {
		case tar.TypeReg:
			err = w.inside(e, h.Name, h.Size, h.ModTime, tr, nil, depth)
		case tar.TypeLink:
			target := path.Clean(h.Linkname)
			links[target] = append(links[target], h)
		case tar.TypeDir, tar.TypeXGlobalHeader:
		default:
			err = w.emit(Item{Where: e.where + "!" + strings.ToValidUTF8(h.Name, "_"), Skip: notRegular(h.FileInfo().Mode().Type())})
		}
		if err != nil {
			return err
		}
	}
	if len(links) == 0 {
		return nil
	}
	return w.linked(links, again, e, depth)
}

// linked reads the files that hard links of a tar lead to, as the links.
func (w *walker) linked(links map[string][]*tar.Header, again func() (io.ReadCloser, error), e entry, depth int) error {
	if again != nil {
		f, err := again()
		if err != nil {
			return w.fail(e.where, err)
		}
		defer f.Close()
		for tr := tar.NewReader(f); len(links) > 0; {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				return w.fail(e.where, fmt.Errorf("tar: %w", err))
			}
			name := path.Clean(h.Name)
			if h.Typeflag != tar.TypeReg || len(links[name]) == 0 {
				continue
			}
			if h.Size > archive.MaxMessage {
				continue // said below
			}
			b, err := io.ReadAll(tr)
			if err != nil {
				return w.fail(e.where, fmt.Errorf("tar: %w", err))
			}
			for _, l := range links[name] {
				if err := w.inside(e, l.Name, int64(len(b)), l.ModTime, bytes.NewReader(b), nil, depth); err != nil {
					return err
				}
			}
			delete(links, name)
		}
	}
	for _, target := range slices.Sorted(maps.Keys(links)) {
		for _, l := range links[target] {
			if err := w.fail(e.where+"!"+strings.ToValidUTF8(l.Name, "_"), fmt.Errorf("a hard link to %q, which cannot be followed here; unpack the archive and import the folder", target)); err != nil {
				return err
			}
		}
	}
	return nil
}

// inside reads one entry of an archive.
func (w *walker) inside(e entry, name string, size int64, mtime time.Time, r io.Reader, again func() (io.ReadCloser, error), depth int) error {
	name = path.Clean("/" + strings.ReplaceAll(strings.ToValidUTF8(name, "_"), `\`, "/"))[1:]
	where := e.where + "!" + name
	if w.before(where) {
		return nil
	}
	base := path.Base(name)
	if strings.HasPrefix(base, "._") || strings.HasPrefix(name, "__MACOSX/") || base == ".DS_Store" {
		return w.emit(Item{Where: where, Skip: OfSystem})
	}
	in := entry{where: where, name: base, size: size, time: mtime}
	in.folder = path.Join(e.folder, archiveFolder(path.Dir(name)))
	if d := path.Base(path.Dir(name)); (d == "cur" || d == "new") && ofMaildir(base) {
		item := Item{Folder: in.folder, Where: where, Flags: flags(base), Internal: mtime}
		item.Raw, item.Err = io.ReadAll(io.LimitReader(r, archive.MaxMessage+1))
		if len(item.Raw) > archive.MaxMessage {
			item.Raw, item.Err = nil, tooLarge(size)
		}
		return w.emit(item)
	}
	return w.stream(r, again, in, depth+1)
}

// ofMaildir tells a name that a mail server gave a message: seconds since 1970,
// something unique, a host; in cur with its flags (cr.yp.to/proto/maildir.html).
func ofMaildir(name string) bool {
	if strings.Contains(name, ":2,") || strings.Contains(name, ";2,") {
		return true
	}
	seconds, rest, ok := strings.Cut(name, ".")
	_, host, more := strings.Cut(rest, ".")
	_, err := strconv.ParseUint(seconds, 10, 63)
	return ok && more && host != "" && err == nil && len(seconds) >= 9
}

// archiveFolder names the folder of an entry: Maildir parts are left out.
func archiveFolder(dir string) string {
	if dir == "." {
		return ""
	}
	if b := path.Base(dir); b == "cur" || b == "new" {
		if dir = path.Dir(dir); dir == "." {
			return ""
		}
		if b := path.Base(dir); strings.HasPrefix(b, ".") {
			return path.Join(path.Dir(dir), strings.ReplaceAll(b[1:], ".", "/"))
		}
	}
	return dir
}

// mbox reads all messages of an mbox.
func (w *walker) mbox(r io.Reader, again func() (io.ReadCloser, error), e entry) error {
	dialect := w.o.Mbox
	if dialect == mbox.Auto && again != nil {
		f, err := again()
		if err != nil {
			return w.fail(e.where, err)
		}
		rd, err := mbox.ShowsRD(f)
		f.Close()
		if err == nil && rd {
			dialect = mbox.RD
		}
	}
	folder := e.folder
	if n := strings.TrimSuffix(strings.TrimSuffix(e.name, ".mbox"), ".mbx"); n != "" && !strings.EqualFold(n, "inbox") && !strings.EqualFold(filepath.Ext(n), ".eml") {
		folder = path.Join(folder, strings.ToValidUTF8(n, "_"))
	}
	mr := mbox.NewReader(r, dialect, archive.MaxMessage)
	if f, at := w.goOn(again, e.where); f != nil {
		defer f.Close()
		if later, err := mbox.NewReaderAt(f, dialect, archive.MaxMessage, at); err == nil {
			mr = later
		}
	}
	for {
		m, err := mr.Next()
		if err == io.EOF {
			return nil
		}
		if m == nil {
			return w.fail(e.where, err)
		}
		item := Item{Raw: m.Raw, Folder: folder, Where: fmt.Sprintf("%s@%d", e.where, m.Offset), Internal: m.Date, Err: err}
		if err := w.emit(item); err != nil {
			return err
		}
		if err != nil && !errors.Is(err, mbox.ErrTooLarge) {
			return nil
		}
	}
}

// goOn opens an mbox that can be read from any place, and returns the place of
// the message to go on behind, if that is in this file.
func (w *walker) goOn(again func() (io.ReadCloser, error), where string) (*os.File, int64) {
	after, ok := strings.CutPrefix(w.o.After, where+"@")
	at, err := strconv.ParseInt(after, 10, 64)
	if !ok || w.seen || err != nil || again == nil {
		return nil, 0
	}
	r, err := again()
	if err != nil {
		return nil, 0
	}
	f, ok := r.(*os.File)
	if !ok {
		r.Close()
	}
	return f, at
}

// zip opens a ZIP; it returns nil for everything else.
func (w *walker) zip(f io.ReaderAt, size int64) (*zip.Reader, error) {
	head := make([]byte, 4)
	if n, _ := f.ReadAt(head, 0); n < 4 || sniff(head) != kindZip {
		return nil, nil
	}
	return zip.NewReader(f, size)
}

// encryptedZip is the flag of an entry that needs a password (APPNOTE, 4.4.4).
const encryptedZip = 1

func (w *walker) zipFile(zr *zip.Reader, where, folder string, depth int) error {
	for _, f := range zr.File {
		name := where + "!" + strings.ToValidUTF8(f.Name, "_")
		if f.FileInfo().IsDir() {
			continue
		}
		if !f.Mode().IsRegular() {
			if err := w.emit(Item{Where: name, Skip: notRegular(f.Mode().Type())}); err != nil {
				return err
			}
			continue
		}
		r, err := f.Open()
		if f.Flags&encryptedZip != 0 {
			err = errors.New("encrypted; unpack the ZIP with its password and import the folder")
		}
		if err != nil {
			if err := w.fail(name, err); err != nil {
				return err
			}
			continue
		}
		err = w.inside(entry{where: where, folder: folder}, f.Name, int64(f.UncompressedSize64), f.Modified, r, func() (io.ReadCloser, error) { return f.Open() }, depth)
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// maxInnerZip is how large a ZIP inside another archive may be, in bytes: it
// must be held in memory, because its directory is at its end.
const maxInnerZip = 64 << 20

func (w *walker) zipStream(r io.Reader, e entry, depth int) error {
	b, err := io.ReadAll(io.LimitReader(r, maxInnerZip+1))
	if err != nil {
		return w.fail(e.where, err)
	}
	if len(b) > maxInnerZip {
		return w.fail(e.where, fmt.Errorf("a ZIP of more than %d MiB inside another archive; unpack it and import it by itself", maxInnerZip>>20))
	}
	zr, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return w.fail(e.where, fmt.Errorf("ZIP: %w", err))
	}
	return w.zipFile(zr, e.where, e.folder, depth+1)
}

// decodeUTF7 decodes a folder name of Maildir++ (RFC 3501, 5.1.3).
func decodeUTF7(s string) (string, bool) {
	if !strings.Contains(s, "&") {
		return s, true
	}
	text, _ := message.DecodeCharset([]byte(strings.NewReplacer("+", "+-", "&", "+", ",", "/").Replace(s)), "utf-7")
	return text, !strings.ContainsRune(text, 0xFFFD)
}
