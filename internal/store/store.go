// Package store keeps sealed objects in packs.
//
// A pack is two files: ID.pack, the ciphertexts of objects end to end and
// nothing else, and ID.keys, commit frames that say where each object lies and
// with which key it opens. A commit first makes the ciphertexts durable, then
// one frame. docs/format.md describes each byte.
//
// What must hold: a frame is readable only as a whole; frames are numbered
// without a gap; a frame never moves inside its file, also when the file is
// rewritten (erasure, key rotation, compaction), so that a Place stays valid.
//
// The store does not know what an object means, who refers to it, or whether
// its commit is covered by a checkpoint: the caller says so with a Position.
package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"sync"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
)

// PackLimit is the size in bytes at which a pack is closed: small enough to
// copy and check in one go, large enough that a terabyte is 8,000 files.
const PackLimit = 128 << 20

// ErrNotFound means that a frame has no entry for an object.
var ErrNotFound = errors.New("object not found")

// ErrDamaged is wrapped by every error that says: these bytes are not what was
// written.
var ErrDamaged = errors.New("damaged")

// Place is where an object's entry is: a pack and a frame in its .keys.
type Place struct {
	Pack  uint32
	Frame int64 // offset of the frame in bytes
}

// Position is the end of what is committed.
type Position struct {
	Commit uint64 // number of the last commit; 0: none
	Pack   uint32 // the pack it is in
	Keys   int64  // bytes of ID.keys
	Data   int64  // bytes of ID.pack
}

// Options configure a store; the zero value is the default.
type Options struct {
	PackLimit int64 // bytes; default PackLimit
}

// Store is an open store. It is safe for concurrent use; Commit and the
// functions that rewrite packs are for one caller at a time.
type Store struct {
	fs      durable.FS
	archive [16]byte
	context []byte
	ids     seal.IDs
	limit   int64
	zip     *compressor

	mu     sync.Mutex
	ring   *seal.Ring           // guarded by mu
	files  map[uint32]*packFile // guarded by mu; at most maxOpenPacks
	frames *frameCache          // guarded by mu

	pos    Position // owned by the writer
	roll   bool     // owned by the writer: begin a new pack
	broken error    // owned by the writer: why no commit is possible
}

// maxOpenPacks bounds file descriptors.
const maxOpenPacks = 64

// New returns the store of an archive, with the writer at pos. Nothing is read.
func New(fs durable.FS, archive [16]byte, ring *seal.Ring, pos Position, o Options) *Store {
	if o.PackLimit == 0 {
		o.PackLimit = PackLimit
	}
	return &Store{
		fs: fs, archive: archive, context: []byte(hex.EncodeToString(archive[:])), ring: ring,
		ids: seal.NewIDs(ring.Current(seal.PurposeID).Key), limit: o.PackLimit, zip: newCompressor(),
		files: map[uint32]*packFile{}, frames: newFrameCache(), pos: pos,
	}
}

// Position is the end of the last commit.
func (s *Store) Position() Position { return s.pos }

// IDs makes the ids of this archive's tenant.
func (s *Store) IDs() seal.IDs { return s.ids }

// Close closes the files that were opened for reading.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeFiles()
}

func (s *Store) closeFiles() (err error) {
	for n, f := range s.files {
		err = errors.Join(err, f.close())
		delete(s.files, n)
	}
	s.frames.clear()
	return err
}

// Sealed is an object ready to be committed.
type Sealed struct {
	Entry pack.Entry
	Bytes []byte
}

func objectContext(archive []byte, t seal.Type, id seal.ID) []byte {
	c := make([]byte, 0, len(archive)+1+len(id))
	c = append(c, archive...)
	c = append(c, byte(t))
	return append(c, id[:]...)
}

// Seal compresses and seals content whose SHA-256 is sum. It is the costly
// part of a commit and runs in any number of goroutines.
func (s *Store) Seal(t seal.Type, content []byte, sum [32]byte) Sealed {
	e := pack.Entry{ID: s.ids.Of(t, sum), Type: t, Plain: int64(len(content)), Key: seal.NewKey()}
	small, ok := s.zip.compress(content)
	defer s.zip.release(small)
	if !ok {
		e.Stored = true
	}
	data := small
	if e.Stored {
		data = content
	}
	out := seal.Seal(make([]byte, 0, seal.SealedSize(len(data))), e.Key, objectContext(s.context, t, e.ID), data)
	e.Sealed = int64(len(out))
	return Sealed{Entry: e, Bytes: out}
}

