package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/ncruces/go-sqlite3"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/ledger"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/store"
	"github.com/letterhold/letterhold/internal/vault"
)

// Problem is one thing that is not as it was written.
type Problem = store.Problem

// Report is what a verification found.
type Report struct {
	Messages int64     `json:"messages"`
	Objects  int64     `json:"objects"`
	Bytes    int64     `json:"bytes"` // raw bytes of the messages
	Acts     int64     `json:"acts"`
	Leaves   int64     `json:"leaves"`
	Root     string    `json:"root"`
	Notes    []string  `json:"notes,omitempty"`
	Problems []Problem `json:"problems"`
}

// Clean tells whether nothing was wrong.
func (r *Report) Clean() bool { return len(r.Problems) == 0 }

// VerifyOptions say what a verification compares with, and how it goes about.
type VerifyOptions struct {
	// Checkpoint is a signed checkpoint that was kept outside.
	Checkpoint []byte
	// Progress is called now and then with the bytes read so far, of all.
	Progress func(done, all int64)
	// Pause is called after each commit with its number. An error from it ends
	// the verification.
	Pause func(ctx context.Context, commit uint64) error
	// Skip is how many commits were verified before (a run that resumes): their
	// frames are read and compared again, their objects are not.
	Skip uint64
	// Found is called with each problem as it is found.
	Found func(Problem)
	// Index checks the index where it is in use; a strict verification reads
	// its files itself.
	Index IndexCheck
}

// IndexCheck calls problem for each page of the index that does not open.
type IndexCheck func(ctx context.Context, problem func(file, what string)) error

// maxProblems bounds the list; an archive with more is beyond a list.
const maxProblems = 1000

type verification struct {
	a         *Archive
	r         Report
	o         VerifyOptions
	end       store.Position
	closed    bool             // it was closed properly: nothing unfinished may be there
	catalog   *catalog.Catalog // nil if it does not open
	state     *catalog.State   // the same
	rebuild   *ledger.Rebuild
	bare      map[int64]bool // leaves without a record
	disposed  map[int64]bool // leaves to be disposed of; true: an act says it is done
	messages  int64
	occurs    int64
	envelopes int64
	// applied is the last commit that the catalog has. After an unclean end it
	// may lack the last ones, which the next start adds: parts of those are in
	// late, and nothing of them is compared with the catalog.
	applied uint64
	late    map[seal.ID]store.Place
	parts   *catalog.Comparison // knows where the other parts lie
	done    int64
	all     int64
}

func (v *verification) problem(p Problem) {
	if len(v.r.Problems) < maxProblems {
		v.r.Problems = append(v.r.Problems, p)
		if v.o.Found != nil {
			v.o.Found(p)
		}
	}
}

// fail notes what could not be read. That somebody stopped the verification is
// no damage.
func (v *verification) fail(file string, err error) {
	if err != nil && !errors.Is(err, sqlite3.INTERRUPT) && !errors.Is(err, context.Canceled) {
		v.problem(Problem{File: file, What: err.Error()})
	}
}

// Verify reads everything that truth is made of and compares it with itself:
// packs, frames, leaves, tiles, checkpoint, databases, and each message rebuilt.
// It changes nothing. The error is for what prevented it from going on.
func (a *Archive) Verify(ctx context.Context, o VerifyOptions) (*Report, error) {
	v := &verification{a: a, o: o, catalog: a.catalog, state: a.state, bare: map[int64]bool{}, disposed: map[int64]bool{}, late: map[seal.ID]store.Place{}, closed: a.opts.Strict && !a.Recovered.Unclean}
	v.r.Problems = []Problem{}
	v.rebuild = ledger.NewRebuild(v.tile)
	a.w.Lock()
	tip := a.ledger.Checkpoint()
	a.w.Unlock()
	var err error
	if v.end, _, _, err = parseExtension(tip.Extension); err != nil {
		return nil, err
	}
	v.all = a.size()
	v.keyFiles()
	v.outside(tip)
	v.strays() // before databases are opened, which makes files
	v.files()
	defer v.close()
	if err := v.packs(ctx); err != nil {
		return nil, err
	}
	v.ledger(tip)
	if err := v.databases(ctx); err != nil {
		return nil, err
	}
	v.r.Leaves, v.r.Root = tip.Size, tip.Root.String()
	return &v.r, nil
}

