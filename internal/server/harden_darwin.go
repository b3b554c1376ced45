package server

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Harden makes the process leave no core file.
func Harden() {
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	unix.Umask(0o077)
}

// Swappable is false: macOS encrypts its swap.
func Swappable() bool { return false }

// peerUID is the user at the other end of a local socket.
func peerUID(c *net.UnixConn) (uid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Xucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED) }); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

func ownedByUs(fi os.FileInfo) bool { return owner(fi) == os.Getuid() }

// owner is the user who owns a file; -1 if that is not known.
func owner(fi os.FileInfo) int {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
