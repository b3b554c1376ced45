package main

import (
	"context"
	"errors"
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
	var x shown
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show a message: headers and text, its structure, a part, or its bytes",
		Long: `Shows a message: headers and text, or what an option says. An attachment is saved
with the path that --structure prints: letterhold show ID --part 2 >FILE`,
		Args: cobra.ExactArgs(1),
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
				return e.show(c.Context(), o, &entry, b, x)
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&x.raw, "raw", false, "the exact bytes on standard output")
	f.StringVar(&x.part, "part", "", "the decoded content of a part on standard output")
	f.BoolVar(&x.structure, "structure", false, "the parts of the message")
	f.BoolVar(&x.headers, "headers", false, "all header fields")
	f.BoolVar(&x.js, "json", false, "print JSON")
	return c
}

// shown says what of a message is shown.
type shown struct {
	raw, structure, headers, js bool
	part                        string
}

func (e *env) show(ctx context.Context, o *server.Opened, entry *catalog.Entry, raw []byte, x shown) error {
	if x.raw {
		_, err := e.stdout.Write(raw)
		return err
	}
	m := message.Parse(raw)
	switch {
	case x.part != "":
		p := m.Find(x.part)
		if p == nil || len(p.Children) > 0 && !p.Embedded() {
			return hint(fmt.Errorf("message %s has no part %q with content", entry.ID, x.part), "letterhold show %s --structure", entry.ID)
		}
		_, err := e.stdout.Write(m.Decode(p))
		return err
	case x.structure && !x.js:
		for _, p := range partsOf(m) {
			e.printf("%-8s %-32s %10s  %s\n", p.Path, plain(p.Type), human(int64(p.Size)), plain(p.Name))
		}
		return nil
	case x.headers && !x.js:
		for _, f := range m.Root.Header {
			e.printf("%s: %s\n", plain(f.Name), plain(message.DecodeWords(message.Unfold(f.Value))))
		}
		return nil
	}
	found, err := foundIn(ctx, o, entry)
	if err != nil {
		return err
	}
	deliveries, err := deliveriesOf(ctx, o, entry)
	if err != nil {
		return err
	}
	d := extract.Of(m)
	if x.js {
		return e.printJSON(map[string]any{"id": entry.ID.String(), "date": entry.Row.Time(), "date_rule": entry.Rule.String(), "archived": entry.Arrived, "leaf": entry.Leaf, "size": entry.Size,
			"from": d.From, "to": d.To, "cc": d.Cc, "subject": d.Subject, "message_id": d.MessageID, "text": d.Body, "parts": partsOf(m), "found": found, "deliveries": deliveries, "partial": entry.Partial})
	}
	e.showText(entry, d, found, deliveries)
	return nil
}

func (e *env) showText(entry *catalog.Entry, d *extract.Document, found []export.Found, deliveries []deliveryJSON) {
	for _, l := range [][2]string{{"From", d.From}, {"To", d.To}, {"Cc", d.Cc}, {"Subject", d.Subject}} {
		if l[1] != "" {
			e.printf("%-9s %s\n", l[0]+":", plain(l[1]))
		}
	}
	e.printf("Date:     %s (by %s)\nArchived: %s, leaf %d of the ledger\n", entry.Row.Time().Format(time.RFC1123Z), entry.Rule, entry.Arrived.Format(time.RFC3339), entry.Leaf)
	for _, f := range found {
		e.printf("In:       %s / %s\n", plain(f.Mailbox), plain(f.Folder))
	}
	for _, x := range deliveries {
		e.printf("Delivery: %s\n", plain(x.String()))
	}
	e.printf("\n")
	for line := range strings.SplitSeq(d.Body, "\n") {
		e.printf("%s\n", plain(line))
	}
	if d.Names != "" {
		e.printf("\nAttachments: %s\n", plain(strings.ReplaceAll(d.Names, "\n", ", ")))
	}
	if d.Unread {
		e.printf("The contents of attachments are not searched yet.\n")
	}
}

type partJSON struct {
	Path string `json:"path"`
	Type string `json:"type"`
	Name string `json:"name,omitempty"`
	Size int    `json:"size"`
}

func partsOf(m *message.Message) (parts []partJSON) {
	var collect func(p *message.Part)
	collect = func(p *message.Part) {
		parts = append(parts, partJSON{p.Path, p.Type, p.Name, p.End - p.Body})
		for _, c := range p.Children {
			collect(c)
		}
	}
	collect(m.Root)
	return parts
}

// foundIn says where a message lies.
func foundIn(ctx context.Context, o *server.Opened, entry *catalog.Entry) ([]export.Found, error) {
	names, err := o.Archive.State().MailboxNames(ctx)
	os, err2 := o.Archive.Catalog().Occurrences(ctx, entry.Row)
	found := []export.Found{}
	for _, oc := range os {
		found = append(found, export.Found{Mailbox: names[oc.Mailbox], Folder: oc.Name, Flags: oc.Flags})
	}
	return found, errors.Join(err, err2)
}

// deliveryJSON is what a mail server said of a delivery.
type deliveryJSON struct {
	Time       time.Time       `json:"time"`
	Report     string          `json:"report"` // Message-ID
	Sender     string          `json:"sender"`
	Recipients []recipientJSON `json:"recipients"`
	// BlindUnknown: there may be recipients whom nobody named.
	BlindUnknown bool `json:"blind_unknown,omitempty"`
}

type recipientJSON struct {
	Address   string `json:"address"`
	Kind      string `json:"kind,omitempty"`
	Expanded  string `json:"expanded_from,omitempty"`
	Forwarded string `json:"forwarded_from,omitempty"`
}

func (d deliveryJSON) String() string {
	var to []string
	for _, r := range d.Recipients {
		s := r.Address
		if r.Kind != "" && r.Kind != "recipient" {
			s += " (" + r.Kind + ")"
		}
		to = append(to, s)
	}
	if d.BlindUnknown {
		to = append(to, "blind recipients unknown")
	}
	return fmt.Sprintf("%s, from %s to %s", d.Time.Format(time.RFC3339), d.Sender, strings.Join(to, ", "))
}

func deliveriesOf(ctx context.Context, o *server.Opened, entry *catalog.Entry) ([]deliveryJSON, error) {
	xs, err := o.Archive.Envelopes(ctx, entry.Row)
	var out []deliveryJSON
	for i := range xs {
		x := &xs[i]
		d := deliveryJSON{Time: x.Time, Report: x.Where, Sender: x.Sender, Recipients: []recipientJSON{}, BlindUnknown: x.Open}
		for _, r := range x.Recipients {
			d.Recipients = append(d.Recipients, recipientJSON(r))
		}
		out = append(out, d)
	}
	return out, err
}
