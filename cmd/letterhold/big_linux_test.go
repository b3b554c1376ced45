package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A server that takes in and gives out messages of 100 MB stays within bounds.
func TestServerWithBigMessages(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	bin, dir := binary(t), t.TempDir()
	for _, name := range []string{"100 MB text", "100 MB attachment"} {
		if err := os.WriteFile(filepath.Join(dir, name+".eml"), bigMessages()[name](), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ok(t, dir, "init", "a", "--json")
	cmd := exec.Command(bin, "--archive", "a", "--key-file", "key", "serve", "--https", "127.0.0.1:0")
	cmd.Dir = dir
	defer startServer(t, cmd)()
	if out := ok(t, dir, "import", "100 MB text.eml", "100 MB attachment.eml", "--mailbox", "m"); !strings.Contains(out, "2 seen = 2 archived") {
		t.Error(out)
	}
	if out := ok(t, dir, "search", "innermost OR word17"); !strings.Contains(out, "1 found") {
		t.Error(out)
	}
	ok(t, dir, "export", "*", "--format", "zip", "--to", "out.zip")
	ok(t, dir, "verify")
	peak := highWater(cmd.Process.Pid)
	t.Logf("%d MiB", peak>>20)
	if peak == 0 || peak > peakMemory {
		t.Errorf("the server held %d MiB, the limit is %d", peak>>20, peakMemory>>20)
	}
}
