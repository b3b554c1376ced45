package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/server"
)

func initCmd(e *env) *cobra.Command {
	var js, systemd bool
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Make an empty archive and print its recovery key",
		Long: `Makes an empty archive in DIR. It is opened by a key file (--key-file, made if
it is missing), a passphrase (--passphrase-file, or asked for at the terminal),
or a systemd credential (--systemd-credential). Keys never lie in the archive.

The recovery key of 24 words is printed once. With it and the archive folder a
lost key can be replaced; without any key the mail is lost.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return e.init(e.path(args[0]), systemd, js) },
	}
	c.Flags().BoolVar(&systemd, "systemd-credential", false, "add a slot for the credential "+server.Credential+" in $CREDENTIALS_DIRECTORY")
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}

func (e *env) init(dir string, systemd, js bool) error {
	if err := emptyFolder(dir); err != nil {
		return err
	}
	secrets, err := e.newSecrets(dir, systemd)
	if err != nil {
		return err
	}
	id, words, err := createArchive(dir, secrets)
	if err != nil {
		return err
	}
	if js {
		return e.printJSON(map[string]any{"archive_id": id, "archive": dir, "key_file": e.path(e.keyFile), "recovery_words": words})
	}
	e.printf("Archive %s made in %s.\n\n", id, dir)
	if e.keyFile != "" {
		e.printf("Its key is in %s; keep a copy of it elsewhere.\n\n", e.path(e.keyFile))
	}
	e.printWords(words)
	return nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// emptyFolder refuses a folder that an archive cannot be made in, before
// anything is made for it.
func emptyFolder(dir string) error {
	es, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, x := range es {
		if x.Name() != "lost+found" {
			return hint(fmt.Errorf("%s: %w (it contains %s)", dir, archive.ErrExists, x.Name()), "an archive is made in an empty or new folder")
		}
	}
	return nil
}

func (e *env) printWords(words []string) {
	e.printf("Recovery key. Write these 24 words on paper, now; they are not shown again:\n\n")
	for i, w := range words {
		e.printf("  %2d. %-10s", i+1, w)
		if i%4 == 3 {
			e.printf("\n")
		}
	}
	e.printf("\nKeep the paper away from the archive. Whoever has both can read all mail.\n")
}

// newSecrets collects the secrets of a new archive: those named on the command
// line, or a passphrase typed twice.
func (e *env) newSecrets(dir string, systemd bool) (out []seal.Secret, err error) {
	if e.keyFile != "" {
		if parent := filepath.Dir(e.path(e.keyFile)); !exists(parent) {
			fmt.Fprintf(e.stderr, "note: the folder %s does not exist and is made for the key; if it is meant to be another device, is that mounted?\n", parent)
		}
		s, err := makeKeyFile(e.path(e.keyFile), dir)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	if e.passphraseFile != "" {
		s, err := e.readPassphrase(e.passphraseFile)
		if err == nil {
			err = seal.CheckNewPassphrase(s)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	if systemd {
		s, err := readKeyFile(filepath.Join(e.getenv("CREDENTIALS_DIRECTORY"), server.Credential), seal.KindSystemd)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	if len(out) > 0 {
		return out, nil
	}
	s, err := e.askPassphrase(fmt.Sprintf("New passphrase (at least %d characters): ", seal.MinPassphrase))
	if err != nil {
		return nil, err
	}
	if err := seal.CheckNewPassphrase(s); err != nil {
		return nil, err
	}
	again, err := e.askPassphrase("The same again: ")
	if err != nil {
		return nil, err
	}
	if !s.Equal(again) {
		return nil, errors.New("the two passphrases differ")
	}
	return []seal.Secret{s}, nil
}

// makeKeyFile reads a key file, or makes it with mode 0400. A key inside the
// archive would be copied with it.
func makeKeyFile(name, dir string) (seal.Secret, error) {
	if inside(name, dir) {
		return seal.Secret{}, hint(fmt.Errorf("key file %s lies inside the archive folder: whoever copies the archive would have its key", name), "put it elsewhere, best on another device")
	}
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		b = seal.NewKeyFile()
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return seal.Secret{}, err
		}
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
		if err != nil {
			return seal.Secret{}, fmt.Errorf("key file: %w", err)
		}
		_, err = f.Write(b)
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return seal.Secret{}, fmt.Errorf("key file: %w", err)
		}
	} else if err != nil {
		return seal.Secret{}, fmt.Errorf("key file: %w", err)
	}
	s, err := seal.ParseKeyFile(seal.KindKeyFile, b)
	if err != nil {
		return s, fmt.Errorf("key file %s: %w", name, err)
	}
	return s, nil
}

// inside tells whether name lies in dir, links followed.
func inside(name, dir string) bool {
	real := func(p string) string {
		for tail := ""; ; {
			if r, err := filepath.EvalSymlinks(p); err == nil {
				return filepath.Join(r, tail)
			}
			if filepath.Dir(p) == p {
				return filepath.Join(p, tail)
			}
			tail = filepath.Join(filepath.Base(p), tail)
			p = filepath.Dir(p)
		}
	}
	rel, err := filepath.Rel(real(dir), real(name))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// createArchive makes an archive with slots for the secrets and a recovery
// slot, whose words it returns.
func createArchive(dir string, secrets []seal.Secret) (id string, words []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	d, err := durable.OpenFolder(dir)
	if err != nil {
		return "", nil, err
	}
	defer d.Close()
	recovery, words := seal.NewRecovery()
	_, err = archive.Create(d, archive.Options{}, func(k *seal.KeyFile, r *seal.Ring) error {
		id = k.Archive
		for _, s := range append(secrets, recovery) {
			if _, err := k.AddSlot(r, s, "", seal.Cost{}, time.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, archive.ErrExists) {
		err = hint(fmt.Errorf("%s: %w", dir, err), "an archive is made in an empty or new folder")
	}
	return id, words, err
}

func verifyCmd(e *env) *cobra.Command {
	var js bool
	var checkpoint string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Read everything and compare it with what was written",
		Long: `Reads every pack, frame, leaf, tile and database page, rebuilds every message
and compares it with the ledger. Nothing is changed. Exit code 4 if anything is
not as it was written.

An archive that was put back as a whole to an older state is noticed only with a
checkpoint that was kept elsewhere: "letterhold checkpoint" prints one.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var o archive.VerifyOptions
			if checkpoint != "" {
				b, err := os.ReadFile(e.path(checkpoint))
				if err != nil {
					return err
				}
				o.Checkpoint = b
			}
			p := e.progress("verifying")
			o.Progress = func(done, all int64) { p.set(done, all, "") }
			var r *archive.Report
			verify := func(a *archive.Archive) (err error) {
				r, err = a.Verify(c.Context(), o)
				p.end()
				return err
			}
			err := error(nil)
			if e.open != nil {
				err = verify(e.open.Archive)
			} else {
				err = e.strict(c.Context(), verify)
			}
			if err != nil {
				if js && exitCode(err) == exitIntegrity {
					e.printJSON(archive.Report{Problems: []archive.Problem{{File: "archive", What: err.Error()}}})
				}
				return err
			}
			if r == nil {
				return nil // the server ran it and has reported
			}
			return e.reportVerify(r, js)
		},
	}
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	c.Flags().StringVar(&checkpoint, "checkpoint", "", "signed checkpoint that was kept elsewhere")
	return c
}

