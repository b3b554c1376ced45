// Command letterhold is a self-hosted archive server for e-mail: one program
// that collects mail, keeps it encrypted and provable, and finds it again.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"golang.org/x/term"

	"github.com/letterhold/letterhold/internal/server"
)

// memoryLimit is what the garbage collector aims for, in bytes, so that the
// process stays under 256 MiB with what lies outside its heap.
const memoryLimit = 170 << 20

func main() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	server.Harden()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, processEnv(), os.Args[1:]))
}

// processEnv is the environment of this process.
func processEnv() *env {
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, cwd: dir}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		if w, _, err := term.GetSize(int(os.Stderr.Fd())); err == nil {
			e.width = w
		}
	}
	return e
}
