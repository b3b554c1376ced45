package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"mime/quotedprintable"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/mailtest/corpus"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"letterhold": main})
}

// The scripts are the command line as its users see it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", UpdateScripts: os.Getenv("UPDATE") != ""})
}

// lh runs a command line in this process.
func lh(t testing.TB, dir string, args ...string) (out, errs string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	e := &env{stdin: &bytes.Buffer{}, stdout: &stdout, stderr: &stderr, getenv: func(string) string { return "" }, cwd: dir}
	code = run(context.Background(), e, append([]string{"--archive", "a", "--key-file", "key"}, args...))
	return stdout.String(), stderr.String(), code
}

func ok(t testing.TB, dir string, args ...string) string {
	t.Helper()
	out, errs, code := lh(t, dir, args...)
	if code != 0 {
		t.Fatalf("%v: exit %d\n%s%s", args, code, out, errs)
	}
	return out
}

// Every list mail comes out with the git blob id that its file name says.
func TestCorpusLists(t *testing.T) {
	c := corpus.Dir(t)
	dir := t.TempDir()
	ok(t, dir, "init", "a", "--json")
	lists, err := filepath.Glob(filepath.Join(c, "*.*.*"))
	if err != nil || len(lists) < 2 {
		t.Fatal(lists, err)
	}
	var r struct{ Seen, Archived, Present, Skipped, Failed int64 }
	if err := json.Unmarshal([]byte(ok(t, dir, append([]string{"import", "--mailbox", "lists", "--json"}, lists...)...)), &r); err != nil {
		t.Fatal(err)
	}
	if r.Seen != 14_974 || r.Archived+r.Present != r.Seen {
		t.Errorf("%+v", r)
	}
	ok(t, dir, "export", "*", "--format", "eml", "--to", "out")
	have := map[string]bool{}
	readAll(t, filepath.Join(dir, "out"), func(name string, b []byte) {
		if strings.HasSuffix(name, ".eml") {
			h := sha1.New()
			fmt.Fprintf(h, "blob %d\x00", len(b))
			h.Write(b)
			have[hex.EncodeToString(h.Sum(nil))[:12]] = true
		}
	})
	n := 0
	for _, l := range lists {
		filepath.WalkDir(l, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && filepath.Base(filepath.Dir(p)) == "cur" {
				n++
				if !containsAny(d.Name(), have) {
					t.Errorf("a message of %s is not among the exported ones", filepath.Base(l))
				}
			}
			return nil
		})
	}
	if n != 14_974 {
		t.Errorf("%d files", n)
	}
	if out := ok(t, dir, "verify", "--json"); !strings.Contains(out, `"problems":[]`) {
		t.Error(out)
	}
}

// containsAny tells whether a name contains one of the ids.
func containsAny(name string, ids map[string]bool) bool {
	for _, f := range strings.FieldsFunc(name, func(r rune) bool { return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'f') }) {
		if len(f) >= 12 && ids[f[:12]] {
			return true
		}
	}
	return false
}