func (e *env) reportVerify(r *archive.Report, js bool) error {
	if js {
		if err := e.printJSON(r); err != nil {
			return err
		}
	} else {
		for _, p := range r.Problems {
			e.printf("PROBLEM %s %s: %s\n", p.File, p.Object, p.What)
		}
		for _, n := range r.Notes {
			e.printf("note: %s\n", n)
		}
		e.printf("%d messages (%s), %d objects, %d acts, %d leaves, root %s\n", r.Messages, human(r.Bytes), r.Objects, r.Acts, r.Leaves, r.Root)
	}
	if !r.Clean() {
		if !js {
			e.printf("%d problems. Damaged data is left alone; restore the named files from a backup.\n", len(r.Problems))
		}
		return codeError(exitIntegrity)
	}
	if !js {
		e.printf("Everything is as it was written.\n")
	}
	return nil
}

func checkpointCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "checkpoint", Short: "Print the signed checkpoint, to be kept elsewhere", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				b, _, err := o.Archive.Checkpoint()
				if err == nil {
					_, err = e.stdout.Write(b)
				}
				return err
			})
		},
	}
}

func repairCmd(e *env) *cobra.Command {
	c := &cobra.Command{Use: "repair", Short: "Make catalog or index again from the packs"}
	alone := func() error {
		if e.open != nil {
			return hint(errors.New("the server is using them"), "stop the server, then repair")
		}
		return nil
	}
	c.AddCommand(&cobra.Command{
		Use: "catalog", Short: "Make the catalog again, under a fresh key", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				if err := alone(); err != nil {
					return err
				}
				if err := o.Index.Close(); err != nil {
					return err
				}
				if err := o.Archive.RebuildCatalog(keyOwner); err != nil {
					return err
				}
				if err := o.RebuildIndex(keyOwner); err != nil {
					return err
				}
				return e.repaired(c.Context(), o, "catalog and index")
			})
		},
	}, &cobra.Command{
		Use: "index", Short: "Make the full-text index again, under a fresh key", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				if err := alone(); err != nil {
					return err
				}
				if err := o.RebuildIndex(keyOwner); err != nil {
					return err
				}
				return e.repaired(c.Context(), o, "index")
			})
		},
	})
	return c
}

