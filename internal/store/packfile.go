package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
)

// head is the beginning of a .keys file. It is plaintext and is additional
// data of every frame behind it.
type head struct {
	archive    [16]byte
	pack       uint32
	generation uint32 // of the .pack file: counted up by compaction
	epoch      uint32 // of the entry key that seals the frames
}

const (
	magic    = "LHKEYS1\n"
	headSize = int64(len(magic) + 16 + 3*4)
	// maxFrame bounds what is allocated for a frame before it is authenticated.
	// A commit holds 1,000 messages at most; the largest known needs 2 MiB.
	maxFrame = 64 << 20
)

func (h head) encode() []byte {
	b := append([]byte(magic), h.archive[:]...)
	b = binary.BigEndian.AppendUint32(b, h.pack)
	b = binary.BigEndian.AppendUint32(b, h.generation)
	return binary.BigEndian.AppendUint32(b, h.epoch)
}

func decodeHead(b []byte) (head, error) {
	if int64(len(b)) < headSize || string(b[:len(magic)]) != magic {
		return head{}, fmt.Errorf("no .keys file: %w", ErrDamaged)
	}
	b = b[len(magic):]
	return head{
		archive: [16]byte(b), pack: binary.BigEndian.Uint32(b[16:]),
		generation: binary.BigEndian.Uint32(b[20:]), epoch: binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// KeysName is the name of a pack's .keys file.
func KeysName(n uint32) string { return keysName(n) }

// PackInfo is what the frames of a pack say of its data.
type PackInfo struct {
	Name  string // of the file with the ciphertext
	First uint64 // commit
	Data  int64  // bytes that its commits cover
}

// Info reads the frames of pack n up to a commit.
func (s *Store) Info(n uint32, upTo uint64) (PackInfo, error) {
	pos := Position{Pack: n}
	f, err := s.openAt(&pos)
	if err != nil {
		return PackInfo{}, err
	}
	defer f.close()
	info := PackInfo{Name: f.dataName}
	size, err := f.keys.Size()
	if err != nil || size <= pos.Keys {
		return info, err
	}
	plain, err := f.frame(pos.Keys)
	if err != nil {
		return info, err
	}
	first, err := pack.DecodeFrame(plain)
	if err != nil {
		return info, fmt.Errorf("%s: %w: %v", f.name, ErrDamaged, err)
	}
	info.First = first.Number
	for pos.Commit = first.Number - 1; pos.Keys < size && pos.Commit < upTo; {
		if _, err := f.next(&pos); err != nil {
			return info, err
		}
	}
	info.Data = pos.Data
	return info, nil
}

// Sound opens every object of pack n up to a commit, and returns what is wrong.
func (s *Store) Sound(n uint32, info PackInfo, upTo uint64) (err error) {
	_, cerr := s.CheckPack(Position{Commit: info.First - 1, Pack: n}, Position{Commit: upTo, Pack: n}, 0, false, func(p Problem) {
		if err == nil {
			err = fmt.Errorf("%s %s: %s: %w", p.File, p.Object, p.What, ErrDamaged)
		}
	}, func(*pack.Frame, Place, map[seal.ID][]byte) error { return nil })
	return errors.Join(err, cerr)
}

func baseName(n uint32) string { return fmt.Sprintf("store/%02x/%08x", n>>8, n) }
func keysName(n uint32) string { return baseName(n) + ".keys" }

func (h head) dataName() string {
	if h.generation == 0 {
		return baseName(h.pack) + ".pack"
	}
	return fmt.Sprintf("%s-%d.pack", baseName(h.pack), h.generation)
}

// packFile is an open pack.
type packFile struct {
	head
	name     string // of the .keys
	dataName string
	key      seal.Key
	keys     durable.File
	data     durable.File
	users    int // guarded by Store.mu: readers that hold it beyond the cache
	stale    bool
	owner    *Store
}

func openPack(d durable.FS, archive [16]byte, n uint32, ring *seal.Ring, flag int) (_ *packFile, err error) {
	f := &packFile{name: keysName(n)}
	if f.keys, err = d.OpenFile(f.name, flag); err != nil {
		return nil, fmt.Errorf("open %s: %w", f.name, err)
	}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	b := make([]byte, headSize)
	if n, err := f.keys.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("%s: no head: %w: %v", f.name, ErrDamaged, err)
	}
	if f.head, err = decodeHead(b); err != nil {
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	if f.archive != archive || f.pack != n {
		return nil, fmt.Errorf("%s: belongs to pack %08x of archive %x: %w", f.name, f.pack, f.archive, ErrDamaged)
	}
	if f.key, err = ring.Epoch(seal.PurposeEntry, f.epoch); err != nil {
		return nil, fmt.Errorf("%s: %w: %v", f.name, ErrDamaged, err)
	}
	f.dataName = f.head.dataName()
	if f.data, err = d.OpenFile(f.dataName, flag); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: %w", f.dataName, ErrDamaged)
	} else if err != nil {
		return nil, fmt.Errorf("open %s: %w", f.dataName, err)
	}
	return f, nil
}

func (f *packFile) close() (err error) {
	if f.keys != nil {
		err = f.keys.Close()
	}
	if f.data != nil {
		err = errors.Join(err, f.data.Close())
	}
	return err
}

// release gives up a pack got from Store.find.
func (f *packFile) release() {
	f.owner.mu.Lock()
	defer f.owner.mu.Unlock()
	if f.users--; f.users == 0 && f.stale {
		f.close()
	}
}

func (f *packFile) dataSize() int64 {
	n, err := f.data.Size()
	if err != nil {
		return 0
	}
	return n
}

// file returns an open pack from the cache. The caller holds mu.
func (s *Store) file(n uint32) (*packFile, error) {
	if f := s.files[n]; f != nil {
		return f, nil
	}
	if len(s.files) >= maxOpenPacks {
		for k := range s.files {
			s.forget(k)
			break
		}
	}
	f, err := openPack(s.fs, s.archive, n, s.ring, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	f.owner = s
	s.files[n] = f
	return f, nil
}

// forget drops a pack from the cache; readers that have it go on with it. The
// caller holds mu.
func (s *Store) forget(n uint32) {
	f := s.files[n]
	if f == nil {
		return
	}
	delete(s.files, n)
	if f.stale = true; f.users == 0 {
		f.close()
	}
}

func (f *packFile) frameContext(at int64) []byte {
	b := append([]byte("frame "), f.head.encode()...)
	return binary.BigEndian.AppendUint64(b, uint64(at))
}

// sealFrame returns the bytes of a frame at an offset: the length of the box,
// and the box with the length of the frame, the frame, and zeros up to pad.
func (f *packFile) sealFrame(at int64, frame []byte, pad int) []byte {
	plain := make([]byte, 4, 4+max(len(frame), pad))
	binary.BigEndian.PutUint32(plain, uint32(len(frame)))
	plain = append(plain, frame...)
	if n := 4 + pad - len(plain); n > 0 {
		plain = append(plain, make([]byte, n)...)
	}
	box := seal.SealBox(f.key, f.frameContext(at), plain)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(box))), box...)
}

