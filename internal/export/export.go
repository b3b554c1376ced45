// Package export writes messages out of an archive: single files, a Maildir,
// an mbox, or a ZIP, each with a manifest that says what every file is, its
// SHA-256, and where the message came from. Export writes all at once, a Writer
// one by one, also into a folder that was begun before. Names are made by the program;
// nothing a sender chose becomes a path.
package export

import (
	"archive/zip"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/mbox"
	"github.com/letterhold/letterhold/internal/seal"
)

// Format is how messages are written.
type Format string

// The formats.
const (
	EML     Format = "eml"
	Mbox    Format = "mbox"
	Maildir Format = "maildir"
	Zip     Format = "zip"
)

// ParseFormat reads a format's name.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case EML, Mbox, Maildir, Zip:
		return f, nil
	}
	return "", fmt.Errorf("format %q: it is eml, mbox, maildir or zip", s)
}

// manifestName is the manifest inside a folder or ZIP; beside an mbox it is
// the mbox's name with this ending.
const manifestName = "manifest.jsonl"

// Line is one line of the manifest.
type Line struct {
	File     string    `json:"file"`
	ID       string    `json:"id"`
	SHA256   string    `json:"sha256"`
	Size     int64     `json:"size"`
	Date     time.Time `json:"date"`
	DateRule string    `json:"date_rule"`
	Archived time.Time `json:"archived"`
	Leaf     int64     `json:"leaf"`
	// Added says that the file holds one line end more than the message,
	// because an mbox cannot do otherwise.
	Added bool    `json:"line_end_added,omitempty"`
	Found []Found `json:"found"`
}

// Found is one occurrence.
type Found struct {
	Mailbox string `json:"mailbox"`
	Folder  string `json:"folder"`
	Source  string `json:"source,omitempty"`
	Where   string `json:"where,omitempty"`
	Flags   string `json:"flags,omitempty"`
}

// Report is what an export did.
type Report struct {
	Messages int64             `json:"messages"`
	Bytes    int64             `json:"bytes"`
	Failed   int64             `json:"failed"`
	To       string            `json:"to"`
	Manifest string            `json:"manifest"`
	Failures []catalog.Failure `json:"failures"`
}

// target is where messages are written to, a format each.
type target interface {
	// put writes a message and returns its name.
	put(raw []byte, h *catalog.Hit) (name string, err error)
	// line appends to the manifest.
	line(b []byte) error
	close() error
}

// Export writes hits to a path. hits calls its argument for each hit.
func Export(ctx context.Context, a *archive.Archive, format Format, to string, hits func(func(catalog.Hit) error) error, progress func(messages, bytes int64)) (*Report, error) {
	r := &Report{To: to, Failures: []catalog.Failure{}}
	var w *Writer
	err := hits(func(h catalog.Hit) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if w == nil { // nothing is made for nothing
			var err error
			if w, err = Create(ctx, a, format, to); err != nil {
				w = nil
				return err
			}
		}
		raw, err := a.Raw(&h.Entry)
		if err != nil {
			r.Failed++
			r.Failures = append(r.Failures, catalog.Failure{Where: h.ID.String(), Reason: err.Error()})
			return nil
		}
		if _, err := w.Put(&h, raw); err != nil {
			return err
		}
		r.Messages++
		r.Bytes += int64(len(raw))
		if progress != nil {
			progress(r.Messages, r.Bytes)
		}
		return nil
	})
	if w == nil {
		return r, err
	}
	r.Manifest = w.Manifest()
	return r, errors.Join(err, w.Close())
}

func manifestOf(f Format, to string) string {
	switch f {
	case Mbox:
		return to + "." + manifestName
	case Zip:
		return to + "!" + manifestName
	}
	return filepath.Join(to, manifestName)
}

