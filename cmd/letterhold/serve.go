package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/auth"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/server"
)

// defaultHTTPS is where the server listens; 443 needs a privilege that it
// should not have.
const defaultHTTPS = ":8443"

func serveCmd(e *env) *cobra.Command {
	var https, config string
	var jf journalFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the archive over HTTPS",
		Long: `Serves the archive over HTTPS (TLS 1.3) with a certificate of its own internal
CA, follows mail with the index, and verifies everything every 30 days. Without
a key it starts locked: it shows the unlock page only.

Command lines that name an archive which is being served are run by the server,
through a local socket.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := e.config(config)
			if err != nil {
				return err
			}
			if !c.Flags().Changed("https") && conf.HTTPS != "" {
				https = conf.HTTPS
			}
			if e.dir == "" {
				e.dir = conf.Archive
			}
			if e.keyFile == "" {
				e.keyFile = conf.KeyFile
			}
			jf.merge(c, conf.journalFlags)
			j, err := jf.options(e)
			if err != nil {
				return err
			}
			return e.serve(c.Context(), https, conf.level(), j)
		},
	}
	c.Flags().StringVar(&https, "https", defaultHTTPS, "address to listen on")
	c.Flags().StringVar(&config, "config", e.getenv("LETTERHOLD_CONFIG"), "configuration file, letterhold.toml (LETTERHOLD_CONFIG)")
	jf.register(c)
	return c
}

func (e *env) serve(ctx context.Context, https string, level slog.Level, j *server.Journal) error {
	if e.open != nil {
		return errors.New("the archive is being served already")
	}
	dir, err := e.archiveDir()
	if err != nil {
		return err
	}
	if err := checkAddress(https); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: level}))
	o := server.Options{HTTPS: https, Journal: j, KeyFile: e.knownKey(), Log: log, Execute: e.execute, Ready: func(url string) { e.printf("ready %s\n", url) }}
	open := func(s seal.Secret) (*server.Opened, error) {
		return server.OpenArchive(dir, func() (seal.Secret, error) { return s, nil }, archive.Options{Log: log})
	}
	secret, err := e.secret()
	if err != nil {
		if e.keyFile != "" || e.passphraseFile != "" {
			return err
		}
		if err := archive.Look(dir); err != nil {
			return err
		}
		s, err := server.NewLocked(dir, o, open)
		if err != nil {
			return err
		}
		e.printf("locked: no key was given\nunlock with: letterhold --archive %s unlock --key-file F\n", dir)
		return s.Run(ctx)
	}
	x, err := open(secret)
	if err != nil {
		return err
	}
	e.sayRecovered(x.Archive.Recovered)
	s, err := server.New(x, o)
	if err != nil {
		return errors.Join(err, x.Close())
	}
	e.printf("certificate of the internal CA, SHA-256: %s\n", s.Fingerprint())
	names, err := accounts(ctx, x)
	if err != nil {
		return errors.Join(err, x.Close())
	}
	if len(names) == 0 {
		e.printf("There is no account yet. Make one with: letterhold --archive %s user link --mailbox NAME\n", dir)
	}
	return s.Run(ctx)
}

// accounts are the names of those who administer the archive.
func accounts(ctx context.Context, o *server.Opened) (names []string, err error) {
	err = o.Archive.State().View(ctx, func(v catalog.View) (err error) {
		names, err = v.WithRole(auth.RoleAdministrator)
		return err
	})
	return names, err
}

// checkAddress refuses an address that cannot be listened on before anything is
// made for it.
func checkAddress(https string) error {
	if _, _, err := net.SplitHostPort(https); err != nil {
		return usage("--https %s: write it as :8443 or localhost:8443", https)
	}
	l, err := net.Listen("tcp", https)
	if errors.Is(err, syscall.EADDRINUSE) {
		return hint(fmt.Errorf("%s: another program uses the port", https), "choose another one: --https localhost:8444")
	}
	if err != nil {
		return err
	}
	return l.Close()
}

// execute runs the command lines of the local socket inside the server.
func (e *env) execute(o *server.Opened) server.Execute {
	return func(ctx context.Context, c server.Call, stdin io.Reader, stdout, stderr io.Writer) int {
		inner := &env{stdin: stdin, stdout: stdout, stderr: stderr, getenv: onlyArchive(o.Dir), cwd: c.Dir, width: c.Width, open: o}
		return run(ctx, inner, c.Args)
	}
}

// onlyArchive is the environment of a command line that a server runs: the
// client may have named the archive in its own.
func onlyArchive(dir string) func(string) string {
	return func(name string) string {
		if name == "LETTERHOLD_ARCHIVE" {
			return dir
		}
		return ""
	}
}
