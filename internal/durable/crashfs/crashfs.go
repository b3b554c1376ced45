// Package crashfs is a durable.FS in memory that can fail. It counts every
// operation, fails from the k-th one on, and after a power cut keeps what was
// made durable while it drops, reorders and tears the rest: each write that
// was not synced survives or not by itself, in pieces of 4 KiB, and names that
// were not synced fall back to where they pointed before.
package crashfs

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/letterhold/letterhold/internal/durable"
)

// ErrInjected is what every operation returns once the stop is reached.
var ErrInjected = errors.New("injected I/O error")

// tear is the size in bytes of the pieces in which a write reaches the disk.
const tear = 4096

type write struct {
	off  int64
	data []byte // nil: truncate to off
}

type inode struct {
	now     []byte
	synced  []byte
	pending []write
}

// FS is the file system. The zero value is not usable; see New.
type FS struct {
	mu      sync.Mutex
	names   map[string]*inode
	durable map[string]*inode // names as of the last SyncDir of their folder
	dirs    map[string]bool
	ops     int
	stopAt  int // 0: never
	once    bool
	free    int64 // bytes left; negative: no limit
}

// New returns an empty file system that does not fail.
func New() *FS {
	return &FS{names: map[string]*inode{}, durable: map[string]*inode{}, dirs: map[string]bool{".": true}, free: -1}
}

// StopAt makes the k-th operation from now, and all after it, fail. 0 lifts it.
func (d *FS) StopAt(k int) { d.stop(k, false) }

// FailOnce makes only the k-th operation from now fail.
func (d *FS) FailOnce(k int) { d.stop(k, true) }

func (d *FS) stop(k int, once bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopAt, d.once = 0, once
	if k > 0 {
		d.stopAt = d.ops + k
	}
}

// SetFree limits the bytes that can still be written; negative lifts it.
func (d *FS) SetFree(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free = n
}

// Ops is the number of operations so far.
func (d *FS) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// Crash returns what a machine finds after a power cut now. The same seed
// gives the same loss.
func (d *FS) Crash(seed uint64) *FS {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := rand.New(rand.NewPCG(seed, 1))
	out := New()
	for dir := range d.dirs {
		out.dirs[dir] = true
	}
	var names []string
	for n := range d.names {
		names = append(names, n)
	}
	for n := range d.durable {
		if d.names[n] == nil {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	content := map[*inode]*inode{}
	for _, n := range names {
		ino := d.names[n]
		if old := d.durable[n]; old != ino && r.IntN(2) == 0 {
			ino = old
		}
		if ino == nil {
			continue
		}
		if content[ino] == nil {
			b := ino.lose(r)
			content[ino] = &inode{now: b, synced: slices.Clone(b)}
		}
		out.names[n], out.durable[n] = content[ino], content[ino]
	}
	return out
}

// Copy returns a file system with the same files, all of them durable.
func (d *FS) Copy() *FS {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := New()
	for dir := range d.dirs {
		out.dirs[dir] = true
	}
	for n, ino := range d.names {
		c := &inode{now: slices.Clone(ino.now), synced: slices.Clone(ino.now)}
		out.names[n], out.durable[n] = c, c
	}
	return out
}

// lose applies a random part of the writes that were not synced.
func (n *inode) lose(r *rand.Rand) []byte {
	b := slices.Clone(n.synced)
	pending := slices.Clone(n.pending)
	if r.IntN(4) == 0 {
		r.Shuffle(len(pending), func(i, j int) { pending[i], pending[j] = pending[j], pending[i] })
	}
	keep := r.IntN(3) // 0: nothing, 1: some, 2: everything
	for _, w := range pending {
		if w.data == nil {
			if keep == 2 || keep == 1 && r.IntN(2) == 0 {
				b = resize(b, w.off)
			}
			continue
		}
		for at := 0; at < len(w.data); {
			n := min(len(w.data)-at, tear-int((w.off+int64(at))%tear))
			if keep == 2 || keep == 1 && r.IntN(2) == 0 {
				b = put(b, w.data[at:at+n], w.off+int64(at))
			}
			at += n
		}
	}
	return b
}

func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

func put(b, data []byte, off int64) []byte {
	if end := off + int64(len(data)); end > int64(len(b)) {
		b = resize(b, end)
	}
	copy(b[off:], data)
	return b
}

// step counts an operation and says whether it must fail. The caller holds mu.
func (d *FS) step() error {
	d.ops++
	if d.stopAt > 0 && (d.ops == d.stopAt || d.ops > d.stopAt && !d.once) {
		return ErrInjected
	}
	return nil
}

func notExist(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

type file struct {
	d    *FS
	ino  *inode
	name string
}

// OpenFile implements durable.FS.
func (d *FS) OpenFile(name string, flag int) (durable.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ino := d.names[name]
	create := ino == nil && flag&os.O_CREATE != 0
	if create || flag&os.O_TRUNC != 0 {
		if err := d.step(); err != nil {
			return nil, err
		}
	}
	switch {
	case ino != nil && flag&os.O_EXCL != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case create && !d.dirs[path.Dir(name)]:
		return nil, notExist("open", name)
	case create:
		ino = &inode{}
		d.names[name] = ino
	case ino == nil:
		return nil, notExist("open", name)
	case flag&os.O_TRUNC != 0:
		ino.now = nil
		ino.pending = append(ino.pending, write{})
	}
	return &file{d: d, ino: ino, name: name}, nil
}

// Remove implements durable.FS.
func (d *FS) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	if d.names[name] == nil {
		return notExist("remove", name)
	}
	delete(d.names, name)
	return nil
}

// Rename implements durable.FS.
func (d *FS) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	if d.names[from] == nil {
		return notExist("rename", from)
	}
	d.names[to] = d.names[from]
	delete(d.names, from)
	return nil
}

// MkdirAll implements durable.FS. Folders are durable at once.
func (d *FS) MkdirAll(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for ; name != "."; name = path.Dir(name) {
		d.dirs[name] = true
	}
	return nil
}

// SyncDir implements durable.FS.
func (d *FS) SyncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	for n := range d.durable {
		if path.Dir(n) == name && d.names[n] == nil {
			delete(d.durable, n)
		}
	}
	for n, ino := range d.names {
		if path.Dir(n) == name {
			d.durable[n] = ino
		}
	}
	return nil
}

