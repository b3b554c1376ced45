package archive

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
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
	sumExt     = ".sum" // beside a closed pack: the SHA-256 and size of what was copied
)

// rereadEvery is how many backups it takes until each closed pack was read back
// again: about a month of daily ones.
const rereadEvery = 30

// BackupReport is what a backup did.
type BackupReport struct {
	Parcel  string `json:"parcel"`
	Packs   int    `json:"packs"`
	Copied  int64  `json:"copied"` // bytes that were not there yet
	Removed int    `json:"removed"`
}

// Backup brings the folder to up to date: new bytes of packs, and a parcel. It
// may run while mail comes in. Only what commits cover is copied; what is
// written is read back and compared, and closed packs in turn again. A pack
// whose objects do not open is not copied over a copy that may be sound.
// Parcels older than keep are removed.
func (a *Archive) Backup(ctx context.Context, to durable.FS, keep time.Duration, who string, progress func(int64)) (*BackupReport, error) {
	if err := checkBackup(to, a.about.ID); err != nil {
		return nil, err
	}
	b := &backup{a: a, to: to, progress: progress, sealed: map[uint32]string{}}
	a.w.Lock()
	end := a.store.Position()
	a.w.Unlock()
	// Most of the work is done while others go on: packs only grow.
	if err := b.packs(ctx, end); err != nil {
		return &b.r, err
	}
	a.w.Lock()
	defer a.w.Unlock()
	if err := a.record(Act{What: "backup", Who: who}, 0, 0); err != nil {
		return &b.r, err
	}
	if err := b.packs(ctx, a.store.Position()); err != nil {
		return &b.r, err
	}
	b.r.Parcel = path.Join(parcelsDir, a.opts.Now().UTC().Format(parcelTime))
	if err := a.writeParcel(to, b.r.Parcel); err != nil {
		return &b.r, fmt.Errorf("parcel: %w", err)
	}
	if err := b.removeReplaced(); err != nil {
		return &b.r, err
	}
	var err error
	b.r.Removed, err = expireParcels(to, a.opts.Now().Add(-keep))
	return &b.r, err
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

// backup is one backup under way.
type backup struct {
	a        *Archive
	to       durable.FS
	progress func(int64)
	r        BackupReport
	names    []string          // of the packs there are
	sealed   map[uint32]string // closed packs that were dealt with
}

// packs copies what the commits up to end cover.
func (b *backup) packs(ctx context.Context, end store.Position) error {
	b.names = nil
	for n := uint32(1); n <= end.Pack; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		name, done := b.sealed[n]
		if !done {
			var err error
			if name, err = b.pack(n, end); err != nil {
				return fmt.Errorf("pack %08x is not copied, its copy in the backup stays as it was: %w", n, err)
			}
			if n < end.Pack {
				b.sealed[n] = name
			}
		}
		b.names = append(b.names, name)
	}
	b.r.Packs = len(b.names)
	return nil
}

