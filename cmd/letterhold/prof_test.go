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
	for b.Loop() {
		benchArchive(b)
	}
}

// BenchmarkVerify verifies an archive of that mail.
func BenchmarkVerify(b *testing.B) {
	call := benchArchive(b)
	for b.Loop() {
		call("verify")
	}
}

// benchArchive makes an archive of the mail and returns what calls the program
// for it.
func benchArchive(b *testing.B) func(args ...string) {
	mail := os.Getenv("LETTERHOLD_BENCH_MAIL")
	if mail == "" {
		b.Skip("LETTERHOLD_BENCH_MAIL names no mail")
	}
	debug.SetMemoryLimit(memoryLimit)
	dir := b.TempDir()
	call := func(args ...string) {
		e := &env{stdin: &bytes.Buffer{}, stdout: os.Stderr, stderr: os.Stderr, getenv: func(string) string { return "" }, cwd: dir}
		if code := run(context.Background(), e, append([]string{"--archive", dir + "/a", "--key-file", dir + "/k"}, args...)); code != 0 {
			b.Fatal(args, code)
		}
	}
	call("init", dir+"/a")
	call("import", mail, "--mailbox", "m")
	return call
}
