package seal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestSealOpen(t *testing.T) {
	for _, n := range []int{0, 1, 100, Chunk - 1, Chunk, Chunk + 1, 3 * Chunk, 3*Chunk + 7} {
		key, plain := NewKey(), bytes.Repeat([]byte("letter"), n/6+1)[:n]
		sealed := Seal(nil, key, []byte("ctx"), plain)
		if len(sealed) != SealedSize(n) {
			t.Fatalf("%d bytes: sealed to %d, SealedSize says %d", n, len(sealed), SealedSize(n))
		}
		got, err := Open(nil, key, []byte("ctx"), sealed)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes do not come back: %v", n, err)
		}
		if _, err := Open(nil, key, []byte("other"), sealed); !errors.Is(err, ErrOpen) {
			t.Errorf("%d bytes open in another context", n)
		}
		if _, err := Open(nil, NewKey(), []byte("ctx"), sealed); !errors.Is(err, ErrOpen) {
			t.Errorf("%d bytes open under another key", n)
		}
		for _, cut := range []int{1, Tag, Chunk + Tag} {
			if cut < len(sealed) {
				if _, err := Open(nil, key, []byte("ctx"), sealed[:len(sealed)-cut]); err == nil {
					t.Errorf("%d bytes open with %d bytes cut off", n, cut)
				}
			}
		}
		if _, err := Open(nil, key, []byte("ctx"), append(bytes.Clone(sealed), 0)); err == nil {
			t.Errorf("%d bytes open when extended", n)
		}
		for at := 0; at < len(sealed); at += 1 + len(sealed)/200 {
			bad := bytes.Clone(sealed)
			bad[at] ^= 1
			if _, err := Open(nil, key, []byte("ctx"), bad); err == nil {
				t.Fatalf("%d bytes open with byte %d changed", n, at)
			}
		}
	}
}

func TestOpenChunksSwapped(t *testing.T) {
	key := NewKey()
	s := Seal(nil, key, nil, bytes.Repeat([]byte{1}, 3*Chunk))
	const c = Chunk + Tag
	swapped := bytes.Clone(s)
	copy(swapped[Commitment:], s[Commitment+c:Commitment+2*c])
	copy(swapped[Commitment+c:], s[Commitment:Commitment+c])
	if _, err := Open(nil, key, nil, swapped); err == nil {
		t.Fatal("chunks in another order open")
	}
	if _, err := Open(nil, key, nil, s[:Commitment+2*c]); err == nil {
		t.Fatal("an object without its last chunk opens")
	}
}

func TestBox(t *testing.T) {
	key := NewKey()
	box := SealBox(key, []byte("a"), []byte("secret"))
	if got, err := OpenBox(key, []byte("a"), box); err != nil || string(got) != "secret" {
		t.Fatal(err)
	}
	if _, err := OpenBox(key, []byte("b"), box); err == nil {
		t.Fatal("opens in another context")
	}
	for at := range box {
		bad := bytes.Clone(box)
		bad[at] ^= 0x80
		if _, err := OpenBox(key, []byte("a"), bad); err == nil {
			t.Fatalf("opens with byte %d changed", at)
		}
	}
}

// The vectors are those of C2SP XAES-256-GCM.
func TestPagesAreXAES(t *testing.T) {
	key := Key(bytes.Repeat([]byte{1}, KeySize))
	p := newPages(key, key)
	nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
	got := p.aead(nonce).Seal(nil, nonce[12:], []byte("XAES-256-GCM"), nil)
	if want := "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"; hex.EncodeToString(got) != want {
		t.Errorf("got %x, want %s", got, want)
	}
}

func TestPages(t *testing.T) {
	p := NewPages(NewKey())
	page := make([]byte, 8192)
	copy(page, "a page of a database")
	sealed := make([]byte, len(page))
	p.Seal(sealed, page, []byte("1"))
	for at := 0; at < len(sealed); at += 37 {
		bad := bytes.Clone(sealed)
		bad[at] ^= 4
		if p.Open(bad, []byte("1")) == nil {
			t.Fatalf("opens with byte %d changed", at)
		}
	}
	if p.Open(bytes.Clone(sealed), []byte("2")) == nil {
		t.Fatal("opens at another place")
	}
	if err := p.Open(sealed, []byte("1")); err != nil || !bytes.Equal(sealed, page) {
		t.Fatal("does not come back", err)
	}
	for _, n := range []int{24, 32} {
		h := make([]byte, n)
		copy(h, "header of a frame")
		want := bytes.Clone(h)
		p.SealHead(h, 32)
		if bytes.Contains(h, []byte("head")) {
			t.Fatal("the header is readable")
		}
		p.OpenHead(h, 32)
		if !bytes.Equal(h, want) {
			t.Fatal("the header does not come back")
		}
	}
}

