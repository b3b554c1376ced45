package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/mailtest"
)

// A profile on the command line: what would go, what goes, what failed and why.
func TestProfileVerbs(t *testing.T) {
	d := mailtest.StartDovecot(t, "")
	put := func(name string, days int) {
		t.Helper()
		d.Put(t, "alice", "", name, fmt.Appendf(nil, "Subject: %s\n\ntext\n", name))
		when := time.Now().AddDate(0, 0, -days)
		if err := os.Chtimes(filepath.Join(d.Maildir(t, "alice", ""), "cur", name), when, when); err != nil {
			t.Fatal(err)
		}
	}
	put("old.m:2,S", 40)
	put("young.m:2,S", 2)
	bad := filepath.Join(d.Maildir(t, "alice", "broken"), "cur", "1.m:2,")
	if err := os.Mkdir(bad, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mailtest.Write(t, filepath.Join(dir, "pw"), []byte(mailtest.Password+"\n"))
	mailtest.Write(t, filepath.Join(dir, "ca"), d.CA.PEM)
	ok(t, dir, "init", "arch", "--key-file", "k")
	verb := func(args ...string) (string, int) {
		t.Helper()
		out, errs, code := lh(t, dir, append([]string{"--archive", "arch", "--key-file", "k", "profile"}, args...)...)
		return out + errs, code
	}
	add := []string{"add", "p", "--from", fmt.Sprintf("imaps://alice@localhost:%d", d.IMAPS), "--mailbox", "m", "--ca", "ca", "--allow-net", "127.0.0.0/8", "--password-file", "pw"}
	for _, wrong := range [][]string{{"--delete-after", "-3"}, {"--bandwidth", "much"}, {"--bandwidth", "1kB"}, {"--connections", "99"}} {
		if out, code := verb(append(add[:len(add):len(add)], wrong...)...); code != 2 {
			t.Errorf("%v: %d %s", wrong, code, out)
		}
	}
	if out, code := verb(append(add, "--bandwidth", "5MB", "--connections", "2")...); code != 0 {
		t.Fatal(out)
	}
	if out, code := verb("would-delete", "p"); code != 1 || !strings.Contains(out, "--delete-after 30") {
		t.Errorf("%d %s", code, out)
	}
	out, code := verb("run", "p")
	if code != 3 || !strings.Contains(out, "1 x the server") || !strings.Contains(out, "profile retry") {
		t.Errorf("%d %s", code, out)
	}
	for _, v := range [][]string{{"log", "p"}, {"runs", "p"}} {
		if out, code := verb(v...); code != 0 || !strings.Contains(out, "1 x the server") {
			t.Errorf("%v: %d %s", v, code, out)
		}
	}
	out, code = verb("would-delete", "p", "--delete-after", "30", "--json")
	var would struct {
		Count    int
		Messages []struct{ Where string }
	}
	if err := json.Unmarshal([]byte(out), &would); err != nil || code != 0 || would.Count != 1 || len(would.Messages) != 1 {
		t.Errorf("%v %d %s", err, code, out)
	}
	if out, code := verb("would-delete", "p", "--delete-after", "30"); code != 0 || !strings.Contains(out, "1 messages, ") || !strings.Contains(out, "INBOX;UIDVALIDITY=") {
		t.Errorf("%d %s", code, out)
	}
	if out, code := verb("edit", "p", "--delete-after", "30"); code != 0 {
		t.Errorf("%d %s", code, out)
	}
	os.Remove(bad)
	mailtest.Write(t, bad, []byte("Subject: mended\n\ntext\n"))
	if out, code = verb("retry", "p"); code != 0 || !strings.Contains(out, "1 archived") || !strings.Contains(out, "deleted at the source: 1 messages") {
		t.Errorf("%d %s", code, out)
	}
	es, err := os.ReadDir(filepath.Join(d.Maildir(t, "alice", ""), "cur"))
	if err != nil || len(es) != 1 || !strings.HasPrefix(es[0].Name(), "young") {
		t.Errorf("%v %v", es, err)
	}
	if out, code := verb("edit", "p", "--from", "folder:/x", "--connections", "1"); code != 2 || !strings.Contains(out, "done/") {
		t.Errorf("%d %s", code, out)
	}
	out, _ = verb("list", "--json")
	var list struct {
		Profiles []struct {
			DeleteAfter int   `json:"delete_after"`
			Bandwidth   int64 `json:"bandwidth"`
			Connections int   `json:"connections"`
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Profiles) != 1 || list.Profiles[0].DeleteAfter != 30 || list.Profiles[0].Bandwidth != 5_000_000 || list.Profiles[0].Connections != 2 {
		t.Errorf("%v %s", err, out)
	}
}
