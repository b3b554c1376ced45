package archive

import (
	"fmt"

	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/store"
)

// Extents calls fn for each object with its file, offset and sealed length.
// Its pack must be of generation 0.
func Extents(a *Archive, fn func(file string, at, size int64)) error {
	return a.store.Frames(store.Position{}, a.store.Position().Commit, func(f *pack.Frame, at store.Place) error {
		for i := range f.Entries {
			fn(fmt.Sprintf("store/%02x/%08x.pack", at.Pack>>8, at.Pack), f.Entries[i].Offset, f.Entries[i].Sealed)
		}
		return nil
	})
}
