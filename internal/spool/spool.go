// Package spool keeps bytes for as long as a process needs them: in a file whose
// chunks are sealed under keys of one that exists only in memory. The file has
// no name where the system allows that; elsewhere a process that dies leaves one
// that nobody can read.
//
// What was written is read from any place. A spool does not survive its process,
// and is not meant to.
package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"github.com/letterhold/letterhold/internal/seal"
)

// Chunk is what a spool holds in memory, and the size of what it seals at once,
// in bytes: what is not larger never reaches the disk.
const Chunk = 256 << 10

// ErrClosed: the spool is closed, and what was in it is gone.
var ErrClosed = errors.New("the spool is closed")

// Spool is an io.Writer that appends, and an io.ReaderAt. It is safe for
// concurrent use.
type Spool struct {
	dir, prefix string

	mu     sync.Mutex
	key    seal.Key // each chunk has one of its own, derived from it
	plain  []byte   // behind the chunks in the file
	f      *os.File // nil: there is none yet
	name   string   // of f, if it still has one
	chunks int64    // in f
	opened []byte   // the chunk that was read last
	which  int64    // its number
	closed bool
}

// New returns an empty spool whose file, once there is one, lies in dir. prefix
// begins its name where it has one.
func New(dir, prefix string) *Spool {
	return &Spool{dir: dir, prefix: prefix, key: seal.NewKey()}
}

// context says what was sealed.
var context = []byte("spool")

// Size is how many bytes were written.
func (s *Spool) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size()
}

func (s *Spool) size() int64 { return s.chunks*Chunk + int64(len(s.plain)) }

// Write appends b.
func (s *Spool) Write(b []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, ErrClosed
	}
	for len(b) > 0 {
		if len(s.plain) == Chunk {
			if err := s.spill(); err != nil {
				return n, err
			}
		}
		k := min(len(b), Chunk-len(s.plain))
		s.plain = append(s.plain, b[:k]...)
		b, n = b[k:], n+k
	}
	return n, nil
}

// spill moves a full chunk to the file. After an error the same chunk is tried
// again under the same key at the same place.
func (s *Spool) spill() error {
	if s.f == nil {
		f, err := os.CreateTemp(s.dir, s.prefix+"-*")
		if err != nil {
			return fmt.Errorf("spool: %w", err)
		}
		s.f = f
		if os.Remove(f.Name()) != nil { // Windows: not while it is open
			s.name = f.Name()
		}
	}
	if _, err := s.f.WriteAt(seal.Seal(nil, s.keyOf(s.chunks), context, s.plain), s.chunks*sealedChunk); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	s.chunks++
	s.plain = s.plain[:0]
	return nil
}

// sealedChunk is the size of a chunk in the file.
var sealedChunk = int64(seal.SealedSize(Chunk))

func (s *Spool) keyOf(chunk int64) seal.Key { return s.key.Derive(strconv.FormatInt(chunk, 10)) }

// ReadAt implements io.ReaderAt.
func (s *Spool) ReadAt(b []byte, at int64) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return 0, ErrClosed
	case at < 0:
		return 0, errors.New("spool: read before the beginning")
	}
	for n < len(b) && at < s.size() {
		from, err := s.chunk(at / Chunk)
		if err != nil {
			return n, err
		}
		k := copy(b[n:], from[at%Chunk:])
		n, at = n+k, at+int64(k)
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// chunk opens a chunk; the last one may be short.
func (s *Spool) chunk(i int64) ([]byte, error) {
	if i == s.chunks {
		return s.plain, nil
	}
	if s.opened != nil && s.which == i {
		return s.opened, nil
	}
	sealed := make([]byte, sealedChunk)
	if _, err := s.f.ReadAt(sealed, i*sealedChunk); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	opened, err := seal.Open(s.opened[:0], s.keyOf(i), context, sealed)
	if err != nil {
		s.opened = nil
		return nil, fmt.Errorf("spool: %w", err)
	}
	s.opened, s.which = opened, i
	return opened, nil
}

// Close gives everything up: nothing is left of what was written.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.key, s.plain, s.opened = true, seal.Key{}, nil, nil
	if s.f == nil {
		return nil
	}
	err := s.f.Close()
	if s.name != "" {
		err = errors.Join(err, os.Remove(s.name))
	}
	s.f, s.name = nil, ""
	return err
}
