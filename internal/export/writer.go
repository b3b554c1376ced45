package export

import (
	"archive/zip"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/seal"
)

// Writer writes messages one by one, each with its line of the manifest.
type Writer struct {
	a         *archive.Archive
	t         target
	format    Format
	to        string
	mailboxes map[int64]string
}

// Create begins a new file or folder.
func Create(ctx context.Context, a *archive.Archive, f Format, to string) (*Writer, error) {
	mailboxes, err := a.State().MailboxNames(ctx)
	if err != nil {
		return nil, err
	}
	t, err := open(f, to)
	return &Writer{a, t, f, to, mailboxes}, err
}

// Append goes on with a folder of single files or a Maildir that has a manifest,
// or begins a new one. What is there already is not written again.
func Append(ctx context.Context, a *archive.Archive, f Format, to string) (*Writer, error) {
	if f != EML && f != Maildir {
		return nil, fmt.Errorf("format %s: nothing can be added to its files", f)
	}
	manifest := filepath.Join(to, manifestName)
	if _, err := os.Stat(manifest); errors.Is(err, fs.ErrNotExist) {
		w, err := Create(ctx, a, f, to)
		if err == nil {
			w.t.(*folderTarget).again = true
		}
		return w, err
	}
	mailboxes, err := a.State().MailboxNames(ctx)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return nil, err
	}
	m, err := root.OpenFile(manifestName, os.O_RDWR, 0o600)
	if err == nil {
		err = cutTorn(m)
	}
	if err != nil {
		if m != nil {
			err = errors.Join(err, m.Close())
		}
		return nil, errors.Join(err, root.Close())
	}
	t := &folderTarget{root: root, maildir: f == Maildir, again: true, lines: file{m, bufio.NewWriter(m)}}
	return &Writer{a, t, f, to, mailboxes}, nil
}

// cutTorn removes a last line that an interruption left without its end, and
// goes to the end of the manifest.
func cutTorn(m *os.File) error {
	size, err := m.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	b := make([]byte, 64<<10)
	for size > 0 {
		from := max(0, size-int64(len(b)))
		n, err := m.ReadAt(b[:size-from], from)
		if err != nil {
			return err
		}
		if i := strings.LastIndexByte(string(b[:n]), '\n'); i >= 0 {
			size = from + int64(i) + 1
			break
		}
		size = from
	}
	if err := m.Truncate(size); err != nil {
		return err
	}
	_, err = m.Seek(size, io.SeekStart)
	return err
}

// Put writes a message. It returns false for one that is there already.
func (w *Writer) Put(h *catalog.Hit, raw []byte) (bool, error) {
	name, err := w.t.put(raw, h)
	if errors.Is(err, errThere) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("write message %s: %w", h.ID, err)
	}
	line, err := json.Marshal(describe(w.a, h, raw, name, w.format, w.mailboxes))
	if err != nil {
		return false, err
	}
	return true, w.t.line(append(line, '\n'))
}

// Has tells whether a message was in the folder when it was opened.
func (w *Writer) Has(id seal.ID) (bool, error) {
	if t, ok := w.t.(*folderTarget); ok {
		return t.has(id)
	}
	return false, nil
}

// Flush makes durable what was put, if the format can be flushed: it tells
// whether it was. What it does not flush, Close does.
func (w *Writer) Flush() (bool, error) {
	t, ok := w.t.(*folderTarget)
	if !ok {
		return false, nil
	}
	return true, errors.Join(t.lines.w.Flush(), t.lines.f.Sync())
}

// Close finishes what was written.
func (w *Writer) Close() error { return w.t.close() }

// Manifest is where the manifest is.
func (w *Writer) Manifest() string { return manifestOf(w.format, w.to) }

// errThere: a message is in the folder already, and in its manifest.
var errThere = errors.New("there already")

// Known returns the ids in the manifest of an export.
func Known(f Format, to string) (map[seal.ID]bool, error) {
	var r io.ReadCloser
	var err error
	if f == Zip {
		z, zerr := zip.OpenReader(to)
		if zerr != nil {
			return nil, fmt.Errorf("%s: %w", to, zerr)
		}
		defer z.Close()
		r, err = z.Open(manifestName)
	} else {
		r, err = os.Open(manifestOf(f, to))
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	known := map[seal.ID]bool{}
	return known, readIDs(r, known)
}

func readIDs(r io.Reader, known map[seal.ID]bool) error {
	d := json.NewDecoder(r)
	for {
		var l struct {
			ID string `json:"id"`
		}
		err := d.Decode(&l)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("manifest: %w", err)
		}
		id, err := seal.ParseID(l.ID)
		if err != nil {
			return fmt.Errorf("manifest: %w", err)
		}
		known[id] = true
	}
}
