// Package seal is the cryptography of an archive: keys, content ids, and the
// three ways in which bytes are sealed.
//
//   - Seal and Open: one object, in chunks of 64 KiB under a single-use key.
//   - SealBox and OpenBox: one small secret or frame under a long-lived key.
//   - Pages: database pages and log frames at a fixed place (see page.go).
//
// All of them are AES-256-GCM from the standard library, bind their purpose as
// additional data, and commit to their key, so that a ciphertext opens under
// one key only. docs/format.md describes each byte.
//
// Not here: where keys are kept (keys.json is read and written by KeyFile), and
// any decision about who may open what.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"log/slog"
)

// ErrOpen is returned when sealed bytes do not open: another key, another
// place, or changed bytes. Which of them cannot be told apart.
var ErrOpen = errors.New("does not open under this key: wrong key or changed bytes")

const (
	// KeySize is the length of every symmetric key in bytes.
	KeySize = 32
	// Chunk is the plaintext length of a chunk of an object in bytes.
	Chunk = 64 << 10
	// Tag is the length of an AES-GCM tag in bytes.
	Tag = 16
	// Commitment is the length of a key commitment in bytes.
	Commitment = 32
)

// Key is a symmetric key. It never prints.
type Key [KeySize]byte

// NewKey returns a random key.
func NewKey() Key {
	var k Key
	rand.Read(k[:])
	return k
}

// String hides the key.
func (Key) String() string { return "[redacted]" }

// GoString hides the key.
func (Key) GoString() string { return "[redacted]" }

// Format hides the key from every verb.
func (Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[redacted]") }

// LogValue hides the key.
func (Key) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalText refuses: a key is written by KeyFile, sealed, or not at all.
func (Key) MarshalText() ([]byte, error) { return nil, errors.New("a key is never written as text") }

// Derive returns the key for one purpose below k: HMAC-SHA256(k, purpose).
func (k Key) Derive(purpose string) Key {
	m := hmac.New(sha256.New, k[:])
	m.Write([]byte(purpose))
	var d Key
	m.Sum(d[:0])
	return d
}

// ID is the content id of an object or a message: keyed, so that it does not
// tell a thief which known file is in the archive.
type ID [16]byte

// String is the id in 32 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String wrote.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return id, fmt.Errorf("id %q: an id has %d hex digits", s, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, fmt.Errorf("id %q: an id has %d hex digits", s, 2*len(id))
	}
	return id, nil
}

// Type separates the ids and the ciphertexts of different kinds of content.
type Type byte

const (
	// TypeMessage is a whole message as it was received (ids only).
	TypeMessage Type = 1
	// TypeSkeleton is a message with its large parts taken out.
	TypeSkeleton Type = 2
	// TypePart is one large leaf part.
	TypePart Type = 3
)

// IDs makes content ids of one tenant. Its key is never rotated.
type IDs struct{ key Key }

// NewIDs returns the id maker for a tenant's id key.
func NewIDs(key Key) IDs { return IDs{key} }

// Of returns the id of content whose SHA-256 is sum: the first 16 bytes of
// HMAC-SHA256(key, type || sum).
func (m IDs) Of(t Type, sum [32]byte) ID {
	h := hmac.New(sha256.New, m.key[:])
	h.Write([]byte{byte(t)})
	h.Write(sum[:])
	var full [32]byte
	h.Sum(full[:0])
	return ID(full[:16])
}

// split derives the encryption key and the key commitment of one sealing.
func split(key Key, context ...[]byte) (cipher.AEAD, [Commitment]byte) {
	h := hmac.New(sha512.New, key[:])
	var n [4]byte
	for _, c := range context {
		binary.BigEndian.PutUint32(n[:], uint32(len(c)))
		h.Write(n[:])
		h.Write(c)
	}
	var both [64]byte
	h.Sum(both[:0])
	return newGCM(both[:32]), [Commitment]byte(both[32:])
}

func newGCM(key []byte) cipher.AEAD {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the length is fixed
	}
	g, err := cipher.NewGCM(b)
	if err != nil {
		panic(err)
	}
	return g
}

var objectLabel = []byte("letterhold object v1")

func nonce(n *[12]byte, chunk uint32, final bool) []byte {
	binary.BigEndian.PutUint32(n[7:11], chunk)
	n[11] = 0
	if final {
		n[11] = 1
	}
	return n[:]
}

// SealedSize is the length in bytes of an object of n bytes once sealed.
func SealedSize(n int) int {
	chunks := max(1, (n+Chunk-1)/Chunk)
	return Commitment + n + chunks*Tag
}

// Seal appends the sealed form of plain to dst. The key must be used for
// nothing else; context (tenant, type, id) must be given again to open.
//
// The form is commitment, then chunks of up to 64 KiB, each with its tag, the
// nonce counting chunks and marking the last (STREAM, eprint 2015/189).
func Seal(dst []byte, key Key, context, plain []byte) []byte {
	g, commit := split(key, objectLabel, context)
	dst = append(dst, commit[:]...)
	var n [12]byte
	for i := uint32(0); ; i++ {
		c := plain[:min(len(plain), Chunk)]
		plain = plain[len(c):]
		dst = g.Seal(dst, nonce(&n, i, len(plain) == 0), c, nil)
		if len(plain) == 0 {
			return dst
		}
	}
}

// Open appends the plaintext of sealed to dst. On an error nothing of it may
// be used.
func Open(dst []byte, key Key, context, sealed []byte) ([]byte, error) {
	g, commit := split(key, objectLabel, context)
	if len(sealed) < Commitment+Tag || subtle.ConstantTimeCompare(sealed[:Commitment], commit[:]) != 1 {
		return nil, ErrOpen
	}
	sealed = sealed[Commitment:]
	var n [12]byte
	for i := uint32(0); ; i++ {
		c := sealed[:min(len(sealed), Chunk+Tag)]
		sealed = sealed[len(c):]
		var err error
		if dst, err = g.Open(dst, nonce(&n, i, len(sealed) == 0), c, nil); err != nil {
			return nil, ErrOpen
		}
		if len(sealed) == 0 {
			return dst, nil
		}
	}
}

const (
	boxSalt = 24
	// BoxOverhead is what SealBox adds, in bytes.
	BoxOverhead = boxSalt + Commitment + Tag
)

var boxLabel = []byte("letterhold box v1")

// SealBox seals plain under a long-lived key: a random salt of 24 bytes, the
// key commitment, ciphertext and tag. The key of each box is derived from key,
// salt and context, so a box opens in its own context only.
func SealBox(key Key, context, plain []byte) []byte {
	out := make([]byte, boxSalt, BoxOverhead+len(plain))
	rand.Read(out)
	g, commit := split(key, boxLabel, out, context)
	out = append(out, commit[:]...)
	return g.Seal(out, make([]byte, 12), plain, nil)
}

// OpenBox returns what SealBox sealed in the same context.
func OpenBox(key Key, context, box []byte) ([]byte, error) {
	if len(box) < BoxOverhead {
		return nil, ErrOpen
	}
	salt, rest := box[:boxSalt], box[boxSalt:]
	g, commit := split(key, boxLabel, salt, context)
	if subtle.ConstantTimeCompare(rest[:Commitment], commit[:]) != 1 {
		return nil, ErrOpen
	}
	plain, err := g.Open(nil, make([]byte, 12), rest[Commitment:], nil)
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}

// Sum is the SHA-256 of b.
func Sum(b []byte) [32]byte { return sha256.Sum256(b) }

// NewSum starts a SHA-256 over content that comes in pieces.
func NewSum() hash.Hash { return sha256.New() }
