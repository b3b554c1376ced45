package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/letterhold/letterhold/internal/mailtest"
)

// nobody is a user without rights: the kernel gives files in /proc of a
// process that is not dumpable to root, which shows for other users only.
const nobody = 65534

// unprivileged prepares a command to run as an ordinary user.
func unprivileged(t *testing.T, cmd *exec.Cmd, owns ...string) (uid int) {
	t.Helper()
	if os.Getuid() != 0 {
		return os.Getuid()
	}
	for _, dir := range owns {
		if err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(p, nobody, nobody)
		}); err != nil {
			t.Fatal(err)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return nobody
}

func ownerOf(t *testing.T, name string) int {
	t.Helper()
	fi, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return int(fi.Sys().(*syscall.Stat_t).Uid)
}

func procFile(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		mailtest.Missing(t, "the kernel does not show it to this user: ", err)
	}
	return string(b)
}

// startServer starts the real program and returns once it is ready.
func startServer(t *testing.T, cmd *exec.Cmd) (stop func()) {
	t.Helper()
	_, stop = startServerAt(t, cmd)
	return stop
}

// startServerAt also says where it listens.
func startServerAt(t *testing.T, cmd *exec.Cmd) (url string, stop func()) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if url, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			return url, stop
		}
	}
	stop()
	t.Fatal("the server does not start")
	return "", nil
}

// The serving process cannot be dumped: not by a core file, not through /proc.
func TestServerIsNotDumpable(t *testing.T) {
	bin, dir := binary(t), t.TempDir()
	ok(t, dir, "init", "a", "--json")
	cmd := exec.Command(bin, "--archive", "a", "--key-file", "key", "serve", "--https", "127.0.0.1:0")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR=", "TMPDIR="+dir)
	uid := unprivileged(t, cmd, dir, filepath.Dir(filepath.Dir(bin)))

	// A process that does nothing about it belongs to its user: the test can tell.
	plain := exec.Command("sleep", "60")
	unprivileged(t, plain)
	if err := plain.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { plain.Process.Kill(); plain.Wait() }()
	if got := ownerOf(t, fmt.Sprintf("/proc/%d/mem", plain.Process.Pid)); got != uid {
		mailtest.Missing(t, "/proc shows owner ", got, " of an ordinary process of user ", uid)
	}

	defer startServer(t, cmd)()
	if got := ownerOf(t, fmt.Sprintf("/proc/%d/mem", cmd.Process.Pid)); got != 0 {
		t.Errorf("the memory of the server belongs to user %d: it is dumpable", got)
	}
	limits := procFile(t, cmd.Process.Pid, "limits")
	if !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).MatchString(limits) {
		t.Errorf("the server may leave a core file:\n%s", limits)
	}
}

// Where the system permits it, all memory of the server is locked; where there
// is a limit, none is, and the server runs all the same.
func TestServerLocksItsMemory(t *testing.T) {
	bin, dir := binary(t), t.TempDir()
	ok(t, dir, "init", "a", "--json")
	locked := func(how []string, as func(*exec.Cmd)) bool {
		args := append(how, bin, "--archive", "a", "--key-file", "key", "serve", "--https", "127.0.0.1:0")
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR=", "TMPDIR="+dir)
		as(cmd)
		stop := startServer(t, cmd)
		defer stop()
		status := procFile(t, cmd.Process.Pid, "status")
		return !regexp.MustCompile(`(?m)^VmLck:\s+0 kB`).MatchString(status)
	}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]); err != nil {
		t.Fatal(err)
	}
	if caps[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0 {
		if !locked(nil, func(*exec.Cmd) {}) {
			t.Error("memory is not locked although it may be")
		}
	} else if exec.Command("prlimit", "--memlock=unlimited", "true").Run() == nil {
		if !locked([]string{"prlimit", "--memlock=unlimited"}, func(*exec.Cmd) {}) {
			t.Error("memory is not locked although there is no limit")
		}
	} else {
		t.Log("no right to lock memory here")
	}
	if locked([]string{"prlimit", "--memlock=8388608"}, func(cmd *exec.Cmd) {
		unprivileged(t, cmd, dir, filepath.Dir(filepath.Dir(bin)))
	}) {
		t.Error("memory is locked under a limit that it will exceed")
	}
}
