package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	d, err := durable.OpenFolder(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return notVacant(dir, archive.Vacant(d))
}

func notVacant(dir string, err error) error {
	if errors.Is(err, archive.ErrExists) {
		return hint(fmt.Errorf("%s: %w", dir, err), "an archive is made in an empty or new folder")
	}
	return err
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
	unlock, err := archive.Lock(dir)
	if err != nil {
		return "", nil, err
	}
	defer unlock()
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
	return id, words, notVacant(dir, err)
}
