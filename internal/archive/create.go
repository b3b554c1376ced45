package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
)

// makingName is archive.json while the archive is being made: what lies beside
// it is not an archive yet, and belongs to nobody.
const makingName = aboutName + ".tmp"

// Vacant tells whether an archive can be made in a folder: it is empty, or
// holds what an interruption left of one that was being made.
func Vacant(d durable.FS) error {
	es, err := d.ReadDir(".")
	if err != nil {
		return err
	}
	making, err := durable.Exists(d, makingName)
	if err != nil {
		return err
	}
	for _, e := range es {
		name := e.Name()
		if name == "lost+found" || name == lockName || making && name != aboutName && ofArchive(name) {
			continue
		}
		return fmt.Errorf("%w (it contains %s)", ErrExists, name)
	}
	return nil
}

// ofArchive tells whether a name is one that an archive has in its folder.
func ofArchive(name string) bool {
	name = strings.TrimSuffix(strings.TrimSuffix(name, ".tmp"), "-wal")
	return slices.Contains([]string{aboutName, keysName, backupName, lockName, catalog.Name, catalog.StateName, "store", "index", "ledger", spoolDir}, name)
}

// begin marks a vacant folder as one in which an archive is being made, after it
// has removed what an interruption left there.
func begin(d durable.FS, head []byte) error {
	if err := Vacant(d); err != nil {
		return err
	}
	var left []string
	if err := durable.Files(d, ".", func(name string, _ int64) error {
		if name != makingName && name != lockName && !strings.HasPrefix(name, "lost+found/") {
			left = append(left, name)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, name := range left {
		if err := d.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := durable.WriteNew(d, makingName, head); err != nil {
		return err
	}
	return d.SyncDir(".")
}

// finish makes the archive exist: archive.json comes last.
func finish(d durable.FS) error {
	if err := d.Rename(makingName, aboutName); err != nil {
		return err
	}
	return d.SyncDir(".")
}
