package ingest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/mailtest"
)

// looked returns the commands with which folders were looked into.
func looked(said []string) (into []string) {
	for _, s := range said {
		if strings.HasPrefix(s, "EXAMINE") || strings.HasPrefix(s, "UID FETCH") {
			into = append(into, s)
		}
	}
	return into
}

// A folder that holds nothing new is known by its STATUS; it is neither opened
// nor fetched from. One that does is, from the new message on.
func TestUnchangedFolders(t *testing.T) {
	t.Run("Cyrus", func(t *testing.T) {
		w, p, c, k := startCyrus(t)
		k.Do("CREATE INBOX.work")
		k.Do("CREATE INBOX.empty")
		for i := range 9 {
			k.Append("INBOX", "", crlf(mail(i)))
			k.Append("INBOX.work", "", crlf(mail(100+i)))
		}
		testUnchanged(t, w, func() *catalog.Counts { return &w.run(t, p).Counts }, c.Protocols(), "INBOX.work",
			func() { k.Append("INBOX.work", "", crlf(mail(200))) },
			func() { k.Do("SELECT INBOX.work"); k.Do(`STORE 1:3 +FLAGS (\Flagged)`); k.Do("UNSELECT") })
	})
	t.Run("Dovecot", func(t *testing.T) {
		w := newWorldWith(t, "protocol imap {\n  rawlog_dir = %h/rawlog\n}\n")
		for i := range 9 {
			w.d.Put(t, "alice", "", fmt.Sprintf("%d.m:2,", i), mail(i))
			w.d.Put(t, "alice", "work", fmt.Sprintf("%d.m:2,", i), mail(100+i))
		}
		dir := w.protocols(t)
		p := w.profile(t, w.d.IMAPS, nil)
		testUnchanged(t, w, func() *catalog.Counts { return &w.run(t, p).Counts }, dir, "work",
			func() { w.d.Put(t, "alice", "work", "new.m:2,", mail(200)) },
			func() {
				cur := filepath.Join(w.d.Maildir(t, "alice", "work"), "cur")
				if err := os.Rename(filepath.Join(cur, "1.m:2,"), filepath.Join(cur, "1.m:2,F")); err != nil {
					t.Fatal(err)
				}
			})
	})
}

func testUnchanged(t *testing.T, w *world, run func() *catalog.Counts, protocols, folder string, add, flag func()) {
	t.Helper()
	if c := run(); c.Archived != 18 {
		t.Fatalf("%+v", c)
	}
	if into := looked(mailtest.Said(t, protocols)); len(into) == 0 {
		t.Fatal("the protocol does not show the first run")
	}
	for _, m := range w.marks(t) {
		if fields := strings.Fields(m); len(fields) != 3 || fields[2] == "0" {
			t.Errorf("mark %q has no MODSEQ", m)
		}
	}
	if c := run(); c.Seen != 0 {
		t.Errorf("nothing is new, but %+v", c)
	}
	said := mailtest.Said(t, protocols)
	if into := looked(said); len(into) > 0 || !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, "HIGHESTMODSEQ") }) {
		t.Errorf("nothing is new, but it looked into folders: %q", said)
	}
	flag()
	if c := run(); c.Seen != 0 {
		t.Errorf("a flag is new, but %+v", c)
	}
	if into := looked(mailtest.Said(t, protocols)); len(into) > 0 {
		t.Errorf("a flag is new, but it looked into folders: %q", into)
	}
	add()
	if c := run(); c.Archived != 1 || c.Seen != 1 {
		t.Errorf("one message is new, but %+v", c)
	}
	into := looked(mailtest.Said(t, protocols))
	if len(into) != 4 || into[0] != fmt.Sprintf("EXAMINE %q (CONDSTORE)", folder) || into[1] != "UID FETCH 10:* (UID)" || !strings.HasPrefix(into[3], "UID FETCH 10 ") {
		t.Errorf("one message is new in %s, but it looked at %q", folder, into)
	}
}