// open returns the content of an object from its ciphertext and checks it
// against its id.
func (s *Store) open(e *pack.Entry, sealed []byte) ([]byte, error) {
	var dst []byte
	if len(sealed) <= seal.Commitment+seal.Chunk+seal.Tag {
		dst = sealed[seal.Commitment:seal.Commitment] // a single chunk opens in place
	} else {
		dst = make([]byte, 0, len(sealed))
	}
	data, err := seal.Open(dst, e.Key, objectContext(s.context, e.Type, e.ID), sealed)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", e.ID, ErrDamaged)
	}
	if !e.Stored {
		if data, err = s.zip.expand(data, e.Plain); err != nil {
			return nil, fmt.Errorf("object %s: %w: %v", e.ID, ErrDamaged, err)
		}
	}
	// A skeleton is hashed as the message that it gives: Message's callers
	// compare that with the message's id.
	if int64(len(data)) != e.Plain || e.Type != seal.TypeSkeleton && s.ids.Of(e.Type, seal.Sum(data)) != e.ID {
		return nil, fmt.Errorf("object %s: content does not match its id: %w", e.ID, ErrDamaged)
	}
	return data, nil
}

// Load returns the content of an object.
func (s *Store) Load(id seal.ID, at Place) ([]byte, error) {
	e, f, err := s.find(id, at)
	if err != nil {
		return nil, err
	}
	defer f.release()
	data, err := s.read(&e, f)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", f.name, err)
	}
	return data, nil
}

func (s *Store) read(e *pack.Entry, f *packFile) ([]byte, error) {
	if e.Sealed < seal.Commitment+seal.Tag || e.Sealed > f.dataSize()-e.Offset {
		return nil, fmt.Errorf("object %s: lies outside the pack: %w", e.ID, ErrDamaged)
	}
	sealed := make([]byte, e.Sealed)
	if n, err := f.data.ReadAt(sealed, e.Offset); n < len(sealed) {
		return nil, fmt.Errorf("object %s: %w", e.ID, err)
	}
	return s.open(e, sealed)
}

// find returns the entry of an object and the open pack it is in.
func (s *Store) find(id seal.ID, at Place) (pack.Entry, *packFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.file(at.Pack)
	if err != nil {
		return pack.Entry{}, nil, err
	}
	plain, err := s.plain(at)
	if err != nil {
		return pack.Entry{}, nil, err
	}
	e, ok, err := pack.FindEntry(plain, id)
	if err != nil {
		return e, nil, fmt.Errorf("%s, frame at %d: %w", f.name, at.Frame, err)
	}
	if !ok {
		return e, nil, fmt.Errorf("%s, frame at %d: object %s: %w", f.name, at.Frame, id, ErrNotFound)
	}
	f.users++
	return e, f, nil
}

// Frame reads the whole frame at a place.
func (s *Store) Frame(at Place) (*pack.Frame, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	plain, err := s.plain(at)
	if err != nil {
		return nil, err
	}
	return pack.DecodeFrame(plain)
}

// Commit makes objects and frame durable and returns where the frame is. It
// fills in the number of the frame and the places of its entries. After an
// error the store is as it was before, or says so at the next Commit.
func (s *Store) Commit(objects []Sealed, fr *pack.Frame) (Place, error) {
	if s.broken != nil {
		return Place{}, fmt.Errorf("the store stopped after an earlier error: %w", s.broken)
	}
	before := s.pos
	next := s.pos
	if next.Pack == 0 || next.Data >= s.limit || s.roll {
		next = Position{Commit: next.Commit, Pack: next.Pack + 1}
	}
	place, err := s.commit(&next, objects, fr)
	if err != nil {
		if undo := s.CutBack(before, next.Pack); undo != nil {
			s.broken = errors.Join(err, undo)
		}
		return Place{}, err
	}
	s.pos, s.roll = next, false
	return place, nil
}

