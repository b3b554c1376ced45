package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// Kind is what a leaf of the ledger stands for.
type Kind byte

// The kinds of leaves.
const (
	KindMessage Kind = 1
	KindAct     Kind = 2
)

// Leaf is what the ledger holds of a message or an act: no personal data, only
// a salted commitment to it.
type Leaf struct {
	Kind       Kind
	Time       time.Time // millisecond precision
	Commitment [32]byte
}

// LeafSize is the length of an encoded leaf in bytes.
const LeafSize = 2 + 8 + 32

const leafVersion = 1

// Commit returns the commitment to content whose SHA-256 is sum:
// SHA-256(kind || salt || sum).
func Commit(kind Kind, salt [16]byte, sum [32]byte) [32]byte {
	b := make([]byte, 0, 1+16+32)
	b = append(b, byte(kind))
	b = append(b, salt[:]...)
	b = append(b, sum[:]...)
	return sha256.Sum256(b)
}

// Encode returns version, kind, time and commitment.
func (l Leaf) Encode() []byte {
	b := make([]byte, 0, LeafSize)
	b = append(b, leafVersion, byte(l.Kind))
	b = binary.BigEndian.AppendUint64(b, uint64(l.Time.UnixMilli()))
	return append(b, l.Commitment[:]...)
}

// DecodeLeaf reads what Encode wrote.
func DecodeLeaf(b []byte) (Leaf, error) {
	if len(b) != LeafSize || b[0] != leafVersion {
		return Leaf{}, fmt.Errorf("leaf of %d bytes: %w", len(b), ErrFormat)
	}
	return Leaf{Kind: Kind(b[1]), Time: time.UnixMilli(int64(binary.BigEndian.Uint64(b[2:]))).UTC(), Commitment: [32]byte(b[10:])}, nil
}
