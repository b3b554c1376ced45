package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/server"
)

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
