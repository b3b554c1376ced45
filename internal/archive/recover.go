package archive

import (
	"context"
	"errors"
	"fmt"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/extract"
	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/store"
	"github.com/letterhold/letterhold/internal/vault"
)

// rollForward finishes whole commits beyond the checkpoint and cuts what is no
// whole commit: the ledger is the line.
func (a *Archive) rollForward() error {
	pos, state, keys, err := parseExtension(a.ledger.Checkpoint().Extension)
	if err != nil {
		return err
	}
	tail, err := a.store.ReadTail(pos)
	if err != nil {
		return err
	}
	signed := a.ledger.Checkpoint().Size
	for _, f := range tail.Frames {
		if f.FirstLeaf < signed {
			return fmt.Errorf("commit %d: %w: its leaf %d is in the ledger already", f.Number, ErrDamaged, f.FirstLeaf)
		}
		if end := f.FirstLeaf + int64(len(f.Leaves)); end > a.ledger.Size() {
			if f.FirstLeaf != a.ledger.Size() {
				return fmt.Errorf("commit %d: %w: its first leaf is %d, the ledger has %d", f.Number, ErrDamaged, f.FirstLeaf, a.ledger.Size())
			}
			if err := a.ledger.Append(f.Leaves); err != nil {
				return err
			}
		}
		for i := range f.Acts {
			state = max(state, f.Acts[i].State)
		}
	}
	if err := a.store.Adopt(tail); err != nil {
		return err
	}
	a.Recovered.Commits += len(tail.Frames)
	a.Recovered.Cut += tail.Cut
	if len(tail.Frames) > 0 {
		if err := a.ledger.Sign(extension(tail.End, state, keys)); err != nil {
			return err
		}
	}
	return a.ledger.Clean()
}

// checkGenerations compares state.db and keys.json with what the ledger says
// of them. One behind is a change that was announced and did not happen.
func (a *Archive) checkGenerations(stateGen, keysGen uint64) error {
	s, k := a.generations()
	stateGen, keysGen = max(s, stateGen), max(k, keysGen)
	have, err := a.state.Generation()
	if err != nil {
		return err
	}
	slack := uint64(0)
	if a.Recovered.Unclean {
		slack = 1
	}
	switch {
	case have+slack < stateGen:
		return fmt.Errorf("%w (generation %d, the ledger knows %d)", ErrOldState, have, stateGen)
	case a.keys.Generation+slack < keysGen:
		return fmt.Errorf("keys.json is older than the ledger says: it was put back (generation %d, the ledger knows %d): %w", a.keys.Generation, keysGen, ErrDamaged)
	case have > stateGen || a.keys.Generation > keysGen:
		return fmt.Errorf("the ledger is older than state.db or keys.json: it was put back: %w", ErrDamaged)
	case have < stateGen || a.keys.Generation < keysGen:
		a.Recovered.Healed = true
		return a.ledger.Sign(extension(a.store.Position(), have, a.keys.Generation))
	}
	return nil
}

// openCatalog opens the catalog and brings it up to the ledger; one that is
// missing or does not open is made again.
func (a *Archive) openCatalog() error {
	c, err := catalog.Open(a.fs, a.ring.Current(seal.PurposeCatalog).Key)
	if errors.Is(err, vault.ErrDamaged) {
		a.opts.Log.Warn("the catalog does not open and is made again", "err", err)
		if err := catalog.Remove(a.fs, catalog.Name); err != nil {
			return err
		}
		a.Recovered.Rebuilt = true
		c, err = catalog.Open(a.fs, a.ring.Current(seal.PurposeCatalog).Key)
	}
	if err != nil {
		return err
	}
	a.catalog = c
	return a.catchUp()
}

// catchUp applies the frames that the catalog does not have.
func (a *Archive) catchUp() error {
	from, err := a.catalog.Applied()
	if err != nil {
		return err
	}
	end := a.store.Position()
	if from.Commit > end.Commit {
		return fmt.Errorf("the catalog knows commit %d, the ledger ends at %d: an older state of the archive was put back: %w", from.Commit, end.Commit, ErrDamaged)
	}
	err = a.store.Frames(from, end.Commit, func(f *pack.Frame, at store.Place) error {
		ch, err := a.change(f, at)
		if err != nil {
			return err
		}
		return a.catalog.Apply(ch)
	})
	if err != nil {
		return fmt.Errorf("catalog: catch up: %w", err)
	}
	return a.reload()
}

// change is a frame with the summaries of its messages, which are read.
func (a *Archive) change(f *pack.Frame, at store.Place) (catalog.Change, error) {
	end := store.Position{Commit: f.Number, Pack: at.Pack}
	size, err := a.store.FrameEnd(at)
	if err != nil {
		return catalog.Change{}, err
	}
	end.Keys = size
	ch := catalog.Change{Frame: f, Place: at, End: end, Summaries: map[seal.ID]catalog.Summary{}}
	for i := range f.Messages {
		m := &f.Messages[i]
		raw, err := a.loadRecord(m, at, nil, a.object)
		if err != nil {
			// What cannot be read is still listed; verify tells what is wrong.
			a.opts.Log.Error("message cannot be read", "message", m.ID.String(), "err", err)
			continue
		}
		ch.Summaries[m.ID] = summary(extract.Of(message.Parse(raw)))
	}
	return ch, nil
}

// object asks the catalog where a part lies.
func (a *Archive) object(id seal.ID) (store.Place, error) {
	return a.catalog.Object(context.Background(), id)
}

// loadRecord rebuilds the message of a record whose frame is at a place. parts
// may hold contents that are known already; where finds the frames of others.
func (a *Archive) loadRecord(m *pack.Message, at store.Place, parts map[seal.ID][]byte, where func(seal.ID) (store.Place, error)) ([]byte, error) {
	sk := parts[m.Skeleton]
	if sk == nil {
		var err error
		if sk, err = a.store.Load(m.Skeleton, at); err != nil {
			return nil, err
		}
	}
	k, err := pack.DecodeSkeleton(sk)
	if err != nil {
		return nil, err
	}
	raw, err := join(k, m.Size, func(id seal.ID) ([]byte, error) {
		if b := parts[id]; b != nil {
			return b, nil
		}
		// Parts of the same commit are in the same frame, others are known to
		// the catalog.
		b, err := a.store.Load(id, at)
		if !errors.Is(err, store.ErrNotFound) {
			return b, err
		}
		p, err := where(id)
		if err != nil {
			return nil, err
		}
		return a.store.Load(id, p)
	})
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) != m.Size {
		return nil, fmt.Errorf("message %s: %d bytes where %d were archived: %w", m.ID, len(raw), m.Size, ErrDamaged)
	}
	return raw, nil
}
