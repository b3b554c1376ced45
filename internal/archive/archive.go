// Package archive is the heart: it takes messages in, keeps them, gives them
// back byte for byte, and can prove all of it.
//
// A message is split into a skeleton and large parts (split.go), which are
// objects of the store. A commit (commit.go) makes objects, records, leaves and
// checkpoint durable in this order, and then the catalog. Opening (recover.go)
// rolls forward what a crash left between these steps. docs/architecture.md
// tells the life of a message; docs/format.md the bytes.
//
// What must hold: a message counts as present only when its leaf is in the
// ledger; what was acknowledged survives; what comes out is what went in.
//
// Not here: who may see what (package search and the doors ask with a
// catalog.Scope), and searching.
package archive

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/ledger"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/store"
)

// MaxMessage is the largest message in bytes: twice what any mail server known
// lets through, and what memory is planned for.
const MaxMessage = 256 << 20

const (
	aboutName  = "archive.json"
	keysName   = "keys.json"
	backupName = "keys.json.bak"
	lockName   = "lock"
	spoolDir   = "spool"
	format     = 1
	maxKeys    = 1 << 20 // bytes of keys.json
)

// Errors that callers branch on.
var (
	// ErrNoArchive: the folder holds no archive.
	ErrNoArchive = errors.New("no archive here")
	// ErrExists: the folder holds something already.
	ErrExists = errors.New("the folder is not empty")
	// ErrOldState: state.db is older than the ledger says.
	ErrOldState = errors.New("state.db is older than the ledger says: it was put back")
	// ErrDamaged: truth does not fit together.
	ErrDamaged = errors.New("archive damaged")
	// ErrMessage: a message cannot be archived; others can.
	ErrMessage = errors.New("this message cannot be archived")
	// ErrClosed: the archive is being closed.
	ErrClosed = errors.New("the archive is closed")
)