func (a *Archive) size() (n int64) {
	durable.Files(a.fs, "store", func(_ string, size int64) error { n += size; return nil })
	return n
}

// keyFiles checks that both copies of keys.json are whole and the same. After
// an unclean end one of them may be of a change that did not happen; the next
// start makes them the same.
func (v *verification) keyFiles() {
	var first []byte
	sound := 0
	var bad []Problem
	for _, name := range []string{keysName, backupName} {
		b, err := durable.ReadFile(v.a.fs, name, maxKeys)
		if err == nil {
			var k *seal.KeyFile
			if k, err = seal.ParseKeys(b); err == nil {
				_, err = k.OpenRoot(v.a.ring.Root, v.a.head)
			}
		}
		if err != nil {
			bad = append(bad, Problem{File: name, What: err.Error()})
		} else {
			sound++
		}
		if first == nil {
			first = b
		} else if v.closed && string(first) != string(b) {
			v.problem(Problem{File: name, What: "differs from " + keysName})
		}
	}
	for _, p := range bad {
		if sound > 0 && !v.closed {
			v.r.Notes = append(v.r.Notes, p.File+": "+p.What+"; the next start writes it again")
		} else {
			v.problem(p)
		}
	}
	if _, head, err := ReadAbout(v.a.fs); err != nil || string(head) != string(v.a.head) {
		v.problem(Problem{File: aboutName, What: "changed"})
	}
}

// outside compares with a checkpoint that was kept elsewhere.
func (v *verification) outside(tip ledger.Checkpoint) {
	if v.o.Checkpoint == nil {
		return
	}
	old, err := v.a.signer.Open(v.o.Checkpoint)
	if err != nil {
		v.fail("the checkpoint kept outside", fmt.Errorf("is not of this archive or was changed: %w", err))
		return
	}
	if old.Size > tip.Size {
		v.problem(Problem{File: "ledger/checkpoint", What: fmt.Sprintf("has %d leaves where the checkpoint kept outside has %d: an older state of the archive was put back", tip.Size, old.Size)})
		return
	}
	root, err := v.a.ledger.RootAt(old.Size)
	if err != nil {
		v.fail("ledger", err)
	} else if root != old.Root {
		v.problem(Problem{File: "ledger/checkpoint", What: "does not continue the checkpoint kept outside: another history"})
	}
}

// packs reads every pack, frame by frame.
func (v *verification) packs(ctx context.Context) error {
	if v.catalog == nil {
		return v.packsWith(ctx, nil)
	}
	return v.catalog.Compare(ctx, func(cmp catalog.Comparison) (err error) {
		if v.applied, err = cmp.Applied(); err != nil {
			v.fail(catalog.Name, err)
			return v.packsWith(ctx, nil)
		}
		if n := v.end.Commit; v.applied < n && !v.closed {
			v.r.Notes = append(v.r.Notes, fmt.Sprintf("%s: lacks the last %d commits; the next start adds them", catalog.Name, n-v.applied))
		}
		// A disposal takes messages out of the catalog before their frames.
		if acts, err := unfinished(ctx, v.catalog); err != nil {
			v.fail(catalog.Name, err)
		} else if len(acts) > 0 && !v.closed {
			v.applied = 0
			v.r.Notes = append(v.r.Notes, catalog.Name+": not compared, since a disposal was interrupted; the next start finishes it")
		}
		return v.packsWith(ctx, &cmp)
	})
}

func (v *verification) packsWith(ctx context.Context, cmp *catalog.Comparison) error {
	v.parts = cmp
	snapshot := func(fn func() error) error { return fn() }
	if cmp != nil {
		snapshot = cmp.Snapshot
	}
	pos := store.Position{}
	for n := uint32(1); n <= v.end.Pack; n++ {
		from := store.Position{Commit: pos.Commit, Pack: n}
		var stopped error
		end, err := v.a.store.CheckPack(from, v.end, v.o.Skip, v.closed, v.problem, func(f *pack.Frame, at store.Place, data map[seal.ID][]byte) error {
			if err := snapshot(func() error { return v.frame(cmp, f, at, data) }); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if v.o.Pause != nil {
				stopped = v.o.Pause(ctx, f.Number)
			}
			return stopped
		})
		if err := errors.Join(ctx.Err(), stopped); err != nil {
			return err
		}
		if err != nil {
			v.fail(fmt.Sprintf("store/%02x/%08x.keys", n>>8, n), err)
		}
		if end.Commit > pos.Commit {
			pos.Commit = end.Commit
		}
	}
	if pos.Commit != v.end.Commit {
		v.problem(Problem{File: "store", What: fmt.Sprintf("ends at commit %d, the checkpoint says %d", pos.Commit, v.end.Commit)})
	}
	if cmp == nil {
		return nil
	}
	n, err := cmp.Counts()
	if err != nil {
		v.fail(catalog.Name, err)
		return nil
	}
	if v.closed && n != [3]int64{v.messages, v.occurs, v.envelopes} {
		v.problem(Problem{File: catalog.Name, What: fmt.Sprintf("lists %d messages, %d occurrences and %d envelopes, the packs have %d, %d and %d", n[0], n[1], n[2], v.messages, v.occurs, v.envelopes)})
	}
	return nil
}

