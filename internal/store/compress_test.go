package store

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Every frame that the format permits expands to what it was made of, whichever
// way it is decoded, and to nothing else.
func TestExpand(t *testing.T) {
	c := newCompressor()
	foreign, err := zstd.NewWriter(nil, zstd.WithEncoderDictRaw(dictionaryID, dictionary), zstd.WithEncoderCRC(true))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{100, 5_000, 200_000, pooled, pooled + 1} {
		plain := bytes.Clone(dictionary[:min(n, 2000)])
		for i := 0; len(plain) < n; i++ {
			plain = fmt.Appendf(plain, "line %d\n", i*i)
		}
		plain = plain[:n]
		ours, _ := c.compress(plain)
		for _, frame := range [][]byte{ours, foreign.EncodeAll(plain, nil)} {
			if got, err := c.expand(frame, int64(n)); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%d bytes: %d back, %v", n, len(got), err)
			}
			if _, err := c.expand(frame, int64(n-1)); err == nil {
				t.Errorf("%d bytes expand to fewer", n)
			}
			if _, err := c.expand(frame[:len(frame)-1], int64(n)); err == nil {
				t.Errorf("a frame of %d bytes that was cut expands", n)
			}
		}
	}
	for _, junk := range []string{"", "x", "\x28\xb5\x2f\xfd"} {
		if got, err := c.expand([]byte(junk), 10); err == nil && len(got) == 10 {
			t.Errorf("%q expands", junk)
		}
	}
}
