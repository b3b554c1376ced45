// Package auth is who somebody is: passwords, the throttle on guessing,
// one-time links, sessions. What somebody may do is asked with Allow.
//
// The rules are those of NIST SP 800-63B-4: length and a blocklist, no
// composition rules, no expiry; the same work for unknown users; tokens of 256
// random bits, kept as SHA-256.
package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"

	"github.com/letterhold/letterhold/internal/auth/blocklist"
)

// Lengths of a password in characters. Fifteen, because it stands alone until
// there are second factors.
const (
	MinPassword = 15
	MaxPassword = 256
)

// Reasons why a password is refused; doors put them into words.
var (
	ErrTooShort = errors.New("the password is too short")
	ErrTooLong  = errors.New("the password is too long")
	ErrCommon   = errors.New("the password is easy to guess")
	ErrKnown    = errors.New("the password is on lists of common or stolen passwords")
	ErrNamed    = errors.New("the password contains a name that a guesser tries first")
)

// CheckPassword applies the rules to a new password. names are words that must
// not make up the password: the user's, the organisation's, the host's.
func CheckPassword(password string, names ...string) error {
	password = norm.NFC.String(password)
	switch n := utf8.RuneCountInString(password); {
	case n < MinPassword:
		return ErrTooShort
	case n > MaxPassword:
		return ErrTooLong
	}
	bare := blocklist.Fold(password)
	for _, name := range append(names, "letterhold") {
		if name = blocklist.Fold(name); len(name) >= 3 {
			bare = strings.ReplaceAll(bare, name, "")
		}
	}
	if utf8.RuneCountInString(bare) < MinPassword/2 {
		return ErrNamed
	}
	if predictable(bare) {
		return ErrCommon
	}
	if blocklist.Has(password) {
		return ErrKnown
	}
	return nil
}

// common are the words of which most guessed passwords are made.
var common = strings.Fields(`password passwort kennwort geheim secret letmein welcome willkommen hallo hello admin administrator root user login master
	qwertyuiop qwertzuiop qwerty qwertz asdfghjkl yxcvbnm zxcvbnm azerty iloveyou ichliebedich monkey dragon sunshine princess football baseball superman batman
	trustno changeme test default archive archiv mail email company firma summer sommer winter spring fruehling herbst autumn
	abcdefghijklmnopqrstuvwxyz january february march april may june july august september october november december`)

// digits as Fold leaves them.
var digitRuns = []string{blocklist.Fold("1234567890"), blocklist.Fold("0987654321"), blocklist.Fold("123123"), blocklist.Fold("112233"), blocklist.Fold("1111"), blocklist.Fold("0000")}

// predictable tells a password that is a row of common words, a repetition, or
// a run of neighbours.
func predictable(s string) bool {
	distinct := map[rune]bool{}
	for _, r := range s {
		distinct[r] = true
	}
	if len(distinct) < 5 {
		return true
	}
	for n := 1; n <= len(s)*2/3; n++ { // abcabcabcab
		if strings.HasPrefix(strings.Repeat(s[:n], len(s)/n+1), s) {
			return true
		}
	}
	rest := s
	for _, w := range append(common, digitRuns...) {
		rest = strings.ReplaceAll(rest, w, "")
	}
	return utf8.RuneCountInString(rest) < 6 && len(rest) < len(s)
}

// Cost of a password's hash: what SECURITY demands at least, more where the
// machine does it within a tenth of a second.
type Cost struct {
	Time   uint32
	Memory uint32 // KiB
}

// DefaultCost is about 100 ms on a small machine.
var DefaultCost = Cost{Time: 3, Memory: 32 << 10}

// Hasher hashes passwords, one at a time, so that sign-ins cannot exhaust the
// machine.
type Hasher struct {
	Cost Cost
	mu   sync.Mutex
}

// Hash returns the PHC form of a password's Argon2id hash.
func (h *Hasher) Hash(password string) string {
	salt := make([]byte, 16)
	rand.Read(salt)
	c := h.cost()
	return fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=1$%s$%s", c.Memory, c.Time, base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(h.key(password, salt, c)))
}

func (h *Hasher) cost() Cost {
	if h.Cost == (Cost{}) {
		return DefaultCost
	}
	return h.Cost
}

func (h *Hasher) key(password string, salt []byte, c Cost) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return argon2.IDKey([]byte(norm.NFC.String(password)), salt, c.Time, c.Memory, 1, 32)
}

// Check compares a password with a hash. An empty hash takes as long and is
// never right. rehash says that the hash has another cost than new ones.
func (h *Hasher) Check(password, phc string) (ok, rehash bool) {
	var c Cost
	var p int
	f := strings.Split(phc, "$")
	if len(f) != 6 {
		h.key(password, make([]byte, 16), h.cost())
		return false, false
	}
	_, err := fmt.Sscanf(f[3], "m=%d,t=%d,p=%d", &c.Memory, &c.Time, &p)
	salt, err1 := base64.RawStdEncoding.DecodeString(f[4])
	want, err2 := base64.RawStdEncoding.DecodeString(f[5])
	if errors.Join(err, err1, err2) != nil || p != 1 || c.Memory > 1<<20 || c.Time > 64 {
		return false, false
	}
	return subtle.ConstantTimeCompare(h.key(password, salt, c), want) == 1, c != h.cost()
}
