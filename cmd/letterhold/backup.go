package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/server"
)

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
				return e.report(js, r, "%d packs, %s copied, parcel %s; %d old parcels removed\n", r.Packs, human(r.Copied), r.Parcel, r.Removed)
			})
		},
	}
	c.Flags().IntVar(&keep, "keep-days", 30, "days after which parcels are removed")
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}

func restoreCmd(e *env) *cobra.Command {
	var js bool
	return asJSON(&cobra.Command{
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
			if err := e.restore(c.Context(), from, dir, s); err != nil {
				return err
			}
			if err := e.with(c.Context(), func(o *server.Opened) error { return o.Index.Wait(c.Context()) }); err != nil {
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
			return e.reportVerify(r, js)
		},
	}, &js)
}

// restore makes the archive; nobody else may while this lasts.
func (e *env) restore(ctx context.Context, from durable.FS, dir string, s seal.Secret) error {
	unlock, err := archive.Lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	to, err := durable.OpenFolder(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	p := e.progress("restoring")
	defer p.end()
	return notVacant(dir, archive.Restore(ctx, from, to, s, func(n int64) { p.set(n, 0, "") }))
}