func readAll(t testing.TB, dir string, fn func(name string, b []byte)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if err == nil {
			fn(p, b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The suites of hard messages: whatever was archived comes out as it is in the
// file it came from.
func TestCorpusSuites(t *testing.T) {
	c := corpus.Dir(t)
	dir := t.TempDir()
	ok(t, dir, "init", "a", "--json")
	out, errs, code := lh(t, dir, "import", "--mailbox", "m", "--json", filepath.Join(c, "mime"), filepath.Join(c, "journal"), filepath.Join(c, "spamassassin"))
	if code != 0 && code != exitPartial {
		t.Fatal(code, errs)
	}
	var r struct {
		Seen, Archived, Present, Skipped, Failed int64
		Failures                                 []struct{ Where, Reason string }
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if r.Seen != r.Archived+r.Present+r.Skipped+r.Failed || r.Failed > 0 || r.Archived < 7000 {
		t.Errorf("%+v", r)
	}
	t.Logf("%d seen, %d archived, %d present, %d skipped", r.Seen, r.Archived, r.Present, r.Skipped)
	ok(t, dir, "export", "*", "--format", "maildir", "--to", "out")
	have := map[[32]byte]bool{}
	readAll(t, filepath.Join(dir, "out"), func(name string, b []byte) { have[sha256.Sum256(b)] = true })
	// SpamAssassin's files are single messages, most behind a separator line.
	missing := 0
	readAll(t, filepath.Join(c, "spamassassin"), func(name string, b []byte) {
		if filepath.Ext(name) != ".txt" {
			return
		}
		if bytes.HasPrefix(b, []byte("From ")) {
			_, b, _ = bytes.Cut(b, []byte("\n"))
		}
		if !have[sha256.Sum256(b)] {
			missing++
		}
	})
	if missing > 0 {
		t.Errorf("%d of SpamAssassin's messages are not among the exported ones", missing)
	}
	if out := ok(t, dir, "verify", "--json"); !strings.Contains(out, `"problems":[]`) {
		t.Error(out)
	}
}

// Nothing that mail says can be read on disk, in any common encoding.
func TestNothingReadableOnDisk(t *testing.T) {
	dir := t.TempDir()
	canaries := []string{"canaryheader", "canarybodyword", "canaryattachment", "canaryfilename", "canaryaddress", "canarysubject", "canaryfolder", "canarymailbox"}
	text := "From: <canaryaddress@example.org>\nSubject: canarysubject\nX-Test: canaryheader\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\n" + strings.Repeat("canarybodyword and more\n", 500) +
		"\n--x\nContent-Type: text/plain; name=canaryfilename.txt\nContent-Transfer-Encoding: base64\n\n"
	enc := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("canaryattachment ", 2000)))
	for len(enc) > 76 {
		text += enc[:76] + "\n"
		enc = enc[76:]
	}
	text += enc + "\n--x--\n"
	if err := os.WriteFile(filepath.Join(dir, "in.eml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	shm, _ := filepath.Glob("/dev/shm/letterhold-*/*")
	ok(t, dir, "init", "a", "--json")
	var logs string
	for _, args := range [][]string{{"import", "in.eml", "--mailbox", "canarymailbox", "--folder", "canaryfolder"}, {"search", "canarybodyword", "--json"}, {"export", "*", "--to", "out"}, {"verify"}, {"backup", "b"}} {
		_, errs, code := lh(t, dir, args...)
		if code != 0 {
			t.Fatal(args, errs)
		}
		logs += errs
	}
	key, err := os.ReadFile(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	secret, _ := base64.StdEncoding.DecodeString(strings.Fields(string(key))[3])
	var forms [][]byte
	for _, c := range canaries {
		forms = append(forms, []byte(c))
		var wide []byte
		for _, u := range utf16.Encode([]rune(c)) {
			wide = append(wide, byte(u), byte(u>>8))
		}
		forms = append(forms, wide, wide[1:])
		for shift := range 3 {
			b := base64.StdEncoding.EncodeToString([]byte("xxx"[:shift] + c))
			forms = append(forms, []byte(b[4:len(b)-4]))
		}
		var qp bytes.Buffer
		w := quotedprintable.NewWriter(&qp)
		w.Write([]byte(c))
		w.Close()
		forms = append(forms, qp.Bytes())
	}
	forms = append(forms, secret, secret[:16], []byte(strings.Fields(string(key))[3]))
	look := func(name string, b []byte) {
		for _, f := range forms {
			if bytes.Contains(b, f) {
				t.Errorf("%q is readable in %s", f, name)
			}
		}
	}
	for _, d := range []string{"a", "b"} {
		readAll(t, filepath.Join(dir, d), look)
	}
	look("the log", []byte(logs))
	after, _ := filepath.Glob("/dev/shm/letterhold-*/*")
	for _, f := range after {
		if b, err := os.ReadFile(f); err == nil && !strings.Contains(strings.Join(shm, " "), f) {
			look(f, b)
		}
	}
}

// binary builds the program once for tests that kill it.
func binary(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "letterhold")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin
}

// mailboxFile writes n invented messages as an mbox.
func mailboxFile(t testing.TB, name string, n int) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "From x Thu Mar 12 09:14:00 2026\nFrom: a%d@example.org\nSubject: number %d\nMessage-ID: <%d@example.org>\nDate: Thu, 12 Mar 2026 08:%02d:00 +0000\n\n", i, i, i, i%60)
		for range 20 + r.IntN(100) {
			fmt.Fprintf(&b, "word%d ", r.IntN(5000))
		}
		b.WriteString("\n\n")
	}
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The program is killed at random moments of an import and started again: in
// the end every message is there once, and everything is sound.
func TestKill(t *testing.T) {
	bin, dir := binary(t), t.TempDir()
	const n = 3000
	mailboxFile(t, filepath.Join(dir, "in.mbox"), n)
	ok(t, dir, "init", "a", "--json")
	kills := 100
	if testing.Short() {
		kills = 10
	}
	if os.Getenv("LETTERHOLD_SOAK") != "" {
		kills = 2000
	}
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	killed := 0
	for i := range kills {
		if i%25 == 24 { // begin anew
			os.RemoveAll(filepath.Join(dir, "a"))
			os.Remove(filepath.Join(dir, "key"))
			ok(t, dir, "init", "a", "--json")
		}
		cmd := exec.Command(bin, "--archive", "a", "--key-file", "key", "import", "in.mbox", "--mailbox", "m")
		cmd.Dir = dir
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-time.After(time.Duration(r.IntN(700)) * time.Millisecond):
			cmd.Process.Signal(syscall.SIGKILL)
			killed++
			<-ended
		case err := <-ended:
			if err != nil {
				t.Fatalf("round %d: %v\n%s", i, err, said.String())
			}
		}
		if i%10 == 9 {
			if out, errs, code := lh(t, dir, "verify"); code != 0 {
				t.Fatalf("round %d: verify after a kill: %d\n%s%s", i, code, out, errs)
			}
		}
	}
	t.Logf("killed %d times", killed)
	var rep struct{ Seen, Archived, Present, Skipped, Failed int64 }
	if err := json.Unmarshal([]byte(ok(t, dir, "import", "in.mbox", "--mailbox", "m", "--json")), &rep); err != nil {
		t.Fatal(err)
	}
	if rep.Seen != rep.Archived+rep.Present || rep.Seen != n || rep.Failed+rep.Skipped != 0 {
		t.Errorf("%+v", rep)
	}
	var st struct{ Messages, Occurrences int64 }
	if err := json.Unmarshal([]byte(ok(t, dir, "stats", "--json")), &st); err != nil {
		t.Fatal(err)
	}
	if st.Messages != n || st.Occurrences != n {
		t.Errorf("%+v, want %d once", st, n)
	}
	if out := ok(t, dir, "search", "word1 OR word2", "--json"); !strings.Contains(out, `"hits":[{`) {
		t.Error(out)
	}
	ok(t, dir, "verify")
}