func (v *verification) frame(cmp *catalog.Comparison, f *pack.Frame, at store.Place, data map[seal.ID][]byte) error {
	file := path.Base(fmt.Sprintf("%08x.keys", at.Pack))
	if cmp != nil && f.Number > v.applied && !v.closed {
		for i := range f.Entries {
			v.late[f.Entries[i].ID] = at
		}
		cmp = nil
	}
	if f.FirstLeaf != v.rebuild.Size() {
		v.problem(Problem{File: file, What: fmt.Sprintf("commit %d begins with leaf %d where %d belongs", f.Number, f.FirstLeaf, v.rebuild.Size())})
	}
	for i, l := range f.Leaves {
		v.bare[f.FirstLeaf+int64(i)] = true
		if err := v.rebuild.Add(l); err != nil {
			return err
		}
	}
	for i := range f.Entries {
		e := &f.Entries[i]
		if e.Erased() {
			continue
		}
		v.r.Objects++
		v.done += e.Sealed
		if e.Type == seal.TypePart && cmp != nil {
			if p, ok, err := cmp.Part(e.ID); err != nil {
				v.fail(catalog.Name, err)
			} else if !ok || p != at {
				v.problem(Problem{File: catalog.Name, Object: e.ID.String(), What: "the place of a part is missing or wrong"})
			}
		}
	}
	for i := range f.Messages {
		v.message(cmp, f, &f.Messages[i], at, data)
	}
	for i := range f.Occurrences {
		o := &f.Occurrences[i]
		v.occurs++
		if cmp == nil {
			continue
		}
		if what, err := cmp.Occurrence(o, at); err != nil {
			v.fail(catalog.Name, err)
		} else if what != "" {
			v.problem(Problem{File: catalog.Name, Object: fmt.Sprintf("folder %d UID %d", o.Folder, o.UID), What: what})
		}
	}
	for i := range f.Envelopes {
		x := &f.Envelopes[i]
		v.envelopes++
		if cmp == nil {
			continue
		}
		if what, err := cmp.Envelope(x, at); err != nil {
			v.fail(catalog.Name, err)
		} else if what != "" {
			v.problem(Problem{File: catalog.Name, Object: fmt.Sprintf("envelope of message %d", x.Row), What: what})
		}
	}
	for i := range f.Acts {
		x := &f.Acts[i]
		v.r.Acts++
		v.leaf(file, f, x.Leaf, actLeaf(x, f.Time).Encode(), "act")
		var act Act
		if json.Unmarshal(x.Detail, &act) == nil && (act.What == actDispose || act.What == actIntend) {
			for _, l := range act.Leaf {
				v.disposed[l] = act.What == actDispose || v.disposed[l]
			}
		}
	}
	if v.o.Progress != nil {
		v.o.Progress(v.done, v.all)
	}
	return nil
}

