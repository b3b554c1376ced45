package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/server"
)

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
