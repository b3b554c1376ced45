package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/server"
)

type slotJSON struct {
	ID      string        `json:"id"`
	Kind    seal.SlotKind `json:"kind"`
	Label   string        `json:"label"`
	Created time.Time     `json:"created"`
}

func slotOf(s seal.Slot) slotJSON { return slotJSON{s.ID, s.Kind, s.Label, s.Created} }

func keyCmd(e *env) *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Key slots: ways to open the archive"}
	var js bool
	list := &cobra.Command{
		Use: "list", Short: "List the key slots", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				out := []slotJSON{}
				for _, s := range o.Archive.Slots() {
					out = append(out, slotOf(s))
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
	var addJS, removeJS bool
	add := &cobra.Command{
		Use: "add", Short: "Add a way to open the archive", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := e.newSecret(newKey, newPass)
			if err != nil {
				return err
			}
			return e.with(c.Context(), func(o *server.Opened) error {
				slot, err := o.Archive.AddSlot(s, label, keyOwner, seal.Cost{})
				if err != nil {
					return err
				}
				return e.report(addJS, slotOf(slot), "slot %s added\n", slot.ID)
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
				if err != nil {
					return err
				}
				return e.report(removeJS, map[string]any{"slot": args[0]}, "slot %s removed. Older copies of keys.json still open with its key; if it is known to others, rotate: letterhold key rotate --root\n", args[0])
			})
		},
	}
	remove.Flags().BoolVar(&force, "force", false, "also the recovery key")
	c.AddCommand(list, asJSON(add, &addJS), asJSON(remove, &removeJS), rotateCmd(e))
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
	var root, js bool
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
					if err != nil {
						return err
					}
					return e.report(js, map[string]any{"rotated": "epochs"}, "keys rotated\n")
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
				if js {
					return e.printJSON(map[string]any{"rotated": "root", "recovery_words": words})
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
	asJSON(c, &js)
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
			slot, err := e.recover(dir, with)
			if err != nil {
				return err
			}
			return e.report(js, map[string]any{"slot": slot.ID, "kind": slot.Kind}, "slot %s added: the archive opens with the new key\n", slot.ID)
		},
	}
	c.Flags().StringVar(&words, "words-file", "", "file that holds the 24 words")
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}

// recover adds a slot with the recovery key. The new key is made only when the
// words have opened the archive.
func (e *env) recover(dir string, with seal.Secret) (slot seal.Slot, err error) {
	if e.keyFile == "" && e.passphraseFile == "" {
		return slot, usage("recover: name the new key with --key-file F or --passphrase-file F")
	}
	if err := archive.Look(dir); err != nil {
		return slot, err
	}
	unlock, err := archive.Lock(dir)
	if errors.Is(err, archive.ErrLocked) {
		return slot, hint(err, "a server that is unlocked adds a key without the words: letterhold key add --new-key-file F; else stop it first")
	}
	if err != nil {
		return slot, err
	}
	defer unlock()
	d, err := durable.OpenFolder(dir)
	if err != nil {
		return slot, err
	}
	defer d.Close()
	if _, _, err := archive.Unlock(d, with); err != nil {
		return slot, err
	}
	add, err := e.newSecret(e.keyFile, e.passphraseFile)
	if err != nil {
		return slot, err
	}
	return archive.Recover(d, with, add, seal.Cost{}, archive.Options{Log: e.logger()})
}
