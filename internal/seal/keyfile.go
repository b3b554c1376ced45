package seal

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrWrongKey means that no slot opens with the secret. Nothing was changed.
var ErrWrongKey = errors.New("no key slot opens with this secret")

// ErrChanged means that keys.json, or archive.json which it vouches for, does not carry the mark of its root key.
var ErrChanged = errors.New("keys.json or archive.json was changed by somebody who does not hold the root key")

// Slot is one way to the root key: the root key sealed under a key made from
// a secret.
type Slot struct {
	ID      string    `json:"id"`
	Kind    SlotKind  `json:"kind"`
	Label   string    `json:"label,omitempty"`
	Created time.Time `json:"created"`
	KDF     KDF       `json:"kdf"`
	Wrap    []byte    `json:"wrap"`
}

// KeyFile is keys.json: the slots, and the ring sealed under the root key.
type KeyFile struct {
	Format     int    `json:"format"`
	Archive    string `json:"archive"`
	Generation uint64 `json:"generation"`
	Slots      []Slot `json:"slots"`
	Ring       []byte `json:"ring"`
	MAC        string `json:"mac"`
}

// keyFormat is the version of keys.json.
const keyFormat = 1

// Purposes of ring keys. Those with epochs are replaced by `key rotate`.
const (
	PurposeID      = "id"      // content ids; never rotated
	PurposeEntry   = "entry"   // commit frames
	PurposeLedger  = "ledger"  // seed of the Ed25519 key that signs checkpoints
	PurposeState   = "state"   // state.db
	PurposeCatalog = "catalog" // catalog.db
	PurposeIndex   = "index"   // index/*.db
	PurposeSecret  = "secret"  // credentials, tokens and private keys in state.db
)

// RingKey is one key of the ring.
type RingKey struct {
	Purpose string
	Epoch   uint32
	Key     Key
}

// Ring is the opened key file: the root key and the random keys below it.
type Ring struct {
	Root Key
	Keys []RingKey
}

// NewRing returns a ring with a fresh key for every purpose.
func NewRing() *Ring {
	r := &Ring{Root: NewKey()}
	for _, p := range []string{PurposeID, PurposeEntry, PurposeLedger, PurposeState, PurposeCatalog, PurposeIndex, PurposeSecret} {
		r.Keys = append(r.Keys, RingKey{p, 1, NewKey()})
	}
	return r
}

// Current returns the newest key for a purpose.
func (r *Ring) Current(purpose string) RingKey {
	var newest RingKey
	for _, k := range r.Keys {
		if k.Purpose == purpose && k.Epoch >= newest.Epoch {
			newest = k
		}
	}
	return newest
}

// Epoch returns the key of one epoch.
func (r *Ring) Epoch(purpose string, epoch uint32) (Key, error) {
	for _, k := range r.Keys {
		if k.Purpose == purpose && k.Epoch == epoch {
			return k.Key, nil
		}
	}
	return Key{}, fmt.Errorf("no %s key of epoch %d in the key ring", purpose, epoch)
}

// Renew adds a fresh key of the next epoch for purpose.
func (r *Ring) Renew(purpose string) RingKey {
	k := RingKey{purpose, r.Current(purpose).Epoch + 1, NewKey()}
	r.Keys = append(r.Keys, k)
	return k
}

// Drop forgets all keys for purpose but the newest.
func (r *Ring) Drop(purpose string) {
	keep := r.Current(purpose).Epoch
	r.Keys = slices.DeleteFunc(r.Keys, func(k RingKey) bool { return k.Purpose == purpose && k.Epoch != keep })
}

// Clone returns a copy that can be changed without touching r.
func (r *Ring) Clone() *Ring { return &Ring{r.Root, slices.Clone(r.Keys)} }

type ringKeyJSON struct {
	Purpose string `json:"purpose"`
	Epoch   uint32 `json:"epoch"`
	Key     []byte `json:"key"`
}

func (r *Ring) seal(archive string) []byte {
	var js []ringKeyJSON
	for _, k := range r.Keys {
		js = append(js, ringKeyJSON{k.Purpose, k.Epoch, k.Key[:]})
	}
	b, err := json.Marshal(js)
	if err != nil {
		panic(err) // plain values always marshal
	}
	return SealBox(r.Root, []byte("ring "+archive), b)
}

func openRing(root Key, archive string, box []byte) (*Ring, error) {
	b, err := OpenBox(root, []byte("ring "+archive), box)
	if err != nil {
		return nil, ErrChanged
	}
	var js []ringKeyJSON
	if err := json.Unmarshal(b, &js); err != nil {
		return nil, fmt.Errorf("key ring: %w", err)
	}
	r := &Ring{Root: root}
	for _, k := range js {
		if len(k.Key) != KeySize {
			return nil, fmt.Errorf("key ring: the %s key has %d bytes", k.Purpose, len(k.Key))
		}
		r.Keys = append(r.Keys, RingKey{k.Purpose, k.Epoch, Key(k.Key)})
	}
	return r, nil
}

