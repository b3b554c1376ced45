package ingest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/delivery"
	"github.com/letterhold/letterhold/internal/ingest"
)

// An account that holds everybody's mail fills everybody's mailbox: by what
// servers write into headers, by journal reports, and what is left is kept.
func TestMultidrop(t *testing.T) {
	w := newWorld(t)
	boxes := map[int64]string{}
	for name, address := range map[string]string{"ann": "ann@example.org", "bob": "bob@example.org", delivery.Unassigned: ""} {
		id, err := w.a.Mailbox(ctx, name, "test")
		if err != nil {
			t.Fatal(err)
		}
		boxes[id] = name
		if address == "" {
			continue
		}
		if err := w.a.State().Write(func(tx catalog.Tx) error { return tx.AddAddress(address, id) }); err != nil {
			t.Fatal(err)
		}
	}
	const carried = "From: ann@example.org\r\nTo: far@example.net\r\nSubject: carried\r\n\r\nx\r\n"
	const report = "Message-ID: <1@journal.report.generator>\r\nX-MS-Journal-Report:\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nSender: ann@example.org\r\nBcc: bob@example.org\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n" + carried + "\r\n--b--\r\n"
	for i, raw := range []string{
		"Delivered-To: bob@example.org\r\nFrom: far@example.net\r\nTo: list@example.net\r\nSubject: one\r\n\r\nx\r\n",
		"Return-Path: <ann@example.org>\r\nX-Original-To: bob@example.org\r\nFrom: ann@example.org\r\nTo: bob@example.org\r\nSubject: two\r\n\r\nx\r\n",
		"Received: from a by b for <new@example.org>; Thu, 12 Mar 2026 08:00:00 +0000\r\nFrom: far@example.net\r\nTo: hidden:;\r\nSubject: three\r\n\r\nx\r\n",
		"From: far@example.net\r\nTo: else@example.net\r\nSubject: four\r\n\r\nx\r\n",
		report,
	} {
		w.put(t, "", fmt.Sprint(i), []byte(raw), 10*(i%2))
	}
	p := w.profile(t, w.d.IMAPS, func(p *ingest.Profile) { p.Mailbox, p.Multidrop = delivery.Unassigned, true })
	w.want(t, w.run(t, p), catalog.RunDone, 5, 0, 0)
	var got []string
	fs, err := w.a.Catalog().Folders(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		n, err := w.a.Catalog().FolderCount(ctx, f.ID)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s/%s %d", boxes[f.Mailbox], f.Name, n))
	}
	slices.Sort(got)
	if want := "ann/Sent 2, bob/INBOX 3, unassigned/else@example.net 1, unassigned/new@example.org 1"; strings.Join(got, ", ") != want {
		t.Errorf("%s, want %s", strings.Join(got, ", "), want)
	}
	if !w.a.Has(ctx, w.a.IDOf([]byte(carried))) {
		t.Error("the message that a report carries is not archived to the byte")
	}
	w.want(t, w.run(t, p), catalog.RunDone, 0, 0, 0)

	// What is deleted at the source is looked up as it was archived.
	p.DeleteAfter = 5
	if err := ingest.Save(w.a, p, nil, "test"); err != nil {
		t.Fatal(err)
	}
	w.put(t, "", "report", []byte(strings.ReplaceAll(report, "1@journal", "2@journal")), 10)
	w.want(t, w.run(t, p), catalog.RunDone, 0, 1, 0)
	w.wantLeft(t, "", "0", "2", "4")
}