// frameSize reads the length in bytes of the frame at an offset, with its
// length field.
func (f *packFile) frameSize(at int64) (int64, error) {
	var b [4]byte
	if n, err := f.keys.ReadAt(b[:], at); n < len(b) {
		return 0, fmt.Errorf("%s: frame at %d: %w: %v", f.name, at, ErrDamaged, err)
	}
	n := int64(binary.BigEndian.Uint32(b[:]))
	if n > maxFrame || n < seal.BoxOverhead+4 {
		return 0, fmt.Errorf("%s: frame at %d: length %d: %w", f.name, at, n, ErrDamaged)
	}
	return 4 + n, nil
}

// frame returns the plaintext of the frame at an offset.
func (f *packFile) frame(at int64) ([]byte, error) {
	plain, err := f.padded(at)
	if err != nil {
		return nil, err
	}
	if plain, err = unpad(plain); err != nil {
		return nil, fmt.Errorf("%s: frame at %d: %w", f.name, at, err)
	}
	return plain, nil
}

// unpad takes the frame out of its padding.
func unpad(plain []byte) ([]byte, error) {
	if len(plain) < 4 {
		return nil, ErrDamaged
	}
	n := int64(binary.BigEndian.Uint32(plain))
	if n > int64(len(plain)-4) {
		return nil, ErrDamaged
	}
	return plain[4 : 4+n], nil
}

// padded returns the frame at an offset with its length and its padding.

func (f *packFile) padded(at int64) ([]byte, error) {
	size, err := f.frameSize(at)
	if err != nil {
		return nil, err
	}
	have, err := f.keys.Size()
	if err != nil {
		return nil, err
	}
	if at+size > have {
		return nil, fmt.Errorf("%s: frame at %d is cut off: %w", f.name, at, ErrDamaged)
	}
	box := make([]byte, size-4)
	if n, err := f.keys.ReadAt(box, at+4); n < len(box) {
		return nil, fmt.Errorf("%s: frame at %d: %w", f.name, at, err)
	}
	plain, err := seal.OpenBox(f.key, f.frameContext(at), box)
	if err != nil {
		return nil, fmt.Errorf("%s: frame at %d: %w", f.name, at, ErrDamaged)
	}
	return plain, nil
}

// packs lists the numbers of the packs that have a .keys, in order, and the
// names of files in store/ that belong to none of them.
func (s *Store) packs() (numbers []uint32, others []string, err error) {
	var data []string
	err = durable.Files(s.fs, "store", func(name string, _ int64) error {
		base := path.Base(name)
		digits, ok := strings.CutSuffix(base, ".keys")
		n, perr := strconv.ParseUint(digits, 16, 32)
		switch {
		case ok && perr == nil && keysName(uint32(n)) == name:
			numbers = append(numbers, uint32(n))
		case strings.HasSuffix(base, ".pack"):
			data = append(data, name)
		default:
			others = append(others, name)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	mine := map[string]bool{}
	for _, n := range numbers {
		b, err := s.readHead(n)
		if err != nil {
			continue // reported by whoever reads the pack
		}
		mine[b.dataName()] = true
	}
	for _, name := range data {
		if !mine[name] {
			others = append(others, name)
		}
	}
	return numbers, others, nil
}

func (s *Store) readHead(n uint32) (head, error) {
	f, err := s.fs.OpenFile(keysName(n), os.O_RDONLY)
	if err != nil {
		return head{}, err
	}
	defer f.Close()
	b := make([]byte, headSize)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return head{}, err
	}
	return decodeHead(b)
}

// removePack removes both files of a pack that was never committed to.
func (s *Store) removePack(n uint32) error {
	h := head{pack: n}
	for _, name := range []string{keysName(n), h.dataName()} {
		if err := s.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if ok, err := durable.Exists(s.fs, path.Dir(keysName(n))); !ok || err != nil {
		return err
	}
	return s.fs.SyncDir(path.Dir(keysName(n)))
}