// While a server owns the archive, command lines go through its socket.
func TestThroughTheServer(t *testing.T) {
	bin, dir := binary(t), t.TempDir()
	mailboxFile(t, filepath.Join(dir, "in.mbox"), 50)
	ok(t, dir, "init", "a", "--json")
	start := func(args ...string) (*exec.Cmd, string) {
		cmd := exec.Command(bin, append([]string{"--archive", "a"}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "LETTERHOLD_KEY_FILE=", "CREDENTIALS_DIRECTORY=")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if u, ready := strings.CutPrefix(lines.Text(), "ready "); ready {
				return cmd, u
			}
		}
		t.Fatal("the server does not start")
		return nil, ""
	}
	stop := func(cmd *exec.Cmd) {
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Error("the server ends with", err)
		}
	}
	cmd, _ := start("--key-file", "key", "serve", "--https", "127.0.0.1:0")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"import", "in.mbox", "--mailbox", "m"}, "50 seen = 50 archived"}, {[]string{"search", "number"}, "50 found"}, {[]string{"verify"}, "as it was written"}, {[]string{"backup", "b"}, "parcel"},
		{[]string{"export", "*", "--to", "out"}, "50 messages"}, {[]string{"doctor"}, ""}, {[]string{"key", "list"}, "recovery"}, {[]string{"unlock"}, "unlocked"},
	} {
		if out := ok(t, dir, c.args...); !strings.Contains(out, c.want) {
			t.Errorf("%v: %s", c.args, out)
		}
	}
	// The archive named by the environment of the client alone.
	for _, args := range [][]string{{"doctor"}, {"key", "add", "--new-key-file", "another.key"}, {"user", "link", "--mailbox", "m"}} {
		var out bytes.Buffer
		e := &env{stdin: &bytes.Buffer{}, stdout: &out, stderr: &out, cwd: dir, getenv: func(name string) string {
			return map[string]string{"LETTERHOLD_ARCHIVE": filepath.Join(dir, "a")}[name]
		}}
		if code := run(context.Background(), e, args); code != 0 {
			t.Errorf("%v: exit %d: %s", args, code, out.String())
		}
	}
	if _, errs, code := lh(t, dir, "search", `"open`); code != exitUsage || !strings.Contains(errs, "character 1") {
		t.Errorf("exit %d: %s", code, errs)
	}
	stop(cmd)
	cmd, u := start("serve", "--https", "127.0.0.1:0")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	status := func() int {
		resp, err := client.Get(u + "/search")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if n := status(); n != http.StatusServiceUnavailable {
		t.Errorf("a locked server answers %d", n)
	}
	if out := ok(t, dir, "unlock"); !strings.Contains(out, "unlocked") {
		t.Error(out)
	}
	if n := status(); n != http.StatusSeeOther {
		t.Errorf("an unlocked server answers %d", n)
	}
	stop(cmd)
	ok(t, dir, "verify")
}

