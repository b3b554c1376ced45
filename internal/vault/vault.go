// Package vault is an encrypted SQLite database: a virtual file system below
// SQLite that seals every page of the main file and of the write-ahead log
// where it stands.
//
// A page's last 40 bytes, which SQLite leaves free, hold nonce and tag. The
// additional data binds the database, the file, the place, and for a frame of
// the log what its header says, so that no page can be moved, swapped or taken
// from another generation of the log. Headers of the log are enciphered and
// authenticated with the page behind them. There is no rollback journal, no
// temporary file, and the index of the log lies in memory (a tmpfs where the
// system has one).
//
// A page that does not open is an error (ErrDamaged), with two exceptions that
// docs/format.md explains: a frame at the end of the log ends recovery, and
// page 1 is repaired from the log when a checkpoint was torn.
//
// An old page of the same file at the same place is not noticed; nor is an old
// database as a whole. Whoever needs the latter compares a generation.
package vault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/seal"
)

// PageSize is the size of a page in bytes.
const PageSize = 8192

const (
	walHead   = 32
	frameHead = 24
	frameSize = frameHead + PageSize
)

// ErrDamaged means that a page does not open.
var ErrDamaged = errors.New("database page does not open: changed or damaged")

// Vault is one database.
type Vault struct {
	fs    durable.FS
	name  string
	vfs   string
	pages *seal.Pages
	shm   string
	clean func()

	lock locks
	// salts are those of the log's header. SQLite writes the frames of a large
	// transaction without salts first and puts them in at its end, so pages are
	// bound to the header's.
	salts atomic.Pointer[[8]byte]
	// page1 keeps reads of a part of page 1 apart from writes of it: SQLite
	// promises only that whole pages do not collide.
	page1 sync.RWMutex
}

// Options tune a connection; the zero value is the default.
type Options struct {
	Cache     int  // KiB; default 2,048
	WALPages  int  // pages after which the log is checkpointed; default 1,000
	Relaxed   bool // a cache: fsync at checkpoints only
	ReadOnly  bool // refuse writes
	MaxMemory int  // bytes SQLite may allocate; default 64 MiB
}

// Open prepares the database name in d, which need not exist yet.
func Open(d durable.FS, name string, key seal.Key) (*Vault, error) {
	v := &Vault{fs: d, name: name, pages: seal.NewPages(key.Derive("database " + name))}
	var id [8]byte
	rand.Read(id[:])
	v.vfs = "letterhold-" + hex.EncodeToString(id[:])
	if err := v.repairPage1(); err != nil {
		return nil, err
	}
	dir, err := shmDir()
	if err != nil {
		return nil, err
	}
	v.shm = filepath.Join(dir, "shm")
	v.clean = func() { os.RemoveAll(dir) }
	vfs.Register(v.vfs, v)
	return v, nil
}

// shmDir makes a private folder for the index of the log, in memory if the
// system has such a place. Folders of processes that died are removed.
func shmDir() (string, error) {
	base := "/dev/shm"
	if fi, err := os.Stat(base); err != nil || !fi.IsDir() {
		base = os.TempDir()
	}
	old, _ := filepath.Glob(filepath.Join(base, "letterhold-*-*"))
	for _, d := range old {
		pid, err := strconv.Atoi(strings.Split(filepath.Base(d), "-")[1])
		if err == nil && dead(pid) {
			os.RemoveAll(d)
		}
	}
	return os.MkdirTemp(base, fmt.Sprintf("letterhold-%d-", os.Getpid()))
}

// Close unregisters the database. Its connections must be closed before.
func (v *Vault) Close() error {
	vfs.Unregister(v.vfs)
	v.clean()
	return nil
}

// Name is the file's name in the archive.
func (v *Vault) Name() string { return v.name }