func describe(a *archive.Archive, h *catalog.Hit, raw []byte, name string, f Format, mailboxes map[int64]string) Line {
	sum := sha256.Sum256(raw)
	l := Line{File: name, ID: h.ID.String(), SHA256: hex.EncodeToString(sum[:]), Size: int64(len(raw)), Date: h.Row.Time(), DateRule: h.Rule.String(), Archived: h.Arrived, Leaf: h.Leaf, Found: []Found{}}
	l.Added = f == Mbox && !mbox.Whole(raw)
	for i := range h.Occurrences {
		o := &h.Occurrences[i]
		x := Found{Mailbox: mailboxes[o.Mailbox], Folder: o.Name, Flags: o.Flags}
		if rec, source, err := a.Occurrence(o); err == nil {
			x.Source, x.Where = source, rec.Where
		}
		l.Found = append(l.Found, x)
	}
	return l
}

func open(f Format, to string) (target, error) {
	if _, err := os.Stat(to); err == nil && (f == Mbox || f == Zip) {
		return nil, fmt.Errorf("%s exists; name a new file", to)
	}
	switch f {
	case Mbox:
		out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		m, err := newFile(manifestOf(Mbox, to))
		if err != nil {
			return nil, errors.Join(err, out.Close())
		}
		return &mboxTarget{path: to, f: out, w: mbox.NewWriter(out), lines: m}, nil
	case Zip:
		out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		// A ZIP takes one file after the other: the manifest waits beside it.
		m, err := os.CreateTemp(filepath.Dir(to), ".letterhold-manifest-")
		if err != nil {
			return nil, errors.Join(err, out.Close())
		}
		buf := bufio.NewWriterSize(out, 256<<10)
		return &zipTarget{f: out, buf: buf, w: zip.NewWriter(buf), lines: file{m, bufio.NewWriter(m)}}, nil
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return nil, err
	}
	if ok, err := empty(root); err != nil || !ok {
		root.Close()
		return nil, errors.Join(err, fmt.Errorf("%s is not empty; name a new folder", to))
	}
	m, err := root.OpenFile(manifestName, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &folderTarget{root: root, maildir: f == Maildir, lines: file{m, bufio.NewWriter(m)}}, nil
}

// file is a buffered file.
type file struct {
	f *os.File
	w *bufio.Writer
}

func newFile(name string) (file, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	return file{f, bufio.NewWriter(f)}, err
}

func (f file) line(b []byte) error {
	_, err := f.w.Write(b)
	return err
}

func (f file) close() error { return errors.Join(f.w.Flush(), f.f.Sync(), f.f.Close()) }

func empty(r *os.Root) (bool, error) {
	es, err := fs.ReadDir(r.FS(), ".")
	return len(es) == 0, err
}

// fileName is a message's name: its date and its id.
func fileName(h *catalog.Hit) string {
	t := h.Row.Time()
	return t.Format("2006-01") + "/" + t.Format("20060102T150405Z") + "-" + h.ID.String() + ".eml"
}

type folderTarget struct {
	root    *os.Root
	maildir bool
	again   bool             // it was begun before: files may be there
	known   map[seal.ID]bool // in the manifest; nil until it is needed
	lines   file
}

func (t *folderTarget) put(raw []byte, h *catalog.Hit) (string, error) {
	name := fileName(h)
	if t.maildir {
		name = maildirName(h)
		for _, d := range []string{"cur", "new", "tmp"} {
			if err := t.root.MkdirAll(filepath.Join(filepath.Dir(filepath.Dir(name)), d), 0o700); err != nil {
				return "", err
			}
		}
	} else if err := t.root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return "", err
	}
	f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) && t.again {
		f, err = t.over(name, h.ID)
	}
	if err != nil {
		return "", err
	}
	_, err = f.Write(raw)
	if err == nil && t.again {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil && t.maildir {
		at := h.Row.Time()
		err = t.root.Chtimes(name, at, at)
	}
	return name, err
}

// over opens a file that is there: a run was interrupted before its line was in
// the manifest. If it is in the manifest, it is left alone.
func (t *folderTarget) over(name string, id seal.ID) (*os.File, error) {
	has, err := t.has(id)
	if err != nil {
		return nil, err
	}
	if has {
		return nil, errThere
	}
	return t.root.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0o600)
}