func (v *verification) message(cmp *catalog.Comparison, f *pack.Frame, m *pack.Message, at store.Place, data map[seal.ID][]byte) {
	file := fmt.Sprintf("%08x.pack", at.Pack)
	v.messages++
	v.r.Messages++
	v.r.Bytes += m.Size
	if cmp != nil {
		if what, err := cmp.Message(m, at); err != nil {
			v.fail(catalog.Name, err)
		} else if what != "" {
			v.problem(Problem{File: catalog.Name, Object: m.ID.String(), What: what})
		}
	}
	delete(v.bare, m.Leaf)
	if f.Number <= v.o.Skip {
		return
	}
	raw, err := v.a.loadRecord(m, at, data, func(id seal.ID) (store.Place, error) {
		if p, ok := v.late[id]; ok {
			return p, nil
		}
		if v.parts == nil {
			return store.Place{}, errors.New("the catalog that knows where its parts lie does not open")
		}
		p, ok, err := v.parts.Part(id)
		if err == nil && !ok {
			err = fmt.Errorf("part %s: %w", id, catalog.ErrNotFound)
		}
		return p, err
	})
	if err != nil {
		v.problem(Problem{File: file, Object: m.ID.String(), What: err.Error()})
		return
	}
	sum := seal.Sum(raw)
	if v.a.store.IDs().Of(seal.TypeMessage, sum) != m.ID {
		v.problem(Problem{File: file, Object: m.ID.String(), What: "does not rebuild to the bytes that were archived"})
		return
	}
	v.leaf(file, f, m.Leaf, messageLeaf(m, sum).Encode(), m.ID.String())
}

// leaf compares what a record commits to with its leaf.
func (v *verification) leaf(file string, f *pack.Frame, n int64, want []byte, object string) {
	delete(v.bare, n)
	if i := n - f.FirstLeaf; i < 0 || i >= int64(len(f.Leaves)) || string(f.Leaves[i]) != string(want) {
		v.problem(Problem{File: file, Object: object, What: fmt.Sprintf("does not match leaf %d of the ledger", n)})
	}
}

// tile compares a tile with what the leaves make of it.
func (v *verification) tile(name string, want []byte) error {
	have, err := durable.ReadFile(v.a.fs, name, 1<<20)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !v.a.opts.Strict && strings.Contains(name, ".p/"):
		// a newer checkpoint has replaced this partial tile
	case err != nil:
		v.fail(name, err)
	case string(have) != string(want):
		v.problem(Problem{File: name, What: "does not match the leaves"})
	}
	return nil
}

// ledger compares the leaves of all frames with the checkpoint.
func (v *verification) ledger(tip ledger.Checkpoint) {
	if v.rebuild.Size() != tip.Size {
		v.problem(Problem{File: "ledger/checkpoint", What: fmt.Sprintf("covers %d leaves, the packs have %d", tip.Size, v.rebuild.Size())})
		return
	}
	for n := range v.bare {
		if _, announced := v.disposed[n]; !announced {
			v.problem(Problem{File: "store", Object: fmt.Sprintf("leaf %d", n), What: "its record is missing, and no act says that it was disposed of"})
		}
	}
	for n, done := range v.disposed {
		if done && !v.bare[n] {
			v.problem(Problem{File: "store", Object: fmt.Sprintf("leaf %d", n), What: "was disposed of and is there again"})
		}
	}
	root, err := v.rebuild.Finish()
	v.fail("ledger", err)
	if root != tip.Root {
		v.problem(Problem{File: "ledger/checkpoint", What: "its root hash does not match the leaves"})
	}
	if v.a.opts.Strict {
		b, err := durable.ReadFile(v.a.fs, "ledger/checkpoint", 1<<20)
		if err == nil {
			_, err = v.a.signer.Open(b)
		}
		v.fail("ledger/checkpoint", err)
	}
}

// strays reports files that do not belong.
func (v *verification) strays() {
	note := func(name string) {
		if v.closed {
			v.problem(Problem{File: name, What: "does not belong to the archive"})
		} else {
			v.r.Notes = append(v.r.Notes, name+": left by an unfinished commit; it goes at the next start")
		}
	}
	names, err := v.a.store.Strays(v.end.Pack)
	v.fail("store", err)
	v.a.w.Lock()
	more, err := v.a.ledger.Strays()
	v.a.w.Unlock()
	v.fail("ledger", err)
	if v.a.opts.Strict {
		for _, n := range append(names, more...) {
			note(n)
		}
	}
	es, err := v.a.fs.ReadDir(".")
	v.fail(".", err)
	for _, e := range es {
		switch n := e.Name(); {
		case e.IsDir() && slices.Contains([]string{"store", "ledger", "index", spoolDir, "lost+found"}, n):
		case slices.Contains([]string{aboutName, keysName, backupName, lockName, catalog.Name, catalog.StateName}, n):
		case n == makingName: // a power cut while the archive was made
			v.r.Notes = append(v.r.Notes, n+": left by the making of the archive; it goes at the next start")
		case !v.closed && (strings.HasSuffix(n, "-wal") || strings.HasSuffix(n, ".tmp")):
		default:
			note(n)
		}
	}
	err = durable.Files(v.a.fs, spoolDir, func(name string, _ int64) error {
		if v.a.opts.Strict {
			note(name)
		}
		return nil
	})
	v.fail(spoolDir, err)
}

