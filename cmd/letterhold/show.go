package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/export"
	"github.com/letterhold/letterhold/internal/extract"
	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/server"
)

func showCmd(e *env) *cobra.Command {
	var raw, structure, headers, js bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show a message: headers and text, its structure, or its bytes",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := seal.ParseID(args[0])
			if err != nil {
				return usageError{err}
			}
			return e.with(c.Context(), func(o *server.Opened) error {
				entry, err := o.Archive.Catalog().Message(c.Context(), id)
				if err != nil {
					return hint(fmt.Errorf("message %s: %w", id, err), "`letterhold search` prints the ids of messages")
				}
				if err := o.Archive.Record(archive.Act{What: "message read as key owner", Who: keyOwner, Leaf: []int64{entry.Leaf}}); err != nil {
					return err
				}
				b, err := o.Archive.Raw(&entry)
				if err != nil {
					return err
				}
				if raw {
					_, err := e.stdout.Write(b)
					return err
				}
				return e.show(c.Context(), o, &entry, message.Parse(b), structure, headers, js)
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&raw, "raw", false, "the exact bytes on standard output")
	f.BoolVar(&structure, "structure", false, "the parts of the message")
	f.BoolVar(&headers, "headers", false, "all header fields")
	f.BoolVar(&js, "json", false, "print JSON")
	return c
}

type partJSON struct {
	Path string `json:"path"`
	Type string `json:"type"`
	Name string `json:"name,omitempty"`
	Size int    `json:"size"`
}

func (e *env) show(ctx context.Context, o *server.Opened, entry *catalog.Entry, m *message.Message, structure, headers, js bool) error {
	var parts []partJSON
	var collect func(p *message.Part)
	collect = func(p *message.Part) {
		parts = append(parts, partJSON{p.Path, p.Type, p.Name, p.End - p.Body})
		for _, c := range p.Children {
			collect(c)
		}
	}
	collect(m.Root)
	d := extract.Of(m)
	if js {
		names, err := mailboxNames(ctx, o)
		if err != nil {
			return err
		}
		os, err := o.Archive.Catalog().Occurrences(ctx, entry.Row)
		if err != nil {
			return err
		}
		found := []export.Found{}
		for _, oc := range os {
			found = append(found, export.Found{Mailbox: names[oc.Mailbox], Folder: oc.Name, Flags: oc.Flags})
		}
		return e.printJSON(map[string]any{"id": entry.ID.String(), "date": entry.Row.Time(), "date_rule": entry.Rule.String(), "archived": entry.Arrived, "leaf": entry.Leaf, "size": entry.Size,
			"from": d.From, "to": d.To, "cc": d.Cc, "subject": d.Subject, "message_id": d.MessageID, "text": d.Body, "parts": parts, "found": found, "partial": entry.Partial})
	}
	switch {
	case structure:
		for _, p := range parts {
			e.printf("%-8s %-32s %10s  %s\n", p.Path, plain(p.Type), human(int64(p.Size)), plain(p.Name))
		}
		return nil
	case headers:
		for _, f := range m.Root.Header {
			e.printf("%s: %s\n", plain(f.Name), plain(message.DecodeWords(message.Unfold(f.Value))))
		}
		return nil
	}
	for _, l := range [][2]string{{"From", d.From}, {"To", d.To}, {"Cc", d.Cc}, {"Subject", d.Subject}} {
		if l[1] != "" {
			e.printf("%-8s %s\n", l[0]+":", plain(l[1]))
		}
	}
	e.printf("Date:    %s (by %s)\nArchived: %s, leaf %d of the ledger\n\n", entry.Row.Time().Format(time.RFC1123Z), entry.Rule, entry.Arrived.Format(time.RFC3339), entry.Leaf)
	for line := range strings.SplitSeq(d.Body, "\n") {
		e.printf("%s\n", plain(line))
	}
	if d.Names != "" {
		e.printf("\nAttachments: %s\n", plain(strings.ReplaceAll(d.Names, "\n", ", ")))
	}
	if d.Unread {
		e.printf("The contents of attachments are not searched yet.\n")
	}
	return nil
}
