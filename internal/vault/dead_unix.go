//go:build unix

package vault

import (
	"errors"
	"syscall"
)

// dead tells whether there is no process with a number.
func dead(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }
