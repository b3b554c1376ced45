package archive

import (
	"errors"
	"fmt"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/vault"
)

// saveKeys announces the next generation of keys.json in the ledger, then
// writes it. fn changes copies of keys and ring; the caller holds w.
func (a *Archive) saveKeys(act Act, fn func(*seal.KeyFile, *seal.Ring) error) error {
	keys := *a.keys
	keys.Slots = append([]seal.Slot(nil), a.keys.Slots...)
	ring := a.ring.Clone()
	if err := fn(&keys, ring); err != nil {
		return err
	}
	if err := a.record(act, 0, a.keys.Generation+1); err != nil {
		return err
	}
	if err := writeKeys(a.fs, keys.Encode(ring, a.head)); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", keysName, err), a.resign(0, a.keys.Generation))
	}
	a.keys, a.ring = &keys, ring
	a.store.SetRing(ring)
	return nil
}

// AddSlot adds a key slot that opens with s.
func (a *Archive) AddSlot(s seal.Secret, label, who string, cost seal.Cost) (slot seal.Slot, err error) {
	a.w.Lock()
	defer a.w.Unlock()
	err = a.saveKeys(Act{What: "key slot added", Who: who, Of: string(s.Kind), Why: label}, func(k *seal.KeyFile, r *seal.Ring) (err error) {
		slot, err = k.AddSlot(r, s, label, cost, a.opts.Now())
		return err
	})
	return slot, err
}

// RemoveSlot removes a key slot; the last one stays.
func (a *Archive) RemoveSlot(id, who string) error {
	a.w.Lock()
	defer a.w.Unlock()
	return a.saveKeys(Act{What: "key slot removed", Who: who, Of: id}, func(k *seal.KeyFile, _ *seal.Ring) error { return k.RemoveSlot(id) })
}

// Rotate gives the packs' frames a new key and destroys the old one. Packs are
// not touched. It can be repeated after an interruption.
func (a *Archive) Rotate(who string) error {
	a.w.Lock()
	defer a.w.Unlock()
	if err := a.saveKeys(Act{What: "key rotation begun", Who: who}, func(_ *seal.KeyFile, r *seal.Ring) error {
		r.Renew(seal.PurposeEntry)
		return nil
	}); err != nil {
		return err
	}
	return a.finishRotation(who)
}

func (a *Archive) finishRotation(who string) error {
	for n := uint32(1); n <= a.store.Position().Pack; n++ {
		if _, err := a.store.Rewrite(n, false, nil); err != nil {
			return err
		}
	}
	return a.saveKeys(Act{What: "key rotation done", Who: who}, func(_ *seal.KeyFile, r *seal.Ring) error {
		r.Drop(seal.PurposeEntry)
		return nil
	})
}

// RotateRoot changes the root key and every key that may change, after a
// compromise. Only the given secrets open the archive afterwards: the old
// slots would let in whoever holds an old copy. state.db is sealed anew;
// catalog and index are removed and made again at the next start. The archive
// is closed by it.
func (a *Archive) RotateRoot(who string, cost seal.Cost, secrets ...seal.Secret) error {
	a.queue.close()
	a.w.Lock()
	defer a.w.Unlock()
	if len(secrets) == 0 {
		return errors.New("a new root key needs at least one slot")
	}
	if err := a.ready(); err != nil {
		return err
	}
	old := a.ring.Current(seal.PurposeState)
	if err := a.saveKeys(Act{What: "root key rotation", Who: who}, func(k *seal.KeyFile, r *seal.Ring) error {
		r.Root = seal.NewKey()
		for _, p := range []string{seal.PurposeEntry, seal.PurposeState, seal.PurposeCatalog, seal.PurposeIndex} {
			r.Renew(p)
		}
		r.Drop(seal.PurposeCatalog)
		r.Drop(seal.PurposeIndex)
		k.Slots = nil
		for _, s := range secrets {
			if _, err := k.AddSlot(r, s, "", cost, a.opts.Now()); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if err := a.finishRotation(who); err != nil {
		return err
	}
	if err := errors.Join(a.state.Close(), a.catalog.Close()); err != nil {
		return err
	}
	a.state, a.catalog = nil, nil
	if err := vault.Rekey(a.fs, catalog.StateName, old.Key, a.ring.Current(seal.PurposeState).Key); err != nil {
		return err
	}
	return a.removeCaches()
}

// removeCaches removes catalog and index.
func (a *Archive) removeCaches() error {
	if err := catalog.Remove(a.fs, catalog.Name); err != nil {
		return err
	}
	return durable.Files(a.fs, "index", func(name string, _ int64) error { return a.fs.Remove(name) })
}

// openState opens state.db with the newest key, or with the one before when a
// rotation did not get to it.
func (a *Archive) openState() (*catalog.State, error) {
	newest := a.ring.Current(seal.PurposeState)
	s, err := catalog.OpenState(a.fs, newest.Key)
	if !errors.Is(err, vault.ErrDamaged) || newest.Epoch == 1 {
		return s, err
	}
	before, kerr := a.ring.Epoch(seal.PurposeState, newest.Epoch-1)
	if kerr != nil {
		return nil, err
	}
	if rerr := vault.Rekey(a.fs, catalog.StateName, before, newest.Key); rerr != nil {
		return nil, errors.Join(err, rerr)
	}
	return catalog.OpenState(a.fs, newest.Key)
}

// Recover adds a slot to an archive that is not open, with the secret of
// another slot (the recovery words).
func Recover(d durable.FS, with, add seal.Secret, cost seal.Cost, o Options) (seal.Slot, error) {
	ring, _, err := Unlock(d, with)
	if err != nil {
		return seal.Slot{}, err
	}
	a, err := Open(d, ring, o)
	if err != nil {
		return seal.Slot{}, err
	}
	slot, err := a.AddSlot(add, "made with the recovery key", "key owner", cost)
	return slot, errors.Join(err, a.Close())
}
