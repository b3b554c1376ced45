package vault

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/seal"
)

// repairPage1 puts page 1 back from the log when it does not open: a power cut
// tore it while the log was being copied into the main file. SQLite reads page
// 1 before it looks at the log.
func (v *Vault) repairPage1() error {
	f, err := v.fs.OpenFile(v.name, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	page := make([]byte, PageSize)
	main := &file{v: v, f: f}
	if n, _ := f.ReadAt(page, 0); n == 0 {
		return nil
	}
	if _, err := main.readPage(page, 0); err == nil {
		return nil
	}
	var good []byte
	if err := v.walkLog(func(fr logFrame) { // pages of unfinished transactions do not count
		if fr.page == 1 {
			good = append(good[:0], fr.data...)
		}
	}); err != nil || good == nil {
		return nil // reading it will say that it is damaged
	}
	v.pages.Seal(page, good, main.pageContext(0))
	if _, err := f.WriteAt(page, 0); err != nil {
		return err
	}
	return f.Sync()
}

type logFrame struct {
	page uint32
	data []byte
}

// walkLog calls fn for the frames of finished transactions in the log.
func (v *Vault) walkLog(fn func(logFrame)) error {
	f, err := v.fs.OpenFile(v.name+"-wal", os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, walHead)
	if n, err := f.ReadAt(head, 0); n < len(head) {
		return eof(err)
	}
	v.pages.OpenHead(head, 0)
	salts := [8]byte(head[16:24])
	var open []logFrame
	for at := int64(walHead); ; at += frameSize {
		fr := make([]byte, frameSize)
		if n, _ := f.ReadAt(fr, at); n < len(fr) {
			return nil
		}
		v.pages.OpenHead(fr[:frameHead], uint64(at))
		// The salts of a frame repeat those of the log it belongs to.
		if string(fr[8:16]) != string(head[16:24]) || v.pages.Open(fr[frameHead:], v.frameContext(at, fr, &salts)) != nil {
			return nil
		}
		open = append(open, logFrame{binary.BigEndian.Uint32(fr), fr[frameHead:]})
		if binary.BigEndian.Uint32(fr[4:]) != 0 { // a commit
			for _, o := range open {
				fn(o)
			}
			open = nil
		}
	}
}

// A page that SQLite is writing while it is read opens soon.
const (
	settleTries = 5
	settleTime  = 20 * time.Millisecond
)

// settles tells whether a page that did not open does so a little later, or is
// in the log by then.
func (v *Vault) settles(f durable.File, page []byte, at int64) bool {
	for range settleTries {
		time.Sleep(settleTime)
		logged := false
		v.walkLog(func(fr logFrame) { logged = logged || int64(fr.page) == at/PageSize+1 })
		if n, _ := f.ReadAt(page, at); logged || n == len(page) && v.pages.Open(page, (&file{v: v, f: f}).pageContext(at)) == nil {
			return true
		}
	}
	return false
}

// Check opens every page of the main file and calls problem for each that does
// not open. closed says that the database was closed: then there is no log,
// and the file is as long as its header says. It changes nothing.
func (v *Vault) Check(closed bool, problem func(what string)) error {
	f, err := v.fs.OpenFile(v.name, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	main := &file{v: v, f: f}
	page := make([]byte, PageSize)
	pages := int64(-1)
	var zero []int64
	// A power cut tears pages that were being copied from the log: those that
	// are in it are sound.
	logged := map[int64]bool{}
	if !closed {
		if err := v.walkLog(func(fr logFrame) { logged[int64(fr.page)] = true }); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, io.EOF) {
			return err
		}
	}
	for at := int64(0); at+PageSize <= size; at += PageSize {
		if n, err := f.ReadAt(page, at); n < len(page) {
			return fmt.Errorf("read %s: %w", v.name, err)
		}
		if allZero(page) {
			zero = append(zero, at/PageSize+1)
			continue
		}
		if v.pages.Open(page, main.pageContext(at)) != nil {
			if logged[at/PageSize+1] || !closed && v.settles(f, page, at) {
				continue
			}
			problem(fmt.Sprintf("page %d does not open", at/PageSize+1))
			continue
		}
		if at == 0 {
			pages = int64(binary.BigEndian.Uint32(page[28:])) // "database size in pages"
		}
	}
	if !closed {
		return nil
	}
	if size < PageSize {
		problem(fmt.Sprintf("%d bytes long: not even a page", size))
	} else if pages >= 0 && size != pages*PageSize {
		problem(fmt.Sprintf("%d bytes long where its header says %d", size, pages*PageSize))
	}
	if len(zero) > 0 {
		free := main.freePages()
		for _, n := range zero {
			if !free[n] {
				problem(fmt.Sprintf("page %d is empty and not free", n))
			}
		}
	}
	if ok, err := durable.Exists(v.fs, v.name+"-wal"); err != nil || ok {
		problem("a log is there although the database was closed")
		return err
	}
	return nil
}

// lockPage is the page at 1 GiB, which SQLite never uses.
const lockPage = 1<<30/PageSize + 1

// freePages returns the pages of the free list that SQLite may leave without
// content. A list that cannot be read ends early.
func (f *file) freePages() map[int64]bool {
	free := map[int64]bool{lockPage: true}
	page := make([]byte, PageSize)
	if _, err := f.readPage(page, 0); err != nil {
		return free
	}
	// "Page number of the first freelist trunk page"; a trunk holds the next
	// one's number, a count, and the numbers of the free pages.
	seen := map[int64]bool{}
	for trunk := int64(binary.BigEndian.Uint32(page[32:])); trunk != 0 && !seen[trunk]; trunk = int64(binary.BigEndian.Uint32(page)) {
		seen[trunk] = true
		if _, err := f.readPage(page, (trunk-1)*PageSize); err != nil {
			break
		}
		for i := range min(binary.BigEndian.Uint32(page[4:]), PageSize/4-2) {
			free[int64(binary.BigEndian.Uint32(page[8+4*i:]))] = true
		}
	}
	return free
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// Rekey seals a database that nobody has open under another key. A power cut
// leaves it under one of the two.
func Rekey(d durable.FS, name string, from, to seal.Key) error {
	src := &Vault{fs: d, name: name, pages: seal.NewPages(from.Derive("database " + name))}
	dst := &Vault{fs: d, name: name, pages: seal.NewPages(to.Derive("database " + name))}
	in, err := d.OpenFile(name, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := name + ".tmp"
	out, err := d.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	err = reseal(&file{v: src, f: in}, &file{v: dst, f: out, buf: make([]byte, PageSize)})
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("seal %s anew: %w", name, err)
	}
	if err := d.Rename(tmp, name); err != nil {
		return err
	}
	return d.SyncDir(path.Dir(name))
}

func reseal(in, out *file) error {
	size, err := in.f.Size()
	if err != nil {
		return err
	}
	page := make([]byte, PageSize)
	for at := int64(0); at < size; at += PageSize {
		if n, err := in.f.ReadAt(page, at); n < len(page) {
			return eof(err)
		}
		if !allZero(page) {
			if in.v.pages.Open(page, in.pageContext(at)) != nil {
				return ErrDamaged
			}
			if _, err := out.WriteAt(page, at); err != nil {
				return err
			}
		} else if _, err := out.f.WriteAt(page, at); err != nil {
			return err
		}
	}
	return out.f.Sync()
}
