package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/ledger"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/store"
)

// A backup is a folder with packs, which are ciphertext only and are copied
// once, and parcels: all keys and state of one moment. Parcels are small, and
// old ones are removed, because a message that was erased lives on in them.
const (
	packsDir   = "packs"
	parcelsDir = "parcels"
	parcelTime = "20060102T150405.000Z"
	doneName   = "complete"
)

// BackupReport is what a backup did.
type BackupReport struct {
	Parcel  string `json:"parcel"`
	Packs   int    `json:"packs"`
	Copied  int64  `json:"copied"` // bytes that were not there yet
	Removed int    `json:"removed"`
}

// Backup brings the folder to up to date: new bytes of packs, and a parcel. It
// may run while mail comes in. Every file is read back and compared. Parcels
// older than keep are removed.
func (a *Archive) Backup(ctx context.Context, to durable.FS, keep time.Duration, who string, progress func(int64)) (*BackupReport, error) {
	if err := checkBackup(to, a.about.ID); err != nil {
		return nil, err
	}
	r := &BackupReport{}
	// Most of the work is done while others go on: packs only grow.
	if err := a.copyPacks(ctx, to, r, progress); err != nil {
		return r, err
	}
	a.w.Lock()
	defer a.w.Unlock()
	if err := a.record(Act{What: "backup", Who: who}, 0, 0); err != nil {
		return r, err
	}
	if err := a.copyPacks(ctx, to, r, progress); err != nil {
		return r, err
	}
	r.Parcel = path.Join(parcelsDir, a.opts.Now().UTC().Format(parcelTime))
	if err := a.writeParcel(to, r.Parcel); err != nil {
		return r, fmt.Errorf("parcel: %w", err)
	}
	var err error
	r.Removed, err = expireParcels(to, a.opts.Now().Add(-keep))
	return r, err
}

func checkBackup(to durable.FS, id string) error {
	b, err := durable.ReadFile(to, aboutName, 4096)
	if errors.Is(err, fs.ErrNotExist) {
		es, err := to.ReadDir(".")
		if err != nil {
			return err
		}
		if len(es) > 0 {
			return fmt.Errorf("%w: a backup begins in an empty folder, this one holds %s", ErrExists, es[0].Name())
		}
		return durable.Replace(to, aboutName, About{Format: format, ID: id}.encode())
	}
	if err != nil {
		return err
	}
	if !bytes.Contains(b, []byte(id)) {
		return errors.New("this is the backup of another archive")
	}
	return nil
}

func (a *Archive) copyPacks(ctx context.Context, to durable.FS, r *BackupReport, progress func(int64)) error {
	names, err := a.store.PackFiles()
	if err != nil {
		return err
	}
	r.Packs = len(names)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := appendFile(a.fs, name, to, path.Join(packsDir, strings.TrimPrefix(name, "store/")))
		if err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
		r.Copied += n
		if progress != nil {
			progress(r.Copied)
		}
	}
	// Packs that compaction replaced hold only what the new ones hold too.
	return durable.Files(to, packsDir, func(name string, _ int64) error {
		if !slices.Contains(names, "store/"+strings.TrimPrefix(name, packsDir+"/")) {
			return to.Remove(name)
		}
		return nil
	})
}