func (e *env) repaired(ctx context.Context, o *server.Opened, what string) error {
	if err := o.Index.Wait(ctx); err != nil {
		return err
	}
	t, err := o.Archive.Catalog().Totals(ctx)
	if err == nil {
		e.printf("The %s was made again: %d messages.\n", what, t.Messages)
	}
	return err
}

func compactCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "compact", Short: "Free the space of erased messages", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				n, err := o.Archive.Compact(c.Context(), keyOwner)
				if err == nil {
					e.printf("%s freed\n", human(n))
				}
				return err
			})
		},
	}
}

func backupCmd(e *env) *cobra.Command {
	var keep int
	var js bool
	c := &cobra.Command{
		Use:   "backup DIR",
		Short: "Bring a backup up to date, also while the server runs",
		Long: `Copies what the backup lacks: new bytes of packs (ciphertext only), and a parcel
with the keys and the state of this moment. What is written is read back, every
pack is opened once before its copy counts as whole, and closed packs are read
again in turn. A damaged pack is not copied over a sound copy. Parcels older
than --keep-days are removed, because messages erased since live on in them. The archive's key file is not part of it: keep a copy of that, or of the
recovery words, elsewhere.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if keep < 0 {
				return usage("--keep-days %d: it is 0 or more", keep)
			}
			dir := e.path(args[0])
			return e.with(c.Context(), func(o *server.Opened) error {
				if inside(dir, o.Dir) {
					return fmt.Errorf("backup %s lies inside the archive: whatever takes the one takes the other", dir)
				}
				if err := os.MkdirAll(dir, 0o700); err != nil {
					return err
				}
				to, err := durable.OpenFolder(dir)
				if err != nil {
					return err
				}
				defer to.Close()
				p := e.progress("copying")
				r, err := o.Archive.Backup(c.Context(), to, time.Duration(keep)*24*time.Hour, keyOwner, func(n int64) { p.set(n, 0, "") })
				p.end()
				if err != nil {
					return err
				}
				if js {
					return e.printJSON(r)
				}
				e.printf("%d packs, %s copied, parcel %s; %d old parcels removed\n", r.Packs, human(r.Copied), r.Parcel, r.Removed)
				return nil
			})
		},
	}
	c.Flags().IntVar(&keep, "keep-days", 30, "days after which parcels are removed")
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}

func restoreCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "restore-archive BACKUP",
		Short: "Make an archive from a backup, in the new folder named by --archive",
		Long: `Makes an archive from the newest parcel of a backup, in the new folder that
--archive names, with a key that opened the archive when the backup was made, and
verifies all of it. Exit code 4 if anything is not as it was written.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := e.archiveDir()
			if err != nil {
				return err
			}
			s, err := e.secret()
			if err != nil {
				return err
			}
			from, err := durable.OpenFolder(e.path(args[0]))
			if err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			defer from.Close()
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			to, err := durable.OpenFolder(dir)
			if err != nil {
				return err
			}
			defer to.Close()
			p := e.progress("restoring")
			err = archive.Restore(c.Context(), from, to, s, func(n int64) { p.set(n, 0, "") })
			p.end()
			if err != nil {
				return err
			}
			if err := e.with(c.Context(), func(o *server.Opened) error { return e.repaired(c.Context(), o, "archive") }); err != nil {
				return err
			}
			var r *archive.Report
			if err := e.strict(c.Context(), func(a *archive.Archive) (err error) {
				p := e.progress("verifying")
				r, err = a.Verify(c.Context(), archive.VerifyOptions{Progress: func(done, all int64) { p.set(done, all, "") }})
				p.end()
				return err
			}); err != nil {
				return err
			}
			return e.reportVerify(r, false)
		},
	}
}