// Connect opens a connection.
func (v *Vault) Connect(o Options) (*sqlite3.Conn, error) {
	if o.Cache == 0 {
		o.Cache = 2048
	}
	if o.WALPages == 0 {
		o.WALPages = 1000
	}
	if o.MaxMemory == 0 {
		o.MaxMemory = 64 << 20
	}
	ctx := sqlite3.WithMaxMemory(context.Background(), int64(o.MaxMemory))
	c, err := sqlite3.OpenContext(ctx, "file:"+v.name+"?vfs="+v.vfs)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", v.name, Explain(err))
	}
	if _, err = c.FileControl("main", sqlite3.FCNTL_RESERVE_BYTES, seal.PageReserve); err == nil {
		sync := "FULL"
		if o.Relaxed {
			sync = "NORMAL"
		}
		err = c.Exec(fmt.Sprintf(`PRAGMA busy_timeout=10000; PRAGMA page_size=%d; PRAGMA temp_store=MEMORY; PRAGMA synchronous=%s;
			PRAGMA cache_size=-%d; PRAGMA wal_autocheckpoint=%d; PRAGMA trusted_schema=OFF`, PageSize, sync, o.Cache, o.WALPages))
	}
	if err == nil {
		err = useWAL(c)
	}
	if err == nil && o.ReadOnly {
		err = c.Exec(`PRAGMA query_only=ON`)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", v.name, Explain(err)), c.Close())
	}
	return c, nil
}

// useWAL switches a new database to the write-ahead log, by way of a journal in
// memory: a journal in a file does not exist here.
func useWAL(c *sqlite3.Conn) error {
	st, _, err := c.Prepare(`PRAGMA journal_mode`)
	if err != nil {
		return err
	}
	mode := ""
	if st.Step() {
		mode = st.ColumnText(0)
	}
	if err := errors.Join(st.Err(), st.Close()); err != nil || mode == "wal" {
		return err
	}
	return c.Exec(`PRAGMA journal_mode=MEMORY; PRAGMA journal_mode=WAL`)
}

// Explain turns SQLite's error for a page that does not open into ErrDamaged.
func Explain(err error) error {
	if errors.Is(err, sqlite3.IOERR_DATA) || errors.Is(err, sqlite3.CORRUPT) || errors.Is(err, sqlite3.NOTADB) {
		return fmt.Errorf("%w (%v)", ErrDamaged, err)
	}
	return err
}

// Open implements vfs.VFS.
func (v *Vault) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	wal := flags&vfs.OPEN_WAL != 0
	if name == "" || !wal && flags&vfs.OPEN_MAIN_DB == 0 {
		return nil, flags, sqlite3.CANTOPEN // journals and temporary files stay in memory
	}
	flag := os.O_RDWR
	if flags&vfs.OPEN_READONLY != 0 {
		flag = os.O_RDONLY
	}
	created := false
	if flags&vfs.OPEN_CREATE != 0 {
		ok, err := durable.Exists(v.fs, name)
		if err != nil {
			return nil, flags, err
		}
		created = !ok
		flag |= os.O_CREATE
	}
	f, err := v.fs.OpenFile(name, flag)
	if err != nil {
		return nil, flags, err
	}
	file := &file{v: v, f: f, wal: wal, name: name, created: created, buf: make([]byte, frameSize)}
	if !wal {
		file.shm = vfs.NewSharedMemory(v.shm, flags)
	}
	return file, flags, nil
}

// Delete implements vfs.VFS.
func (v *Vault) Delete(name string, syncDir bool) error {
	if err := v.fs.Remove(name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return sqlite3.IOERR_DELETE_NOENT
		}
		return err
	}
	if syncDir {
		return v.fs.SyncDir(path.Dir(name))
	}
	return nil
}

// Access implements vfs.VFS.
func (v *Vault) Access(name string, _ vfs.AccessFlag) (bool, error) {
	return durable.Exists(v.fs, name)
}

// FullPathname implements vfs.VFS.
func (v *Vault) FullPathname(name string) (string, error) { return name, nil }

// file is an open main file or log. A file belongs to one connection.
type file struct {
	v       *Vault
	f       durable.File
	shm     vfs.SharedMemory
	name    string
	wal     bool
	created bool
	level   vfs.LockLevel
	buf     []byte
	// head is the header of the frame written last, and where it stands: the
	// page that follows is sealed with what it says.
	head   [frameHead]byte
	headAt int64
}

