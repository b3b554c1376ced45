package pack

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/letterhold/letterhold/internal/seal"
)

func sample() *Frame {
	now := time.UnixMilli(1772366400123).UTC()
	return &Frame{
		Number: 7, Time: now, FirstLeaf: 1000,
		Entries:     []Entry{{ID: seal.ID{1}, Type: seal.TypeSkeleton, Offset: 5, Sealed: 600, Plain: 900, Key: seal.Key{9}}, {ID: seal.ID{2}, Type: seal.TypePart, Sealed: 1, Stored: true}},
		Leaves:      [][]byte{Leaf{Kind: KindMessage, Time: now}.Encode(), Leaf{Kind: KindAct, Time: now}.Encode()},
		Messages:    []Message{{Leaf: 1000, ID: seal.ID{3}, Skeleton: seal.ID{1}, Parts: []seal.ID{{2}}, Size: 10, Salt: [16]byte{4}, Row: 1 << 50, DateRule: DateReceived, Arrived: now, Partial: true}},
		Occurrences: []Occurrence{{Row: 1 << 50, Folder: 2, UID: 3, Source: 1, Where: "cur/x", Flags: `\Seen`, Internal: now, ModSeq: 12}},
		Envelopes:   []Envelope{{Row: 1 << 50, Key: -7, Source: 1, Where: "report@example.org", Time: now, Sender: "a@example.org", Recipients: []Recipient{{"b@example.org", "bcc", "list@example.org", ""}, {Address: "c@example.org", Forwarded: "d@example.org"}}, Report: []byte{1, 2}, Open: true}},
		Folders:     []Folder{{ID: 2, Mailbox: 1, Name: "Archive/2026", UIDValidity: 77}},
		Sources:     []Source{{ID: 1, Name: "import"}},
		Acts:        []Act{{Leaf: 1001, Salt: [16]byte{5}, State: 3, Detail: []byte(`{"act":"x"}`)}},
	}
}

func TestFrame(t *testing.T) {
	f := sample()
	g, err := DecodeFrame(f.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if f.Entries[0].Key != g.Entries[0].Key {
		t.Error("the key does not come back")
	}
	if d := cmp.Diff(f, g); d != "" {
		t.Error(d)
	}
}

func TestLeaf(t *testing.T) {
	l := Leaf{Kind: KindAct, Time: time.UnixMilli(99).UTC(), Commitment: Commit(KindAct, [16]byte{1}, [32]byte{2})}
	got, err := DecodeLeaf(l.Encode())
	if err != nil || got != l {
		t.Fatal(got, err)
	}
}

func TestBase64(t *testing.T) {
	plain := make([]byte, 70_001)
	rand.Read(plain)
	for _, f := range []Base64{{Line: 76}, {Line: 76, LF: true, Last: "\n"}, {Line: 60, Last: "\r\n"}, {Line: 73, LF: true}, {Line: 4}} {
		text := AppendBase64(nil, plain, &f)
		got, form, ok := DecodeBase64(text)
		if !ok || !bytes.Equal(got, plain) {
			t.Fatalf("%+v is not recognised", f)
		}
		if *form != f {
			t.Errorf("got %+v, want %+v", *form, f)
		}
	}
	whole := base64.StdEncoding.EncodeToString(plain)
	if _, form, ok := DecodeBase64([]byte(whole)); !ok || form.Line != len(whole) {
		t.Error("one long line is not recognised")
	}
	for _, s := range []string{"", "\n", "a", "YQ==\n\n", "YQ==x", "YQ=", "YR==", " YQ==", "YWJj\nYQ==\r\n", "YWJj\r\nYWJjZGVm", "YWJj\n\nYWJj", "-\n"} {
		if got, f, ok := DecodeBase64([]byte(s)); ok {
			t.Errorf("%q was taken as base64 of %q (%+v)", s, got, f)
		}
	}
}

func FuzzDecodeBase64(f *testing.F) {
	for _, s := range []string{"YQ==\n", "YWJjZGVm\r\nYQ==\r\n", strings.Repeat("A", 80)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if plain, form, ok := DecodeBase64(b); ok && !bytes.Equal(AppendBase64(nil, plain, form), b) {
			t.Fatalf("%q does not rebuild", b)
		}
	})
}

func FuzzDecodeFrame(f *testing.F) {
	f.Add(sample().Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if fr, err := DecodeFrame(b); err == nil {
			if _, err := DecodeFrame(fr.Encode()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzDecodeSkeleton(f *testing.F) {
	f.Add(Skeleton{{Text: []byte("From: a\r\n\r\n")}, {Object: seal.ID{1}, Size: 9000, Base64: &Base64{Line: 76}}, {Text: []byte("abc"), Base64: &Base64{Line: 4, LF: true, Last: "\n"}}}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := DecodeSkeleton(b)
		if err != nil {
			return
		}
		again, err := DecodeSkeleton(k.Encode())
		if err != nil || len(again) != len(k) {
			t.Fatal("a skeleton does not survive its own encoding", err)
		}
	})
}
