package server

import (
	"path/filepath"

	"golang.org/x/sys/windows"
)

// free is how many bytes a volume still takes.
func free(dir string) (int64, error) {
	p, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var n uint64
	err = windows.GetDiskFreeSpaceEx(p, &n, nil, nil)
	return int64(n), err
}

// sameDevice tells whether two files lie on one volume.
func sameDevice(a, b string) bool { return filepath.VolumeName(a) == filepath.VolumeName(b) }
