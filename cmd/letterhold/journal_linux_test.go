package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/mailtest/corpus"
)

// journaling is a server that receives journals.
type journaling struct {
	t       *testing.T
	dir     string
	at      string // host:port of the listener
	address string // to send to
	roots   *x509.CertPool
}

// startJournaling makes an archive whose mailboxes ann and bob have addresses,
// and serves it.
func startJournaling(t *testing.T, args ...string) *journaling {
	t.Helper()
	bin, dir := binary(t), t.TempDir()
	j := &journaling{t: t, dir: dir}
	ok(t, dir, "init", "a", "--json")
	ok(t, dir, "mailbox", "address", "add", "ann", "ann@example.test")
	ok(t, dir, "mailbox", "address", "add", "bob", "bob@example.test", "*@shop.example.test")
	var made struct{ Address string }
	if err := json.Unmarshal([]byte(ok(t, dir, "journal", "address", "add", "--label", "mta", "--domain", "archive.test", "--json")), &made); err != nil {
		t.Fatal(err)
	}
	j.address = made.Address
	cmd := exec.Command(bin, append([]string{"--archive", "a", "--key-file", "key", "serve", "--https", "127.0.0.1:0"}, args...)...)
	cmd.Dir = dir
	j.start(cmd)
	return j
}

func (j *journaling) start(cmd *exec.Cmd) {
	j.t.Helper()
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		j.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		j.t.Fatal(err)
	}
	j.t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		if j.t.Failed() {
			j.t.Log(log.String())
		}
	})
	base := ""
	for lines := bufio.NewScanner(out); base == "" && lines.Scan(); {
		if _, at, ok := strings.Cut(lines.Text(), "journal smtp://"); ok {
			j.at = at
		}
		base, _ = strings.CutPrefix(lines.Text(), "ready ")
		if !strings.HasPrefix(lines.Text(), "ready ") {
			base = ""
		}
	}
	if base == "" {
		j.t.Fatal("the server does not start")
	}
	go io.Copy(io.Discard, out)
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	r, err := c.Get(base + "/ca.pem")
	if err != nil {
		j.t.Fatal(err)
	}
	defer r.Body.Close()
	pem, err := io.ReadAll(r.Body)
	j.roots = x509.NewCertPool()
	if err != nil || r.StatusCode == http.StatusOK && !j.roots.AppendCertsFromPEM(pem) {
		j.t.Fatal("no certificate of the CA", err)
	}
}

// send delivers a message as a mail server does.
func (j *journaling) send(from string, to []string, raw []byte) error {
	c, err := smtp.Dial(j.at)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.StartTLS(&tls.Config{RootCAs: j.roots, ServerName: "localhost"}); err != nil {
		return err
	}
	if err := c.Mail(from); err != nil {
		return err
	}
	for _, a := range to {
		if err := c.Rcpt(a); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(raw); err != nil {
		return err
	}
	return w.Close()
}

// find returns the one message that a query finds, once the index has it.
func (j *journaling) find(query string) string {
	j.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if ids := hits(j.t, j.dir, query); len(ids) == 1 {
			return ids[0]
		}
	}
	j.t.Fatalf("%q finds not one message", query)
	return ""
}

