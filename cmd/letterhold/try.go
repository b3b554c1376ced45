package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/sample"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/server"
	"github.com/letterhold/letterhold/internal/source"
)

func tryCmd(e *env) *cobra.Command {
	var dir, https string
	c := &cobra.Command{
		Use:   "try [PATH...]",
		Short: "Make an archive, import mail (or a sample), and serve it",
		Long: `Makes an archive in a new folder, imports the mail given as arguments (Maildir,
mbox, EML, ZIP, folders of them) or a sample mailbox of 500 invented messages,
serves it over HTTPS, and prints a one-time sign-in link. When it is started
again with the same folder it goes on with the archive that is there.

The key file lies beside the folder (DIR.key). That is for trying: for real mail
keep the key on another device.`,
		RunE: func(c *cobra.Command, args []string) error { return e.try(c.Context(), e.path(dir), https, args) },
	}
	c.Flags().StringVar(&dir, "dir", "letterhold-try", "folder to make the archive in")
	c.Flags().StringVar(&https, "https", "localhost:8443", "address to listen on")
	return c
}

func (e *env) try(ctx context.Context, dir, https string, paths []string) error {
	e.dir = dir
	if e.keyFile == "" {
		e.keyFile = dir + ".key"
	}
	if err := checkAddress(https); err != nil {
		return err
	}
	for _, p := range paths {
		if _, err := os.Stat(e.path(p)); err != nil {
			return fmt.Errorf("import: %w", err)
		}
	}
	fresh := false
	if err := archive.Look(dir); errors.Is(err, archive.ErrNoArchive) {
		s, err := makeKeyFile(e.path(e.keyFile), dir)
		if err != nil {
			return err
		}
		_, words, err := createArchive(dir, []seal.Secret{s})
		if err != nil {
			return err
		}
		e.printf("Archive made in %s, its key in %s.\n\n", dir, e.path(e.keyFile))
		e.printWords(words)
		e.printf("\n")
		fresh = true
	}
	log := slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	x, err := server.OpenArchive(dir, e.secret, archive.Options{Log: log})
	if err != nil {
		return err
	}
	if err := e.tryImport(ctx, x, fresh, paths); err != nil {
		return errors.Join(err, x.Close())
	}
	mailbox, err := x.Archive.Mailbox(ctx, "me", keyOwner)
	if err != nil {
		return errors.Join(err, x.Close())
	}
	var s *server.Server
	s, err = server.New(x, server.Options{HTTPS: https, KeyFile: e.knownKey(), Log: log, Execute: e.execute, Ready: func(url string) {
		link, err := x.Link(mailbox)
		if err != nil {
			fmt.Fprintf(e.stderr, "letterhold: no sign-in link: %v\n", err)
			return
		}
		e.printf("ready %s\n", url)
		e.printf("link %s\n", link)
		if names, err := accounts(ctx, x); err == nil && len(names) > 0 {
			e.printf("There is an account already (%s): sign in at %s. The link makes one more, which reads the same mailbox.\n", strings.Join(names, ", "), url)
		}
		e.printf("The link makes your account; it can be used once, within 15 minutes.\nYour browser does not know the archive's own CA and warns. Its certificate has this SHA-256:\n%s\nStop with Ctrl-C.\n", s.Fingerprint())
	}})
	if err != nil {
		return errors.Join(err, x.Close())
	}
	return s.Run(ctx)
}

func (e *env) tryImport(ctx context.Context, x *server.Opened, fresh bool, paths []string) error {
	if len(paths) > 0 {
		im := ingest.Import{Mailbox: "me", Who: keyOwner}
		for _, p := range paths {
			im.Paths = append(im.Paths, e.path(p))
		}
		err := e.importPaths(ctx, x, im, false)
		if c := codeError(0); errors.As(err, &c) && c == exitPartial {
			return nil // the report said what failed
		}
		return err
	}
	if !fresh {
		if done, err := sampleDone(ctx, x); err != nil || done {
			return err
		}
	}
	r, err := ingest.Given(ctx, x.Archive, ingest.Import{Mailbox: "me", Who: keyOwner}, sampleRun, sampleSource{x.Archive.Now()})
	if err == nil {
		err = x.Index.Wait(ctx)
	}
	if err != nil {
		return err
	}
	e.printf("%d invented messages: %s\n", r.Seen, sum(r.Counts))
	return nil
}

// sampleRun is what the import of the sample mailbox is called.
const sampleRun = "sample mailbox"

// sampleDone tells whether the sample mailbox is imported, or other mail is there:
// an interrupted try begins it again.
func sampleDone(ctx context.Context, x *server.Opened) (done bool, err error) {
	err = x.Archive.State().View(ctx, func(v catalog.View) error {
		rs, err := v.Runs(100)
		done = !slices.ContainsFunc(rs, func(r catalog.Run) bool { return r.What == sampleRun }) && len(rs) > 0
		for _, r := range rs {
			done = done || r.What == sampleRun && r.State == catalog.RunDone
		}
		return err
	})
	return done, err
}

// sampleSource yields the mailbox that the program makes.
type sampleSource struct{ now time.Time }

func (s sampleSource) Walk(ctx context.Context, _ source.Marks, yield func(source.Item) bool) error {
	n := 0
	for m := range sample.Mailbox(s.now) {
		if n++; !yield(source.Item{Raw: m.Raw, Folder: m.Folder, Flags: m.Flags, Where: fmt.Sprint(n)}) {
			return ctx.Err()
		}
	}
	return nil
}
