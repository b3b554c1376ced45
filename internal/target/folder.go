package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/export"
	"github.com/letterhold/letterhold/internal/seal"
)

// tree is a folder of single files, or a Maildir: each run adds to it, and to
// its manifest.
type tree struct {
	a      *archive.Archive
	format export.Format
	path   string
	w      *export.Writer
}

func (f *tree) put(ctx context.Context, m *message) (bool, error) {
	if f.w == nil {
		w, err := export.Append(ctx, f.a, f.format, f.path)
		if err != nil {
			return false, err
		}
		f.w = w
	}
	if m.maybe {
		if has, err := f.w.Has(m.ID); err != nil || has {
			return false, err
		}
	}
	return f.w.Put(m.Hit, m.raw)
}

func (f *tree) flush() (bool, error) {
	if f.w == nil {
		return true, nil
	}
	return f.w.Flush()
}

func (f *tree) close() error {
	if f.w == nil {
		return nil
	}
	return f.w.Close()
}

// files is a folder to which each run adds an mbox or a ZIP with its date in the
// name. It is written in a folder beside it, and moved when it is whole.
type files struct {
	a      *archive.Archive
	format export.Format
	path   string
	prefix string // of the names of this target's files

	w     *export.Writer
	work  string
	known map[seal.ID]bool // in the manifests of earlier runs; nil until needed
}

// prefixOf is a target's name as the beginning of a file's.
func prefixOf(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, name) + "-"
}

// unfinished is the folder in which a file is written.
const unfinished = ".letterhold-unfinished"

func (f *files) put(ctx context.Context, m *message) (bool, error) {
	if m.maybe {
		if has, err := f.has(m.ID); err != nil || has {
			return false, err
		}
	}
	if f.w == nil {
		if err := f.begin(ctx); err != nil {
			return false, err
		}
	}
	return f.w.Put(m.Hit, m.raw)
}

// begin opens a new file. What a run left that was killed is not whole: its
// messages are not accounted for, and come again.
func (f *files) begin(ctx context.Context) error {
	f.work = filepath.Join(f.path, unfinished)
	if err := os.RemoveAll(f.work); err != nil {
		return err
	}
	if err := os.MkdirAll(f.work, 0o700); err != nil {
		return err
	}
	stamp := f.a.Now().UTC().Format("20060102T150405Z")
	for n := 1; n < 1000; n++ {
		name := f.prefix + stamp
		if n > 1 {
			name += fmt.Sprintf("-%d", n)
		}
		name += "." + string(f.format)
		if _, err := os.Lstat(filepath.Join(f.path, name)); os.IsNotExist(err) {
			f.w, err = export.Create(ctx, f.a, f.format, filepath.Join(f.work, name))
			return err
		}
	}
	return fmt.Errorf("%s: there is no name left for a new file", f.path)
}

// has tells whether an earlier run wrote a message.
func (f *files) has(id seal.ID) (bool, error) {
	if f.known == nil {
		names, err := filepath.Glob(filepath.Join(f.path, f.prefix+"*."+string(f.format)))
		if err != nil {
			return false, err
		}
		known := map[seal.ID]bool{}
		for _, name := range names {
			ids, err := export.Known(f.format, name)
			if err != nil {
				return false, err
			}
			for id := range ids {
				known[id] = true
			}
		}
		f.known = known
	}
	return f.known[id], nil
}

// flush cannot: an mbox or a ZIP is whole when it is closed.
func (f *files) flush() (bool, error) { return f.w == nil, nil }

func (f *files) close() error {
	if f.w == nil {
		return nil
	}
	if err := f.w.Close(); err != nil {
		return errors.Join(err, os.RemoveAll(f.work))
	}
	es, err := os.ReadDir(f.work)
	if err != nil {
		return err
	}
	// The manifest first: an mbox without one does not come to be.
	for _, manifest := range []bool{true, false} {
		for _, e := range es {
			if strings.HasSuffix(e.Name(), ".jsonl") == manifest {
				err = errors.Join(err, os.Rename(filepath.Join(f.work, e.Name()), filepath.Join(f.path, e.Name())))
			}
		}
	}
	return errors.Join(err, os.Remove(f.work), syncDir(f.path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	d.Sync() // not on all systems
	return d.Close()
}