// appendFile copies what the target lacks at its end and reads it back.
func appendFile(src durable.FS, from string, dst durable.FS, to string) (int64, error) {
	in, err := src.OpenFile(from, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	size, err := in.Size()
	if err != nil {
		return 0, err
	}
	if err := dst.MkdirAll(path.Dir(to)); err != nil {
		return 0, err
	}
	out, err := dst.OpenFile(to, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	have, err := out.Size()
	if err != nil {
		return 0, err
	}
	if have > size {
		have = 0
		if err := out.Truncate(0); err != nil {
			return 0, err
		}
	}
	if have == size {
		return 0, nil
	}
	sum := sha256.New()
	buf := make([]byte, 1<<20)
	for at := have; at < size; {
		n, err := in.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if n == 0 {
			return 0, err
		}
		if _, err := out.WriteAt(buf[:n], at); err != nil {
			return 0, err
		}
		sum.Write(buf[:n])
		at += int64(n)
	}
	if err := out.Sync(); err != nil {
		return 0, err
	}
	back := sha256.New()
	if _, err := io.CopyBuffer(back, io.NewSectionReader(out, have, size-have), buf); err != nil {
		return 0, err
	}
	if !bytes.Equal(sum.Sum(nil), back.Sum(nil)) {
		return 0, errors.New("what was read back differs from what was written")
	}
	return size - have, dst.SyncDir(path.Dir(to))
}

// writeParcel copies keys, state and the checkpoint. The caller holds w.
func (a *Archive) writeParcel(to durable.FS, parcel string) error {
	checkpoint, err := a.ledger.Signed()
	if err != nil {
		return err
	}
	if err := to.MkdirAll(parcel); err != nil {
		return err
	}
	put := func(name string, b []byte) error { return durable.WriteNew(to, path.Join(parcel, name), b) }
	for name, b := range map[string][]byte{aboutName: a.head, keysName: a.keys.Bytes(), "checkpoint": checkpoint} {
		if err := put(name, b); err != nil {
			return err
		}
	}
	if err := a.state.Copy(func() error {
		_, err := appendFile(a.fs, catalog.StateName, to, path.Join(parcel, catalog.StateName))
		return err
	}); err != nil {
		return err
	}
	for n := uint32(1); n <= a.store.Position().Pack; n++ {
		name := store.KeysName(n)
		if _, err := appendFile(a.fs, name, to, path.Join(parcel, strings.TrimPrefix(name, "store/"))); err != nil {
			return err
		}
	}
	if err := put(doneName, []byte("ok\n")); err != nil {
		return err
	}
	return errors.Join(to.SyncDir(parcel), to.SyncDir(parcelsDir))
}

// parcels lists complete parcels, oldest first.
func parcels(d durable.FS) (out []string, err error) {
	es, err := d.ReadDir(parcelsDir)
	if err != nil {
		return nil, err
	}
	for _, e := range es {
		name := path.Join(parcelsDir, e.Name())
		if ok, err := durable.Exists(d, path.Join(name, doneName)); err == nil && ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

func expireParcels(d durable.FS, before time.Time) (removed int, err error) {
	all, err := parcels(d)
	if err != nil {
		return 0, err
	}
	for _, p := range all[:max(0, len(all)-1)] {
		if t, err := time.Parse(parcelTime, path.Base(p)); err != nil || !t.Before(before) {
			continue
		}
		if err := durable.Files(d, p, func(name string, _ int64) error { return d.Remove(name) }); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// Restore makes an archive in an empty folder from the newest parcel of a
// backup, computes the ledger's tiles again from the leaves, and compares them
// with the signed checkpoint.
func Restore(ctx context.Context, backup, to durable.FS, secret seal.Secret, progress func(int64)) error {
	es, err := to.ReadDir(".")
	if err != nil {
		return err
	}
	if len(es) > 0 {
		return fmt.Errorf("%w (it contains %s)", ErrExists, es[0].Name())
	}
	all, err := parcels(backup)
	if err != nil || len(all) == 0 {
		return errors.Join(errors.New("this folder holds no complete backup"), err)
	}
	parcel := all[len(all)-1]
	copied := int64(0)
	bring := func(from, name string) error {
		n, err := appendFile(backup, from, to, name)
		if copied += n; progress != nil {
			progress(copied)
		}
		return errors.Join(err, ctx.Err())
	}
	for _, dir := range []string{"store", "index", "ledger", spoolDir} {
		if err := to.MkdirAll(dir); err != nil {
			return err
		}
	}
	for _, name := range []string{keysName, catalog.StateName} {
		if err := bring(path.Join(parcel, name), name); err != nil {
			return err
		}
	}
	if err := bring(path.Join(parcel, keysName), backupName); err != nil {
		return err
	}
	for dir, base := range map[string]string{parcel: parcel + "/", packsDir: packsDir + "/"} {
		err := durable.Files(backup, dir, func(name string, _ int64) error {
			if ext := path.Ext(name); ext != ".keys" && ext != ".pack" {
				return nil
			}
			return bring(name, "store/"+strings.TrimPrefix(name, base))
		})
		if err != nil {
			return err
		}
	}
	if err := bring(path.Join(parcel, aboutName), aboutName); err != nil {
		return err
	}
	ring, _, err := Unlock(to, secret)
	if err != nil {
		return err
	}
	checkpoint, err := durable.ReadFile(backup, path.Join(parcel, "checkpoint"), 1<<20)
	if err != nil {
		return err
	}
	return rebuildLedger(to, ring, checkpoint)
}

// rebuildLedger writes tiles from the leaves in the frames.
func rebuildLedger(d durable.FS, ring *seal.Ring, checkpoint []byte) error {
	about, _, err := ReadAbout(d)
	if err != nil {
		return err
	}
	signer, err := ledger.NewSigner(origin(about.ID), ring.Current(seal.PurposeLedger).Key)
	if err != nil {
		return err
	}
	cp, err := signer.Open(checkpoint)
	if err != nil {
		return err
	}
	end, _, _, err := parseExtension(cp.Extension)
	if err != nil {
		return err
	}
	s := store.New(d, about.binary(), ring, end, store.Options{})
	defer s.Close()
	rb := ledger.NewRebuild(func(name string, data []byte) error {
		if err := d.MkdirAll(path.Dir(name)); err != nil {
			return err
		}
		return durable.WriteNew(d, name, data)
	})
	err = s.Frames(store.Position{}, end.Commit, func(f *pack.Frame, _ store.Place) error {
		for _, l := range f.Leaves {
			if err := rb.Add(l); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	root, err := rb.Finish()
	if err != nil {
		return err
	}
	if root != cp.Root || rb.Size() != cp.Size {
		return fmt.Errorf("the leaves of the backup do not match its checkpoint: %w", ErrDamaged)
	}
	if err := durable.Replace(d, "ledger/checkpoint", checkpoint); err != nil {
		return err
	}
	return durable.WriteNew(d, lockName, []byte(lockOpen+"\n"))
}