// has tells whether a message is in the manifest as it was when the folder was
// opened.
func (t *folderTarget) has(id seal.ID) (bool, error) {
	if t.known == nil {
		if err := t.lines.w.Flush(); err != nil {
			return false, err
		}
		t.known = map[seal.ID]bool{}
		size, err := t.lines.f.Seek(0, io.SeekCurrent)
		if err == nil {
			err = readIDs(bufio.NewReaderSize(io.NewSectionReader(t.lines.f, 0, size), 256<<10), t.known)
		}
		if err != nil {
			t.known = nil
			return false, err
		}
	}
	return t.known[id], nil
}

// maxFolder is the longest name that is kept of a folder, in bytes: file systems
// take 255.
const maxFolder = 200

// short shortens a name so that it stays apart from others that begin alike.
func short(name string) string {
	if len(name) <= maxFolder {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return strings.ToValidUTF8(name[:maxFolder], "") + "~" + hex.EncodeToString(sum[:6])
}

// maildirName puts a message into the Maildir++ folder of its first
// occurrence. Characters that would be structure are replaced.
func maildirName(h *catalog.Hit) string {
	folder, info := "", ""
	if len(h.Occurrences) > 0 {
		o := h.Occurrences[0]
		if !strings.EqualFold(o.Name, "INBOX") {
			folder = "." + short(strings.Map(func(r rune) rune {
				switch {
				case r == '/':
					return '.'
				case r == '.' || r < ' ' || r == '\\' || r == 127:
					return '_'
				}
				return r
			}, o.Name)) + "/"
		}
		for _, f := range []struct{ flag, c string }{{`\Draft`, "D"}, {`\Flagged`, "F"}, {"$Forwarded", "P"}, {`\Answered`, "R"}, {`\Seen`, "S"}, {`\Deleted`, "T"}} {
			if strings.Contains(o.Flags, f.flag) {
				info += f.c
			}
		}
	}
	return fmt.Sprintf("%scur/%d.%s.letterhold:2,%s", folder, h.Row.Time().Unix(), h.ID, info)
}

func (t *folderTarget) line(b []byte) error { return t.lines.line(b) }
func (t *folderTarget) close() error        { return errors.Join(t.lines.close(), t.root.Close()) }

type mboxTarget struct {
	path string
	f    *os.File
	w    *mbox.Writer
	n    int

	lines file
}

func (t *mboxTarget) put(raw []byte, h *catalog.Hit) (string, error) {
	t.n++
	return fmt.Sprintf("%s#%d", filepath.Base(t.path), t.n), t.w.Write(raw, h.Row.Time())
}

func (t *mboxTarget) line(b []byte) error { return t.lines.line(b) }
func (t *mboxTarget) close() error {
	return errors.Join(t.w.Flush(), t.f.Sync(), t.f.Close(), t.lines.close())
}

type zipTarget struct {
	f   *os.File
	buf *bufio.Writer
	w   *zip.Writer

	lines file
}

func (t *zipTarget) put(raw []byte, h *catalog.Hit) (string, error) {
	name := fileName(h)
	w, err := t.w.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: h.Row.Time()})
	if err != nil {
		return "", err
	}
	_, err = w.Write(raw)
	return name, err
}

func (t *zipTarget) line(b []byte) error { return t.lines.line(b) }

func (t *zipTarget) close() error {
	defer os.Remove(t.lines.f.Name())
	err := t.lines.w.Flush()
	if err == nil {
		var w io.Writer
		if w, err = t.w.Create(manifestName); err == nil {
			_, err = io.Copy(w, io.NewSectionReader(t.lines.f, 0, 1<<40))
		}
	}
	return errors.Join(err, t.w.Close(), t.buf.Flush(), t.f.Sync(), t.f.Close(), t.lines.f.Close())
}