func (s *Store) commit(next *Position, objects []Sealed, fr *pack.Frame) (Place, error) {
	if next.Keys == 0 {
		if err := s.create(next.Pack); err != nil {
			return Place{}, err
		}
		next.Keys = headSize
	}
	fr.Number = next.Commit + 1
	fr.Entries = fr.Entries[:0]
	f, err := openPack(s.fs, s.archive, next.Pack, s.keyring(), os.O_RDWR)
	if err != nil {
		return Place{}, err
	}
	defer f.close()
	if len(objects) > 0 {
		buf := make([]byte, 0, 1<<20)
		at := next.Data
		for i := range objects {
			o := &objects[i]
			o.Entry.Offset = next.Data
			fr.Entries = append(fr.Entries, o.Entry)
			next.Data += o.Entry.Sealed
			if len(buf)+len(o.Bytes) > cap(buf) {
				if err := writeAll(f, buf, &at); err != nil {
					return Place{}, err
				}
				buf = buf[:0]
			}
			if len(o.Bytes) > cap(buf) {
				if err := writeAll(f, o.Bytes, &at); err != nil {
					return Place{}, err
				}
				continue
			}
			buf = append(buf, o.Bytes...)
		}
		if err := writeAll(f, buf, &at); err != nil {
			return Place{}, err
		}
		if err := f.data.Sync(); err != nil {
			return Place{}, fmt.Errorf("sync %s: %w", f.dataName, err)
		}
	}
	b := f.sealFrame(next.Keys, fr.Encode(), 0)
	if _, err := f.keys.WriteAt(b, next.Keys); err != nil {
		return Place{}, fmt.Errorf("write %s: %w", f.name, err)
	}
	if err := f.keys.Sync(); err != nil {
		return Place{}, fmt.Errorf("sync %s: %w", f.name, err)
	}
	place := Place{next.Pack, next.Keys}
	next.Keys += int64(len(b))
	next.Commit++
	return place, nil
}

func writeAll(f *packFile, b []byte, at *int64) error {
	if _, err := f.data.WriteAt(b, *at); err != nil {
		return fmt.Errorf("write %s: %w", f.dataName, err)
	}
	*at += int64(len(b))
	return nil
}

func (s *Store) keyring() *seal.Ring {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ring
}

// create makes the two files of a pack: the empty data first, then a .keys
// that is nothing but its head. A leftover of a commit that failed is replaced.
func (s *Store) create(n uint32) error {
	name := keysName(n)
	dir := path.Dir(name)
	if err := s.fs.MkdirAll(dir); err != nil {
		return err
	}
	if err := s.fs.SyncDir("store"); err != nil {
		return err
	}
	h := head{archive: s.archive, pack: n, epoch: s.keyring().Current(seal.PurposeEntry).Epoch}
	if err := durable.WriteNew(s.fs, h.dataName(), nil); err != nil {
		return fmt.Errorf("create %s: %w", h.dataName(), err)
	}
	return durable.Replace(s.fs, name, h.encode())
}

// CutBack makes pos the end of the store again: what lies beyond it in its
// pack, and the pack upTo when that is a later one, is removed.
func (s *Store) CutBack(pos Position, upTo uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.closeFiles(); err != nil {
		return err
	}
	if upTo > pos.Pack {
		if err := s.removePack(upTo); err != nil {
			return err
		}
	}
	if pos.Pack == 0 {
		return nil
	}
	f, err := openPack(s.fs, s.archive, pos.Pack, s.ring, os.O_RDWR)
	if err != nil {
		return err
	}
	err = errors.Join(cut(f.keys, pos.Keys), cut(f.data, pos.Data), f.close())
	if err != nil {
		return fmt.Errorf("cut %s back to its last commit: %w", f.name, err)
	}
	return nil
}

func cut(f durable.File, size int64) error {
	now, err := f.Size()
	if err != nil || now <= size {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

// Message returns the record of a message from the frame at a place.
func (s *Store) Message(id seal.ID, at Place) (m pack.Message, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	plain, err := s.plain(at)
	if err != nil {
		return m, err
	}
	m, ok, err := pack.FindMessage(plain, id)
	if err == nil && !ok {
		err = fmt.Errorf("frame at %d of %s: message %s: %w", at.Frame, keysName(at.Pack), id, ErrNotFound)
	}
	return m, err
}

// plain returns the plaintext of a frame, from the cache if it is there. The
// caller holds mu.
func (s *Store) plain(at Place) ([]byte, error) {
	if b, ok := s.frames.get(at); ok {
		return b, nil
	}
	f, err := s.file(at.Pack)
	if err != nil {
		return nil, err
	}
	b, err := f.frame(at.Frame)
	if err == nil {
		s.frames.put(at, b)
	}
	return b, err
}

// FrameEnd is where the frame behind the one at a place begins.
func (s *Store) FrameEnd(at Place) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.file(at.Pack)
	if err != nil {
		return 0, err
	}
	n, err := f.frameSize(at.Frame)
	return at.Frame + n, err
}
