package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/server"
)

func unlockCmd(e *env) *cobra.Command {
	var js bool
	return asJSON(&cobra.Command{
		Use: "unlock", Short: "Unlock a server that was started without a key", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if e.open != nil {
				return e.report(js, map[string]any{"unlocked": true}, "The server is not locked.\n")
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
			if err := archive.Look(dir); err != nil {
				return err
			}
			code, err := server.Forward(c.Context(), dir, server.Call{Args: []string{server.UnlockCall}}, strings.NewReader(string(b)), e.stdout, e.stderr)
			if err != nil {
				return hint(fmt.Errorf("no server is running on this archive: %w", err), "start it with: letterhold --archive %s serve", dir)
			}
			if code != 0 {
				return codeError(code)
			}
			return e.report(js, map[string]any{"unlocked": true}, "unlocked\n")
		},
	}, &js)
}
