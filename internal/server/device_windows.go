package server

import "path/filepath"

// sameDevice tells whether two files lie on one volume.
func sameDevice(a, b string) bool { return filepath.VolumeName(a) == filepath.VolumeName(b) }
