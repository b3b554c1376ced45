package seal

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tyler-smith/go-bip39"
	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"
)

// SlotKind says what opens a slot.
type SlotKind string

// The kinds of slots.
const (
	KindPassphrase SlotKind = "passphrase"
	KindKeyFile    SlotKind = "keyfile"
	KindSystemd    SlotKind = "systemd"
	KindRecovery   SlotKind = "recovery"
)

// Secret is what a person or a file brings to open a slot. It never prints.
type Secret struct {
	Kind  SlotKind
	bytes []byte
}

// String hides the secret.
func (s Secret) String() string { return string(s.Kind) + " [redacted]" }

// GoString hides the secret.
func (s Secret) GoString() string { return s.String() }

// MinPassphrase is the least number of characters of a passphrase: what
// NIST SP 800-63B-4 asks of a password that stands alone.
const MinPassphrase = 15

// maxPassphrase bounds what is hashed; 256 characters of four bytes.
const maxPassphrase = 1024

// Passphrase makes a secret of text, normalised to NFC, as typed otherwise.
func Passphrase(text string) (Secret, error) {
	text = norm.NFC.String(strings.TrimRight(text, "\r\n"))
	if text == "" {
		return Secret{}, errors.New("the passphrase is empty")
	}
	if len(text) > maxPassphrase {
		return Secret{}, fmt.Errorf("the passphrase is longer than %d bytes", maxPassphrase)
	}
	return Secret{KindPassphrase, []byte(text)}, nil
}

// CheckNewPassphrase refuses a passphrase too short to protect an archive.
func CheckNewPassphrase(s Secret) error {
	if n := utf8.RuneCount(s.bytes); s.Kind == KindPassphrase && n < MinPassphrase {
		return fmt.Errorf("the passphrase has %d characters; whoever copies the archive can try passphrases for years, so it needs at least %d", n, MinPassphrase)
	}
	return nil
}

const keyFileHead = "letterhold key 1 "

// NewKeyFile returns the content of a new key file: one line of text.
func NewKeyFile() []byte {
	k := NewKey()
	return []byte(keyFileHead + base64.StdEncoding.EncodeToString(k[:]) + "\n")
}

// ParseKeyFile reads what NewKeyFile made.
func ParseKeyFile(kind SlotKind, content []byte) (Secret, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(string(content)), keyFileHead)
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(b) != KeySize {
		return Secret{}, errors.New("this is no key file of Letterhold (one line that begins with \"letterhold key 1\")")
	}
	return Secret{kind, b}, nil
}

// NewRecovery returns a random recovery secret and its 24 words (BIP 39).
func NewRecovery() (Secret, []string) {
	b := make([]byte, 32)
	rand.Read(b)
	text, err := bip39.NewMnemonic(b)
	if err != nil {
		panic(err) // 32 bytes always make 24 words
	}
	return Secret{KindRecovery, b}, strings.Fields(text)
}

// ParseRecovery reads 24 words, in any case and with any white space, numbers
// before words ("1.") allowed.
func ParseRecovery(text string) (Secret, error) {
	var words []string
	for _, w := range strings.Fields(strings.ToLower(text)) {
		if w = strings.Trim(w, "0123456789.,;:)"); w != "" {
			words = append(words, w)
		}
	}
	if len(words) != 24 {
		return Secret{}, fmt.Errorf("a recovery key has 24 words, these are %d", len(words))
	}
	for i, w := range words {
		if _, ok := bip39.GetWordIndex(w); !ok {
			return Secret{}, fmt.Errorf("word %d of the recovery key is not in the word list; check its spelling", i+1)
		}
	}
	b, err := bip39.EntropyFromMnemonic(strings.Join(words, " "))
	if err != nil {
		return Secret{}, errors.New("the recovery words do not fit together: a word is wrong or two are swapped")
	}
	return Secret{KindRecovery, b}, nil
}

// KDF is how a slot's wrapping key is made from its secret: Argon2id for
// passphrases (RFC 9106), HMAC-SHA256 for secrets that are random already.
type KDF struct {
	Name    string `json:"name"`             // "argon2id" or "hmac-sha256"
	Time    uint32 `json:"time,omitempty"`   // passes
	Memory  uint32 `json:"memory,omitempty"` // KiB
	Threads uint8  `json:"threads,omitempty"`
	Salt    []byte `json:"salt"`
}

// Caps on what a keys.json may ask for, so that a changed file cannot stall or
// exhaust the machine before its MAC can be checked.
const (
	maxKDFTime    = 64
	maxKDFMemory  = 1 << 20 // KiB: 1 GiB
	maxKDFThreads = 16
)

// Cost is how much work a passphrase slot demands. The zero value is
// calibrated: 64 MiB and as many passes as take half a second.
type Cost struct {
	Time   uint32
	Memory uint32 // KiB
}

// WeakCost is for tests, where no passphrase protects anything.
var WeakCost = Cost{Time: 1, Memory: 64}

func newKDF(kind SlotKind, cost Cost) KDF {
	salt := make([]byte, 32)
	rand.Read(salt)
	if kind != KindPassphrase {
		return KDF{Name: "hmac-sha256", Salt: salt}
	}
	if cost == (Cost{}) {
		cost = calibrate()
	}
	return KDF{Name: "argon2id", Time: cost.Time, Memory: cost.Memory, Threads: 2, Salt: salt}
}

func calibrate() Cost {
	c := Cost{Time: 3, Memory: 64 << 10}
	start := time.Now()
	argon2.IDKey([]byte("calibration"), make([]byte, 32), c.Time, c.Memory, 2, KeySize)
	if each := time.Since(start) / time.Duration(c.Time); each > 0 {
		c.Time = min(max(c.Time, uint32(500*time.Millisecond/each)), maxKDFTime)
	}
	runtime.GC() // the 64 MiB are not needed again
	return c
}

func (k KDF) key(s Secret) (Key, error) {
	switch k.Name {
	case "argon2id":
		if k.Time < 1 || k.Time > maxKDFTime || k.Memory < 8 || k.Memory > maxKDFMemory || k.Threads < 1 || k.Threads > maxKDFThreads || len(k.Salt) > 64 {
			return Key{}, fmt.Errorf("Argon2id parameters out of bounds (time %d, memory %d KiB, threads %d)", k.Time, k.Memory, k.Threads)
		}
		defer runtime.GC()
		return Key(argon2.IDKey(s.bytes, k.Salt, k.Time, k.Memory, k.Threads, KeySize)), nil
	case "hmac-sha256":
		sum := sha256.Sum256(s.bytes)
		return Key(sum).Derive("letterhold slot " + string(k.Salt)), nil
	}
	return Key{}, fmt.Errorf("unknown key derivation %q", k.Name)
}

// Equal compares two secrets in constant time.
func (s Secret) Equal(t Secret) bool {
	return s.Kind == t.Kind && subtle.ConstantTimeCompare(s.bytes, t.bytes) == 1
}
