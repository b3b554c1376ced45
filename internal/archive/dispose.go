package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/store"
)

// Acts of a disposal. The first stands before anything is removed, and a start
// finishes what it announced.
const (
	actIntend  = "disposal intended"
	actDispose = "disposed"
)

// Dispose removes messages for good: their keys and records leave the frames,
// which makes their bytes unreadable; their leaves stay. Parts that other
// messages need stay. why is kept in the ledger.
func (a *Archive) Dispose(ctx context.Context, ids []seal.ID, who, why string) error {
	a.w.Lock()
	defer a.w.Unlock()
	act := Act{What: actIntend, Who: who, Why: why}
	for _, id := range ids {
		e, err := a.catalog.Message(ctx, id)
		if err != nil {
			return fmt.Errorf("message %s: %w", id, err)
		}
		act.Rows = append(act.Rows, int64(e.Row))
		act.Leaf = append(act.Leaf, e.Leaf)
	}
	if len(act.Rows) == 0 {
		return nil
	}
	if err := a.record(act, 0, 0); err != nil {
		return err
	}
	return a.dispose(act)
}

// dispose does what an intent announced. It can be repeated.
func (a *Archive) dispose(act Act) error {
	gone := map[int64]bool{}
	for _, r := range act.Rows {
		gone[r] = true
	}
	parts, packs, err := a.affected(gone)
	if err != nil {
		return err
	}
	var rows []catalog.Row
	for _, r := range act.Rows {
		rows = append(rows, catalog.Row(r))
	}
	var ids []seal.ID
	for id := range parts {
		ids = append(ids, id)
	}
	if err := a.catalog.Forget(rows, ids); err != nil {
		return err
	}
	for _, n := range packs {
		if _, err := a.store.Rewrite(n, false, func(f *pack.Frame) { erase(f, gone, parts) }); err != nil {
			return err
		}
	}
	act.What = actDispose
	return a.record(act, 0, 0)
}

