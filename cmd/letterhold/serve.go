package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/auth"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/posture"
	"github.com/letterhold/letterhold/internal/sample"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/server"
)

// defaultHTTPS is where the server listens; 443 needs a privilege that it
// should not have.
const defaultHTTPS = ":8443"

func serveCmd(e *env) *cobra.Command {
	var https, config string
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
			return e.serve(c.Context(), https, conf.level())
		},
	}
	c.Flags().StringVar(&https, "https", defaultHTTPS, "address to listen on")
	c.Flags().StringVar(&config, "config", e.getenv("LETTERHOLD_CONFIG"), "configuration file, letterhold.toml (LETTERHOLD_CONFIG)")
	return c
}

func (e *env) serve(ctx context.Context, https string, level slog.Level) error {
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
	o := server.Options{HTTPS: https, KeyFile: e.knownKey(), Log: log, Execute: e.execute, Ready: func(url string) { e.printf("ready %s\n", url) }}
	open := func(s seal.Secret) (*server.Opened, error) {
		return server.OpenArchive(dir, func() (seal.Secret, error) { return s, nil }, archive.Options{Log: log})
	}
	secret, err := e.secret()
	if err != nil {
		if e.keyFile != "" || e.passphraseFile != "" {
			return err
		}
		if _, serr := os.Stat(filepath.Join(dir, "archive.json")); serr != nil {
			return noArchive(serr)
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

func userCmd(e *env) *cobra.Command {
	var mailbox string
	c := &cobra.Command{Use: "user", Short: "Accounts of people who sign in"}
	link := &cobra.Command{
		Use: "link --mailbox NAME", Short: "Print a one-time link that makes an account",
		Long: `Prints a link, good for 15 minutes, that makes an account with two separate
roles: it administers the archive, and it owns the mailbox named. It sees that
mailbox only. The server must be running.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if mailbox == "" {
				return usage("user link: say which mailbox the account owns with --mailbox NAME")
			}
			return e.with(c.Context(), func(o *server.Opened) error {
				if o.Link == nil {
					return hint(errors.New("the server is not running, so there is nowhere to sign in"), "start it with: letterhold serve")
				}
				id, err := o.Archive.Mailbox(c.Context(), mailbox, keyOwner)
				if err != nil {
					return err
				}
				url, err := o.Link(id)
				if err == nil {
					e.printf("link %s\n", url)
				}
				return err
			})
		},
	}
	link.Flags().StringVar(&mailbox, "mailbox", "", "mailbox that the account owns; made if it is missing")
	c.AddCommand(link)
	return c
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

func unlockCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "unlock", Short: "Unlock a server that was started without a key", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if e.open != nil {
				e.printf("The server is not locked.\n")
				return nil
			}
			dir, err := e.archiveDir()
			if err != nil {
				return err
			}
			var b []byte
			switch {
			case e.keyFile != "":
				b, err = os.ReadFile(e.path(e.keyFile))
			case e.passphraseFile != "":
				b, err = os.ReadFile(e.path(e.passphraseFile))
			default:
				err = usage("unlock: name the key with --key-file F or --passphrase-file F")
			}
			if err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(dir, "archive.json")); err != nil {
				return noArchive(err)
			}
			code, err := server.Forward(c.Context(), dir, server.Call{Args: []string{server.UnlockCall}}, strings.NewReader(string(b)), e.stdout, e.stderr)
			if err != nil {
				return hint(fmt.Errorf("no server is running on this archive: %w", err), "start it with: letterhold --archive %s serve", dir)
			}
			if code != 0 {
				return codeError(code)
			}
			e.printf("unlocked\n")
			return nil
		},
	}
}

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
	if _, err := os.Stat(filepath.Join(dir, "archive.json")); errors.Is(err, os.ErrNotExist) {
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
		return nil
	}
	mb, err := x.Archive.Mailbox(ctx, "me", keyOwner)
	if err != nil {
		return err
	}
	var failed error
	n := 0
	for m := range sample.Mailbox(x.Archive.Now()) {
		n++
		from := archive.Provenance{Mailbox: mb, Folder: m.Folder, Source: "sample", Where: fmt.Sprint(n), Flags: m.Flags}
		if err := x.Archive.Enqueue(ctx, m.Raw, from, func(_ archive.Result, err error) {
			if err != nil {
				failed = err
			}
		}); err != nil {
			return err
		}
	}
	if err := errors.Join(x.Archive.Flush(ctx), failed, x.Index.Wait(ctx)); err != nil {
		return err
	}
	e.printf("%d invented messages imported.\n", n)
	return nil
}

// settings is letterhold.toml: what is needed to start. Everything else is in
// the archive.
type settings struct {
	Archive string `toml:"archive"`
	HTTPS   string `toml:"https"`
	KeyFile string `toml:"key_file"`
	Log     string `toml:"log"`
}

var defaults = settings{HTTPS: defaultHTTPS, Log: "info"}

func (s settings) level() slog.Level {
	var l slog.Level
	if l.UnmarshalText([]byte(s.Log)) != nil {
		return slog.LevelInfo
	}
	return l
}

// keys are the keys of letterhold.toml with default and text.
var keys = []struct{ name, def, text string }{
	{"archive", "", "folder of the archive (LETTERHOLD_ARCHIVE)"},
	{"https", defaultHTTPS, "address to listen on, TLS 1.3 only"},
	{"key_file", "", "key file that opens the archive (LETTERHOLD_KEY_FILE); without it the server starts locked, unless systemd hands over the credential " + server.Credential},
	{"log", "info", "least severity that is logged: debug, info, warn, error"},
}

func (e *env) config(name string) (settings, error) {
	s := defaults
	if name == "" {
		return s, nil
	}
	meta, err := toml.DecodeFile(e.path(name), &s)
	if err != nil {
		return s, fmt.Errorf("configuration: %w", err)
	}
	for _, k := range meta.Undecoded() {
		return s, hint(usage("configuration %s: unknown key %q", name, k), "did you mean %q? `letterhold config` prints every key", nearest(k.String()))
	}
	if s.Log != "" {
		var l slog.Level
		if l.UnmarshalText([]byte(s.Log)) != nil {
			return s, usage("configuration %s: log = %q: it is debug, info, warn or error", name, s.Log)
		}
	}
	return s, nil
}

// nearest is the key that shares most letters with an unknown one.
func nearest(unknown string) string {
	best, most := keys[0].name, -1
	for _, k := range keys {
		n := 0
		for _, c := range k.name {
			if strings.ContainsRune(unknown, c) {
				n++
			}
		}
		if n > most {
			best, most = k.name, n
		}
	}
	return best
}

func configCmd(e *env) *cobra.Command {
	var js bool
	c := &cobra.Command{
		Use: "config", Short: "Print every key of letterhold.toml with its default", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if js {
				out := []map[string]string{}
				for _, k := range keys {
					out = append(out, map[string]string{"key": k.name, "default": k.def, "text": k.text})
				}
				return e.printJSON(map[string]any{"keys": out})
			}
			for _, k := range keys {
				v, err := json.Marshal(k.def)
				if err != nil {
					return err
				}
				e.printf("# %s\n# %s = %s\n\n", k.text, k.name, v)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}

func doctorCmd(e *env) *cobra.Command {
	var js bool
	c := &cobra.Command{
		Use: "doctor", Aliases: []string{"posture"}, Short: "Look for what is weaker than it should be, and grade it", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error { return e.doctor(c.Context(), o, js) })
		},
	}
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}

// knownKey is the path of the key file, or "".
func (e *env) knownKey() string {
	if e.keyFile == "" {
		return ""
	}
	return e.path(e.keyFile)
}

func (e *env) doctor(ctx context.Context, o *server.Opened, js bool) error {
	r, err := o.Posture(ctx, e.knownKey())
	if err != nil {
		return err
	}
	if js {
		return e.printJSON(r)
	}
	say, err := posture.Speak("en")
	if err != nil {
		return err
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		e.printf("%-11s %s: %s\n            %s\n            %s\n", f.State, f.ID, say.What(f), say.Why(f), say.Fix(f))
		if !f.Escalates.IsZero() {
			e.printf("            gets worse on %s\n", f.Escalates.Format(time.DateOnly))
		}
	}
	if len(r.Findings) == 0 {
		e.printf("Nothing found.\n")
	}
	if !r.Verified.IsZero() {
		e.printf("Everything was last found as it was written on %s.\n", r.Verified.Format(time.RFC3339))
	} else {
		e.printf("Not verified by the server yet; it does so every 30 days.\n")
	}
	e.printf("grade %s (%d of 100)\n", r.Grade, r.Score)
	return nil
}
