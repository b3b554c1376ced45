package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// noise is text that does not compress well.
func noise(seed byte, lines int) string {
	var b strings.Builder
	r := rand.NewChaCha8([32]byte{seed})
	for range lines {
		fmt.Fprintf(&b, "%016x%016x\n", r.Uint64(), r.Uint64())
	}
	return b.String()
}

// threeMails is an mbox.
func threeMails() []byte {
	var b bytes.Buffer
	for i := range 3 {
		fmt.Fprintf(&b, "From a@example.org Thu Mar 12 09:14:00 2026\nFrom: a@example.org\nSubject: %d\n\n%s\n\n", i, noise(byte(i), 400))
	}
	return b.Bytes()
}

func zipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func tarred(t *testing.T, files ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i, b := range files {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%d.eml", i), Mode: 0o600, Size: int64(len(b)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// walk writes a file, walks it, and says what came of it.
func walk(t *testing.T, b []byte, after string) (good, failed int, where []string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if after != "" {
		after = name + after
	}
	if err := Files(context.Background(), []string{name}, Options{After: after}, func(i Item) bool {
		if i.Err != nil {
			failed++
		} else if i.Skip == "" {
			good++
		}
		where = append(where, strings.TrimPrefix(i.Where, name))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return good, failed, where
}

// What can be read of a file that was cut off is read, however small it is, and
// the rest is named as failed.
func TestCutOff(t *testing.T) {
	box := zipped(t, threeMails())
	var mails [][]byte
	for i := range byte(3) {
		mails = append(mails, []byte("From: a@example.org\nSubject: x\n\n"+noise(i, 900)))
	}
	bundle := zipped(t, tarred(t, mails...))
	for name, b := range map[string][]byte{"mbox.gz": box, "tar.gz": bundle} {
		if good, failed, where := walk(t, b, ""); good != 3 || failed != 0 {
			t.Errorf("%s: %d read, %d failed: %v", name, good, failed, where)
		}
	}
	cut := zipped(t, append(threeMails(), []byte("From a@example.org Thu Mar 12 09:14:00 2026\nSubject: 4\n\nthe last one\n")...))
	if good, failed, where := walk(t, cut[:len(cut)-12], ""); good < 2 || failed != 1 {
		t.Errorf("mbox.gz, cut off: %d read, %d failed: %v", good, failed, where)
	}
	if good, failed, where := walk(t, bundle[:len(bundle)*2/3], ""); good < 1 || failed < 1 {
		t.Errorf("tar.gz, cut off: %d read, %d failed: %v", good, failed, where)
	}
	if good, failed, where := walk(t, box[:12], ""); good != 0 || failed != 1 {
		t.Errorf("a few bytes: %d read, %d failed: %v", good, failed, where)
	}
}

// A walk goes on behind the message of an mbox at which it was interrupted,
// from there and not from the beginning of the file.
func TestGoOnInMbox(t *testing.T) {
	box := threeMails()
	_, _, all := walk(t, box, "")
	for i, at := range all {
		_, _, rest := walk(t, box, at)
		if i == len(all)-1 {
			if len(rest) != 0 {
				t.Errorf("behind the last: %v", rest)
			}
			continue
		}
		if fmt.Sprint(rest) != fmt.Sprint(all[i+1:]) {
			t.Errorf("behind %s: %v, want %v", at, rest, all[i+1:])
		}
		// Damage before the place shows that it is not read again.
		var offset int
		fmt.Sscanf(at, "@%d", &offset)
		if offset > 100 {
			cut := bytes.Clone(box)
			copy(cut[80:offset-1], bytes.Repeat([]byte("From x Thu Mar 12 09:14:00 2026\n"), offset/32))
			if _, _, rest := walk(t, cut, at); fmt.Sprint(rest) != fmt.Sprint(all[i+1:]) {
				t.Errorf("behind %s: the beginning was read again: %v", at, rest)
			}
		}
	}
	if _, _, rest := walk(t, box, "@7"); fmt.Sprint(rest) != fmt.Sprint(all) {
		t.Errorf("behind a place that is gone: %v", rest)
	}
}
