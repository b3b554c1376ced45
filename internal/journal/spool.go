package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/letterhold/letterhold/internal/seal"
)

// Spool holds one message while it arrives. It is written, then read once from
// its beginning, then closed, by one goroutine; it may be closed at any time,
// and nothing is left of it then.
type Spool interface {
	io.Writer
	Reader() (io.Reader, error)
	io.Closer
}

// spoolChunk is what a spool holds in memory, and the size of what it seals at
// once: most messages never reach the disk.
const spoolChunk = 256 << 10

// SealedSpool makes spools that hold what is large in a file of dir, sealed:
// each chunk under a key of its own, which exists only in memory. The file has
// no name where the system allows that; elsewhere a process that dies leaves
// one that nobody can read.
func SealedSpool(dir string) func() (Spool, error) {
	return func() (Spool, error) { return &spool{dir: dir}, nil }
}

type spool struct {
	dir   string
	plain bytes.Buffer // not in the file yet; when reading, opened and not read yet
	f     *os.File     // nil: there is none yet
	name  string       // of f, if it still has one
	keys  []seal.Key   // of the chunks in f
	next  int          // to be read
	last  []byte       // what follows the chunks, once it is read
}

// spoolContext says what was sealed.
var spoolContext = []byte("journal spool")

func (s *spool) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		if s.plain.Len() == spoolChunk {
			if err := s.spill(); err != nil {
				return n, err
			}
		}
		k := min(len(b), spoolChunk-s.plain.Len())
		s.plain.Write(b[:k])
		b, n = b[k:], n+k
	}
	return n, nil
}

// spill moves a full chunk to the file.
func (s *spool) spill() error {
	if s.f == nil {
		f, err := os.CreateTemp(s.dir, "journal-*")
		if err != nil {
			return fmt.Errorf("spool: %w", err)
		}
		s.f = f
		if os.Remove(f.Name()) != nil { // Windows: not while it is open
			s.name = f.Name()
		}
	}
	key := seal.NewKey()
	if _, err := s.f.Write(seal.Seal(nil, key, spoolContext, s.plain.Bytes())); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	s.keys = append(s.keys, key)
	s.plain.Reset()
	return nil
}

func (s *spool) Reader() (io.Reader, error) {
	if s.f == nil {
		return &s.plain, nil
	}
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	s.last = bytes.Clone(s.plain.Bytes())
	s.plain.Reset()
	return (*spoolReader)(s), nil
}

// spoolReader reads the chunks in the file and what follows them.
type spoolReader spool

func (s *spoolReader) Read(b []byte) (int, error) {
	if s.plain.Len() == 0 && s.next < len(s.keys) {
		sealed := make([]byte, seal.SealedSize(spoolChunk))
		if _, err := io.ReadFull(s.f, sealed); err != nil {
			return 0, fmt.Errorf("spool: %w", err)
		}
		opened, err := seal.Open(s.plain.AvailableBuffer(), s.keys[s.next], spoolContext, sealed)
		if err != nil {
			return 0, fmt.Errorf("spool: %w", err)
		}
		s.plain.Write(opened)
		s.next++
	} else if s.plain.Len() == 0 {
		s.plain.Write(s.last)
		s.last = nil
	}
	return s.plain.Read(b)
}

func (s *spool) Close() error {
	s.plain, s.keys, s.last = bytes.Buffer{}, nil, nil
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
