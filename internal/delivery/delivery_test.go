package delivery

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
)

var at = time.Date(2026, 3, 12, 8, 0, 0, 0, time.UTC)

func names(x *pack.Envelope) string {
	var out []string
	for _, r := range x.Recipients {
		out = append(out, r.Kind+"="+r.Address)
	}
	return x.Sender + ": " + strings.Join(out, " ")
}

func TestOf(t *testing.T) {
	told := Told{Sender: "ann@example.org", Own: []string{"all@example.org"}, Time: at}
	for name, c := range map[string]struct {
		raw  string
		told Told
		want string
		open bool
	}{
		"a report":             {report("Sender: s@example.org\nBcc: b@example.org", inner), told, "s@example.org: bcc=b@example.org", false},
		"on behalf":            {report("Sender: s@example.org\nOn-Behalf-Of: boss@example.org\nTo: b@example.org", inner), told, "s@example.org: to=b@example.org on-behalf-of=boss@example.org", false},
		"recipients told":      {inner, Told{Sender: "a@example.org", Recipients: []string{"x@example.org", "X@example.org", "y@example.org"}}, "a@example.org: recipient=x@example.org recipient=y@example.org", false},
		"a plain copy":         {"From: A <a@example.org>\nTo: B <b@example.org>, c@example.org\nCc: d@example.org, B@example.org\n\nx", Told{}, "a@example.org: to=b@example.org to=c@example.org cc=d@example.org", true},
		"Google's":             {"X-Gm-Original-To: e@example.org\nTo: b@example.org\n\nx", told, "ann@example.org: recipient=e@example.org to=b@example.org", false},
		"a multidrop account":  {"Return-Path: <r@example.org>\nDelivered-To: all@example.org\nX-Original-To: b@example.org\nFrom: f@example.org\nTo: list@example.net\n\nx", Told{Own: told.Own}, "r@example.org: recipient=b@example.org to=list@example.net", false},
		"Received":             {"Received: from x by y (z)\n with ESMTP id 1 for <b@example.org>; Thu, 12 Mar 2026 08:00:00 +0000\nReceived: from w for <evil@example.org>; x\nTo: undisclosed\n\nx", told, "ann@example.org: recipient=b@example.org", false},
		"nobody named":         {"Subject: x\n\nx", Told{}, ": ", true},
		"the copy's own route": {"To: all@example.org\n\nx", told, "ann@example.org: ", true},
	} {
		d := Of([]byte(c.raw), c.told)
		if got := names(&d.Envelope); got != c.want || d.Envelope.Open != c.open {
			t.Errorf("%s: %s (open %v), want %s (open %v)", name, got, d.Envelope.Open, c.want, c.open)
		}
	}
}

// A report can be made again, to the byte, from what is kept of it.
func TestRebuild(t *testing.T) {
	raw := []byte(report("Sender: s@example.org\nBcc: b@example.org", inner))
	d := Of(raw, Told{})
	if string(d.Raw) != inner {
		t.Fatalf("carried %q", d.Raw)
	}
	again, err := Rebuild(d.Envelope.Report, d.Raw)
	if err != nil || string(again) != string(raw) {
		t.Errorf("rebuilt %q, %v", again, err)
	}
	for n := range d.Envelope.Report {
		if b, err := Rebuild(d.Envelope.Report[:n], d.Raw); err == nil && string(b) == string(raw) {
			t.Errorf("rebuilt from %d bytes", n)
		}
	}
}

// Reports of one message are told apart by their bytes, copies by whom they
// are for; the same again is the same.
func TestKey(t *testing.T) {
	key := func(raw string, to ...string) int64 {
		d := Of([]byte(raw), Told{Recipients: to})
		return d.Envelope.Key
	}
	one, two := report("Sender: s@example.org\nTo: b@example.org", inner), report("Sender: s@example.org\nTo: c@example.org", inner)
	keys := []int64{key(one), key(two), key(inner, "b@example.org"), key(inner, "c@example.org"), key(one), key(inner, "b@example.org")}
	if keys[0] == keys[1] || keys[2] == keys[3] || keys[4] != keys[0] || keys[5] != keys[2] {
		t.Error("keys do not tell reports apart")
	}
}

