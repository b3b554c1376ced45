package catalog

// Uploads returns the newest imports of files that somebody sent to the server.
func (v View) Uploads(who string, limit int) ([]Run, error) {
	return v.runs(`WHERE profile = 0 AND who = ? AND what GLOB 'upload *' ORDER BY id DESC LIMIT ?`, who, limit)
}

// RunningUploads returns the imports of sent files that have not ended.
func (v View) RunningUploads() ([]Run, error) {
	return v.runs(`WHERE profile = 0 AND state = 'running' AND what GLOB 'upload *'`)
}