func (f *file) Close() error {
	if f.shm != nil {
		f.shm.Close()
	}
	f.Unlock(vfs.LOCK_NONE)
	return f.f.Close()
}

func (f *file) pageContext(off int64) []byte {
	return fmt.Appendf(nil, "main %s %d", f.v.name, off/PageSize+1)
}

// frameContext binds a page of the log: place, page number, commit field and
// the log's salts. In a finished frame these are the first 16 bytes of its
// header.
func (v *Vault) frameContext(off int64, head []byte, salts *[8]byte) []byte {
	b := append(fmt.Appendf(nil, "wal %s %d ", v.name, off), head[:8]...)
	return append(b, salts[:]...)
}

// logSalts returns the salts of the log that the file is.
func (f *file) logSalts() (*[8]byte, error) {
	if s := f.v.salts.Load(); s != nil {
		return s, nil
	}
	h := make([]byte, walHead)
	if n, err := f.f.ReadAt(h, 0); n < len(h) {
		return nil, eof(err)
	}
	f.v.pages.OpenHead(h, 0)
	s := [8]byte(h[16:24])
	f.v.salts.Store(&s)
	return &s, nil
}

// ReadAt implements io.ReaderAt for every shape of read.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if f.wal {
		return f.readWAL(p, off)
	}
	if len(p) == PageSize && off%PageSize == 0 {
		return f.readPage(p, off)
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		base := at - at%PageSize
		page := f.buf[:PageSize]
		if _, err := f.readPartial(page, base); err != nil {
			return n, err
		}
		n += copy(p[n:], page[at-base:])
	}
	return n, nil
}

func (f *file) readPartial(page []byte, base int64) (int, error) {
	if base == 0 {
		f.v.page1.RLock()
		defer f.v.page1.RUnlock()
	}
	return f.readPage(page, base)
}

func (f *file) readPage(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	if n < len(p) {
		if n == 0 && errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err == nil || errors.Is(err, io.EOF) {
			return 0, sqlite3.IOERR_DATA // a page cut in half
		}
		return 0, err
	}
	if err := f.v.pages.Open(p, f.pageContext(off)); err != nil {
		return 0, sqlite3.IOERR_DATA
	}
	return n, nil
}

func (f *file) readWAL(p []byte, off int64) (int, error) {
	size, err := f.f.Size()
	if err != nil {
		return 0, err
	}
	if off >= size {
		return 0, io.EOF
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at < walHead {
			h := f.buf[:walHead]
			if k, err := f.f.ReadAt(h, 0); k < len(h) {
				return n, eof(err)
			}
			f.v.pages.OpenHead(h, 0)
			salts := [8]byte(h[16:24])
			f.v.salts.Store(&salts)
			n += copy(p[n:], h[at:])
			continue
		}
		base := at - (at-walHead)%frameSize
		whole := at < base+frameHead && len(p)-n > int(base+frameHead-at)
		k, err := f.readFrame(p[n:], base, at-base, whole)
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// readFrame copies from the frame at base, starting skip bytes into it. When
// header and page are read together, SQLite is recovering: a page that does not
// open then comes as zeros, whose checksum ends the log.
func (f *file) readFrame(p []byte, base, skip int64, whole bool) (int, error) {
	fr := f.buf
	if skip < frameHead && !whole {
		fr = fr[:frameHead]
	}
	if k, err := f.f.ReadAt(fr, base); k < len(fr) {
		return 0, eof(err)
	}
	f.v.pages.OpenHead(fr[:frameHead], uint64(base))
	if len(fr) > frameHead {
		salts, err := f.logSalts()
		if err != nil {
			return 0, err
		}
		if err := f.v.pages.Open(fr[frameHead:], f.v.frameContext(base, fr, salts)); err != nil {
			if !whole {
				return 0, sqlite3.IOERR_DATA
			}
			clear(fr)
		}
	}
	return copy(p, fr[skip:]), nil
}

func eof(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.EOF
	}
	return err
}

// WriteAt implements io.WriterAt. SQLite writes whole pages, whole headers of
// frames, and the header of the log.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.writeAt(p, off)
	return n, full(err)
}