func TestKeyNeverPrints(t *testing.T) {
	k := NewKey()
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "key", k)
	fmt.Fprintf(&b, "%v %x %s %d %+v %#v %q", k, k, k, k, k, k, k)
	fmt.Fprintf(&b, "%v %+v", struct{ K Key }{k}, &k)
	s := Secret{KindPassphrase, []byte("abcdefgh")}
	fmt.Fprintf(&b, "%v %s %#v", s, s, s)
	for _, leak := range []string{hex.EncodeToString(k[:4]), fmt.Sprint(k[0], " ", k[1]), "abcdefgh", "97 98 99"} {
		if strings.Contains(b.String(), leak) {
			t.Errorf("%q in %s", leak, b.String())
		}
	}
}

func TestKeyFile(t *testing.T) {
	about := []byte(`{"format":1}`)
	ring := NewRing()
	f := NewKeyFileFor("archive-1")
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	pass, _ := Passphrase("a passphrase of some length")
	file, err := ParseKeyFile(KindKeyFile, NewKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	rec, words := NewRecovery()
	for _, s := range []Secret{pass, file, rec} {
		if _, err := f.AddSlot(ring, s, "", WeakCost, now); err != nil {
			t.Fatal(err)
		}
	}
	b := f.Encode(ring, about)
	g, err := ParseKeys(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseRecovery("1. " + strings.ToUpper(strings.Join(words, "\n ")))
	if err != nil {
		t.Fatal(err)
	}
	systemd := file
	systemd.Kind = KindSystemd
	for _, s := range []Secret{pass, file, rec, again, systemd} {
		r, _, err := g.Open(s, about)
		if err != nil {
			t.Fatalf("%v: %v", s, err)
		}
		if r.Root != ring.Root || r.Current(PurposeID) != ring.Current(PurposeID) {
			t.Fatalf("%v opens another ring", s)
		}
	}
	wrong, _ := Passphrase("another passphrase of some length")
	if _, _, err := g.Open(wrong, about); !errors.Is(err, ErrWrongKey) {
		t.Fatalf("wrong passphrase: %v", err)
	}
	if _, _, err := g.Open(pass, []byte("{}")); !errors.Is(err, ErrChanged) {
		t.Fatalf("changed archive.json: %v", err)
	}
	for at := range b {
		bad := bytes.Clone(b)
		bad[at] ^= 2
		h, err := ParseKeys(bad)
		if err != nil {
			continue
		}
		if _, _, err := h.Open(file, about); err == nil {
			t.Fatalf("byte %d of keys.json (%q) can be changed unnoticed", at, b[at])
		}
	}
}

func TestWeakPassphraseRefused(t *testing.T) {
	s, err := Passphrase("too short")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewKeyFileFor("a").AddSlot(NewRing(), s, "", WeakCost, time.Now()); err == nil {
		t.Fatal("a passphrase of nine characters was accepted")
	}
}

func TestParseRecoveryNamesTheWord(t *testing.T) {
	_, words := NewRecovery()
	words[6] = "letterhold"
	if _, err := ParseRecovery(strings.Join(words, " ")); err == nil || !strings.Contains(err.Error(), "word 7") {
		t.Fatalf("got %v", err)
	}
	if _, err := ParseRecovery(strings.Join(words[:23], " ")); err == nil || !strings.Contains(err.Error(), "23") {
		t.Fatalf("got %v", err)
	}
}

func FuzzParseKeys(f *testing.F) {
	ring, kf := NewRing(), NewKeyFileFor("a")
	s, _ := ParseKeyFile(KindKeyFile, NewKeyFile())
	kf.AddSlot(ring, s, "label", WeakCost, time.Unix(0, 0))
	f.Add(kf.Encode(ring, nil))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParseKeys(b); err == nil {
			k.Open(s, nil)
		}
	})
}

func FuzzOpen(f *testing.F) {
	key := Key{}
	f.Add(Seal(nil, key, nil, []byte("hello")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := Open(nil, key, nil, b); err == nil && !bytes.Equal(Seal(nil, key, nil, p), b) {
			t.Fatal("two ciphertexts for one plaintext")
		}
	})
}

func BenchmarkSeal10K(b *testing.B) {
	plain, dst := make([]byte, 5000), []byte(nil)
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		dst = Seal(dst[:0], NewKey(), nil, plain)
	}
}
