// Package blocklist knows passwords that guessers try first: common ones, ones
// from breaches, famous phrases and walks over the keyboard.
//
// The lists themselves are not shipped. What is, is an xor filter of 16 bits a
// key, made from them by the program in gen: it contains every password of the
// lists, and one in 65,536 of all others. It sees passwords as Fold leaves
// them, so that case, separators and digits in place of letters do not matter.
package blocklist

import (
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

//go:generate go run ./gen -o passwords.xor

//go:embed passwords.xor
var passwords []byte

// Fold removes what people vary in a password without making it harder to
// guess: case, separators, and digits and signs in place of letters.
func Fold(s string) string {
	s = strings.ToLower(norm.NFKC.String(s))
	return strings.NewReplacer("0", "o", "1", "l", "3", "e", "4", "a", "5", "s", "7", "t", "@", "a", "$", "s", "!", "i", " ", "", "-", "", "_", "", ".", "").Replace(s)
}

// Bounds of what is taken apart: shorter words are in everything, and more than
// a few characters around a common word can be a secret of their own.
const (
	minWord  = 4
	maxExtra = 8
)

// Has tells whether a password is on the lists, or is a word of the lists with
// a few digits and signs around it, or two such words.
func Has(password string) bool { return New(passwords).has(password) }

func (f Filter) has(password string) bool {
	if f.words(Fold(password)) {
		return true
	}
	bare := strings.TrimFunc(password, func(r rune) bool { return !unicode.IsLetter(r) })
	n := utf8.RuneCountInString(bare)
	return n >= minWord && utf8.RuneCountInString(password)-n <= maxExtra && f.words(Fold(bare))
}

// words tells whether a text is in the filter, or two that are.
func (f Filter) words(folded string) bool {
	if f.Contains(folded) {
		return true
	}
	for i := range folded {
		if i >= minWord && len(folded)-i >= minWord && f.Contains(folded[:i]) && f.Contains(folded[i:]) {
			return true
		}
	}
	return false
}

// Filter is an xor filter (Graf and Lemire, 2020) in its form on disk: a seed
// of 8 bytes, then 16 bits for each slot, in three blocks of equal length, all
// little-endian.
type Filter struct {
	seed  uint64
	slots []byte
}

// New returns the filter of its form on disk.
func New(b []byte) Filter { return Filter{binary.LittleEndian.Uint64(b), b[8:]} }

// Contains tells whether a folded password is in the filter; one in 65,536
// others is too.
func (f Filter) Contains(folded string) bool {
	x := mix(key(folded), f.seed)
	a, b, c := places(x, len(f.slots)/6)
	return print16(x) == f.at(a)^f.at(b)^f.at(c)
}

func (f Filter) at(i int) uint16 { return binary.LittleEndian.Uint16(f.slots[2*i:]) }

// key is what the filter knows of a password.
func key(folded string) uint64 {
	sum := sha256.Sum256([]byte(folded))
	return binary.LittleEndian.Uint64(sum[:])
}

// mix is the finaliser of MurmurHash3.
func mix(x, seed uint64) uint64 {
	x += seed
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// print16 is the fingerprint of a key; it has bits of all, so that it does not
// follow from the places.
func print16(x uint64) uint16 { return uint16(x ^ x>>32) }

// places are the slots of a key, one in each block.
func places(x uint64, block int) (a, b, c int) {
	in := func(x uint64) int { return int(uint64(uint32(x)) * uint64(block) >> 32) }
	return in(x), in(x<<21|x>>43) + block, in(x<<42|x>>22) + 2*block
}

// Build makes the form on disk of a filter. The same set gives the same bytes.
func Build(folded map[string]bool) ([]byte, error) {
	block := (len(folded)*123/100 + 32) / 3
	for seed := uint64(1); seed < 100; seed++ {
		if b := build(folded, seed, block); b != nil {
			return b, nil
		}
	}
	return nil, errors.New("build a filter: no seed separates the keys")
}

// slot gathers the keys that have a place in it.
type slot struct {
	count int
	xor   uint64
}

// build takes away, again and again, a key that is alone in a slot, and then
// gives the slots their values in reverse, so that none is changed afterwards.
func build(folded map[string]bool, seed uint64, block int) []byte {
	slots := make([]slot, 3*block)
	for s := range folded {
		x := mix(key(s), seed)
		a, b, c := places(x, block)
		for _, i := range []int{a, b, c} {
			slots[i].count++
			slots[i].xor ^= x
		}
	}
	type single struct {
		x  uint64
		at int
	}
	var order []single
	var queue []int
	for i := range slots {
		if slots[i].count == 1 {
			queue = append(queue, i)
		}
	}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		if slots[at].count != 1 {
			continue
		}
		x := slots[at].xor
		order = append(order, single{x, at})
		a, b, c := places(x, block)
		for _, i := range []int{a, b, c} {
			slots[i].count--
			slots[i].xor ^= x
			if slots[i].count == 1 {
				queue = append(queue, i)
			}
		}
	}
	if len(order) != len(folded) {
		return nil
	}
	out := make([]byte, 8+6*block)
	binary.LittleEndian.PutUint64(out, seed)
	f := New(out)
	for i := len(order) - 1; i >= 0; i-- {
		s := order[i]
		a, b, c := places(s.x, block)
		binary.LittleEndian.PutUint16(f.slots[2*s.at:], print16(s.x)^f.at(a)^f.at(b)^f.at(c))
	}
	return out
}
