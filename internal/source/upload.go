package source

import (
	"context"
	"errors"
	"io"
	"time"
)

// Upload is files that somebody sent, as a Source. They have no path, so that
// nothing goes on in them: Where is "upload NAME", and the rest as in a file.
type Upload struct {
	Files  []Sent
	Folder string // put everything below this folder
}

// Sent is a file that was sent.
type Sent struct {
	Name     string
	Size     int64
	Modified time.Time // zero if that was not said
	Content  io.ReaderAt
}

// UploadPlace begins the Where of what was sent.
const UploadPlace = "upload "

// Walk implements Source.
func (u Upload) Walk(ctx context.Context, _ Marks, yield func(Item) bool) error {
	w := newWalker(ctx, Options{Folder: u.Folder}, yield)
	for _, f := range u.Files {
		if err := w.sent(f); errors.Is(err, errStop) {
			return ctx.Err()
		} else if err != nil {
			return errors.Join(err, ctx.Err())
		}
	}
	return ctx.Err()
}

func (w *walker) sent(f Sent) error {
	e := entry{where: UploadPlace + f.Name, name: f.Name, size: f.Size, time: f.Modified}
	switch {
	case f.Size == 0:
		return w.emit(Item{Where: e.where, Skip: Empty})
	case ofSystem(f.Name):
		return w.emit(Item{Where: e.where, Skip: OfSystem})
	}
	section := func() *io.SectionReader { return io.NewSectionReader(f.Content, 0, f.Size) }
	return w.whole(section(), func() (io.ReadCloser, error) { return io.NopCloser(section()), nil }, e)
}