func (b *backup) pack(n uint32, end store.Position) (string, error) {
	s := b.a.store
	info, err := s.Info(n, end.Commit)
	if err != nil {
		return "", err
	}
	target := path.Join(packsDir, strings.TrimPrefix(info.Name, "store/"))
	in, err := b.a.fs.OpenFile(info.Name, os.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer in.Close()
	size, err := in.Size()
	if err != nil {
		return "", err
	}
	if size < info.Data {
		return "", fmt.Errorf("%s has %d bytes where its commits cover %d: %w", info.Name, size, info.Data, ErrDamaged)
	}
	closed := n < end.Pack
	if closed {
		if ok, err := b.seen(n, target, info, end); ok || err != nil {
			return target, err
		}
	}
	sum, err := b.copyPack(n, in, info, end, target)
	if err != nil || !closed {
		return target, err
	}
	if err := s.Sound(n, info, end.Commit); err != nil {
		return "", err
	}
	return target, durable.Replace(b.to, target+sumExt, fmt.Appendf(nil, "%x %d\n", sum, info.Data))
}

// seen tells whether a closed pack is in the backup as it was copied. Now and
// then it is read to be sure; if it is not, it is copied again.
func (b *backup) seen(n uint32, target string, info store.PackInfo, end store.Position) (bool, error) {
	text, err := durable.ReadFile(b.to, target+sumExt, 200)
	if err != nil {
		return false, nil // it was not sealed
	}
	var sum string
	var size int64
	if _, err := fmt.Sscanf(string(text), "%s %d", &sum, &size); err != nil || size != info.Data {
		return false, nil
	}
	out, err := b.to.OpenFile(target, os.O_RDONLY)
	if err != nil {
		return false, nil
	}
	defer out.Close()
	if have, err := out.Size(); err != nil || have != size {
		return false, err
	}
	if (end.Commit+uint64(n))%rereadEvery != 0 {
		return true, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(out, 0, size)); err != nil {
		return false, err
	}
	return fmt.Sprintf("%x", h.Sum(nil)) == sum, nil
}

// copyPack makes the target what the commits cover of a pack, and reads it
// back. Bytes that differ from those in the backup are taken only from a pack
// whose objects all open.
func (b *backup) copyPack(n uint32, in durable.File, info store.PackInfo, end store.Position, target string) ([]byte, error) {
	if err := b.to.MkdirAll(path.Dir(target)); err != nil {
		return nil, err
	}
	out, err := b.to.OpenFile(target, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	have, err := out.Size()
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	buf, old := make([]byte, 1<<20), make([]byte, 1<<20)
	checked := false
	for at := int64(0); at < info.Data; {
		k, err := in.ReadAt(buf[:min(int64(len(buf)), info.Data-at)], at)
		if k == 0 {
			return nil, err
		}
		sum.Write(buf[:k])
		there := int(max(0, min(int64(k), have-at)))
		if there > 0 {
			if m, err := out.ReadAt(old[:there], at); m < there {
				return nil, err
			}
		}
		differs := !bytes.Equal(old[:there], buf[:there])
		if differs && !checked {
			if err := b.a.store.Sound(n, info, end.Commit); err != nil {
				return nil, err
			}
			checked = true
		}
		if differs || there < k {
			if _, err := out.WriteAt(buf[:k], at); err != nil {
				return nil, err
			}
			b.r.Copied += int64(k - there)
			if differs {
				b.r.Copied += int64(there) // the copy was not as it was written
			}
		}
		at += int64(k)
		if b.progress != nil {
			b.progress(b.r.Copied)
		}
	}
	if have > info.Data {
		if err := out.Truncate(info.Data); err != nil {
			return nil, err
		}
	}
	if err := out.Sync(); err != nil {
		return nil, err
	}
	back := sha256.New()
	if _, err := io.CopyBuffer(back, io.NewSectionReader(out, 0, info.Data), buf); err != nil {
		return nil, err
	}
	if !bytes.Equal(sum.Sum(nil), back.Sum(nil)) {
		return nil, errors.New("what was read back differs from what was written")
	}
	return sum.Sum(nil), b.to.SyncDir(path.Dir(target))
}

// removeReplaced removes packs that compaction replaced: the newest parcel is
// whole and names them no more.
func (b *backup) removeReplaced() error {
	return durable.Files(b.to, packsDir, func(name string, _ int64) error {
		if !slices.Contains(b.names, strings.TrimSuffix(name, sumExt)) {
			return b.to.Remove(name)
		}
		return nil
	})
}

// copyFile copies a whole file and reads it back.
func copyFile(src durable.FS, from string, dst durable.FS, to string) (int64, error) {
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
	out, err := dst.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	sum := sha256.New()
	buf := make([]byte, 1<<20)
	for at := int64(0); at < size; {
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
	if _, err := io.CopyBuffer(back, io.NewSectionReader(out, 0, size), buf); err != nil {
		return 0, err
	}
	if !bytes.Equal(sum.Sum(nil), back.Sum(nil)) {
		return 0, errors.New("what was read back differs from what was written")
	}
	return size, dst.SyncDir(path.Dir(to))
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
		_, err := copyFile(a.fs, catalog.StateName, to, path.Join(parcel, catalog.StateName))
		return err
	}); err != nil {
		return err
	}
	for n := uint32(1); n <= a.store.Position().Pack; n++ {
		name := store.KeysName(n)
		if _, err := copyFile(a.fs, name, to, path.Join(parcel, strings.TrimPrefix(name, "store/"))); err != nil {
			return err
		}
	}
	if err := put(doneName, []byte("ok\n")); err != nil {
		return err
	}
	return errors.Join(to.SyncDir(parcel), to.SyncDir(parcelsDir))
}

// parcel is a complete parcel and how many leaves its checkpoint covers.
type parcel struct {
	name   string
	leaves int64
}

// parcels lists complete parcels, oldest first: by what they cover, because a
// clock may have been wrong.
func parcels(d durable.FS) (out []parcel, err error) {
	es, err := d.ReadDir(parcelsDir)
	if err != nil {
		return nil, err
	}
	for _, e := range es {
		p := parcel{name: path.Join(parcelsDir, e.Name())}
		if ok, err := durable.Exists(d, path.Join(p.name, doneName)); err != nil || !ok {
			continue
		}
		// The signature is checked when it is restored.
		b, err := durable.ReadFile(d, path.Join(p.name, "checkpoint"), 1<<20)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		if lines := strings.SplitN(string(b), "\n", 3); len(lines) == 3 {
			p.leaves, _ = strconv.ParseInt(lines[1], 10, 64)
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b parcel) int { return cmp.Or(cmp.Compare(a.leaves, b.leaves), cmp.Compare(a.name, b.name)) })
	return out, nil
}

// expireParcels removes old parcels, but the newest, and what interrupted
// backups left: keys of erased mail live on in them.
func expireParcels(d durable.FS, before time.Time) (removed int, err error) {
	all, err := parcels(d)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	newest := all[len(all)-1].name
	es, err := d.ReadDir(parcelsDir)
	if err != nil {
		return 0, err
	}
	for _, e := range es {
		name := path.Join(parcelsDir, e.Name())
		whole := slices.ContainsFunc(all, func(p parcel) bool { return p.name == name })
		t, terr := time.Parse(parcelTime, e.Name())
		if name == newest || whole && (terr != nil || !t.Before(before)) {
			continue
		}
		if err := removeParcel(d, name); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// removeParcel removes the mark of completeness first.
func removeParcel(d durable.FS, name string) error {
	if err := d.Remove(path.Join(name, doneName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dirs := map[string]bool{name: true}
	if err := durable.Files(d, name, func(f string, _ int64) error {
		dirs[path.Dir(f)] = true
		return d.Remove(f)
	}); err != nil {
		return err
	}
	deepest := slices.SortedFunc(maps.Keys(dirs), func(a, b string) int { return len(b) - len(a) })
	for _, dir := range deepest {
		if err := d.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Restore makes an archive in an empty folder from the newest parcel of a
// backup, computes the ledger's tiles again from the leaves, and compares them
// with the signed checkpoint.
func Restore(ctx context.Context, backup, to durable.FS, secret seal.Secret, progress func(int64)) error {
	if err := Vacant(to); err != nil {
		return err
	}
	all, err := parcels(backup)
	if err != nil || len(all) == 0 {
		return errors.Join(errors.New("this folder holds no complete backup"), err)
	}
	parcel := all[len(all)-1].name
	// A wrong key is refused before anything is made.
	keys, err := durable.ReadFile(backup, path.Join(parcel, keysName), maxKeys)
	if err != nil {
		return err
	}
	head, err := durable.ReadFile(backup, path.Join(parcel, aboutName), 4096)
	if err != nil {
		return err
	}
	k, err := seal.ParseKeys(keys)
	if err != nil {
		return err
	}
	ring, _, err := k.Open(secret, head)
	if err != nil {
		return err
	}
	if err := begin(to, head); err != nil {
		return err
	}
	copied := int64(0)
	bring := func(from, name string) error {
		n, err := copyFile(backup, from, to, name)
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
	checkpoint, err := durable.ReadFile(backup, path.Join(parcel, "checkpoint"), 1<<20)
	if err != nil {
		return err
	}
	if err := rebuildLedger(to, k.Archive, ring, checkpoint); err != nil {
		return err
	}
	return finish(to)
}

// rebuildLedger writes tiles from the leaves in the frames.
func rebuildLedger(d durable.FS, id string, ring *seal.Ring, checkpoint []byte) error {
	signer, err := ledger.NewSigner(origin(id), ring.Current(seal.PurposeLedger).Key)
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
	s := store.New(d, About{ID: id}.binary(), ring, end, store.Options{})
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