func TestSpots(t *testing.T) {
	d := crashfs.New()
	o := archive.Options{Now: func() time.Time { return at }}
	ring, err := archive.Create(d, o, func(k *seal.KeyFile, r *seal.Ring) error {
		s, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
		if err == nil {
			_, err = k.AddSlot(r, s, "", seal.WeakCost, at)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.Open(d, ring, o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	boxes := map[string]int64{}
	for _, name := range []string{"ann", "bob", "shop", "list", Unassigned} {
		if boxes[name], err = a.Mailbox(t.Context(), name, "test"); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.State().Write(func(tx catalog.Tx) error {
		for address, name := range map[string]string{"Ann@Example.org": "ann", "bob@example.org": "bob", "bobby@example.org": "bob", "*@shop.example.org": "shop", "team@example.org": "list"} {
			if err := tx.AddAddress(address, boxes[name]); err != nil {
				return err
			}
		}
		if tx.AddAddress("ann@example.org", boxes["bob"]) == nil || tx.AddAddress("a*@example.org", boxes["bob"]) == nil || tx.AddAddress("x", boxes["bob"]) == nil {
			t.Error("an address of somebody else, or none, is taken")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	spots := func(x pack.Envelope) string {
		t.Helper()
		var out []string
		if err := a.State().View(t.Context(), func(v catalog.View) error {
			ss, err := Spots(v, &x, boxes[Unassigned])
			for _, s := range ss {
				for name, id := range boxes {
					if id == s.Mailbox {
						out = append(out, name+"/"+s.Folder)
					}
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	to := func(as ...string) (out []Recipient) {
		for _, a := range as {
			out = append(out, Recipient{Address: a})
		}
		return out
	}
	for _, c := range []struct {
		x    pack.Envelope
		want string
	}{
		{pack.Envelope{Sender: "ann@example.org", Recipients: to("BOB@example.org", "bobby@example.org", "far@example.net")}, "ann/Sent bob/INBOX"},
		{pack.Envelope{Sender: "far@example.net", Recipients: to("ann+news@example.org")}, "ann/INBOX"},
		{pack.Envelope{Sender: "far@example.net", Recipients: to("any@shop.example.org")}, "shop/INBOX"},
		{pack.Envelope{Sender: "far@example.net", Recipients: to("New@example.org", "ann@example.org")}, "ann/INBOX unassigned/new@example.org"},
		{pack.Envelope{Sender: "new@example.org", Recipients: to("far@example.net")}, "unassigned/new@example.org"},
		{pack.Envelope{Sender: "far@example.net", Recipients: to("too@example.net")}, "unassigned/too@example.net"},
		{pack.Envelope{}, "unassigned/unknown"},
		{pack.Envelope{Sender: "a/../b\x00@example.net"}, "unassigned/a_.._b_@example.net"},
		{pack.Envelope{Recipients: []Recipient{{Address: "bob@example.org", Expanded: "team@example.org"}}}, "bob/INBOX list/INBOX"},
		{pack.Envelope{Sender: "bob@example.org", Recipients: []Recipient{{Address: "ann@example.org", Kind: OnBehalfOf}}}, "ann/Sent bob/Sent"},
		{pack.Envelope{Sender: strings.Repeat("ä", 400) + "@example.net"}, "unassigned/" + strings.Repeat("ä", 249)},
	} {
		if got := spots(c.x); got != c.want {
			t.Errorf("%s: %s, want %s", fmt.Sprint(names(&c.x)), got, c.want)
		}
	}
}

func FuzzOf(f *testing.F) {
	f.Add([]byte("To: a@example.org, B <b@example.org>\nReceived: x for <c@example.org>; y\n\nx"))
	f.Add([]byte(report("Sender: a@example.org\nTo: c@example.org, Expanded: d@example.org", inner)))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := Of(b, Told{})
		if !d.Report && string(d.Raw) != string(b) {
			t.Fatal("a message was changed")
		}
		if d.Report {
			if again, err := Rebuild(d.Envelope.Report, d.Raw); err == nil && len(again) > 2*len(b)+100 {
				t.Fatal("a report grew")
			}
		}
	})
}
