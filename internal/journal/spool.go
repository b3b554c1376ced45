package journal

import (
	"io"

	"github.com/letterhold/letterhold/internal/spool"
)

// Spool holds one message while it arrives. It is written, then read once from
// its beginning, then closed, by one goroutine; it may be closed at any time,
// and nothing is left of it then.
type Spool interface {
	io.Writer
	Reader() (io.Reader, error)
	io.Closer
}

// SealedSpool makes spools that hold what is large in a sealed file of dir.
func SealedSpool(dir string) func() (Spool, error) {
	return func() (Spool, error) { return sealed{spool.New(dir, "journal")}, nil }
}

type sealed struct{ *spool.Spool }

func (s sealed) Reader() (io.Reader, error) { return io.NewSectionReader(s, 0, s.Size()), nil }
