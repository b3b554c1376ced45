package server

import (
	"bytes"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Harden makes the process one that leaves nothing behind: no core file, not
// readable by a debugger of the same user, and, where the system permits it,
// no page of its memory in swap.
func Harden() {
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	unix.Umask(0o077)
	lockMemory()
}

// lockMemory keeps every page in memory from the moment it is used: keys,
// ciphers' key schedules, and mail alike. Under a limit on locked memory it does
// nothing, since allocations would begin to fail.
func lockMemory() {
	if mayLock() {
		unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
	}
}

// mayLock tells whether this process may lock all the memory it will ever have.
func mayLock() bool {
	var caps [2]unix.CapUserData
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0])
	if err == nil && caps[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0 {
		return true // no limit holds
	}
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l) != nil || l.Max != unix.RLIM_INFINITY {
		return false
	}
	l.Cur = l.Max
	return unix.Setrlimit(unix.RLIMIT_MEMLOCK, &l) == nil
}

// Swappable tells whether memory of this process may be written to swap: it is
// not locked, and the machine has swap.
func Swappable() bool {
	status, err := os.ReadFile("/proc/self/status")
	if err == nil && !bytes.Contains(status, []byte("VmLck:\t       0 kB")) {
		return false
	}
	swaps, err := os.ReadFile("/proc/swaps")
	return err != nil || bytes.Count(swaps, []byte("\n")) > 1 // below its heading
}

// peerUID is the user at the other end of a local socket.
func peerUID(c *net.UnixConn) (uid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
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