func keyCmd(e *env) *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Key slots: ways to open the archive"}
	var js bool
	list := &cobra.Command{
		Use: "list", Short: "List the key slots", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				type slotJSON struct {
					ID      string        `json:"id"`
					Kind    seal.SlotKind `json:"kind"`
					Label   string        `json:"label"`
					Created time.Time     `json:"created"`
				}
				out := []slotJSON{}
				for _, s := range o.Archive.Slots() {
					out = append(out, slotJSON{s.ID, s.Kind, s.Label, s.Created})
				}
				if js {
					return e.printJSON(map[string]any{"slots": out})
				}
				for _, s := range out {
					e.printf("%s  %-10s  %s  %s\n", s.ID, s.Kind, s.Created.Format("2006-01-02"), s.Label)
				}
				return nil
			})
		},
	}
	list.Flags().BoolVar(&js, "json", false, "print JSON")
	var newKey, newPass, label string
	add := &cobra.Command{
		Use: "add", Short: "Add a way to open the archive", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := e.newSecret(newKey, newPass)
			if err != nil {
				return err
			}
			return e.with(c.Context(), func(o *server.Opened) error {
				slot, err := o.Archive.AddSlot(s, label, keyOwner, seal.Cost{})
				if err == nil {
					e.printf("slot %s added\n", slot.ID)
				}
				return err
			})
		},
	}
	add.Flags().StringVar(&newKey, "new-key-file", "", "key file to add; made if it is missing")
	add.Flags().StringVar(&newPass, "new-passphrase-file", "", "file that holds the passphrase to add")
	add.Flags().StringVar(&label, "label", "", "what the slot is for")
	var force bool
	remove := &cobra.Command{
		Use: "remove SLOT", Short: "Remove a slot: its key opens the archive no more", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				isRecovery := func(s seal.Slot) bool { return s.Kind == seal.KindRecovery }
				slots := o.Archive.Slots()
				if i := slices.IndexFunc(slots, func(s seal.Slot) bool { return s.ID == args[0] }); i >= 0 && isRecovery(slots[i]) && !force {
					return hint(errors.New("this is the recovery key: without it, a lost key means lost mail"), "letterhold key rotate --root replaces it; --force removes it all the same")
				}
				err := o.Archive.RemoveSlot(args[0], keyOwner)
				if err == nil {
					e.printf("slot %s removed. Older copies of keys.json still open with its key; if it is known to others, rotate: letterhold key rotate --root\n", args[0])
				}
				return err
			})
		},
	}
	remove.Flags().BoolVar(&force, "force", false, "also the recovery key")
	c.AddCommand(list, add, remove, rotateCmd(e))
	return c
}

// newSecret reads or makes the secret of a new slot.
func (e *env) newSecret(keyFile, passFile string) (seal.Secret, error) {
	switch {
	case keyFile != "" && passFile != "":
		return seal.Secret{}, usage("name a key file or a passphrase file, not both")
	case keyFile != "":
		dir, err := e.archiveDir()
		if err != nil {
			return seal.Secret{}, err
		}
		return makeKeyFile(e.path(keyFile), dir)
	case passFile != "":
		s, err := e.readPassphrase(passFile)
		if err == nil {
			err = seal.CheckNewPassphrase(s)
		}
		return s, err
	}
	return seal.Secret{}, usage("say which key: --new-key-file F or --new-passphrase-file F")
}

