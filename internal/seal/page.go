package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
)

// PageReserve is what a sealed page needs at its end, in bytes: the nonce of
// 24 and the tag of 16.
const PageReserve = 24 + Tag

// Pages seals fixed-size pages in place under random 192-bit nonces, as
// XAES-256-GCM (C2SP) does. It is safe for concurrent use.
type Pages struct {
	block cipher.Block
	k1    [16]byte
	head  cipher.Block
}

// NewPages returns the page sealer of one database.
func NewPages(key Key) *Pages {
	return newPages(key.Derive("page"), key.Derive("head"))
}

func newPages(pageKey, headKey Key) *Pages {
	p := &Pages{}
	p.block, _ = aes.NewCipher(pageKey[:]) // the length is fixed
	p.head, _ = aes.NewCipher(headKey[:])
	p.block.Encrypt(p.k1[:], p.k1[:])
	// K1 is L shifted left by one, reduced in GF(2^128) (SP 800-38B, 6.1).
	var carry byte
	for i := 15; i >= 0; i-- {
		next := p.k1[i] >> 7
		p.k1[i] = p.k1[i]<<1 | carry
		carry = next
	}
	p.k1[15] ^= carry * 0x87
	return p
}

// aead derives the AES-256-GCM key of one nonce (C2SP XAES-256-GCM).
func (p *Pages) aead(nonce []byte) cipher.AEAD {
	var m [32]byte
	m[1], m[2] = 1, 'X'
	copy(m[4:16], nonce[:12])
	m[17], m[18] = 2, 'X'
	copy(m[20:], nonce[:12])
	for i := range p.k1 {
		m[i] ^= p.k1[i]
		m[16+i] ^= p.k1[i]
	}
	p.block.Encrypt(m[:16], m[:16])
	p.block.Encrypt(m[16:], m[16:])
	return newGCM(m[:])
}

// Seal writes the sealed form of page to dst, both of the same length. The
// last PageReserve bytes of page are not kept.
func (p *Pages) Seal(dst, page, context []byte) {
	n := len(page) - PageReserve
	var nonce [24]byte
	rand.Read(nonce[:])
	var tail [Tag]byte
	out := p.aead(nonce[:]).Seal(dst[:0], nonce[12:], page[:n], context)
	copy(tail[:], out[n:])
	copy(dst[n:], nonce[:])
	copy(dst[n+24:], tail[:])
}

// Open opens a sealed page in place and clears its reserved bytes.
func (p *Pages) Open(page, context []byte) error {
	n := len(page) - PageReserve
	if n < 0 {
		return ErrOpen
	}
	var nonce [24]byte
	copy(nonce[:], page[n:])
	copy(page[n:], page[n+24:])
	if _, err := p.aead(nonce[:]).Open(page[:0], nonce[12:], page[:n+Tag], context); err != nil {
		return ErrOpen
	}
	clear(page[n:])
	return nil
}

// tweak is the place enciphered, for XEX blocks.
func (p *Pages) tweak(place uint64) (t [16]byte) {
	binary.BigEndian.PutUint64(t[:], place)
	p.head.Encrypt(t[:], t[:])
	return t
}

// SealHead enciphers a header of 16 to 32 bytes in place, tied to its place
// but without a tag: what it says is authenticated with the page behind it.
func (p *Pages) SealHead(h []byte, place uint64) {
	t := p.tweak(place)
	for _, at := range [2]int{0, len(h) - 16} {
		x := h[at : at+16]
		xor(x, &t)
		p.head.Encrypt(x, x)
		xor(x, &t)
	}
}

// OpenHead reverses SealHead.
func (p *Pages) OpenHead(h []byte, place uint64) {
	t := p.tweak(place)
	for _, at := range [2]int{len(h) - 16, 0} {
		x := h[at : at+16]
		xor(x, &t)
		p.head.Decrypt(x, x)
		xor(x, &t)
	}
}

func xor(x []byte, t *[16]byte) {
	for i := range t {
		x[i] ^= t[i]
	}
}
