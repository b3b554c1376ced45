package imapclient_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// Delete takes those it is told, and of these none that somebody has flagged.
func TestDelete(t *testing.T) {
	d := mailtest.StartDovecot(t, "")
	for name, days := range map[string]int{"1.m:2,S": 9, "2.m:2,F": 9, "3.m:2,T": 9, "4.m:2,": 0, "5.m:2,": 9} {
		d.Put(t, "alice", "", name, fmt.Appendf(nil, "Subject: %s %d\n\nx\n", name, days))
	}
	c, err := imapclient.Dial(context.Background(), imapclient.Options{Dialer: &tlsconf.Dialer{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, Host: "localhost", Port: d.IMAPS,
		Security: imapclient.ImplicitTLS, Trust: tlsconf.Trust{CA: d.CA.PEM}, Literal: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SignIn(imapclient.Credential{User: "alice", Password: mailtest.Password}); err != nil {
		t.Fatal(err)
	}
	inbox := &imapclient.Folder{Name: "INBOX"}
	st, err := c.Select(inbox)
	if err != nil || st.Exists != 5 {
		t.Fatalf("%+v %v", st, err)
	}
	flagged := map[uint32]bool{}
	var marked uint32
	if err := c.Describe([]uint32{1, 2, 3, 4, 5}, func(m *imapclient.Message) error {
		flagged[m.UID] = slices.Contains(m.Flags, `\Flagged`)
		if slices.Contains(m.Flags, `\Deleted`) {
			marked = m.UID
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var ask, want []uint32
	for u := uint32(1); u <= 5; u++ {
		if u != marked {
			ask = append(ask, u)
			if !flagged[u] {
				want = append(want, u)
			}
		}
	}
	older, err := c.Older(st.Exists, time.Now().AddDate(0, 0, 2))
	if err != nil || len(older) != 4 {
		t.Errorf("%v %v", older, err)
	}
	if older, err = c.Older(st.Exists, time.Now().AddDate(0, 0, -2)); err != nil || len(older) != 0 {
		t.Errorf("%v %v", older, err)
	}
	gone, err := c.Delete(ask)
	if err != nil || !slices.Equal(gone, want) {
		t.Errorf("gone %v, want %v (%v)", gone, want, err)
	}
	left, err := c.UIDs(1)
	if err != nil || len(left) != 2 {
		t.Fatalf("left %v %v", left, err)
	}
	if err := c.Describe(left, func(m *imapclient.Message) error {
		if m.UID != marked && slices.Contains(m.Flags, `\Deleted`) {
			t.Errorf("%d is still marked", m.UID)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Examine(inbox); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Delete(left); err == nil {
		t.Errorf("deleted in a folder that was only looked at: %v", err)
	}
}

func TestSets(t *testing.T) {
	for s, want := range map[string][]uint32{"": nil, "7": {7}, "2:4,9": {2, 3, 4, 9}, "4:3": {3, 4}} {
		if got, err := imapclient.ParseSet(s); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v %v", s, got, err)
		}
	}
	for _, s := range []string{",", "x", "1:*", "1:4294967295", "-1"} {
		if got, err := imapclient.ParseSet(s); err == nil {
			t.Errorf("%q: %d numbers", s, len(got))
		}
	}
}