// NewKeyFileFor returns a key file without slots for the ring of an archive.
func NewKeyFileFor(archive string) *KeyFile { return &KeyFile{Format: keyFormat, Archive: archive} }

func slotContext(archive string, s *Slot) []byte {
	return []byte("slot " + archive + " " + s.ID + " " + string(s.Kind))
}

// AddSlot adds a slot that opens with s.
func (f *KeyFile) AddSlot(r *Ring, s Secret, label string, cost Cost, now time.Time) (Slot, error) {
	if err := CheckNewPassphrase(s); err != nil {
		return Slot{}, err
	}
	id := make([]byte, 4)
	rand.Read(id)
	slot := Slot{ID: hex.EncodeToString(id), Kind: s.Kind, Label: label, Created: now.UTC().Truncate(time.Second), KDF: newKDF(s.Kind, cost)}
	k, err := slot.KDF.key(s)
	if err != nil {
		return Slot{}, err
	}
	slot.Wrap = SealBox(k, slotContext(f.Archive, &slot), r.Root[:])
	f.Slots = append(f.Slots, slot)
	return slot, nil
}

// RemoveSlot removes a slot by id; the last one stays.
func (f *KeyFile) RemoveSlot(id string) error {
	i := slices.IndexFunc(f.Slots, func(s Slot) bool { return s.ID == id })
	if i < 0 {
		return fmt.Errorf("there is no key slot %q", id)
	}
	if len(f.Slots) == 1 {
		return errors.New("this is the last key slot; without it the archive could never be opened again")
	}
	f.Slots = slices.Delete(f.Slots, i, i+1)
	return nil
}

// Encode seals the ring, counts the generation up, and returns the bytes of
// keys.json. about is the content of archive.json, which the MAC covers too.
func (f *KeyFile) Encode(r *Ring, about []byte) []byte {
	f.Generation++
	f.Ring = r.seal(f.Archive)
	f.MAC = f.mac(r.Root, about)
	return f.canonical()
}

// Bytes are the bytes of keys.json as Encode returned them last.
func (f *KeyFile) Bytes() []byte { return f.canonical() }

func (f *KeyFile) canonical() []byte {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		panic(err) // plain values always marshal
	}
	return append(b, '\n')
}

func (f *KeyFile) mac(root Key, about []byte) string {
	bare := *f
	bare.MAC = ""
	k := root.Derive("keys.json")
	m := hmac.New(sha256.New, k[:])
	sum := sha256.Sum256(about)
	m.Write(sum[:])
	m.Write(bare.canonical())
	return hex.EncodeToString(m.Sum(nil))
}

// ParseKeys reads keys.json. What it says is not to be trusted before Open.
// Only the bytes that Encode writes are accepted.
func ParseKeys(b []byte) (*KeyFile, error) {
	var f KeyFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("keys.json: %w", err)
	}
	if f.Format != keyFormat {
		return nil, fmt.Errorf("keys.json: format %d; this program reads format %d", f.Format, keyFormat)
	}
	if !bytes.Equal(f.canonical(), b) {
		return nil, errors.New("keys.json: not as it was written")
	}
	return &f, nil
}

// Open tries the secret on each slot of its kind, and checks the MAC. It
// returns the ring and the id of the slot that opened.
func (f *KeyFile) Open(s Secret, about []byte) (*Ring, string, error) {
	for i := range f.Slots {
		slot := &f.Slots[i]
		if slot.Kind != s.Kind && (slot.Kind == KindPassphrase || slot.Kind == KindRecovery || s.Kind == KindPassphrase || s.Kind == KindRecovery) {
			continue // a systemd credential and a key file are the same secret
		}
		k, err := slot.KDF.key(s)
		if err != nil {
			return nil, "", fmt.Errorf("key slot %s: %w", slot.ID, err)
		}
		root, err := OpenBox(k, slotContext(f.Archive, slot), slot.Wrap)
		if err != nil || len(root) != KeySize {
			continue
		}
		r, err := f.OpenRoot(Key(root), about)
		return r, slot.ID, err
	}
	return nil, "", ErrWrongKey
}

// OpenRoot checks the MAC and opens the ring with the root key itself.
func (f *KeyFile) OpenRoot(root Key, about []byte) (*Ring, error) {
	if !hmac.Equal([]byte(f.mac(root, about)), []byte(f.MAC)) {
		return nil, ErrChanged
	}
	return openRing(root, f.Archive, f.Ring)
}
