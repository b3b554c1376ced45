package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/search"
	"github.com/letterhold/letterhold/internal/server"
	"github.com/letterhold/letterhold/internal/target"
)

func restoreMailCmd(e *env) *cobra.Command {
	var x connectionFlags
	var to target.Place
	var tz string
	var js bool
	c := &cobra.Command{
		Use:   "restore QUERY --to URL",
		Short: "Put messages back into a mailbox on a server",
		Long: `Puts the messages that a query finds, or the one with an id, into a mailbox on an
IMAP server: with their dates and flags, into the folders that they come from, or
into --folder. Folders that are missing are made. A message that is in the folder
already, byte for byte but for line ends, is not put there twice. By SMTP they are
sent as they are to one recipient, each time. '*' is everything.

A connection with an exception is recorded like that of a profile. What is left
without: exit code 3.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if to.To == "" {
				return usage("restore: say where to with --to URL")
			}
			zone, err := time.LoadLocation(tz)
			if err != nil {
				return usage("time zone %q: write it as Europe/Berlin or UTC", tz)
			}
			what, err := e.found(args[0], zone)
			if err != nil {
				return err
			}
			password, err := e.secretFile(x.password)
			if err != nil {
				return err
			}
			return e.with(c.Context(), func(o *server.Opened) error {
				if err := x.apply(e, c, &to.Connection, o.Archive.Now()); err != nil {
					return err
				}
				if err := to.Check(o.Archive.Now()); err != nil {
					return usageError{err}
				}
				if err := o.Index.Wait(c.Context()); err != nil {
					return err
				}
				if err := o.Archive.Record(restored(&to)); err != nil {
					return err
				}
				p := e.progress("restoring")
				r := target.Restore{Place: to, Names: what.names, Hits: what.hits(c.Context(), o), Progress: func(r target.Report) { p.set(r.Bytes, 0, fmt.Sprintf("%d messages", r.Seen)) },
					Credential: func(ctx context.Context) (imapclient.Credential, error) {
						if to.Token != "" {
							t, err := o.Runner.Token(ctx, to.Token, to.Account())
							return imapclient.Credential{User: to.Account(), Token: t.Access}, err
						}
						return imapclient.Credential{User: to.Account(), Password: string(password)}, nil
					}}
				report, err := r.Run(c.Context(), o.Archive)
				p.end()
				return e.reportRestore(report, err, js)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&to.To, "to", "", "where to: imaps://user@host:port, imap:// (with mandatory STARTTLS), smtps://, smtp:// (the same)")
	f.StringVar(&to.Folder, "folder", "", "folder there, with {folder} and {mailbox} of the archive: Restored/{folder}; default {folder}")
	f.StringVar(&to.From, "from", "", "sender of the envelope, for SMTP")
	f.StringVar(&to.Rcpt, "rcpt", "", "recipient of the envelope, for SMTP")
	f.StringVar(&x.password, "password-file", "", `file with the account's password, "-" for standard input`)
	f.StringVar(&to.Token, "token-source", "", "where a token for the account comes from, instead of a password: letterhold token add")
	x.register(c)
	f.StringVar(&tz, "tz", "UTC", "time zone of dates in the query")
	f.BoolVar(&js, "json", false, "print the report as JSON")
	return c
}

// restored is the act of reading mail to put it back.
func restored(to *target.Place) archive.Act {
	act := archive.Act{What: "exported as key owner", Who: keyOwner, Of: to.To}
	if x := to.Exception; x != nil {
		act.Why, act.More = x.Reason, exceptionLines(x)
	}
	return act
}

func exceptionLines(x *ingest.Exception) []string {
	return []string{"exception " + x.Kind, "owner " + x.Owner, "until " + x.Until.UTC().Format(time.RFC3339)}
}

// found is what a restore is about: a query's hits, or one message.
type found struct {
	query string
	zone  *time.Location
	id    *seal.ID
	names func(mailbox, folder string) bool
}

// found reads a query or the id of a message.
func (e *env) found(arg string, zone *time.Location) (*found, error) {
	x := &found{query: arg, zone: zone}
	if id, err := seal.ParseID(arg); err == nil {
		x.id = &id
		return x, nil
	}
	if x.query == "*" {
		x.query = ""
	}
	expr, _, err := search.Parse(x.query)
	if err == nil {
		x.names = expr.Names
	}
	return x, err
}

func (x *found) hits(ctx context.Context, o *server.Opened) func(func(catalog.Hit) error) error {
	if x.id == nil {
		return allHits(ctx, o, x.query, x.zone)
	}
	return func(fn func(catalog.Hit) error) error {
		entry, err := o.Archive.Catalog().Message(ctx, *x.id)
		if err != nil {
			return hint(fmt.Errorf("message %s: %w", x.id, err), "`letterhold search` prints the ids of messages")
		}
		hits, err := o.Archive.Catalog().Visible(ctx, everything, []catalog.Row{entry.Row})
		for _, h := range hits {
			err = errors.Join(err, fn(h))
		}
		return err
	}
}

func (e *env) reportRestore(r *target.Report, err error, js bool) error {
	if js {
		err = errors.Join(err, e.printJSON(r))
	} else {
		for _, f := range r.Failures {
			fmt.Fprintf(e.stderr, "failed: %s: %s\n", f.Where, plain(f.Reason))
		}
		e.printf("%d seen = %d restored + %d already there + %d failed\n", r.Seen, r.Restored, r.Present, r.Failed)
	}
	if err != nil {
		return err
	}
	if r.Failed > 0 {
		return codeError(exitPartial)
	}
	return nil
}
