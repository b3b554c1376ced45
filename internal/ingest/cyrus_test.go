package ingest_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
)

// startCyrus returns a world with a Cyrus, a profile for alice there, and her
// connection.
func startCyrus(t *testing.T) (*world, *ingest.Profile, *mailtest.Cyrus, *mailtest.Talk) {
	t.Helper()
	a := mailtest.Archive(t, nil)
	r := ingest.NewRunner(a)
	r.Patience = 5 * time.Millisecond
	t.Cleanup(r.Close)
	c := mailtest.StartCyrus(t)
	p := &ingest.Profile{Name: "cyrus", Enabled: true, From: fmt.Sprintf("imaps://alice@localhost:%d", c.IMAPS), Mailbox: "alice", CA: string(c.CA.PEM), AllowNet: []string{"127.0.0.0/8"}}
	if err := ingest.Save(a, p, []byte(mailtest.Password), "test"); err != nil {
		t.Fatal(err)
	}
	return &world{a: a, r: r}, p, c, c.Talk(t, "alice")
}

// crlf is how a message goes over the wire.
func crlf(raw []byte) []byte { return bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n")) }

func TestCollectFromCyrus(t *testing.T) {
	w, p, c, k := startCyrus(t)
	for _, name := range []string{"INBOX.orders", "INBOX.orders.old", "INBOX.Gr&APwA3w-e", "INBOX.Trash"} {
		k.Do("CREATE %s", name)
	}
	for i := range 20 {
		k.Append("INBOX", `(\Seen $Forwarded) "05-Feb-2021 10:11:12 +0100"`, crlf(mail(i)))
	}
	k.Append("INBOX.orders", "", crlf(mail(100)))
	k.Append("INBOX.orders.old", "", crlf(mail(101)))
	k.Append("INBOX.Gr&APwA3w-e", "", []byte("From: a@example.org\r\nSubject: =?utf-8?q?f=C3=BCr?=\r\n\r\n8 bit: \xc3\xbc \xe4, and no end of the line"))
	k.Append("INBOX.Trash", "", crlf(mail(102)))
	// What belongs to somebody else, or to everybody, is left out.
	admin := c.Talk(t, "cyrus")
	for _, name := range []string{"public", "user.bob"} {
		admin.Do("CREATE %s", name)
		admin.Do("SETACL %s alice lrsi", name)
		k.Append(name, "", crlf(mail(103)))
	}

	w.want(t, w.run(t, p), catalog.RunDone, 23, 0, 0)
	if got := w.folders(t); got["INBOX"] != 20 || got["INBOX/orders"] != 1 || got["INBOX/orders/old"] != 1 || got["INBOX/Grüße"] != 1 || len(got) != 4 {
		t.Errorf("folders %v", got)
	}
	w.exact(t, mail(7))
	id := w.a.IDOf([]byte("From: a@example.org\r\nSubject: =?utf-8?q?f=C3=BCr?=\r\n\r\n8 bit: \xc3\xbc \xe4, and no end of the line"))
	if !w.a.Has(ctx, id) {
		t.Error("a message with 8-bit text and no end of the line is not there")
	}
	e, err := w.a.Catalog().Message(ctx, w.a.IDOf(crlf(mail(7))))
	if err != nil {
		t.Fatal(err)
	}
	met, err := w.a.Catalog().Occurrences(ctx, e.Row)
	if err != nil || len(met) != 1 || met[0].Flags != `\Seen $Forwarded` {
		t.Fatalf("%+v %v", met, err)
	}
	o, _, err := w.a.Occurrence(&met[0])
	if err != nil || !o.Internal.Equal(time.Date(2021, 2, 5, 9, 11, 12, 0, time.UTC)) {
		t.Errorf("%+v %v", o, err)
	}

	w.want(t, w.run(t, p), catalog.RunDone, 0, 0, 0)
	k.Append("INBOX.orders", "", crlf(mail(104)))
	w.want(t, w.run(t, p), catalog.RunDone, 1, 0, 0)

	// Recreated: another UIDVALIDITY; known mail and a new one.
	k.Do("DELETE INBOX.orders.old")
	time.Sleep(1100 * time.Millisecond) // the UIDVALIDITY is the time in seconds
	k.Do("CREATE INBOX.orders.old")
	k.Append("INBOX.orders.old", "", crlf(mail(101)))
	k.Append("INBOX.orders.old", "", crlf(mail(105)))
	w.want(t, w.run(t, p), catalog.RunDone, 1, 1, 0)

	// Renamed: no message twice, none lost.
	k.Do("RENAME INBOX.orders INBOX.job")
	w.want(t, w.run(t, p), catalog.RunDone, 0, 4, 0)
	if n, err := w.a.Catalog().Totals(ctx); err != nil || n.Messages != 25 {
		t.Errorf("%d messages, %v", n.Messages, err)
	}
}
