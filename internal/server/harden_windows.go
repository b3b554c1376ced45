package server

import (
	"net"
	"os"
)

// Harden does nothing here: Windows writes no core files by itself.
func Harden() {}

// Swappable is true: the page file may take any page.
func Swappable() bool { return true }

// peerUID cannot be asked here; the socket's folder is open to its user only.
func peerUID(*net.UnixConn) (int, error) { return os.Getuid(), nil }

func ownedByUs(os.FileInfo) bool { return true }

// owner is not known here.
func owner(os.FileInfo) int { return os.Getuid() }
