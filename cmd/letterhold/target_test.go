package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/letterhold/letterhold/internal/mailtest"
)

// filled is a folder with an archive of n messages, and files for a Dovecot.
func filled(t *testing.T, d *mailtest.Dovecot, n int) string {
	t.Helper()
	dir := t.TempDir()
	ok(t, dir, "init", "a", "--json")
	if err := os.Mkdir(filepath.Join(dir, "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		body := fmt.Appendf(nil, "From: ann@example.org\nTo: alice@example.org\nSubject: number %d\nDate: Thu, 12 Mar 2026 08:00:00 +0000\nMessage-ID: <%[1]d@example.org>\n\ntext %[1]d\n", i)
		mailtest.Write(t, filepath.Join(dir, "in", fmt.Sprintf("%d.eml", i)), body)
	}
	ok(t, dir, "import", "in", "--mailbox", "alice", "--folder", "Work")
	mailtest.Write(t, filepath.Join(dir, "password"), []byte(mailtest.Password+"\n"))
	if d != nil {
		mailtest.Write(t, filepath.Join(dir, "ca.pem"), d.CA.PEM)
	}
	return dir
}

type restoreJSON struct {
	Seen, Restored, Present, Failed, Bytes int64
	Seconds                                *float64
	Failures                               []struct{ Where, Reason string }
}

func restoreRun(t *testing.T, dir string, want int, args ...string) (r restoreJSON) {
	t.Helper()
	out, errs, code := lh(t, dir, append([]string{"restore", "--json"}, args...)...)
	if code != want {
		t.Fatalf("%v: exit %d\n%s%s", args, code, out, errs)
	}
	d := json.NewDecoder(strings.NewReader(out))
	if err := d.Decode(&r); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	if r.Seen != r.Restored+r.Present+r.Failed || r.Seconds == nil || r.Failures == nil {
		t.Errorf("%+v", r)
	}
	return r
}

func TestRestoreCommand(t *testing.T) {
	d := mailtest.StartDovecot(t, "protocol imap {\n  mail_plugins = quota imap_quota\n}\nplugin {\n  quota = count:User quota\n  quota_vsizes = yes\n  quota_rule = *:messages=3\n}\n")
	dir := filled(t, d, 4)
	to := []string{"--to", fmt.Sprintf("imaps://alice@localhost:%d", d.IMAPS), "--ca", "ca.pem", "--password-file", "password", "--allow-net", "127.0.0.0/8"}
	if r := restoreRun(t, dir, 0, append(to, "subject:2")...); r.Restored != 1 {
		t.Errorf("a query: %+v", r)
	}
	if r := restoreRun(t, dir, 0, append(to, "id:2@example.org")...); r.Present != 1 {
		t.Errorf("a Message-ID: %+v", r)
	}
	var found struct{ Hits []struct{ ID string } }
	if err := json.Unmarshal([]byte(ok(t, dir, "search", "--json", "subject:2")), &found); err != nil || len(found.Hits) != 1 {
		t.Fatal(found, err)
	}
	if r := restoreRun(t, dir, 0, append(to, found.Hits[0].ID)...); r.Present != 1 {
		t.Errorf("an id: %+v", r)
	}
	// The mailbox is full after three.
	if r := restoreRun(t, dir, exitPartial, append(to, "*")...); r.Restored != 2 || r.Present != 1 || r.Failed != 1 || len(r.Failures) != 1 || !strings.Contains(r.Failures[0].Reason, "OVERQUOTA") {
		t.Errorf("%+v", r)
	}
	if n := len(files(t, filepath.Join(d.Maildir(t, "alice", "Work"), "cur"))) + len(files(t, filepath.Join(d.Maildir(t, "alice", "Work"), "new"))); n != 3 {
		t.Errorf("%d messages in the folder", n)
	}
	// What is unsafe is refused, with the step; nothing was read for it.
	if r := restoreRun(t, dir, exitError, "*", to[0], to[1], "--password-file", "password", "--allow-net", "127.0.0.0/8"); r.Seen != 0 {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"*"}, {"*", "--to", "http://x"}, {"*", "--to", "imaps://alice:secret@localhost"}, {"(", "--to", to[1]}, {"*", "--to", to[1], "--allow-insecure", "unverified"}} {
		if _, errs, code := lh(t, dir, append([]string{"restore"}, args...)...); code != exitUsage || strings.Contains(errs, "secret") {
			t.Errorf("%v: exit %d, %s", args, code, errs)
		}
	}
	// Each was written to the ledger first, and stands out.
	if out := ok(t, dir, "posture", "--json"); !strings.Contains(out, "EV-OWN-01") {
		t.Error(out)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "password")); bytes.Contains([]byte(ok(t, dir, "posture", "--json")), b) {
		t.Error("the password is shown")
	}
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names
}