// About is archive.json: what can be known without a key.
type About struct {
	Format  int       `json:"format"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
}

// Options configure an archive; the zero value is the default.
type Options struct {
	Now       func() time.Time
	Log       *slog.Logger
	PackLimit int64 // bytes; default store.PackLimit
	// Strict opens for verification: nothing is recovered, cut or written.
	Strict bool
}

func (o *Options) defaults() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Archive is an open archive. It is safe for concurrent use.
type Archive struct {
	fs     durable.FS
	about  About
	head   []byte // bytes of archive.json
	opts   Options
	signer *ledger.Signer

	store   *store.Store
	catalog *catalog.Catalog
	state   *catalog.State
	recent  *recent
	queue   *queue

	// w orders everything that changes truth.
	w       sync.Mutex
	ledger  *ledger.Ledger                // guarded by w
	keys    *seal.KeyFile                 // guarded by w
	ring    *seal.Ring                    // guarded by w
	folders map[folderKey]*catalog.Folder // guarded by w
	naming  sync.Mutex                    // held by whoever makes a mailbox
	sources map[string]int64              // guarded by w
	modseq  int64                         // guarded by w: the last one given
	dirty   bool                          // guarded by w: a commit stopped half-way; recover first

	// Recovered says what opening had to do.
	Recovered Recovery
}

// Recovery is what opening found after an unclean end.
type Recovery struct {
	Unclean bool  // the archive was not closed
	Commits int   // whole commits that were rolled forward
	Cut     int64 // bytes of an unfinished commit that were cut
	Rebuilt bool  // the catalog was made again
	Healed  bool  // an intended change of state or keys had not happened
}

type folderKey struct {
	mailbox int64
	name    string
}

// Create makes an archive in an empty folder and returns its ring. Slots are
// added by add, before anything is written: an archive without a slot could
// never be opened.
func Create(d durable.FS, o Options, add func(*seal.KeyFile, *seal.Ring) error) (*seal.Ring, error) {
	o.defaults()
	var id [16]byte
	rand.Read(id[:])
	about := About{Format: format, ID: hex.EncodeToString(id[:]), Created: o.Now().UTC().Truncate(time.Second)}
	head := about.encode()
	ring, keys := seal.NewRing(), seal.NewKeyFileFor(about.ID)
	if err := add(keys, ring); err != nil {
		return nil, err
	}
	if err := begin(d, head); err != nil {
		return nil, err
	}
	for _, dir := range []string{"store", "index", spoolDir} {
		if err := d.MkdirAll(dir); err != nil {
			return nil, err
		}
	}
	signer, err := ledger.NewSigner(origin(about.ID), ring.Current(seal.PurposeLedger).Key)
	if err != nil {
		return nil, err
	}
	state, err := catalog.OpenState(d, ring.Current(seal.PurposeState).Key)
	if err != nil {
		return nil, err
	}
	if err := state.Close(); err != nil {
		return nil, err
	}
	cat, err := catalog.Open(d, ring.Current(seal.PurposeCatalog).Key)
	if err != nil {
		return nil, err
	}
	if err := cat.Close(); err != nil {
		return nil, err
	}
	if _, err := ledger.Create(d, signer, extension(store.Position{}, 0, keys.Generation+1)); err != nil {
		return nil, err
	}
	if err := writeKeys(d, keys.Encode(ring, head)); err != nil {
		return nil, err
	}
	if err := durable.WriteNew(d, lockName, []byte(lockClosed)); err != nil {
		return nil, err
	}
	return ring, finish(d)
}

func (a About) encode() []byte {
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		panic(err) // plain values always marshal
	}
	return append(b, '\n')
}

// binary is the id in bytes; ReadAbout has checked its form.
func (a About) binary() (id [16]byte) {
	hex.Decode(id[:], []byte(a.ID))
	return id
}

func origin(id string) string { return "letterhold/" + id }

// maxAbout is how long archive.json may be: a few lines, in bytes.
const maxAbout = 4096

// ReadAbout reads archive.json. Its content is trusted only once the keys are
// open: their MAC covers it.
func ReadAbout(d durable.FS) (About, []byte, error) {
	var a About
	b, err := durable.ReadFile(d, aboutName, maxAbout)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil, fmt.Errorf("%w (%s is missing)", ErrNoArchive, aboutName)
	}
	if err != nil {
		if fi, serr := d.Stat(aboutName); serr == nil && fi.Size() > maxAbout {
			err = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return a, nil, err
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, nil, fmt.Errorf("%s: %w: %v", aboutName, ErrDamaged, err)
	}
	if id, err := hex.DecodeString(a.ID); err != nil || len(id) != 16 || !bytes.Equal(a.encode(), b) {
		return a, nil, fmt.Errorf("%s: %w: not as it was written", aboutName, ErrDamaged)
	}
	if a.Format != format {
		return a, nil, fmt.Errorf("%s: format %d; this program reads format %d", aboutName, a.Format, format)
	}
	return a, b, nil
}

// ReadKeys reads keys.json, or its copy when the file itself is not readable.
func ReadKeys(d durable.FS) (k *seal.KeyFile, err error) {
	return k, eitherKeys(d, func(x *seal.KeyFile) error { k = x; return nil })
}

// eitherKeys tries fn with keys.json, and with its copy if that goes wrong: a
// byte that changed in one of them does not matter. The error is that of both
// files, or the one of keys.json where the copy says the same.
func eitherKeys(d durable.FS, fn func(*seal.KeyFile) error) error {
	var errs []error
	for _, name := range []string{keysName, backupName} {
		b, err := durable.ReadFile(d, name, maxKeys)
		var k *seal.KeyFile
		if err == nil {
			k, err = seal.ParseKeys(b)
		}
		if err == nil {
			err = fn(k)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if errs[0].Error() == errs[1].Error() {
		return errs[0]
	}
	return errors.Join(errs...)
}

// writeKeys makes the copy durable first, so that one of them is always whole.
func writeKeys(d durable.FS, b []byte) error {
	if err := durable.Replace(d, backupName, b); err != nil {
		return err
	}
	return durable.Replace(d, keysName, b)
}

// Unlock opens the keys with a secret. It changes nothing.
func Unlock(d durable.FS, s seal.Secret) (*seal.Ring, string, error) {
	about, head, err := ReadAbout(d)
	if err != nil {
		return nil, "", err
	}
	var ring *seal.Ring
	var slot string
	err = eitherKeys(d, func(k *seal.KeyFile) (err error) {
		if k.Archive != about.ID {
			return fmt.Errorf("%s: %w: it belongs to archive %s", keysName, ErrDamaged, k.Archive)
		}
		ring, slot, err = k.Open(s, head)
		return err
	})
	return ring, slot, err
}

const (
	lockOpen   = "open"
	lockClosed = "closed\n"
)

// wasClosed tells whether the archive was closed properly the last time.
func wasClosed(d durable.FS) bool {
	b, err := durable.ReadFile(d, lockName, 64)
	return err == nil && string(b) == lockClosed
}

// Open opens an archive with its ring and rolls forward what a crash left.
func Open(d durable.FS, ring *seal.Ring, o Options) (_ *Archive, err error) {
	o.defaults()
	a := &Archive{fs: d, opts: o, ring: ring, recent: newRecent()}
	if a.about, a.head, err = ReadAbout(d); err != nil {
		return nil, err
	}
	if err := eitherKeys(d, func(k *seal.KeyFile) error {
		_, err := k.OpenRoot(ring.Root, a.head)
		a.keys = k
		return err
	}); err != nil {
		return nil, err
	}
	if a.signer, err = ledger.NewSigner(origin(a.about.ID), ring.Current(seal.PurposeLedger).Key); err != nil {
		return nil, err
	}
	if a.ledger, err = ledger.Open(d, a.signer); err != nil {
		return nil, err
	}
	pos, stateGen, keysGen, err := parseExtension(a.ledger.Checkpoint().Extension)
	if err != nil {
		return nil, err
	}
	a.store = store.New(d, a.about.binary(), ring, pos, store.Options{PackLimit: o.PackLimit})
	a.Recovered.Unclean = !wasClosed(d)
	defer func() {
		if err != nil {
			a.closeParts()
		}
	}()
	if o.Strict {
		return a, nil
	}
	if err := durable.WriteNew(d, lockName, fmt.Appendf(nil, "%s %d\n", lockOpen, os.Getpid())); err != nil {
		return nil, err
	}
	if err := a.healKeys(); err != nil {
		return nil, err
	}
	if a.state, err = a.openState(); err != nil {
		return nil, err
	}
	if err := a.rollForward(); err != nil {
		return nil, err
	}
	if err := a.checkGenerations(stateGen, keysGen); err != nil {
		return nil, err
	}
	if err := a.openCatalog(); err != nil {
		return nil, err
	}
	if err := a.resumeDisposals(context.Background()); err != nil {
		return nil, err
	}
	if err := a.emptySpool(); err != nil {
		return nil, err
	}
	a.queue = newQueue(a)
	return a, nil
}

// healKeys makes both copies of keys.json the same again.
func (a *Archive) healKeys() error {
	for _, name := range []string{keysName, backupName} {
		b, err := durable.ReadFile(a.fs, name, maxKeys)
		if err == nil && bytes.Equal(b, a.keys.Bytes()) {
			continue
		}
		a.Recovered.Healed = true
		if err := durable.Replace(a.fs, name, a.keys.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// emptySpool removes what a process that died left behind.
func (a *Archive) emptySpool() error {
	if err := a.fs.MkdirAll(spoolDir); err != nil {
		return err
	}
	es, err := a.fs.ReadDir(".")
	if err != nil {
		return err
	}
	for _, e := range es {
		if strings.HasSuffix(e.Name(), ".tmp") {
			if err := a.fs.Remove(e.Name()); err != nil {
				return err
			}
		}
	}
	return durable.Files(a.fs, spoolDir, func(name string, _ int64) error { return a.fs.Remove(name) })
}

// extension is what a checkpoint says beside the ledger: the end of the store,
// and the generations of state.db and keys.json.
func extension(p store.Position, state, keys uint64) []string {
	return []string{
		fmt.Sprintf("store %d %d %d %d", p.Commit, p.Pack, p.Keys, p.Data),
		fmt.Sprintf("state %d", state),
		fmt.Sprintf("keys %d", keys),
	}
}

func parseExtension(lines []string) (p store.Position, state, keys uint64, err error) {
	if len(lines) != 3 {
		return p, 0, 0, fmt.Errorf("checkpoint: %w: %d extension lines", ErrDamaged, len(lines))
	}
	_, err1 := fmt.Sscanf(lines[0], "store %d %d %d %d", &p.Commit, &p.Pack, &p.Keys, &p.Data)
	_, err2 := fmt.Sscanf(lines[1], "state %d", &state)
	_, err3 := fmt.Sscanf(lines[2], "keys %d", &keys)
	if err := errors.Join(err1, err2, err3); err != nil {
		return p, 0, 0, fmt.Errorf("checkpoint: %w: %v", ErrDamaged, err)
	}
	return p, state, keys, nil
}

// generations returns what the last checkpoint says.
func (a *Archive) generations() (state, keys uint64) {
	_, state, keys, _ = parseExtension(a.ledger.Checkpoint().Extension)
	return state, keys
}

// Close waits for what is under way, and leaves the archive closed.
func (a *Archive) Close() error {
	if a.queue != nil {
		a.queue.close()
	}
	a.w.Lock()
	defer a.w.Unlock()
	err := a.closeParts()
	if !a.opts.Strict && !a.dirty {
		err = errors.Join(err, a.ledger.Clean())
	}
	if err == nil && !a.opts.Strict && !a.dirty {
		var left bool
		if left, err = a.logsLeft(); err == nil && !left {
			err = a.sayClosed()
		}
	}
	return err
}

// logsLeft tells whether a database still has its log: it could not be copied
// into the main file, because the disk is full. The next start does that.
func (a *Archive) logsLeft() (left bool, err error) {
	es, err := a.fs.ReadDir(".")
	if err != nil {
		return false, err
	}
	for _, e := range es {
		left = left || strings.HasSuffix(e.Name(), "-wal")
	}
	err = durable.Files(a.fs, "index", func(name string, _ int64) error {
		left = left || strings.HasSuffix(name, "-wal")
		return nil
	})
	return left, err
}

// sayClosed marks the archive as closed, once nothing that was removed can come
// back with a power cut.
func (a *Archive) sayClosed() error {
	for _, dir := range []string{".", "index", spoolDir} {
		if err := a.fs.SyncDir(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{"store", "ledger"} {
		if err := durable.SyncDirs(a.fs, dir); err != nil {
			return err
		}
	}
	return durable.WriteNew(a.fs, lockName, []byte(lockClosed))
}

func (a *Archive) closeParts() (err error) {
	if a.catalog != nil {
		err = a.catalog.Close()
	}
	if a.state != nil {
		err = errors.Join(err, a.state.Close())
	}
	return errors.Join(err, a.store.Close())
}

// ID is the archive's id, in hex.
func (a *Archive) ID() string { return a.about.ID }

// About is what archive.json says.
func (a *Archive) About() About { return a.about }

// FS is the archive's folder.
func (a *Archive) FS() durable.FS { return a.fs }

// Catalog gives access to the catalog for reading.
func (a *Archive) Catalog() *catalog.Catalog { return a.catalog }

// State gives access to state. Changes that matter for security go through
// Change.
func (a *Archive) State() *catalog.State { return a.state }

// Now is the archive's clock.
func (a *Archive) Now() time.Time { return a.opts.Now() }

// Log is the archive's logger.
func (a *Archive) Log() *slog.Logger { return a.opts.Log }

// Key returns the newest key for a purpose, for what lives beside the archive.
func (a *Archive) Key(purpose string) seal.RingKey {
	a.w.Lock()
	defer a.w.Unlock()
	return a.ring.Current(purpose)
}

// Checkpoint returns the last signed checkpoint and the key to check it with.
func (a *Archive) Checkpoint() (signed []byte, verifier string, err error) {
	a.w.Lock()
	defer a.w.Unlock()
	signed, err = a.ledger.Signed()
	return signed, a.signer.Verifier, err
}

// Slots lists the key slots.
func (a *Archive) Slots() []seal.Slot {
	a.w.Lock()
	defer a.w.Unlock()
	return slices.Clone(a.keys.Slots)
}

// Mailbox returns the id of a mailbox by name, and makes it if it is missing.
func (a *Archive) Mailbox(ctx context.Context, name, who string) (int64, error) {
	var id int64
	var ok bool
	known := func(v catalog.View) (err error) {
		id, ok, err = v.Mailbox(name)
		return err
	}
	if err := a.state.View(ctx, known); err != nil || ok {
		return id, err
	}
	a.naming.Lock()
	defer a.naming.Unlock()
	if err := a.state.View(ctx, known); err != nil || ok {
		return id, err
	}
	if err := catalog.CheckName(name); err != nil {
		return 0, fmt.Errorf("mailbox: %w", err)
	}
	err := a.Change(Act{What: "mailbox created", Who: who, Of: name}, func(t catalog.Tx) (err error) {
		id, err = t.AddMailbox(name)
		return err
	})
	return id, err
}

// Look tells whether there is an archive in dir: nil, ErrNoArchive, or
// ErrDamaged if only its description is gone.
func Look(dir string) error {
	there := func(name string) bool {
		_, err := os.Lstat(filepath.Join(dir, name))
		return !errors.Is(err, fs.ErrNotExist)
	}
	switch {
	case there(aboutName):
		return nil
	case there(makingName):
		return fmt.Errorf("%s: %w: making it was interrupted; what there is of it can be removed", dir, ErrNoArchive)
	case there(keysName):
		return fmt.Errorf("%s: %w: it is missing", filepath.Join(dir, aboutName), ErrDamaged)
	}
	return fmt.Errorf("%s: %w", dir, ErrNoArchive)
}

// Lock takes the archive for this process; the returned function gives it
// back. Another process that has it makes ErrLocked.
func Lock(dir string) (func() error, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		said := make([]byte, 40)
		n, _ := f.ReadAt(said, 0)
		f.Close()
		return nil, fmt.Errorf("%w (%s)", ErrLocked, strings.TrimSpace(strings.Replace(string(said[:n]), lockOpen, "process", 1)))
	}
	return f.Close, nil
}

// ErrLocked: another process has the archive.
var ErrLocked = errors.New("another process has this archive open")
