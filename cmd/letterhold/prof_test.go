package main

import (
	"bytes"
	"context"
	"os"
	"runtime/debug"
	"testing"
)

// BenchmarkImport imports the mail in LETTERHOLD_BENCH_MAIL once; run it with
// -cpuprofile to see where the time goes.
func BenchmarkImport(b *testing.B) {
	mail := os.Getenv("LETTERHOLD_BENCH_MAIL")
	if mail == "" {
		b.Skip("LETTERHOLD_BENCH_MAIL names no mail")
	}
	debug.SetMemoryLimit(memoryLimit)
	for b.Loop() {
		dir := b.TempDir()
		e := func() *env {
			return &env{stdin: &bytes.Buffer{}, stdout: os.Stderr, stderr: os.Stderr, getenv: func(string) string { return "" }, cwd: dir}
		}
		if code := run(context.Background(), e(), []string{"init", dir + "/a", "--key-file", dir + "/k"}); code != 0 {
			b.Fatal(code)
		}
		if code := run(context.Background(), e(), []string{"--archive", dir + "/a", "--key-file", dir + "/k", "import", mail, "--mailbox", "m"}); code != 0 {
			b.Fatal(code)
		}
	}
}