type entry struct {
	name string
	size int64
	dir  bool
}

func (e entry) Name() string               { return e.name }
func (e entry) IsDir() bool                { return e.dir }
func (e entry) Info() (fs.FileInfo, error) { return e, nil }
func (e entry) Size() int64                { return e.size }
func (e entry) ModTime() time.Time         { return time.Time{} }
func (e entry) Sys() any                   { return nil }
func (e entry) Type() fs.FileMode          { return e.Mode().Type() }
func (e entry) Mode() fs.FileMode {
	if e.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}

// ReadDir implements durable.FS.
func (d *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dirs[name] {
		return nil, notExist("open", name)
	}
	var es []fs.DirEntry
	for n, ino := range d.names {
		if path.Dir(n) == name {
			es = append(es, entry{name: path.Base(n), size: int64(len(ino.now))})
		}
	}
	for n := range d.dirs {
		if n != "." && path.Dir(n) == name {
			es = append(es, entry{name: path.Base(n), dir: true})
		}
	}
	slices.SortFunc(es, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return es, nil
}

// Stat implements durable.FS.
func (d *FS) Stat(name string) (fs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ino := d.names[name]; ino != nil {
		return entry{name: path.Base(name), size: int64(len(ino.now))}, nil
	}
	if d.dirs[name] {
		return entry{name: path.Base(name), dir: true}, nil
	}
	return nil, notExist("stat", name)
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if off >= int64(len(f.ino.now)) {
		return 0, io.EOF
	}
	n := copy(p, f.ino.now[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step(); err != nil {
		return 0, err
	}
	if grow := off + int64(len(p)) - int64(len(f.ino.now)); f.d.free >= 0 && grow > 0 {
		if grow > f.d.free {
			return 0, &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
		}
		f.d.free -= grow
	}
	f.ino.now = put(f.ino.now, p, off)
	f.ino.pending = append(f.ino.pending, write{off, slices.Clone(p)})
	return len(p), nil
}

func (f *file) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step(); err != nil {
		return err
	}
	f.ino.now = resize(slices.Clone(f.ino.now), size)
	f.ino.pending = append(f.ino.pending, write{off: size})
	return nil
}

func (f *file) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step(); err != nil {
		return err
	}
	f.ino.synced = slices.Clone(f.ino.now)
	f.ino.pending = nil
	return nil
}

func (f *file) Size() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return int64(len(f.ino.now)), nil
}

func (f *file) Close() error { return nil }
