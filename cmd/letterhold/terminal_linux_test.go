package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/letterhold/letterhold/internal/mailtest"
)

// terminal is a pseudo-terminal with a program at it.
type terminal struct {
	t      *testing.T
	master *os.File
	ended  chan error

	mu     sync.Mutex
	screen bytes.Buffer // all that was shown
	seen   int          // how much of it was waited for
}

// atTerminal starts a program whose terminal is width cells wide.
func atTerminal(t *testing.T, width uint16, cmd *exec.Cmd) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		mailtest.Missing(t, "no pseudo-terminals here: ", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: width})
	}
	if err != nil {
		mailtest.Missing(t, "no pseudo-terminals here: ", err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		mailtest.Missing(t, "no pseudo-terminals here: ", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	x := &terminal{t: t, master: master, ended: make(chan error, 1)}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			x.mu.Lock()
			x.screen.Write(b[:n])
			x.mu.Unlock()
			if err != nil { // the last one at the terminal has gone
				x.ended <- cmd.Wait()
				return
			}
		}
	}()
	return x
}

func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.screen.String()
}

// answer waits for a prompt and types a line.
func (x *terminal) answer(prompt, line string) {
	x.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		all := x.text()
		if i := strings.Index(all[x.seen:], prompt); i >= 0 {
			x.seen += i + len(prompt)
			break
		}
		if time.Now().After(deadline) {
			x.t.Fatalf("no %q:\n%s", prompt, all)
		}
	}
	time.Sleep(50 * time.Millisecond) // until it has switched the echo off
	fmt.Fprintln(x.master, line)
}

func (x *terminal) wait() (string, error) {
	err := <-x.ended
	return x.text(), err
}

// A passphrase is asked for at the terminal, twice when it is new, and not
// shown.
func TestPassphraseAtTheTerminal(t *testing.T) {
	bin, dir := binary(t), t.TempDir()
	const pass = "a quiet reading room at dusk"
	at := func(args ...string) *terminal {
		cmd := exec.Command(bin, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "LETTERHOLD_KEY_FILE=", "CREDENTIALS_DIRECTORY=")
		return atTerminal(t, 80, cmd)
	}
	x := at("init", "a")
	x.answer("New passphrase (at least 15 characters): ", "too short")
	if out, err := x.wait(); err == nil || !strings.Contains(out, "at least 15") {
		t.Errorf("a short passphrase: %v\n%s", err, out)
	}
	x = at("init", "a")
	x.answer("New passphrase", pass)
	x.answer("The same again: ", pass+"x")
	if out, err := x.wait(); err == nil || !strings.Contains(out, "differ") {
		t.Errorf("two passphrases: %v\n%s", err, out)
	}
	x = at("init", "a")
	x.answer("New passphrase", pass)
	x.answer("The same again: ", pass)
	out, err := x.wait()
	if err != nil || !strings.Contains(out, "24. ") || strings.Contains(out, pass) {
		t.Fatalf("%v\n%s", err, out)
	}
	x = at("--archive", "a", "stats")
	x.answer("Passphrase: ", pass)
	if out, err := x.wait(); err != nil || !strings.Contains(out, "0 messages") || strings.Contains(out, pass) {
		t.Errorf("%v\n%s", err, out)
	}
	x = at("--archive", "a", "stats")
	x.answer("Passphrase: ", "another passphrase")
	if out, err := x.wait(); err == nil || !strings.Contains(out, "no key slot opens") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A long verb draws one line that fits, and takes it away.
func TestProgressAtTheTerminal(t *testing.T) {
	bin, dir := binary(t), t.TempDir()
	mailboxFile(t, filepath.Join(dir, "in.mbox"), 3000)
	ok(t, dir, "init", "a", "--json")
	cmd := exec.Command(bin, "--archive", "a", "--key-file", "key", "import", "in.mbox", "--mailbox", "m")
	cmd.Dir = dir
	out, err := atTerminal(t, 50, cmd).wait()
	if err != nil {
		t.Fatal(err, out)
	}
	lines := strings.Split(out, "\r\x1b[K")
	if len(lines) < 3 || !strings.Contains(out, "importing [") {
		t.Fatalf("no bar: %q", out)
	}
	for _, l := range lines[1 : len(lines)-1] {
		if len([]rune(l)) >= 50 || strings.ContainsAny(l, "\r\n") {
			t.Errorf("%q does not fit", l)
		}
	}
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "3000 seen = 3000 archived") {
		t.Errorf("the report is %q", last)
	}
}