// where says what lies in which folder: "ann/Sent 1 bob/INBOX 2".
func (j *journaling) where() string {
	j.t.Helper()
	var out struct {
		Mailboxes []struct {
			Name    string
			Folders []struct {
				Name     string
				Messages int
			}
		}
	}
	if err := json.Unmarshal([]byte(ok(j.t, j.dir, "mailbox", "list", "--json")), &out); err != nil {
		j.t.Fatal(err)
	}
	var all []string
	for _, m := range out.Mailboxes {
		for _, f := range m.Folders {
			all = append(all, fmt.Sprintf("%s/%s %d", m.Name, f.Name, f.Messages))
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

const journalled = "From: ann@example.test\r\nTo: bob@example.test\r\nSubject: one\r\nMessage-ID: <1@example.test>\r\n\r\nhello\r\n"

func journalReport(id, text string) []byte {
	return []byte("From: journal@example.test\r\nMessage-ID: <" + id + "@journal.report.generator>\r\nX-MS-Journal-Report:\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n" +
		strings.ReplaceAll(text, "\n", "\r\n") + "\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n" + journalled + "\r\n--b--\r\n")
}

// Reports are unwrapped, several of one message become one with all recipients,
// and whom nobody knows is not lost.
func TestJournalReports(t *testing.T) {
	j := startJournaling(t, "--journal", "127.0.0.1:0", "--journal-allow", "127.0.0.0/8")
	first := journalReport("r1", "Sender: ann@example.test\nTo: bob@example.test\nBcc: far@example.net\n")
	for _, raw := range [][]byte{first, first, journalReport("r2", "Sender: ann@example.test\nBcc: new@example.test, Expanded: any@shop.example.test\n")} {
		if err := j.send("exchange@example.test", []string{j.address}, raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.send("x@example.test", []string{"guessed@archive.test"}, first); err == nil || !strings.Contains(err.Error(), "550") {
		t.Error("mail to another address:", err)
	}
	if got, want := j.where(), "ann/Sent 1, bob/INBOX 1, unassigned/new@example.test 1"; got != want {
		t.Errorf("archived %s, want %s", got, want)
	}
	id := j.find("one")
	if raw := ok(t, j.dir, "show", id, "--raw"); raw != journalled {
		t.Errorf("archived %q", raw)
	}
	var shown struct {
		Deliveries []struct {
			Sender     string
			Recipients []struct{ Address, Kind, Expanded_from string }
		}
	}
	if err := json.Unmarshal([]byte(ok(t, j.dir, "show", id, "--json")), &shown); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(shown.Deliveries); got != "[{ann@example.test [{bob@example.test to } {far@example.net bcc }]} {ann@example.test [{new@example.test bcc any@shop.example.test}]}]" {
		t.Error(got)
	}
	// The day's run adds up, also after a stop.
	deadline := time.Now().Add(20 * time.Second)
	for {
		out := ok(t, j.dir, "runs")
		if strings.Contains(out, "3 seen = 1 archived + 2 already there + 0 skipped by rule + 0 failed") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(out)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// The corpus' reports arrive as expected: recipients, and originals to the byte.
func TestJournalCorpus(t *testing.T) {
	real := corpus.Dir(t)
	j := startJournaling(t, "--journal", "127.0.0.1:0", "--journal-allow", "127.0.0.1")
	n := 0
	for _, dir := range []string{"o365", "synthetic"} {
		dir = filepath.Join(real, "journal", dir)
		b, err := os.ReadFile(filepath.Join(dir, "expected.json"))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var expected []struct {
			File string
			Sum  string `json:"original_sha256"`
		}
		if err := json.Unmarshal(b, &expected); err != nil {
			t.Fatal(err)
		}
		for _, e := range expected {
			raw, err := os.ReadFile(filepath.Join(dir, e.File))
			if err != nil {
				t.Fatal(err)
			}
			if err := j.send("journal@example.test", []string{j.address}, crlf(raw)); err != nil {
				t.Errorf("%s: %v", e.File, err)
				continue
			}
			if n++; e.Sum == "" {
				continue
			}
			// Mail servers end lines in CRLF, within base64 as they were.
			original, err := os.ReadFile(filepath.Join(dir, strings.TrimSuffix(e.File, ".eml")+".original"))
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(crlf(original))
			if sums := j.sums(); !slices.Contains(sums, e.Sum) && !slices.Contains(sums, hex.EncodeToString(sum[:])) {
				t.Errorf("%s: its original is not archived to the byte", e.File)
			}
		}
	}
	t.Logf("%d reports", n)
	if n == 0 {
		t.Error("no report was sent")
	}
}

func crlf(b []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
}

// sums are the SHA-256 of all messages.
func (j *journaling) sums() (all []string) {
	j.t.Helper()
	dir := filepath.Join(j.t.TempDir(), "out")
	ok(j.t, j.dir, "export", "*", "--format", "eml", "--to", dir)
	readAll(j.t, dir, func(name string, b []byte) {
		if strings.HasSuffix(name, ".eml") {
			sum := sha256.Sum256(b)
			all = append(all, hex.EncodeToString(sum[:]))
		}
	})
	return all
}

// Postfix carries each recipient in the address of a copy, blind ones too; its
// always_bcc does not, and the archive says so.
func TestJournalOfPostfix(t *testing.T) {
	j := startJournaling(t, "--journal", "127.0.0.1:0", "--journal-allow", "127.0.0.0/8")
	host, port, _ := net.SplitHostPort(j.at)
	local, domain, _ := strings.Cut(j.address, "@")
	next := fmt.Sprintf("transport_maps = inline:{archive.test=smtp:[%s]:%s}\nsmtp_tls_security_level = encrypt\n", host, port)
	send := func(p *mailtest.Postfix, subject string, to ...string) {
		t.Helper()
		raw := fmt.Sprintf("From: ann@example.test\r\nTo: bob@example.test\r\nSubject: %s\r\n\r\nhello\r\n", subject)
		if err := smtp.SendMail(fmt.Sprintf("127.0.0.1:%d", p.SMTP), nil, "ann@example.test", to, []byte(raw)); err != nil {
			t.Fatal(err)
		}
	}
	await := func(want string) {
		t.Helper()
		got := ""
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
			if got = j.where(); got == want {
				return
			}
		}
		t.Fatalf("archived %s, want %s", got, want)
	}
	each := mailtest.StartPostfix(t, map[string]string{"copies": "/^(.+)@(example\\.test)$/ " + local + "+$1=$2@" + domain + "\n"}, next+"recipient_bcc_maps = regexp:%[3]s/copies\n")
	send(each, "each", "bob@example.test", "blind@example.test")
	await("ann/Sent 1, bob/INBOX 1, unassigned/blind@example.test 1")

	all := mailtest.StartPostfix(t, nil, next+"always_bcc = "+j.address+"\n")
	send(all, "all", "bob@example.test", "blind@example.test")
	await("ann/Sent 2, bob/INBOX 2, unassigned/blind@example.test 1")
	if out := ok(t, j.dir, "show", j.find("subject:all")); !strings.Contains(out, "blind recipients unknown") {
		t.Error(out)
	}
}

// While the archive is locked, mail stays with its sender.
func TestJournalWhileLocked(t *testing.T) {
	bin, dir := binary(t), t.TempDir()
	ok(t, dir, "init", "a", "--json")
	j := &journaling{t: t, dir: dir}
	cmd := exec.Command(bin, "--archive", "a", "serve", "--https", "127.0.0.1:0", "--journal", "127.0.0.1:0", "--journal-allow", "127.0.0.0/8")
	cmd.Dir = dir
	j.start(cmd)
	c, err := smtp.Dial(j.at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.StartTLS(&tls.Config{InsecureSkipVerify: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.Mail("a@example.test"); err != nil {
		t.Fatal(err)
	}
	if err := c.Rcpt("any@archive.test"); err == nil || !strings.HasPrefix(err.Error(), "451") {
		t.Error("while locked:", err)
	}
}
