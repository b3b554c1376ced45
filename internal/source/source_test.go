package source

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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

// What is sent is read like files: from any place, each message by its place.
func TestUpload(t *testing.T) {
	var z bytes.Buffer
	zw := zip.NewWriter(&z)
	for _, name := range []string{"in/a.eml", "in/b.eml", "__MACOSX/x", "notes.txt"} {
		w, err := zw.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, "%s\n\nFrom %s", map[bool]string{true: "From: a@example.org\nSubject: x", false: "nothing"}[strings.HasSuffix(name, ".eml")], name)
	}
	zw.Close()
	u := Upload{Folder: "Old"}
	for _, f := range []struct {
		name string
		b    []byte
	}{{"sales.mbox", threeMails()}, {"all.zip", z.Bytes()}, {"cut.zip", z.Bytes()[:z.Len()-30]}, {"box.gz", zipped(t, threeMails())}, {"mails.tar", tarred(t, []byte("From: a@example.org\nSubject: x\n\ny\n"))},
		{"one.eml", []byte("From: a@example.org\nSubject: x\n\ny\n")}, {"empty.eml", nil}, {"a.exe", []byte("MZ\x00")}, {".DS_Store", []byte("x")}, {"old.pst", []byte("!BDN")}} {
		u.Files = append(u.Files, Sent{Name: f.name, Size: int64(len(f.b)), Content: bytes.NewReader(f.b)})
	}
	var got []string
	if err := u.Walk(t.Context(), nil, func(i Item) bool {
		what := i.Folder
		if i.Skip != "" {
			what = "skip: " + i.Skip
		}
		if i.Err != nil {
			what = "fail: " + i.Err.Error()
		}
		at, _, _ := strings.Cut(i.Where, "@")
		got = append(got, at+" > "+what)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	want := strings.Split(`upload sales.mbox > Old/sales
upload sales.mbox > Old/sales
upload sales.mbox > Old/sales
upload all.zip!in/a.eml > Old/in
upload all.zip!in/b.eml > Old/in
upload all.zip!__MACOSX/x > skip: not mail (a file of the operating system)
upload all.zip!notes.txt > skip: not mail
upload cut.zip > fail: a ZIP that was cut off or is damaged; the list of what is in it stands at its end: zip: not a valid zip file
upload box.gz > Old/box
upload box.gz > Old/box
upload box.gz > Old/box
upload mails.tar!0.eml > Old
upload one.eml > Old
upload empty.eml > skip: an empty file
upload a.exe > skip: not mail
upload .DS_Store > skip: not mail (a file of the operating system)
upload old.pst > skip: an Outlook PST file; these are not read yet`, "\n")
	if !slices.Equal(got, want) {
		t.Errorf("it yields\n%s", strings.Join(got, "\n"))
	}
}

// In archives the kind of a file is told by its content too; hard links are
// messages of their own folders, and nothing is passed over in silence.
func TestArchivesTellAll(t *testing.T) {
	mail := []byte("From: a@example.org\nSubject: x\n\ntext\n")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h *tar.Header, body []byte) {
		t.Helper()
		h.Mode, h.Size = 0o600, int64(len(body))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	put(&tar.Header{Name: "md/cur/1700000000.M1.host:2,S", Typeflag: tar.TypeReg}, mail)
	put(&tar.Header{Name: "md/.Sent/cur/1700000000.M1.host:2,S", Typeflag: tar.TypeLink, Linkname: "md/cur/1700000000.M1.host:2,S"}, nil)
	put(&tar.Header{Name: "lost", Typeflag: tar.TypeLink, Linkname: "nowhere"}, nil)
	put(&tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "md"}, nil)
	put(&tar.Header{Name: "new/box.mbox", Typeflag: tar.TypeReg}, threeMails())
	put(&tar.Header{Name: "new/notes.txt", Typeflag: tar.TypeReg}, []byte("not mail\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"tar": b.Bytes(), "tar.gz": zipped(t, b.Bytes())} {
		good, failed, where := walk(t, b, "")
		if good != 5 || failed != 1 || len(where) != 8 {
			t.Errorf("%s: %d read, %d failed: %q", name, good, failed, where)
		}
	}
	var z bytes.Buffer
	zw := zip.NewWriter(&z)
	for name, flags := range map[string]uint16{"cur/box.mbox": 0, "secret.eml": encryptedZip} {
		f, err := zw.CreateHeader(&zip.FileHeader{Name: name, Flags: flags, Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		f.Write(threeMails())
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	if good, failed, where := walk(t, z.Bytes(), ""); good != 3 || failed != 1 {
		t.Errorf("zip: %d read, %d failed: %q", good, failed, where)
	}
}

// Files beside a Maildir's messages are read, but for those of the mail server,
// which are named.
func TestBesideAMaildir(t *testing.T) {
	dir := t.TempDir()
	for name, b := range map[string][]byte{"cur/1700000000.M1.host:2,S": []byte("From: a\n\nx\n"), "tmp-old.mbox": threeMails(), "dovecot-export.eml": []byte("From: a@example.org\nSubject: x\n\ntext\n"), "dovecot-uidlist": []byte("3 V1\n"), "subscriptions": []byte("Sent\n")} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "new"), 0o700), os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	good, skipped := 0, 0
	if err := Files(t.Context(), []string{dir}, Options{}, func(i Item) bool {
		if i.Skip != "" {
			skipped++
		} else if i.Err == nil {
			good++
		}
		return true
	}); err != nil || good != 5 || skipped != 2 {
		t.Errorf("%d read, %d skipped, %v", good, skipped, err)
	}
}
