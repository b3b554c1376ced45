package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/ledger"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/search"
	"github.com/letterhold/letterhold/internal/server"
	"github.com/letterhold/letterhold/internal/store"
	"github.com/letterhold/letterhold/internal/vault"
)

// Exit codes; others script against them.
const (
	exitOK        = 0
	exitError     = 1
	exitUsage     = 2
	exitPartial   = 3
	exitIntegrity = 4
)

// env is where a verb runs: a terminal, a script, or a server on behalf of one.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	cwd            string
	width          int // of the terminal; 0: none

	dir, keyFile, passphraseFile string
	open                         *server.Opened // set inside a server
	args                         []string
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func usage(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// codeError carries an exit code and nothing more to say.
type codeError int

func (c codeError) Error() string { return fmt.Sprintf("exit %d", int(c)) }

// hinted is an error with the way out.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func hint(err error, format string, a ...any) error {
	if err == nil {
		return nil
	}
	return hinted{err, fmt.Sprintf(format, a...)}
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, e *env, args []string) int {
	e.args = args
	root := newRoot(e)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code codeError
	if err == nil {
		return exitOK
	} else if errors.As(err, &code) {
		return int(code)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	err = explain(err)
	fmt.Fprintf(e.stderr, "letterhold: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n  "))
	var h hinted
	if errors.As(err, &h) {
		fmt.Fprintf(e.stderr, "hint: %s\n", h.hint)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var u usageError
	var syntax *search.SyntaxError
	switch {
	case errors.As(err, &u), errors.As(err, &syntax), errors.Is(err, search.ErrPlace):
		return exitUsage
	case errors.Is(err, store.ErrDamaged), errors.Is(err, ledger.ErrDamaged), errors.Is(err, vault.ErrDamaged), errors.Is(err, archive.ErrDamaged), errors.Is(err, archive.ErrOldState), errors.Is(err, seal.ErrChanged):
		return exitIntegrity
	}
	return exitError
}

// explain adds the way out to errors that have one.
func explain(err error) error {
	var h hinted
	switch {
	case errors.As(err, &h):
		return err
	case errors.Is(err, seal.ErrWrongKey):
		return hint(err, "nothing was changed; check --key-file or --passphrase-file, or use `letterhold recover` with the 24 words")
	case errors.Is(err, archive.ErrNoArchive):
		return hint(err, "make one with `letterhold init DIR`, or name another with --archive DIR")
	case errors.Is(err, archive.ErrOldState):
		return hint(err, "restore state.db from the newest backup; `letterhold verify` shows what else differs")
	case errors.Is(err, sqlite3.FULL), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return hint(err, "make room on the disk, then do the same again: what is archived stays; reading needs room for a few lines of the ledger")
	case errors.Is(err, vault.ErrDamaged):
		return hint(err, "`letterhold verify` names what is damaged; catalog and index can be made again with `letterhold repair`")
	}
	if u := (usageError{}); errors.As(err, &u) {
		return hint(err, "`letterhold --help` lists the verbs, `letterhold VERB --help` their options")
	}
	return err
}

// newRoot builds the command tree anew for each command line, so that nothing
// is left over from the one before.
func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "letterhold",
		Short: "An archive for e-mail: encrypted, unaltered, provable, searchable",
		Long: `Letterhold collects e-mail, keeps it encrypted, unaltered and provable, and
finds it again.

To try it:             letterhold try
To begin for real:     letterhold init DIR --key-file FILE
                       letterhold --archive DIR --key-file FILE import PATH --mailbox NAME
                       letterhold --archive DIR --key-file FILE serve`,
		SilenceErrors: true, SilenceUsage: true,
	}
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	f := root.PersistentFlags()
	f.StringVar(&e.dir, "archive", e.getenv("LETTERHOLD_ARCHIVE"), "the archive's folder (LETTERHOLD_ARCHIVE)")
	f.StringVar(&e.keyFile, "key-file", e.getenv("LETTERHOLD_KEY_FILE"), "key file that opens it (LETTERHOLD_KEY_FILE)")
	f.StringVar(&e.passphraseFile, "passphrase-file", "", "file that holds the passphrase")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(initCmd(e), importCmd(e), runsCmd(e), profileCmd(e), tokenCmd(e), journalCmd(e), searchCmd(e), showCmd(e), exportCmd(e), restoreMailCmd(e), targetCmd(e), statsCmd(e), mailboxCmd(e), verifyCmd(e), repairCmd(e), compactCmd(e),
		backupCmd(e), restoreCmd(e), keyCmd(e), recoverCmd(e), serveCmd(e), unlockCmd(e), tryCmd(e), versionCmd(e), doctorCmd(e), configCmd(e), checkpointCmd(e), userCmd(e))
	walk(root, func(c *cobra.Command) {
		c.SuggestionsMinimumDistance = 2
		if args := c.Args; args != nil {
			c.Args = func(c *cobra.Command, a []string) error {
				if err := args(c, a); err != nil {
					return usage("%s: %v", c.CommandPath(), err)
				}
				return nil
			}
		}
		if c.HasSubCommands() && c.RunE == nil {
			c.RunE = func(c *cobra.Command, a []string) error {
				if len(a) > 0 {
					err := usage("%s: there is no verb %q", strings.TrimPrefix(c.CommandPath(), "letterhold "), a[0])
					if c == root {
						err = usage("there is no verb %q", a[0])
					}
					if near := c.SuggestionsFor(a[0]); len(near) > 0 {
						err = hint(err, "did you mean %q?", near[0])
					}
					return err
				}
				return c.Help()
			}
			c.Args = cobra.ArbitraryArgs
		}
	})
	return root
}