type outcomeJSON struct {
	State                                           string
	Profile                                         string
	Seen, Archived, Present, Skipped, Failed, Bytes int64
}

func targetRunJSON(t *testing.T, dir, name string, want int) (r outcomeJSON) {
	t.Helper()
	out, errs, code := lh(t, dir, "target", "run", name, "--wait", "--json")
	if code != want {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if r.Seen != r.Archived+r.Present+r.Skipped+r.Failed || r.Profile != name {
		t.Errorf("%+v", r)
	}
	return r
}

// A target's life on the command line.
func TestTargetCommand(t *testing.T) {
	d := mailtest.StartDovecot(t, "")
	dir := filled(t, d, 4)
	ok(t, dir, "target", "add", "files", "--to", "folder:"+filepath.Join(dir, "out"), "--query", "in:Work", "--every", "1h")
	if r := targetRunJSON(t, dir, "files", 0); r.Archived != 4 {
		t.Errorf("%+v", r)
	}
	if r := targetRunJSON(t, dir, "files", 0); r.Seen != 0 {
		t.Errorf("nothing is new: %+v", r)
	}
	ok(t, dir, "target", "add", "back", "--to", fmt.Sprintf("imaps://alice@localhost:%d", d.IMAPS), "--query", "*", "--folder", "Copy/{mailbox}/{folder}", "--ca", "ca.pem", "--password-file", "password", "--allow-net", "127.0.0.0/8", "--at", "Mon 02:30")
	if r := targetRunJSON(t, dir, "back", 0); r.Archived != 4 {
		t.Errorf("%+v", r)
	}
	if n := len(files(t, filepath.Join(d.Maildir(t, "alice", "Copy.alice.Work"), "cur"))) + len(files(t, filepath.Join(d.Maildir(t, "alice", "Copy.alice.Work"), "new"))); n != 4 {
		t.Errorf("%d messages", n)
	}
	list := ok(t, dir, "target", "list", "--json")
	if strings.Contains(list, mailtest.Password) || !strings.Contains(list, `"at":"Mon 02:30"`) || !strings.Contains(list, `"name":"back"`) {
		t.Error(list)
	}
	if out := ok(t, dir, "target", "list"); !strings.Contains(out, "0 seen") || !strings.Contains(out, "4 exported") {
		t.Error(out)
	}
	if out := ok(t, dir, "target", "log", "back"); !strings.Contains(out, "Copy/alice/Work") {
		t.Error(out)
	}
	if out := ok(t, dir, "target", "runs", "files", "--json"); strings.Count(out, `"state":"done"`) != 2 {
		t.Error(out)
	}
	for _, verb := range [][]string{{"target", "runs", "files"}, {"runs"}} {
		if out := ok(t, dir, verb...); !strings.Contains(out, "files: 4 seen = 4 exported") {
			t.Errorf("%v: %s", verb, out)
		}
	}
	ok(t, dir, "target", "edit", "files", "--format", "zip", "--to", "folder:"+filepath.Join(dir, "zips"))
	if r := targetRunJSON(t, dir, "files", 0); r.Archived != 4 || len(files(t, filepath.Join(dir, "zips"))) != 1 {
		t.Errorf("another place: %+v", r)
	}
	if _, errs, code := lh(t, dir, "target", "pause", "files"); code != exitError || !strings.Contains(errs, "under way") {
		t.Error(code, errs)
	}
	// Profiles and targets do not take each other's names.
	if _, _, code := lh(t, dir, "profile", "run", "files"); code != exitError {
		t.Error(code)
	}
	ok(t, dir, "target", "remove", "files")
	if out := ok(t, dir, "runs"); !strings.Contains(out, "files: 4 seen = 4 done") || strings.Contains(out, "files: 4 seen = 4 archived") {
		t.Errorf("what went out is told as archived: %s", out)
	}
	if _, errs, code := lh(t, dir, "target", "run", "files"); code != exitError || !strings.Contains(errs, "target list") {
		t.Error(code, errs)
	}
	if len(files(t, filepath.Join(dir, "zips"))) != 1 {
		t.Error("what it brought out is gone")
	}
	for _, args := range [][]string{
		{"x", "--to", "folder:relative", "--query", "*"}, {"x", "--to", "folder:/x", "--query", "("}, {"x", "--to", "folder:/x"}, {"x", "--to", "folder:/x", "--query", "*", "--format", "doc"},
		{"x", "--to", "imaps://a@b", "--query", "*", "--format", "eml"}, {"x", "--to", "folder:/x", "--query", "*", "--every", "1m"}, {"x", "--to", "imaps://a@b/INBOX", "--query", "*"},
		{"x", "--to", "pop3s://a@b", "--query", "*"}, {"x", "--to", "smtps://a@b", "--query", "*"}, {"x", "--to", "folder:/x", "--query", "*", "--rcpt", "a@b"}, {"x", "--to", "folder:/x", "--query", "-newer_than:1y"}, {"x", "--to", "imaps://a@b", "--query", "*", "--allow-insecure", "cleartext", "--until", "2099-01-01", "--owner", "x", "--reason", "x"},
	} {
		if out, errs, code := lh(t, dir, append([]string{"target", "add"}, args...)...); code != exitUsage {
			t.Errorf("%v: exit %d %s%s", args, code, out, errs)
		}
	}
}

// By SMTP, as a target and as a restore.
func TestResendCommand(t *testing.T) {
	s := mailtest.StartSMTP(t, false)
	dir := filled(t, nil, 3)
	mailtest.Write(t, filepath.Join(dir, "ca.pem"), s.CA.PEM)
	to := []string{"--to", s.URL("smtp", "alice"), "--from", "archive@example.org", "--rcpt", "alice@example.org", "--ca", "ca.pem", "--password-file", "password", "--allow-net", "127.0.0.0/8"}
	ok(t, dir, append([]string{"target", "add", "resend", "--query", "subject:number"}, to...)...)
	if r := targetRunJSON(t, dir, "resend", 0); r.Archived != 3 {
		t.Errorf("%+v", r)
	}
	if r := targetRunJSON(t, dir, "resend", 0); r.Seen != 0 {
		t.Errorf("%+v", r)
	}
	if r := restoreRun(t, dir, 0, append(to, "id:1@example.org")...); r.Restored != 1 {
		t.Errorf("%+v", r)
	}
	got := s.Got()
	if len(got) != 4 || got[3].User != "alice" || got[3].To != "alice@example.org" || !bytes.Contains(got[3].Raw, []byte("text 1\r\n")) || bytes.Contains(got[3].Raw, []byte("Resent")) {
		t.Errorf("%+v", got)
	}
	mailtest.Write(t, filepath.Join(dir, "password"), []byte("wrong"))
	if _, errs, code := lh(t, dir, append([]string{"restore", "*"}, to...)...); code != exitError || !strings.Contains(errs, "sign-in") || strings.Contains(errs, "wrong") {
		t.Error(code, errs)
	}
}
