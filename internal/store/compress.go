package store

import (
	_ "embed"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// dictionary is made of header names and boilerplate, of nobody's mail. It is
// part of the format: a change needs a new dictionary id beside this one.
//
//go:embed dictionary.txt
var dictionary []byte

// dictionaryID is written into each zstd frame.
const dictionaryID = 0x4C480001

// compressor is zstd for each object alone: no window is shared between
// messages, so no sender can measure other people's mail by sizes.
type compressor struct {
	enc  *zstd.Encoder
	dec  *zstd.Decoder
	bufs sync.Pool
}

func newCompressor() *compressor {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
		zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(true), zstd.WithEncoderDictRaw(dictionaryID, dictionary))
	if err != nil {
		panic(err) // options are constant
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderDictRaw(dictionaryID, dictionary), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err)
	}
	return &compressor{enc: enc, dec: dec}
}

// pooled is the largest buffer kept for the next object, in bytes.
const pooled = 1 << 20

// compress returns the compressed form and whether it is worth having. The
// result is given back with release.
func (c *compressor) compress(b []byte) ([]byte, bool) {
	buf, _ := c.bufs.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	out := c.enc.EncodeAll(b, (*buf)[:0])
	return out, len(out) < len(b)-len(b)/50
}

func (c *compressor) release(b []byte) {
	if cap(b) <= pooled {
		c.bufs.Put(&b)
	}
}

// expand returns exactly size bytes or an error.
func (c *compressor) expand(b []byte, size int64) ([]byte, error) {
	if size > maxContent {
		return nil, fmt.Errorf("an object of %d bytes", size)
	}
	return c.dec.DecodeAll(b, make([]byte, 0, size))
}

// maxContent bounds the content of an object in bytes; a message is refused
// before it gets near.
const maxContent = 1 << 30
