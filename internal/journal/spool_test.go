package journal

import (
	"bytes"
	"io"
	"os"
	"testing"
)

func TestSpool(t *testing.T) {
	const words = "words of a message"
	for _, size := range []int{0, 1, spoolChunk - 1, spoolChunk, spoolChunk + 1, 3 * spoolChunk, 3*spoolChunk + 77} {
		dir := t.TempDir()
		s, err := SealedSpool(dir)()
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte(words+"\r\n"), size/len(words)+1)[:size]
		for from := 0; from < size; from += 10_007 {
			if n, err := s.Write(want[from:min(size, from+10_007)]); err != nil || n != min(size-from, 10_007) {
				t.Fatal(n, err)
			}
		}
		if f := s.(*spool).f; f != nil {
			file := make([]byte, 4*spoolChunk)
			n, _ := f.ReadAt(file, 0)
			if n == 0 || bytes.Contains(file, []byte(words)) {
				t.Error("the file is not sealed")
			}
		} else if size > spoolChunk {
			t.Errorf("%d bytes are in memory", size)
		}
		r, err := s.Reader()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d came back, %v", size, len(got), err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if es, _ := os.ReadDir(dir); len(es) > 0 {
			t.Errorf("%d bytes left %v", size, es)
		}
	}
	s, _ := SealedSpool(t.TempDir())()
	s.Write(make([]byte, 2*spoolChunk+1))
	s.(*spool).f.WriteAt([]byte{1}, 100)
	r, _ := s.Reader()
	if _, err := io.ReadAll(r); err == nil {
		t.Error("a changed file is read")
	}
	s.Close()
	s, _ = SealedSpool(t.TempDir() + "/missing")()
	if _, err := s.Write(make([]byte, 2*spoolChunk)); err == nil {
		t.Error("it was written to a folder that is not there")
	}
}