func walk(c *cobra.Command, fn func(*cobra.Command)) {
	fn(c)
	for _, k := range c.Commands() {
		walk(k, fn)
	}
}

// path makes a path of the command line absolute.
func (e *env) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(e.cwd, p)
}

// archiveDir is the archive's folder.
func (e *env) archiveDir() (string, error) {
	if e.dir == "" {
		return "", hint(usage("no archive named"), "name it with --archive DIR or LETTERHOLD_ARCHIVE")
	}
	return e.path(e.dir), nil
}

// secret returns what opens the archive: key file, passphrase file, systemd
// credential, or a passphrase typed at the terminal.
func (e *env) secret() (seal.Secret, error) {
	switch {
	case e.keyFile != "":
		return readKeyFile(e.path(e.keyFile), seal.KindKeyFile)
	case e.passphraseFile != "":
		return e.readPassphrase(e.passphraseFile)
	}
	if dir := e.getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		if s, err := readKeyFile(filepath.Join(dir, server.Credential), seal.KindSystemd); err == nil {
			return s, nil
		}
	}
	if f, ok := e.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return e.askPassphrase("Passphrase: ")
	}
	return seal.Secret{}, hint(errors.New("no key given: the archive is locked"), "name a key with --key-file F, --passphrase-file F or LETTERHOLD_KEY_FILE")
}

func readKeyFile(name string, kind seal.SlotKind) (seal.Secret, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return seal.Secret{}, fmt.Errorf("key file: %w", err)
	}
	s, err := seal.ParseKeyFile(kind, b)
	if err != nil {
		return s, fmt.Errorf("key file %s: %w", name, err)
	}
	return s, nil
}

func (e *env) readPassphrase(name string) (seal.Secret, error) {
	b, err := os.ReadFile(e.path(name))
	if err != nil {
		return seal.Secret{}, fmt.Errorf("passphrase file: %w", err)
	}
	return seal.Passphrase(string(b))
}

func (e *env) askPassphrase(prompt string) (seal.Secret, error) {
	f, ok := e.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return seal.Secret{}, hint(errors.New("there is no terminal to ask for a passphrase"), "use --passphrase-file F or --key-file F")
	}
	fmt.Fprint(e.stderr, prompt)
	b, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(e.stderr)
	if err != nil {
		return seal.Secret{}, err
	}
	return seal.Passphrase(string(b))
}