// affected finds the parts that no other message needs, and the packs that
// must be rewritten.
func (a *Archive) affected(gone map[int64]bool) (parts map[seal.ID]bool, packs []uint32, err error) {
	parts = map[seal.ID]bool{}
	touch := func(n uint32) {
		if !slices.Contains(packs, n) {
			packs = append(packs, n)
		}
	}
	end := a.store.Position().Commit
	walk := func(fn func(f *pack.Frame, n uint32)) error {
		return a.store.Frames(store.Position{}, end, func(f *pack.Frame, at store.Place) error { fn(f, at.Pack); return nil })
	}
	err = walk(func(f *pack.Frame, n uint32) {
		for i := range f.Messages {
			if gone[f.Messages[i].Row] {
				touch(n)
				for _, id := range f.Messages[i].Parts {
					parts[id] = true
				}
			}
		}
		for i := range f.Occurrences {
			if gone[f.Occurrences[i].Row] {
				touch(n)
			}
		}
		for i := range f.Envelopes {
			if gone[f.Envelopes[i].Row] {
				touch(n)
			}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	err = walk(func(f *pack.Frame, _ uint32) {
		for i := range f.Messages {
			if !gone[f.Messages[i].Row] {
				for _, id := range f.Messages[i].Parts {
					delete(parts, id)
				}
			}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	err = walk(func(f *pack.Frame, n uint32) {
		for i := range f.Entries {
			if parts[f.Entries[i].ID] {
				touch(n)
			}
		}
	})
	return parts, packs, err
}

// erase takes messages, their occurrences, envelopes and their objects out of a frame.
func erase(f *pack.Frame, gone map[int64]bool, parts map[seal.ID]bool) {
	objects := map[seal.ID]bool{}
	f.Messages = slices.DeleteFunc(f.Messages, func(m pack.Message) bool {
		if gone[m.Row] {
			objects[m.Skeleton] = true
		}
		return gone[m.Row]
	})
	f.Occurrences = slices.DeleteFunc(f.Occurrences, func(o pack.Occurrence) bool { return gone[o.Row] })
	f.Envelopes = slices.DeleteFunc(f.Envelopes, func(x pack.Envelope) bool { return gone[x.Row] })
	for i := range f.Entries {
		if id := f.Entries[i].ID; objects[id] || parts[id] {
			f.Entries[i].Erase()
		}
	}
}

// resumeDisposals finishes disposals that were announced and not done.
func (a *Archive) resumeDisposals(ctx context.Context) error {
	acts, err := unfinished(ctx, a.catalog)
	if err != nil {
		return err
	}
	for _, act := range acts {
		if err := a.dispose(act); err != nil {
			return fmt.Errorf("finish a disposal: %w", err)
		}
	}
	return nil
}

// unfinished lists disposals that were announced and not done.
func unfinished(ctx context.Context, c *catalog.Catalog) (out []Act, err error) {
	acts, err := c.Acts(ctx, 1<<30, actIntend, actDispose)
	if err != nil {
		return nil, err
	}
	done := map[string]bool{}
	for _, x := range acts { // newest first
		var act Act
		if err := json.Unmarshal([]byte(x.Detail), &act); err != nil {
			return nil, fmt.Errorf("act of leaf %d: %w", x.Leaf, err)
		}
		key := fmt.Sprint(act.Leaf)
		if act.What == actDispose {
			done[key] = true
		} else if !done[key] {
			out = append(out, act)
		}
	}
	return out, nil
}

// Compact rewrites packs in which erased objects take up at least a tenth, and
// returns how many bytes were freed.
func (a *Archive) Compact(ctx context.Context, who string) (freed int64, err error) {
	a.w.Lock()
	defer a.w.Unlock()
	a.store.Roll()
	if err := a.record(Act{What: "compaction", Who: who}, 0, 0); err != nil {
		return 0, err
	}
	for n := uint32(1); n < a.store.Position().Pack; n++ {
		if err := ctx.Err(); err != nil {
			return freed, err
		}
		garbage, size, err := a.store.Garbage(n)
		if err != nil {
			return freed, err
		}
		if garbage == 0 || garbage < size/10 {
			continue
		}
		b, err := a.store.Rewrite(n, true, nil)
		if err != nil {
			return freed, err
		}
		freed += b
	}
	return freed, nil
}

// RebuildCatalog makes the catalog again from the frames, under a fresh key.
// The index follows it as before.
func (a *Archive) RebuildCatalog(who string) error {
	a.w.Lock()
	defer a.w.Unlock()
	if err := a.saveKeys(Act{What: "catalog rebuilt", Who: who}, func(_ *seal.KeyFile, r *seal.Ring) error {
		r.Renew(seal.PurposeCatalog)
		r.Drop(seal.PurposeCatalog)
		return nil
	}); err != nil {
		return err
	}
	if err := a.catalog.Close(); err != nil {
		return err
	}
	if err := catalog.Remove(a.fs, catalog.Name); err != nil {
		return err
	}
	return a.openCatalog()
}

// RenewIndex removes the index, gives it a fresh key, and queues every message
// for it again. The index must be closed.
func (a *Archive) RenewIndex(who string) error {
	a.w.Lock()
	defer a.w.Unlock()
	if err := a.saveKeys(Act{What: "index rebuilt", Who: who}, func(_ *seal.KeyFile, r *seal.Ring) error {
		r.Renew(seal.PurposeIndex)
		r.Drop(seal.PurposeIndex)
		return nil
	}); err != nil {
		return err
	}
	if err := durable.Files(a.fs, "index", func(name string, _ int64) error { return a.fs.Remove(name) }); err != nil {
		return err
	}
	ctx := context.Background()
	last, _, err := a.catalog.Changes(ctx)
	if err != nil {
		return err
	}
	if err := a.catalog.Indexed(last, nil); err != nil { // what waits comes again below
		return err
	}
	years, err := a.catalog.Years(ctx)
	if err != nil {
		return err
	}
	for _, y := range years {
		if err := a.catalog.Requeue(y); err != nil {
			return err
		}
	}
	return nil
}
