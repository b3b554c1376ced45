package archive

import "os"

// soak tells whether tests shall take hours instead of seconds.
func soak() bool { return os.Getenv("LETTERHOLD_SOAK") != "" }
