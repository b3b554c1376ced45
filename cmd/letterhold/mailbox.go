package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/server"
)

func mailboxCmd(e *env) *cobra.Command {
	c := &cobra.Command{Use: "mailbox", Short: "Mailboxes: what is archived, and whose it is"}
	var js bool
	list := &cobra.Command{
		Use: "list", Short: "List mailboxes and their folders", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error { return e.listMailboxes(c.Context(), o, js) })
		},
	}
	list.Flags().BoolVar(&js, "json", false, "print JSON")
	c.AddCommand(list, mailboxAddress(e))
	return c
}

// mailboxAddress is for the addresses whose mail a mailbox gets from journals and
// accounts that hold everybody's mail.
func mailboxAddress(e *env) *cobra.Command {
	c := &cobra.Command{Use: "address", Short: "Addresses of mailboxes: whose mail a journal or a collected account brings"}
	verb := func(use, short, what string, change func(catalog.Tx, string, int64) error) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: short, Args: cobra.MinimumNArgs(2),
			RunE: func(c *cobra.Command, args []string) error {
				return e.with(c.Context(), func(o *server.Opened) error {
					id, err := o.Archive.Mailbox(c.Context(), args[0], keyOwner)
					if err != nil {
						return err
					}
					for _, a := range args[1:] {
						if _, err := catalog.CheckAddress(a); err != nil {
							return usageError{err}
						}
					}
					return o.Archive.Change(archive.Act{What: what, Who: keyOwner, Of: args[0]}, func(t catalog.Tx) error {
						for _, a := range args[1:] {
							if err := change(t, a, id); err != nil {
								return err
							}
						}
						return nil
					})
				})
			},
		}
	}
	add := verb("add MAILBOX ADDRESS...", "Give a mailbox addresses; *@example.org is all others of a domain", "addresses added", catalog.Tx.AddAddress)
	remove := verb("remove MAILBOX ADDRESS...", "Take addresses from a mailbox", "addresses removed", catalog.Tx.RemoveAddress)
	c.AddCommand(add, remove)
	return c
}

func (e *env) listMailboxes(ctx context.Context, o *server.Opened, js bool) error {
	var ms []catalog.Mailbox
	addresses := map[int64][]string{}
	if err := o.Archive.State().View(ctx, func(v catalog.View) (err error) {
		ms, err = v.Mailboxes()
		as, err2 := v.Addresses()
		for _, a := range as {
			addresses[a.Mailbox] = append(addresses[a.Mailbox], a.Address)
		}
		return errors.Join(err, err2)
	}); err != nil {
		return err
	}
	folders, err := o.Archive.Catalog().Folders(ctx)
	if err != nil {
		return err
	}
	type folderJSON struct {
		Name     string `json:"name"`
		Messages int64  `json:"messages"`
	}
	type mailboxJSON struct {
		Name      string       `json:"name"`
		Addresses []string     `json:"addresses,omitempty"`
		Messages  int64        `json:"messages"`
		Folders   []folderJSON `json:"folders"`
	}
	out := []mailboxJSON{}
	for _, m := range ms {
		x := mailboxJSON{Name: m.Name, Addresses: addresses[m.ID], Folders: []folderJSON{}}
		if x.Messages, err = o.Archive.Catalog().MailboxCount(ctx, m.ID); err != nil {
			return err
		}
		for _, f := range folders {
			if f.Mailbox == m.ID {
				n, err := o.Archive.Catalog().FolderCount(ctx, f.ID)
				if err != nil {
					return err
				}
				x.Folders = append(x.Folders, folderJSON{f.Name, n})
			}
		}
		out = append(out, x)
	}
	if js {
		return e.printJSON(map[string]any{"mailboxes": out})
	}
	for _, x := range out {
		of := ""
		if len(x.Addresses) > 0 {
			of = fmt.Sprintf(" (%s)", strings.Join(x.Addresses, ", "))
		}
		e.printf("%s: %d messages%s\n", plain(x.Name), x.Messages, plain(of))
		for _, f := range x.Folders {
			e.printf("  %8d  %s\n", f.Messages, plain(f.Name))
		}
	}
	return nil
}
