// Package durable is the file system below an archive: names relative to one
// folder, and the few operations whose survival of a power cut can be stated.
//
// What must hold: bytes written are durable once Sync returned; a name
// (created, renamed, removed) is durable once SyncDir of its folder returned.
// Nothing else is promised, and nothing above relies on more. The tests run
// the whole archive, databases included, on crashfs, which forgets, reorders
// and tears everything that was not made durable.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// File is an open file. Offsets and sizes are in bytes.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error
	Size() (int64, error)
}

// FS is a folder. Names are slash-separated, relative and clean; a name that
// leaves the folder is an error. Files are created with mode 0600, folders
// with 0700.
type FS interface {
	// OpenFile opens name with the os.O_* flags.
	OpenFile(name string, flag int) (File, error)
	Remove(name string) error
	Rename(from, to string) error
	MkdirAll(name string) error
	ReadDir(name string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the names inside the folder durable.
	SyncDir(name string) error
}

// Folder is an FS on the operating system's file system.
type Folder struct{ root *os.Root }

// OpenFolder opens an existing folder.
func OpenFolder(dir string) (*Folder, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Folder{root: r}, nil
}

// Path is the folder's name as it was opened.
func (d *Folder) Path() string { return d.root.Name() }

// Close releases the folder; open files stay usable.
func (d *Folder) Close() error { return d.root.Close() }

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// OpenFile implements FS.
func (d *Folder) OpenFile(name string, flag int) (File, error) {
	f, err := d.root.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Remove implements FS.
func (d *Folder) Remove(name string) error { return d.root.Remove(name) }

// Rename implements FS.
func (d *Folder) Rename(from, to string) error { return d.root.Rename(from, to) }

// MkdirAll implements FS.
func (d *Folder) MkdirAll(name string) error { return d.root.MkdirAll(name, 0o700) }

// ReadDir implements FS.
func (d *Folder) ReadDir(name string) ([]fs.DirEntry, error) {
	return fs.ReadDir(d.root.FS(), name)
}

// Stat implements FS.
func (d *Folder) Stat(name string) (fs.FileInfo, error) { return d.root.Stat(name) }

// SyncDir implements FS.
func (d *Folder) SyncDir(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	err = f.Sync()
	return errors.Join(err, f.Close())
}

// ReadFile reads a whole file of at most limit bytes.
func ReadFile(d FS, name string, limit int64) ([]byte, error) {
	f, err := d.OpenFile(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s: %d bytes, more than the limit of %d", name, size, limit)
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// WriteNew creates name with data and makes its bytes durable; the name is
// durable only after SyncDir. An existing file is replaced in place.
func WriteNew(d FS, name string, data []byte) error {
	f, err := d.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Replace puts data under name so that after a power cut the file holds either
// its old or its new content, and after the return the new one.
func Replace(d FS, name string, data []byte) error {
	tmp := name + ".tmp"
	if err := WriteNew(d, tmp, data); err != nil {
		return fmt.Errorf("write %s: %w", tmp, err)
	}
	if err := d.Rename(tmp, name); err != nil {
		return err
	}
	return d.SyncDir(path.Dir(name))
}

// Exists tells whether name is there.
func Exists(d FS, name string) (bool, error) {
	_, err := d.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Files calls fn for each regular file below dir, in lexical order, with its
// size in bytes. A folder that does not exist holds no file.
func Files(d FS, dir string, fn func(name string, size int64) error) error {
	es, err := d.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range es {
		name := path.Join(dir, e.Name())
		if e.IsDir() {
			err = Files(d, name, fn)
		} else {
			var fi fs.FileInfo
			if fi, err = e.Info(); err == nil {
				err = fn(name, fi.Size())
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// SyncDirs makes the names in dir and in every folder below it durable.
func SyncDirs(d FS, dir string) error {
	es, err := d.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range es {
		if e.IsDir() {
			if err := SyncDirs(d, path.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return d.SyncDir(dir)
}