// files checks every page of every database file of an archive that nobody
// has open, and opens catalog and state for what comes then.
func (v *verification) files() {
	if !v.a.opts.Strict {
		return
	}
	ring := v.a.ring
	whole := func(name, purpose string) bool {
		if ok, err := durable.Exists(v.a.fs, name); err != nil || !ok {
			if err == nil && name == catalog.Name && !v.closed {
				v.r.Notes = append(v.r.Notes, name+": is missing; the next start makes it")
			} else {
				v.problem(Problem{File: name, What: "is missing"})
			}
			return false
		}
		db, err := vault.Open(v.a.fs, name, ring.Current(purpose).Key)
		if err == nil {
			before := len(v.r.Problems)
			err = errors.Join(db.Check(v.closed, func(what string) { v.problem(Problem{File: name, What: what}) }), db.Close())
			if err == nil {
				return len(v.r.Problems) == before
			}
		}
		v.fail(name, err)
		return false
	}
	var err error
	if whole(catalog.Name, seal.PurposeCatalog) {
		v.catalog, err = catalog.Open(v.a.fs, ring.Current(seal.PurposeCatalog).Key)
		v.fail(catalog.Name, err)
	}
	if whole(catalog.StateName, seal.PurposeState) {
		v.state, err = catalog.LookAtState(v.a.fs, ring.Current(seal.PurposeState).Key)
		v.fail(catalog.StateName, err)
	}
	err = durable.Files(v.a.fs, "index", func(name string, _ int64) error {
		if path.Ext(name) == ".db" {
			whole(name, seal.PurposeIndex)
		} else if v.closed {
			v.problem(Problem{File: name, What: "does not belong to the archive"})
		}
		return nil
	})
	v.fail("index", err)
	v.shards()
	if v.state != nil {
		v.generations()
	}
}

// shards reports years of the index that the catalog remembers and that are
// not there. The next start makes them again.
func (v *verification) shards() {
	if !v.closed || v.catalog == nil {
		return
	}
	known, err := v.catalog.Shards(context.Background())
	v.fail(catalog.Name, err)
	for y := range known {
		name := fmt.Sprintf("index/%04d.db", y)
		if ok, err := durable.Exists(v.a.fs, name); err != nil || !ok {
			v.problem(Problem{File: name, What: "is missing; the next start makes it again"})
		}
	}
}

// close closes what files opened.
func (v *verification) close() {
	if v.catalog != nil && v.catalog != v.a.catalog {
		v.fail(catalog.Name, v.catalog.Close())
	}
	if v.state != nil && v.state != v.a.state {
		v.fail(catalog.StateName, v.state.Close())
	}
}

// databases lets SQLite check the structure of catalog and state.
func (v *verification) databases(ctx context.Context) error {
	if v.catalog != nil {
		v.fail(catalog.Name, v.catalog.Check(func(what string) { v.problem(Problem{File: catalog.Name, What: what}) }))
	}
	if v.state != nil {
		v.fail(catalog.StateName, v.state.Check(func(what string) { v.problem(Problem{File: catalog.StateName, What: what}) }))
	}
	if v.o.Index != nil {
		if err := v.o.Index(ctx, func(file, what string) { v.problem(Problem{File: file, What: what}) }); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// generations compares state.db and keys.json with the checkpoint.
func (v *verification) generations() {
	state, keys := v.a.generations()
	slack := uint64(1)
	if v.closed {
		slack = 0
	}
	have, err := v.state.Generation()
	v.fail(catalog.StateName, err)
	if err == nil && (have+slack < state || have > state) {
		v.problem(Problem{File: catalog.StateName, What: fmt.Sprintf("%v (generation %d, the ledger knows %d)", ErrOldState, have, state)})
	}
	if k := v.a.keys.Generation; k+slack < keys || k > keys {
		v.problem(Problem{File: keysName, What: fmt.Sprintf("was put back (generation %d, the ledger knows %d)", k, keys)})
	}
}