// with runs fn with the archive open. If a server owns the archive, it runs
// the whole command line instead.
func (e *env) with(ctx context.Context, fn func(*server.Opened) error) (err error) {
	if e.open != nil {
		return fn(e.open)
	}
	dir, err := e.archiveDir()
	if err != nil {
		return err
	}
	o, err := e.openArchive(dir)
	if errors.Is(err, archive.ErrLocked) {
		return e.forward(ctx, dir, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	e.sayRecovered(o.Archive.Recovered)
	return fn(o)
}

func (e *env) openArchive(dir string) (*server.Opened, error) {
	return server.OpenArchive(dir, e.secret, archive.Options{Log: e.logger()})
}

// forward lets the server that owns the archive run this command line.
func (e *env) forward(ctx context.Context, dir string, locked error) error {
	code, err := server.Forward(ctx, dir, server.Call{Args: e.args, Dir: e.cwd, Width: e.width}, e.stdin, e.stdout, e.stderr)
	if err != nil {
		return hint(errors.Join(locked, err), "wait until it has ended, or stop it")
	}
	if code != 0 {
		return codeError(code)
	}
	return nil
}

func (e *env) sayRecovered(r archive.Recovery) {
	if r.Commits > 0 || r.Cut > 0 {
		fmt.Fprintf(e.stderr, "letterhold: the archive was not closed properly: %d commits finished, %d bytes of an unfinished one cut\n", r.Commits, r.Cut)
	}
	if r.Rebuilt {
		fmt.Fprintln(e.stderr, "letterhold: the catalog did not open and was made again")
	}
}

// strict opens the archive for verification: nothing is written.
func (e *env) strict(ctx context.Context, fn func(*archive.Archive) error) error {
	dir, err := e.archiveDir()
	if err != nil {
		return err
	}
	if err := archive.Look(dir); err != nil {
		return err
	}
	unlock, err := archive.Lock(dir)
	if errors.Is(err, archive.ErrLocked) {
		return e.forward(ctx, dir, err)
	}
	if err != nil {
		return err
	}
	defer unlock()
	d, err := durable.OpenFolder(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	s, err := e.secret()
	if err != nil {
		return err
	}
	ring, _, err := archive.Unlock(d, s)
	if err != nil {
		return err
	}
	a, err := archive.Open(d, ring, archive.Options{Strict: true, Log: e.logger()})
	if err != nil {
		return err
	}
	return errors.Join(fn(a), a.Close())
}

// report prints what a verb did: JSON for scripts, or a sentence.
func (e *env) report(js bool, v any, format string, a ...any) error {
	if js {
		return e.printJSON(v)
	}
	e.printf(format, a...)
	return nil
}

// asJSON is the option --json of a verb.
func asJSON(c *cobra.Command, js *bool) *cobra.Command {
	c.Flags().BoolVar(js, "json", false, "print JSON")
	return c
}

// printJSON writes one line of JSON.
func (e *env) printJSON(v any) error { return json.NewEncoder(e.stdout).Encode(v) }

func (e *env) printf(format string, a ...any) { fmt.Fprintf(e.stdout, format, a...) }

// everything is the scope of the key owner: whoever holds the key at the
// machine. Reading is written to the ledger first.
var everything = catalog.Scope{All: true}

const keyOwner = "key owner at the machine"

func human(n int64) string {
	switch f := float64(n); {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", f/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.1f MB", f/1e6)
	default:
		return fmt.Sprintf("%.2f GB", f/1e9)
	}
}

// parseBytes reads a number of bytes: "2MB", "500 kB", "1.5G", "64KiB".
func parseBytes(s string) (int64, error) {
	digits := strings.TrimRight(s, "BbIiKkMmGg ")
	unit, ok := map[string]float64{"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}[strings.TrimSuffix(strings.ToLower(strings.TrimSpace(s[len(digits):])), "b")]
	n, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || !(n >= 0 && n*unit < 1<<53) {
		return 0, fmt.Errorf("%q is no number of bytes; it is written like 2MB", s)
	}
	return int64(n * unit), nil
}
