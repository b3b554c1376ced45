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
	out := c.enc.EncodeAll(b, c.buffer())
	return out, len(out) < len(b)-len(b)/50
}

// buffer returns an empty buffer, perhaps with room. It is given back with
// release.
func (c *compressor) buffer() []byte {
	if buf, ok := c.bufs.Get().(*[]byte); ok {
		return (*buf)[:0]
	}
	return nil
}

func (c *compressor) release(b []byte) {
	if cap(b) <= pooled {
		c.bufs.Put(&b)
	}
}

// expand returns exactly size bytes or an error.
//
// The fast half of the decoder knows no dictionaries. So an object of usual
// size is decoded as if the dictionary were its first block, uncompressed.
func (c *compressor) expand(b []byte, size int64) ([]byte, error) {
	if size > maxContent {
		return nil, fmt.Errorf("an object of %d bytes", size)
	}
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return nil, err
	}
	if h.DictionaryID != dictionaryID || h.HasCheckSum || size > pooled {
		return c.dec.DecodeAll(b, make([]byte, 0, size))
	}
	total := len(dictionary) + int(size)
	buf := c.buffer()
	defer func() { c.release(buf) }()
	buf, _ = (&zstd.Header{SingleSegment: true, FrameContentSize: uint64(total)}).AppendTo(buf)
	buf = append(buf, byte(len(dictionary)<<3), byte(len(dictionary)>>5), byte(len(dictionary)>>13)) // RFC 8878, 3.1.1.2: not the last, raw
	buf = append(append(buf, dictionary...), b[h.HeaderSize:]...)
	out, err := c.dec.DecodeAll(buf, make([]byte, 0, total))
	if err != nil {
		return nil, err
	}
	return out[len(dictionary):], nil
}

// maxContent bounds the content of an object in bytes; a message is refused
// before it gets near.
const maxContent = 1 << 30