// full lets SQLite say that the disk is full, instead of "disk I/O error".
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return sqlite3.FULL
	}
	return err
}

func (f *file) writeAt(p []byte, off int64) (int, error) {
	switch {
	case !f.wal && len(p) == PageSize && off%PageSize == 0:
		f.v.pages.Seal(f.buf[:PageSize], p, f.pageContext(off))
		if off == 0 {
			f.v.page1.Lock()
			defer f.v.page1.Unlock()
		}
		return f.f.WriteAt(f.buf[:PageSize], off)
	case f.wal && len(p) == walHead && off == 0, f.wal && len(p) == frameHead && (off-walHead)%frameSize == 0:
		b := f.buf[:len(p)]
		copy(b, p)
		if len(p) == frameHead {
			copy(f.head[:], p)
			f.headAt = off
		} else {
			salts := [8]byte(p[16:24])
			f.v.salts.Store(&salts)
		}
		f.v.pages.SealHead(b, uint64(off))
		return f.f.WriteAt(b, off)
	case f.wal && len(p) == PageSize && (off-walHead)%frameSize == frameHead:
		base := off - frameHead
		if f.headAt != base {
			h := f.buf[:frameHead]
			if n, err := f.f.ReadAt(h, base); n < len(h) {
				return 0, eof(err)
			}
			f.v.pages.OpenHead(h, uint64(base))
			copy(f.head[:], h)
			f.headAt = base
		}
		salts, err := f.logSalts()
		if err != nil {
			return 0, err
		}
		b := f.buf[:PageSize]
		f.v.pages.Seal(b, p, f.v.frameContext(base, f.head[:], salts))
		return f.f.WriteAt(b, off)
	}
	return 0, sqlite3.IOERR_WRITE
}

func (f *file) Truncate(size int64) error { return full(f.f.Truncate(size)) }
func (f *file) Size() (int64, error)      { return f.f.Size() }

func (f *file) Sync(vfs.SyncFlag) error {
	if err := f.f.Sync(); err != nil {
		return full(err)
	}
	if f.created {
		f.created = false
		return f.v.fs.SyncDir(path.Dir(f.name))
	}
	return nil
}

func (f *file) SectorSize() int { return 4096 }
func (f *file) DeviceCharacteristics() vfs.DeviceCharacteristic {
	return vfs.IOCAP_POWERSAFE_OVERWRITE
}

// SharedMemory implements vfs.FileSharedMemory.
func (f *file) SharedMemory() vfs.SharedMemory { return f.shm }

// locks are SQLite's five lock levels. One process owns an archive, so they
// need to hold between the connections of this process only.
type locks struct {
	mu       sync.Mutex
	shared   int
	reserved *file
	pending  *file
}

func (f *file) Lock(level vfs.LockLevel) error {
	l := &f.v.lock
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.level >= level {
		return nil
	}
	switch level {
	case vfs.LOCK_SHARED:
		if l.pending != nil {
			return sqlite3.BUSY
		}
		l.shared++
	case vfs.LOCK_RESERVED:
		if l.reserved != nil {
			return sqlite3.BUSY
		}
		l.reserved = f
	case vfs.LOCK_EXCLUSIVE:
		if l.reserved != nil && l.reserved != f || l.pending != nil && l.pending != f {
			return sqlite3.BUSY
		}
		l.reserved, l.pending = f, f
		if l.shared > 1 {
			f.level = vfs.LOCK_PENDING
			return sqlite3.BUSY
		}
	}
	f.level = level
	return nil
}

func (f *file) Unlock(level vfs.LockLevel) error {
	l := &f.v.lock
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.level <= level {
		return nil
	}
	if l.reserved == f {
		l.reserved = nil
	}
	if l.pending == f {
		l.pending = nil
	}
	if level == vfs.LOCK_NONE {
		l.shared--
	}
	f.level = level
	return nil
}

func (f *file) CheckReservedLock() (bool, error) {
	l := &f.v.lock
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reserved != nil, nil
}