func rotateCmd(e *env) *cobra.Command {
	var root bool
	var newKey, newPass string
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the keys that wrap the packs' keys",
		Long: `Replaces the keys of commit frames; packs are not touched. With --root, after a
compromise, the root key and every other key that may change too: then only the
new key file or passphrase and a new recovery key open the archive. Copies that
were taken before stay readable with the old keys.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !root {
				return e.with(c.Context(), func(o *server.Opened) error {
					err := o.Archive.Rotate(keyOwner)
					if err == nil {
						e.printf("keys rotated\n")
					}
					return err
				})
			}
			s, err := e.newSecret(newKey, newPass)
			if err != nil {
				return err
			}
			err = e.with(c.Context(), func(o *server.Opened) error {
				if e.open != nil {
					return hint(errors.New("the root key cannot be changed while the server runs"), "stop the server first")
				}
				if err := o.Index.Close(); err != nil {
					return err
				}
				o.Index = nil
				recovery, words := seal.NewRecovery()
				if err := o.Archive.RotateRoot(keyOwner, seal.Cost{}, s, recovery); err != nil {
					return err
				}
				e.printf("Root key and all keys rotated. Earlier copies of this archive stay exposed to the old keys.\n\n")
				e.printWords(words)
				return nil
			})
			if err != nil {
				return err
			}
			return e.makeCaches(c.Context(), s)
		},
	}
	c.Flags().BoolVar(&root, "root", false, "after a compromise: a new root key and new slots")
	c.Flags().StringVar(&newKey, "new-key-file", "", "with --root: the key file that opens the archive from now on")
	c.Flags().StringVar(&newPass, "new-passphrase-file", "", "with --root: file with the passphrase that opens it from now on")
	return c
}

// makeCaches makes catalog and index again after their keys were replaced.
func (e *env) makeCaches(ctx context.Context, s seal.Secret) error {
	dir, err := e.archiveDir()
	if err != nil {
		return err
	}
	o, err := server.OpenArchive(dir, func() (seal.Secret, error) { return s, nil }, archive.Options{Log: e.logger()})
	if err != nil {
		return err
	}
	return errors.Join(o.Index.Wait(ctx), o.Close())
}

func recoverCmd(e *env) *cobra.Command {
	var words string
	var js bool
	c := &cobra.Command{
		Use:   "recover --words-file F --key-file NEW",
		Short: "Make a new key from the 24 recovery words",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := e.archiveDir()
			if err != nil {
				return err
			}
			if words == "" {
				return usage("recover: name the file with the 24 words with --words-file F")
			}
			b, err := os.ReadFile(e.path(words))
			if err != nil {
				return err
			}
			with, err := seal.ParseRecovery(string(b))
			if err != nil {
				return err
			}
			var add seal.Secret
			switch {
			case e.keyFile != "":
				add, err = makeKeyFile(e.path(e.keyFile), dir)
			case e.passphraseFile != "":
				add, err = e.readPassphrase(e.passphraseFile)
			default:
				err = usage("recover: name the new key with --key-file F or --passphrase-file F")
			}
			if err != nil {
				return err
			}
			unlock, err := archive.Lock(dir)
			if err != nil {
				return noArchive(err)
			}
			defer unlock()
			d, err := durable.OpenFolder(dir)
			if err != nil {
				return err
			}
			defer d.Close()
			slot, err := archive.Recover(d, with, add, seal.Cost{}, archive.Options{Log: e.logger()})
			if err != nil {
				return err
			}
			if js {
				return e.printJSON(map[string]any{"slot": slot.ID, "kind": slot.Kind})
			}
			e.printf("slot %s added: the archive opens with the new key\n", slot.ID)
			return nil
		},
	}
	c.Flags().StringVar(&words, "words-file", "", "file that holds the 24 words")
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}

// version is set by the build.
var version = "development"

func versionCmd(e *env) *cobra.Command {
	var js bool
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			deps := map[string]string{}
			if bi, ok := debug.ReadBuildInfo(); ok {
				for _, d := range bi.Deps {
					deps[d.Path] = d.Version
				}
			}
			if js {
				return e.printJSON(map[string]any{"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH, "dependencies": deps})
			}
			e.printf("letterhold %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}
