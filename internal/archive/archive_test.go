package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/store"
)

var ctx = context.Background()

// testNow is a clock that stands still.
var testNow = time.Date(2026, 3, 12, 9, 0, 0, 0, time.UTC)

func testOptions() Options {
	return Options{Now: func() time.Time { return testNow }, PackLimit: 20_000}
}

func create(t testing.TB, d durable.FS) *seal.Ring {
	t.Helper()
	ring, err := Create(d, testOptions(), func(k *seal.KeyFile, r *seal.Ring) error {
		s, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
		if err != nil {
			return err
		}
		_, err = k.AddSlot(r, s, "", seal.WeakCost, testNow)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func openArchive(t testing.TB, d durable.FS, ring *seal.Ring) *Archive {
	t.Helper()
	a, err := Open(d, ring, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func verifyClosed(t testing.TB, d durable.FS, ring *seal.Ring) *Report {
	t.Helper()
	o := testOptions()
	o.Strict = true
	a, err := Open(d, ring, o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	r, err := a.Verify(ctx, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustBeClean(t testing.TB, d durable.FS, ring *seal.Ring) {
	t.Helper()
	if r := verifyClosed(t, d, ring); !r.Clean() {
		t.Fatalf("problems: %+v", r.Problems)
	}
}

// noise is text that does not compress.
func noise(seed, n int) []byte {
	r := rand.New(rand.NewPCG(uint64(seed), 9))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// mails are messages that are hard to give back: each of them must come out as
// it went in.
func mails() map[string][]byte {
	b64 := func(seed, n, line int, end string) string {
		text := fmt.Sprintf("%x", noise(seed, n/2+1))[:n]
		var out strings.Builder
		enc := []byte(encode([]byte(text)))
		for len(enc) > line {
			out.Write(enc[:line])
			out.WriteString(end)
			enc = enc[line:]
		}
		out.Write(enc)
		return out.String()
	}
	head := "From: Ann <ann@example.org>\nTo: bob@example.org\nSubject: a letter\nDate: Thu, 12 Mar 2026 08:00:00 +0000\nMessage-ID: <1@example.org>\n"
	return map[string][]byte{
		"plain":        []byte(head + "\nhello\n"),
		"crlf":         []byte(strings.ReplaceAll(head+"\nhello\n", "\n", "\r\n")),
		"no newline":   []byte(head + "\nhello"),
		"empty":        {},
		"nul":          []byte(head + "\nhel\x00lo\x00"),
		"bare cr":      []byte(head + "\nhello\rthere\r"),
		"8bit header":  []byte("Subject: caf\xe9 \xff\xfe\n\nx"),
		"only body":    []byte("no header at all, just text\n"),
		"attachment":   []byte(head + "Content-Type: multipart/mixed; boundary=x\n\n--x\n\ntext\n--x\nContent-Type: application/pdf; name=a.pdf\nContent-Transfer-Encoding: base64\n\n" + b64(1, 30_000, 76, "\n") + "\n--x--\n"),
		"same part":    []byte(head + "X: other\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\nother text\n--x\nContent-Type: application/pdf; name=b.pdf\nContent-Transfer-Encoding: base64\n\n" + b64(1, 30_000, 76, "\n") + "\n--x--\n"),
		"odd lines":    []byte(head + "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Transfer-Encoding: base64\r\n\r\n" + b64(2, 20_000, 73, "\r\n") + "\r\n--x--"),
		"small base64": []byte(head + "Content-Transfer-Encoding: base64\n\n" + b64(3, 300, 60, "\n") + "\n\n\n"),
		"bad base64":   []byte(head + "Content-Transfer-Encoding: base64\nContent-Type: application/x\n\n" + b64(3, 20_000, 60, "\n") + "!!\n"),
		"8bit part":    append([]byte(head+"Content-Type: application/octet-stream\n\n"), noise(4, 50_000)...),
		"chunks":       append([]byte(head+"Content-Type: application/octet-stream\n\n"), noise(6, 200_000)...),
		"embedded":     []byte(head + "Content-Type: message/rfc822\n\n" + head + "Content-Transfer-Encoding: base64\nContent-Type: image/png\n\n" + b64(5, 12_000, 76, "\n")),
		"long line":    []byte(head + "\n" + strings.Repeat("x", 1<<20)),
	}
}

func encode(b []byte) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	var out strings.Builder
	for i := 0; i+2 < len(b); i += 3 {
		n := uint(b[i])<<16 | uint(b[i+1])<<8 | uint(b[i+2])
		out.Write([]byte{digits[n>>18], digits[n>>12&63], digits[n>>6&63], digits[n&63]})
	}
	return out.String()
}

func add(t testing.TB, a *Archive, raw []byte, mailbox int64, folder string) Result {
	t.Helper()
	r, err := a.Add(ctx, raw, Provenance{Mailbox: mailbox, Folder: folder, Source: "test", Where: "here"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mailbox(t testing.TB, a *Archive, name string) int64 {
	t.Helper()
	id, err := a.Mailbox(ctx, name, "test")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func rawOf(t testing.TB, a *Archive, id seal.ID) []byte {
	t.Helper()
	e, err := a.Catalog().Message(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := a.Raw(&e)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestBytesInBytesOut(t *testing.T) {
	d := crashfs.New()
	ring := create(t, d)
	a := openArchive(t, d, ring)
	mb := mailbox(t, a, "me")
	ids := map[string]seal.ID{}
	for name, raw := range mails() {
		r := add(t, a, raw, mb, "INBOX")
		if r.Outcome != Archived {
			t.Errorf("%s: outcome %v", name, r.Outcome)
		}
		ids[name] = r.ID
	}
	for range 2 {
		for name, raw := range mails() {
			if got := rawOf(t, a, ids[name]); !bytes.Equal(got, raw) {
				t.Errorf("%s: %d bytes in, %d out", name, len(raw), len(got))
			}
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		mustBeClean(t, d, ring)
		a = openArchive(t, d, ring)
		if a.Recovered.Unclean {
			t.Error("a closed archive counts as unclean")
		}
	}
	a.Close()
}

func TestIdentityAndOccurrences(t *testing.T) {
	d := crashfs.New()
	ring := create(t, d)
	a := openArchive(t, d, ring)
	defer a.Close()
	me, you := mailbox(t, a, "me"), mailbox(t, a, "you")
	raw := mails()["plain"]
	first := add(t, a, raw, me, "INBOX")
	for _, c := range []struct {
		mb     int64
		folder string
		isNew  bool
	}{{me, "INBOX", false}, {me, "Archive", true}, {you, "INBOX", true}, {you, "INBOX", false}} {
		r := add(t, a, raw, c.mb, c.folder)
		if r.Outcome != Present || r.NewOccurrence != c.isNew || r.Row != first.Row {
			t.Errorf("%d %s: %+v", c.mb, c.folder, r)
		}
	}
	twin := bytes.Replace(raw, []byte("hello"), []byte("other"), 1)
	if r := add(t, a, twin, me, "INBOX"); r.Outcome != Archived || r.Row == first.Row {
		t.Error("the same Message-ID with other bytes is not a message of its own")
	}
	os, err := a.Catalog().Occurrences(ctx, first.Row)
	if err != nil || len(os) != 3 {
		t.Fatal(os, err)
	}
	o, source, err := a.Occurrence(&os[0])
	if err != nil || source != "test" || o.Where != "here" {
		t.Error(o, source, err)
	}
	hits, err := a.Catalog().Visible(ctx, catalog.Scope{Mailboxes: []int64{you}}, []catalog.Row{first.Row, first.Row + 1})
	if err != nil || len(hits) != 1 || len(hits[0].Occurrences) != 1 {
		t.Error(hits, err)
	}
}

// What mail servers say of a message's deliveries is kept once for each report,
// for all mailboxes that it belongs to, survives a new catalog, and goes with
// the message.
func TestEnvelopes(t *testing.T) {
	d := crashfs.New()
	ring := create(t, d)
	a := openArchive(t, d, ring)
	me, you := mailbox(t, a, "me"), mailbox(t, a, "you")
	raw := mails()["plain"]
	var id seal.ID
	for key := range int64(4) {
		from := Provenance{Mailbox: me, Folder: "Sent", Also: []Spot{{you, "INBOX"}}, Source: "journal", Where: "r"}
		from.Envelope = &pack.Envelope{Key: key % 2, Where: fmt.Sprint(key), Sender: "me@example.org", Recipients: []pack.Recipient{{Address: "you@example.org", Kind: "bcc"}}, Report: []byte("r")}
		r, err := a.Add(ctx, raw, from)
		if err != nil || r.NewOccurrence != (key == 0) {
			t.Fatal(r, err)
		}
		id = r.ID
	}
	check := func() catalog.Entry {
		t.Helper()
		e, err := a.Catalog().Message(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		xs, err := a.Envelopes(ctx, e.Row)
		if err != nil || len(xs) != 2 || xs[0].Where != "0" || xs[1].Where != "1" || xs[1].Recipients[0].Kind != "bcc" {
			t.Fatalf("%+v, %v", xs, err)
		}
		if os, err := a.Catalog().Occurrences(ctx, e.Row); err != nil || len(os) != 2 || os[0].Mailbox == os[1].Mailbox {
			t.Fatal(os, err)
		}
		return e
	}
	check()
	if err := a.RebuildCatalog("test"); err != nil {
		t.Fatal(err)
	}
	e := check()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	ring, err := rereadRing(d, ring)
	if err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, d, ring)
	a = openArchive(t, d, ring)
	if err := a.Dispose(ctx, []seal.ID{id}, "test", "because"); err != nil {
		t.Fatal(err)
	}
	if xs, err := a.Envelopes(ctx, e.Row); err != nil || len(xs) != 0 {
		t.Fatal(xs, err)
	}
	if err := a.store.Frames(store.Position{}, a.store.Position().Commit, func(f *pack.Frame, _ store.Place) error {
		if len(f.Envelopes) > 0 {
			t.Error("an envelope outlives its message")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, d, ring)
}

func TestCatalogIsACache(t *testing.T) {
	d := crashfs.New()
	ring := create(t, d)
	a := openArchive(t, d, ring)
	mb := mailbox(t, a, "me")
	for _, raw := range mails() {
		add(t, a, raw, mb, "INBOX")
	}
	if err := a.RebuildCatalog("test"); err != nil {
		t.Fatal(err)
	}
	for _, raw := range mails() {
		if r := add(t, a, raw, mb, "INBOX"); r.Outcome != Present || r.NewOccurrence {
			t.Fatalf("after a rebuild: %+v", r)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	ring, err := rereadRing(d, ring)
	if err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, d, ring)
	if err := catalog.Remove(d, catalog.Name); err != nil {
		t.Fatal(err)
	}
	a = openArchive(t, d, ring)
	for _, raw := range mails() {
		if r := add(t, a, raw, mb, "INBOX"); r.Outcome != Present || r.NewOccurrence {
			t.Fatalf("after a loss: %+v", r)
		}
	}
	a.Close()
	mustBeClean(t, d, ring)
}

// rereadRing reads the ring again, as a new process would.
func rereadRing(d durable.FS, old *seal.Ring) (*seal.Ring, error) {
	_, head, err := ReadAbout(d)
	if err != nil {
		return nil, err
	}
	k, err := ReadKeys(d)
	if err != nil {
		return nil, err
	}
	return k.OpenRoot(old.Root, head)
}

func TestDisposeAndCompact(t *testing.T) {
	d := crashfs.New()
	ring := create(t, d)
	a := openArchive(t, d, ring)
	mb := mailbox(t, a, "me")
	ids := map[string]seal.ID{}
	for name, raw := range mails() {
		ids[name] = add(t, a, raw, mb, "INBOX").ID
	}
	if err := a.Dispose(ctx, []seal.ID{ids["attachment"], ids["8bit part"]}, "test", "because"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Catalog().Message(ctx, ids["attachment"]); !errors.Is(err, catalog.ErrNotFound) {
		t.Fatal(err)
	}
	if !bytes.Equal(rawOf(t, a, ids["same part"]), mails()["same part"]) {
		t.Fatal("a part that another message needs is gone")
	}
	freed, err := a.Compact(ctx, "test")
	if err != nil || freed < 50_000 {
		t.Fatal(freed, err)
	}
	for name, raw := range mails() {
		if name != "attachment" && name != "8bit part" && !bytes.Equal(rawOf(t, a, ids[name]), raw) {
			t.Errorf("%s is lost", name)
		}
	}
	if r := add(t, a, mails()["attachment"], mb, "INBOX"); r.Outcome != Archived {
		t.Errorf("archived again: %+v", r)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, d, ring)
}

func TestRotation(t *testing.T) {
	d := crashfs.New()
	ring := create(t, d)
	a := openArchive(t, d, ring)
	mb := mailbox(t, a, "me")
	for _, raw := range mails() {
		add(t, a, raw, mb, "INBOX")
	}
	if err := a.Rotate("test"); err != nil {
		t.Fatal(err)
	}
	id := add(t, a, []byte("Subject: later\n\nx"), mb, "INBOX").ID
	secret, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.RotateRoot("test", seal.WeakCost, secret); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(d, ring, testOptions()); err == nil {
		t.Fatal("the old root still opens the archive")
	}
	ring, _, err = Unlock(d, secret)
	if err != nil {
		t.Fatal(err)
	}
	a = openArchive(t, d, ring)
	if string(rawOf(t, a, id)) != "Subject: later\n\nx" {
		t.Fatal("a message is lost")
	}
	a.Close()
	mustBeClean(t, d, ring)
}

// scenario is an import with everything that moves on disk: commits, pack
// roll-over, a second mailbox, key rotation, disposal, compaction.
func scenario(a *Archive, acked map[seal.ID][]byte) error {
	mb, err := a.Mailbox(ctx, "me", "test")
	if err != nil {
		return err
	}
	put := func(i int) error {
		raw := fmt.Appendf(nil, "From: a@example.org\nSubject: %d\nDate: Thu, 12 Mar 2026 08:00:00 +0000\nContent-Type: application/x\n\n%x", i, noise(i, 9_000))
		r, err := a.Add(ctx, raw, Provenance{Mailbox: mb, Folder: fmt.Sprint("f", i%2), Source: "s", Envelope: &pack.Envelope{Key: int64(i), Sender: "a@example.org"}})
		if err == nil {
			acked[r.ID] = raw
		}
		return err
	}
	for i := range 5 {
		if err := put(i); err != nil {
			return err
		}
	}
	if err := a.Rotate("test"); err != nil {
		return err
	}
	var victim seal.ID
	for id := range acked {
		if victim == (seal.ID{}) || id.String() < victim.String() {
			victim = id
		}
	}
	delete(acked, victim)
	if err := a.Dispose(ctx, []seal.ID{victim}, "test", "because"); err != nil {
		return err
	}
	if _, err := a.Compact(ctx, "test"); err != nil {
		return err
	}
	return put(100)
}

// everyStop calls try for each number of operations after which run stops on a
// disk that fails from there on, a few at a time. With -short some are left out.
func everyStop(t *testing.T, step int, run func(d *crashfs.FS) error, base *crashfs.FS, try func(k int) error) {
	d := base.Copy()
	before := d.Ops()
	if err := run(d); err != nil {
		t.Fatal(err)
	}
	all := d.Ops() - before
	if testing.Short() {
		step *= 23
	}
	stops := make(chan int)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for k := range stops {
				if err := try(k); err != nil {
					t.Errorf("stop %d of %d: %v", k, all, err)
				}
			}
		})
	}
	for k := 1; k <= all && !t.Failed(); k += step {
		stops <- k
	}
	close(stops)
	wg.Wait()
	t.Logf("%d operations", all)
}

// afterCut opens what a power cut left, and checks that it is sound and has
// all that was acknowledged. The power fails once more after it was closed: a
// closed archive is durably closed.
func afterCut(after *crashfs.FS, ring *seal.Ring, acked map[seal.ID][]byte, seed uint64) error {
	b, err := Open(after, ring, testOptions())
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	for id, want := range acked {
		e, err := b.Catalog().Message(ctx, id)
		if err != nil {
			return fmt.Errorf("an acknowledged message is lost: %w", err)
		}
		if raw, err := b.Raw(&e); err != nil || !bytes.Equal(raw, want) {
			return fmt.Errorf("an acknowledged message is lost: %w", err)
		}
	}
	mb, err := b.Mailbox(ctx, "me", "test")
	if err == nil {
		_, err = b.Add(ctx, []byte("Subject: after\n\nx"), Provenance{Mailbox: mb, Folder: "INBOX"})
	}
	if err = errors.Join(err, b.Close()); err != nil {
		return err
	}
	return clean(after.Crash(seed), ring)
}

// clean tells whether verify finds nothing. It changes nothing.
func clean(d *crashfs.FS, ring *seal.Ring) error {
	o := testOptions()
	o.Strict = true
	a, err := Open(d, ring, o)
	if err != nil {
		return err
	}
	defer a.Close()
	r, err := a.Verify(ctx, VerifyOptions{})
	if err == nil && !r.Clean() {
		err = fmt.Errorf("problems: %+v", r.Problems)
	}
	return err
}

func seeds() uint64 {
	if soak() {
		return 4
	}
	return 1
}

// At every operation of the scenario the disk stops and the power is cut:
// afterwards the archive opens, is clean, and has all that was acknowledged.
func TestPowerCutAnywhere(t *testing.T) {
	t.Parallel()
	base := crashfs.New()
	ring := create(t, base)
	if err := openArchive(t, base, ring).Close(); err != nil {
		t.Fatal(err)
	}
	everyStop(t, 1, func(d *crashfs.FS) error {
		a, err := Open(d, ring, testOptions())
		if err != nil {
			return err
		}
		if err := scenario(a, map[seal.ID][]byte{}); err != nil {
			return err
		}
		if n := a.store.Position().Pack; n < 3 {
			return fmt.Errorf("the scenario fills %d packs only", n)
		}
		return a.Close()
	}, base, func(k int) error {
		d := base.Copy()
		acked := map[seal.ID][]byte{}
		d.StopAt(k)
		a, err := Open(d, ring, testOptions())
		if err == nil {
			scenario(a, acked)
			a.Close()
		}
		for seed := range seeds() {
			after := d.Crash(seed + uint64(k))
			now, err := rereadRing(after, ring)
			if err == nil {
				err = clean(after.Copy(), now) // what is unfinished is no damage
			}
			if err == nil {
				err = afterCut(after, now, acked, seed+uint64(k))
			}
			if err != nil {
				return fmt.Errorf("seed %d: %w", seed, err)
			}
		}
		return nil
	})
}

// The same for the change of the root key and of every key below it: the old
// root or the new secret opens the archive afterwards.
func TestPowerCutWhileTheRootChanges(t *testing.T) {
	t.Parallel()
	base := crashfs.New()
	ring := create(t, base)
	acked := map[seal.ID][]byte{}
	a := openArchive(t, base, ring)
	mb := mailbox(t, a, "me")
	for _, name := range []string{"plain", "attachment", "8bit part"} {
		acked[add(t, a, mails()[name], mb, "INBOX").ID] = mails()[name]
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	secret, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	rotate := func(d *crashfs.FS) error {
		a, err := Open(d, ring, testOptions())
		if err != nil {
			return err
		}
		return errors.Join(a.RotateRoot("test", seal.WeakCost, secret), a.Close())
	}
	everyStop(t, 1, rotate, base, func(k int) error {
		d := base.Copy()
		d.StopAt(k)
		rotate(d)
		for seed := range seeds() {
			after := d.Crash(seed + uint64(k))
			now, _, err := Unlock(after, secret)
			if err != nil {
				now, err = rereadRing(after, ring)
			}
			if err == nil {
				err = afterCut(after, now, acked, seed+uint64(k))
			}
			if err != nil {
				return fmt.Errorf("seed %d: %w", seed, err)
			}
		}
		return nil
	})
}

// A single failed operation is an error for somebody, never a loss, and the
// archive goes on without being opened again.
func TestOneErrorAnywhere(t *testing.T) {
	t.Parallel()
	step := 1
	if testing.Short() {
		step = 29
	}
	base := crashfs.New()
	ring := create(t, base)
	for k := 1; ; k += step {
		d := base.Crash(0)
		a := openArchive(t, d, ring)
		mb := mailbox(t, a, "me")
		acked := map[seal.ID][]byte{}
		before := d.Ops()
		d.FailOnce(k)
		for i := range 6 {
			raw := fmt.Appendf(nil, "Subject: %d\nContent-Type: application/x\n\n%x", i, noise(i, 9_000))
			r, err := a.Add(ctx, raw, Provenance{Mailbox: mb, Folder: "f", Source: "s"})
			if err != nil {
				t.Logf("operation %d: %v", k, err)
				r, err = a.Add(ctx, raw, Provenance{Mailbox: mb, Folder: "f", Source: "s"})
			}
			if err != nil {
				t.Fatalf("failure of operation %d: message %d fails twice: %v", k, i, err)
			}
			acked[r.ID] = raw
		}
		reached := d.Ops()-before >= k
		for id, raw := range acked {
			if !bytes.Equal(rawOf(t, a, id), raw) {
				t.Fatalf("failure of operation %d: a message is lost", k)
			}
		}
		d.StopAt(0)
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if r := verifyClosed(t, d, ring); !r.Clean() {
			t.Fatalf("failure of operation %d: %+v", k, r.Problems)
		}
		if !reached {
			return
		}
	}
}

func TestDiskFull(t *testing.T) {
	d := crashfs.New()
	ring := create(t, d)
	a := openArchive(t, d, ring)
	mb := mailbox(t, a, "me")
	id := add(t, a, mails()["plain"], mb, "INBOX").ID
	d.SetFree(0)
	if _, err := a.Add(ctx, mails()["8bit part"], Provenance{Mailbox: mb}); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("disk full: %v", err)
	}
	if !bytes.Equal(rawOf(t, a, id), mails()["plain"]) {
		t.Fatal("reading stopped")
	}
	d.SetFree(-1)
	add(t, a, mails()["8bit part"], mb, "INBOX")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, d, ring)
}

// small makes a closed archive of a few messages.
func small(t testing.TB) (*crashfs.FS, *seal.Ring) {
	d := crashfs.New()
	ring := create(t, d)
	a := openArchive(t, d, ring)
	mb := mailbox(t, a, "me")
	for _, name := range []string{"plain", "attachment", "small base64"} {
		add(t, a, mails()[name], mb, "INBOX")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return d, ring
}

func TestGroupCommit(t *testing.T) {
	d := crashfs.New()
	ring := create(t, d)
	a := openArchive(t, d, ring)
	mb := mailbox(t, a, "me")
	n, acked := 500, 0
	done := make(chan error, n)
	for i := range n {
		raw := fmt.Appendf(nil, "Subject: %d\n\nbody %d\n", i, i%100)
		if err := a.Enqueue(ctx, raw, Provenance{Mailbox: mb, Source: "s"}, func(_ Result, err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		acked++
	}
	tot, err := a.Catalog().Totals(ctx)
	if err != nil || tot.Messages != int64(n) || acked != n {
		t.Fatal(tot, err)
	}
	if a.store.Position().Commit > 20 {
		t.Errorf("%d commits for %d messages", a.store.Position().Commit, n)
	}
	a.Close()
	mustBeClean(t, d, ring)
}

func TestProof(t *testing.T) {
	d, ring := small(t)
	a := openArchive(t, d, ring)
	defer a.Close()
	r := add(t, a, mails()["plain"], 1, "INBOX")
	e, err := a.Catalog().Message(ctx, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	p, err := a.Prove(&e)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(mails()["plain"]); err != nil {
		t.Error(err)
	}
	if err := p.Check(mails()["crlf"]); err == nil {
		t.Error("the proof holds for another message")
	}
}

func TestBackupAndRestore(t *testing.T) {
	d := crashfs.New()
	ring := create(t, d)
	a := openArchive(t, d, ring)
	mb := mailbox(t, a, "me")
	ids := map[string]seal.ID{}
	back := crashfs.New()
	i := 0
	for name, raw := range mails() {
		ids[name] = add(t, a, raw, mb, "INBOX").ID
		if i++; i%5 == 0 {
			if _, err := a.Backup(ctx, back, time.Hour, "test", nil); err != nil {
				t.Fatal(err)
			}
			testNow = testNow.Add(time.Minute)
		}
	}
	secret, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.AddSlot(secret, "", "test", seal.WeakCost); err != nil {
		t.Fatal(err)
	}
	if err := a.Dispose(ctx, []seal.ID{ids["8bit part"]}, "test", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Compact(ctx, "test"); err != nil {
		t.Fatal(err)
	}
	testNow = testNow.Add(2 * time.Hour)
	if r, err := a.Backup(ctx, back, time.Hour, "test", nil); err != nil || r.Removed == 0 {
		t.Fatal(r, err)
	}
	add(t, a, []byte("Subject: after the backup\n\n"), mb, "INBOX")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	again := crashfs.New()
	if err := Restore(ctx, back, again, secret, nil); err != nil {
		t.Fatal(err)
	}
	now, _, err := Unlock(again, secret)
	if err != nil {
		t.Fatal(err)
	}
	b := openArchive(t, again, now)
	for name, raw := range mails() {
		if name != "8bit part" && !bytes.Equal(rawOf(t, b, ids[name]), raw) {
			t.Errorf("%s is lost", name)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, again, now)
	if err := Restore(ctx, back, again, secret, nil); !errors.Is(err, ErrExists) {
		t.Error("a restore over an archive:", err)
	}
}

// A verification that is stopped goes on where it was, with what it had found.
func TestVerificationResumes(t *testing.T) {
	d := crashfs.New()
	ring := create(t, d)
	a := openArchive(t, d, ring)
	mb := mailbox(t, a, "me")
	for i := range 12 {
		add(t, a, fmt.Appendf(nil, "Subject: %d\nContent-Type: application/x\n\n%x", i, noise(i, 9_000)), mb, "f")
	}
	var extents []int64 // of the objects in the first pack
	if err := Extents(a, func(file string, at, _ int64) {
		if strings.HasSuffix(file, "00000001.pack") {
			extents = append(extents, at)
		}
	}); err != nil || len(extents) < 4 {
		t.Fatal(extents, err)
	}
	flip := func(at int64) {
		f, err := d.OpenFile("store/00/00000001.pack", os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 1)
		f.ReadAt(b, at+100)
		b[0] ^= 1
		f.WriteAt(b, at+100)
	}
	stop := errors.New("stop")
	pauses := 0
	run := func(stopAfter int) (Verified, error) {
		pauses = 0
		return a.VerifyResumed(ctx, func(context.Context) error {
			if pauses++; pauses == stopAfter {
				return stop
			}
			return nil
		}, nil)
	}

	flip(extents[0])
	if _, err := run(8); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	flip(extents[0]) // as it was: the part that goes on cannot find it again
	flip(extents[1]) // was verified before the stop: the part that goes on does not read it
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = openArchive(t, d, ring)
	v, err := a.Verified(ctx)
	if err != nil || v.Commit != 8 || len(v.Problems) != 2 || !v.Ended.IsZero() {
		t.Fatalf("after the stop: %+v, %v", v, err)
	}
	if v, err = run(0); err != nil || v.Ended.IsZero() || !v.Clean.IsZero() || len(v.Problems) != 2 || v.Problems[0].Object == "" {
		t.Fatalf("after going on: %+v, %v", v, err)
	}
	if last := a.store.Position().Commit; v.Commit != last {
		t.Errorf("verified up to commit %d of %d", v.Commit, last)
	}
	if v, err = run(0); err != nil || len(v.Problems) != 2 || pauses < 12 {
		t.Fatalf("a new one: %+v, %v", v, err)
	}
	flip(extents[1])
	if v, err = run(0); err != nil || !v.Clean.Equal(testNow) || len(v.Problems) != 0 {
		t.Fatalf("repaired: %+v, %v", v, err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, d, ring)
}