// The second reader, written from docs/format.md alone, agrees.
func TestSecondReader(t *testing.T) {
	if err := exec.Command("/usr/bin/python3", "-c", "import cryptography, zstandard, argon2").Run(); err != nil {
		mailtest.Missing(t, "python3-cryptography, python3-zstandard or python3-argon2 is missing")
	}
	dir := t.TempDir()
	mailboxFile(t, filepath.Join(dir, "in.mbox"), 300)
	if err := os.WriteFile(filepath.Join(dir, "big.eml"), []byte("Subject: big\nContent-Type: application/x\nContent-Transfer-Encoding: base64\n\n"+strings.Repeat("QUJDREVGR0hJSktMTU5PUFFS\n", 9000)), 0o600); err != nil {
		t.Fatal(err)
	}
	var made struct {
		Words []string `json:"recovery_words"`
	}
	if err := json.Unmarshal([]byte(ok(t, dir, "init", "a", "--json")), &made); err != nil {
		t.Fatal(err)
	}
	ok(t, dir, "import", "in.mbox", "big.eml", "--mailbox", "m")
	if err := os.WriteFile(filepath.Join(dir, "words"), []byte(strings.Join(made.Words, " ")), 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := filepath.Abs("../../contrib/reader.py")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", reader, filepath.Join(dir, "a"), "--words-file", filepath.Join(dir, "words"), "extract", filepath.Join(dir, "read"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ok(t, dir, "export", "*", "--to", "out")
	want := map[string][32]byte{}
	readAll(t, filepath.Join(dir, "out"), func(name string, b []byte) {
		if strings.HasSuffix(name, ".eml") {
			want[name[strings.LastIndexByte(name, '-')+1:]] = sha256.Sum256(b)
		}
	})
	n := 0
	readAll(t, filepath.Join(dir, "read"), func(name string, b []byte) {
		n++
		if want[filepath.Base(name)] != sha256.Sum256(b) {
			t.Errorf("%s differs", filepath.Base(name))
		}
	})
	if n != 301 || len(want) != n {
		t.Errorf("%d read, %d exported", n, len(want))
	}
}

// The recovery words make a new key, also for scripts; a weak passphrase is
// not taken.
func TestRecover(t *testing.T) {
	dir := t.TempDir()
	var made struct {
		Words []string `json:"recovery_words"`
	}
	if err := json.Unmarshal([]byte(ok(t, dir, "init", "a", "--json")), &made); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"words": strings.Join(made.Words, "\n"), "weak": "too weak"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(filepath.Join(dir, "key"))
	if _, errs, code := lh(t, dir, "--key-file", "", "recover", "--words-file", "words", "--passphrase-file", "weak"); code == 0 || !strings.Contains(errs, "at least 15") {
		t.Errorf("a weak passphrase: exit %d: %s", code, errs)
	}
	var r struct{ Slot, Kind string }
	if err := json.Unmarshal([]byte(ok(t, dir, "--key-file", "new", "recover", "--words-file", "words", "--json")), &r); err != nil || r.Slot == "" || r.Kind != "keyfile" {
		t.Fatalf("%+v, %v", r, err)
	}
	if out := ok(t, dir, "--key-file", "new", "key", "list"); !strings.Contains(out, r.Slot) || !strings.Contains(out, "made with the recovery key") {
		t.Error(out)
	}
	ok(t, dir, "--key-file", "new", "verify")
}

// Damage has the exit code for damage, however much is gone.
func TestDamageExitCodes(t *testing.T) {
	for name, harm := range map[string]func(dir string) error{
		"archive.json changed": func(dir string) error { return os.WriteFile(filepath.Join(dir, "archive.json"), []byte("{"), 0o600) },
		"archive.json missing": func(dir string) error { return os.Remove(filepath.Join(dir, "archive.json")) },
		"a pack missing":       func(dir string) error { return os.Remove(filepath.Join(dir, "store/00/00000001.pack")) },
		"its keys missing":     func(dir string) error { return os.Remove(filepath.Join(dir, "store/00/00000001.keys")) },
	} {
		dir := t.TempDir()
		mailboxFile(t, filepath.Join(dir, "in.mbox"), 3)
		ok(t, dir, "init", "a", "--json")
		ok(t, dir, "import", "in.mbox", "--mailbox", "m")
		if err := harm(filepath.Join(dir, "a")); err != nil {
			t.Fatal(err)
		}
		out, errs, code := lh(t, dir, "verify", "--json")
		var r struct{ Problems []struct{ File, What string } }
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != 4 || len(r.Problems) == 0 {
			t.Errorf("%s: verify: %d, %v\n%s%s", name, code, err, out, errs)
		}
		if out, errs, code := lh(t, dir, "export", "*", "--to", "out"); code != 4 && code != 3 {
			t.Errorf("%s: export: %d\n%s%s", name, code, out, errs)
		}
	}
}
