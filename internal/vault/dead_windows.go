package vault

// dead cannot be asked here; folders of processes that died stay.
func dead(int) bool { return false }
