package spool

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
)

func TestSpool(t *testing.T) {
	const words = "words of a message"
	for _, size := range []int{0, 1, Chunk - 1, Chunk, Chunk + 1, 3 * Chunk, 3*Chunk + 77} {
		dir := t.TempDir()
		s := New(dir, "test")
		want := bytes.Repeat([]byte(words+"\r\n"), size/len(words)+1)[:size]
		for from := 0; from < size; from += 10_007 {
			if n, err := s.Write(want[from:min(size, from+10_007)]); err != nil || n != min(size-from, 10_007) {
				t.Fatal(n, err)
			}
		}
		if s.f != nil {
			file := make([]byte, 4*Chunk)
			n, _ := s.f.ReadAt(file, 0)
			if n == 0 || bytes.Contains(file, []byte(words)) {
				t.Error("the file is not sealed")
			}
		} else if size > Chunk {
			t.Errorf("%d bytes are in memory", size)
		}
		if got := s.Size(); got != int64(size) {
			t.Errorf("%d bytes: the size is %d", size, got)
		}
		for range 2 {
			if got, err := io.ReadAll(io.NewSectionReader(s, 0, s.Size())); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes: %d came back, %v", size, len(got), err)
			}
		}
		// From any place, across the borders of chunks, and to the end.
		for at := 0; at < size; at += Chunk/2 - 3 {
			b := make([]byte, Chunk)
			n, err := s.ReadAt(b, int64(at))
			if rest := want[at:min(size, at+Chunk)]; !bytes.Equal(b[:n], rest) || (err == io.EOF) != (len(rest) < Chunk) {
				t.Errorf("%d bytes from %d: %d came back, %v", size, at, n, err)
			}
		}
		if n, err := s.ReadAt(make([]byte, 1), int64(size)); n != 0 || err != io.EOF {
			t.Errorf("behind the end: %d, %v", n, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if es, _ := os.ReadDir(dir); len(es) > 0 {
			t.Errorf("%d bytes left %v", size, es)
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, ErrClosed) {
			t.Error("a closed spool is written to:", err)
		}
		if _, err := s.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrClosed) {
			t.Error("a closed spool is read:", err)
		}
	}
}

// A changed chunk, or one at another place, is not read.
func TestChanged(t *testing.T) {
	for name, change := range map[string]func(*Spool){
		"changed": func(s *Spool) { s.f.WriteAt([]byte{1, 2, 3, 4}, 100) },
		"swapped": func(s *Spool) {
			b := make([]byte, sealedChunk)
			s.f.ReadAt(b, sealedChunk)
			s.f.WriteAt(b, 0)
		},
	} {
		s := New(t.TempDir(), "test")
		s.Write(make([]byte, 2*Chunk+1))
		change(s)
		if _, err := s.ReadAt(make([]byte, 1), 0); err == nil {
			t.Errorf("%s: it is read", name)
		}
		if _, err := s.ReadAt(make([]byte, 1), Chunk); err != nil {
			t.Errorf("%s: the other chunk: %v", name, err)
		}
		s.Close()
	}
	s := New(t.TempDir()+"/missing", "test")
	if _, err := s.Write(make([]byte, 2*Chunk)); err == nil {
		t.Error("it was written to a folder that is not there")
	}
}
