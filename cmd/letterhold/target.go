package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/export"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/server"
	"github.com/letterhold/letterhold/internal/target"
)

// targetFlags are the options of a target on the command line.
type targetFlags struct {
	connectionFlags
	p        target.Profile
	format   string
	every    time.Duration
	disabled bool
}

func (x *targetFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&x.p.To, "to", "", "where mail is brought: folder:/path, imaps://user@host:port, imap:// (with mandatory STARTTLS), smtps://, smtp:// (the same)")
	f.StringVar(&x.p.Query, "query", "", "which mail, as in search; '*' is everything")
	f.StringVar(&x.p.Folder, "folder", "", "folder on the IMAP server, with {folder} and {mailbox} of the archive; default {folder}")
	f.StringVar(&x.p.From, "from", "", "sender of the envelope, for SMTP")
	f.StringVar(&x.p.Rcpt, "rcpt", "", "recipient of the envelope, for SMTP: the one mailbox that mail is sent to")
	f.StringVar(&x.format, "format", "", "of files in a folder: eml, mbox, maildir or zip; default eml")
	f.StringVar(&x.password, "password-file", "", `file with the account's password, "-" for standard input; it is sealed and never shown again`)
	f.DurationVar(&x.every, "every", 0, "bring what is new after this time: 5m or more; without it, by hand")
	f.StringVar(&x.p.At, "at", "", `bring what is new daily ("02:30") or weekly ("Mon 02:30")`)
	f.StringVar(&x.p.Window, "window", "", "only between these times of the day: 22:00-06:00")
	f.StringVar(&x.p.Token, "token-source", "", "where a token for the account comes from, instead of a password: letterhold token add")
	x.connectionFlags.register(c)
	f.BoolVar(&x.disabled, "disabled", false, "do not run it by itself")
}

// apply puts the options that were given into a target.
func (x *targetFlags) apply(e *env, c *cobra.Command, p *target.Profile, now time.Time) error {
	given := c.Flags().Changed
	for name, set := range map[string]func(){
		"to": func() { p.To = x.p.To }, "query": func() { p.Query = x.p.Query }, "folder": func() { p.Folder = x.p.Folder }, "from": func() { p.From = x.p.From }, "rcpt": func() { p.Rcpt = x.p.Rcpt }, "format": func() { p.Format = export.Format(x.format) },
		"every": func() { p.Every = ingest.Duration(x.every) }, "at": func() { p.At = x.p.At }, "window": func() { p.Window = x.p.Window }, "token-source": func() { p.Token = x.p.Token }, "disabled": func() { p.Enabled = !x.disabled },
	} {
		if given(name) {
			set()
		}
	}
	if p.Query == "*" {
		p.Query = ""
	}
	if p.Format == "" && p.IsFolder() {
		p.Format = export.EML
	}
	if err := x.connectionFlags.apply(e, c, &p.Connection, now); err != nil {
		return err
	}
	if err := p.Check(now); err != nil {
		return usageError{err}
	}
	return nil
}

func targetCmd(e *env) *cobra.Command {
	c := &cobra.Command{Use: "target", Short: "Targets: what mail is brought where, how often"}
	c.AddCommand(targetAdd(e), targetEdit(e), targetList(e), targetRun(e), targetRuns(e), targetLog(e),
		e.targetVerb("pause NAME", "Pause the run under way; the next run goes on with it", func(o *server.Opened, p *target.Profile) error { return o.Targets.Pause(p) }, "paused"),
		e.targetVerb("cancel NAME", "End the run under way; what it brought out stays", func(o *server.Opened, p *target.Profile) error { return o.Targets.Cancel(p) }, "cancelled"),
		e.targetVerb("remove NAME", "Remove a target; what it brought out stays", func(o *server.Opened, p *target.Profile) error { return target.Remove(o.Archive, p, keyOwner) }, "removed"))
	return c
}

// targetVerb is a verb that does one thing to a target.
func (e *env) targetVerb(use, short string, do func(*server.Opened, *target.Profile) error, done string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		return e.withTarget(c.Context(), args[0], func(o *server.Opened, p *target.Profile) error {
			err := do(o, p)
			if err == nil {
				e.printf("%s: %s\n", p.Name, done)
			}
			return err
		})
	}}
}

func (e *env) withTarget(ctx context.Context, name string, fn func(*server.Opened, *target.Profile) error) error {
	return e.with(ctx, func(o *server.Opened) error {
		p, err := target.Load(ctx, o.Archive, name)
		if errors.Is(err, target.ErrNoTarget) {
			return hint(err, "letterhold target list")
		}
		if err != nil {
			return err
		}
		return fn(o, p)
	})
}

func targetAdd(e *env) *cobra.Command {
	var x targetFlags
	c := &cobra.Command{
		Use:   "add NAME --to URL --query QUERY",
		Short: "Add a target",
		Long: `Adds a target: what a query finds is brought to a folder or a mailbox on a
server; the first run brings all of it, each later one what was archived since.
In a folder, single files and a Maildir grow by what is new, with the manifest;
of mbox and zip each run writes a file of its own, with its date in the name. By
SMTP messages are sent as they are to one recipient.

Connections are as those of profiles: encrypted and verified; an exception ends
after 30 days at most, and then the target rests.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if x.p.To == "" || x.p.Query == "" {
				return usage("target add: --to URL and --query QUERY are needed ('*' is everything)")
			}
			password, err := e.secretFile(x.password)
			if err != nil {
				return err
			}
			return e.with(c.Context(), func(o *server.Opened) error {
				p := &target.Profile{Name: args[0], Enabled: true}
				if err := x.apply(e, c, p, o.Archive.Now()); err != nil {
					return err
				}
				if err := target.Save(o.Archive, p, password, keyOwner); err != nil {
					return err
				}
				e.printf("target %s added; run it now with: letterhold target run %q\n", p.Name, p.Name)
				return nil
			})
		},
	}
	x.register(c)
	return c
}

func targetEdit(e *env) *cobra.Command {
	var x targetFlags
	c := &cobra.Command{
		Use:   "edit NAME",
		Short: "Change a target: the options that are given",
		Long: `Changes a target. One that leads to another place, or has another format or
query, begins anew with all mail.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			password, err := e.secretFile(x.password)
			if err != nil {
				return err
			}
			return e.withTarget(c.Context(), args[0], func(o *server.Opened, p *target.Profile) error {
				if err := x.apply(e, c, p, o.Archive.Now()); err != nil {
					return err
				}
				if err := target.Save(o.Archive, p, password, keyOwner); err != nil {
					return err
				}
				e.printf("target %s changed\n", p.Name)
				return nil
			})
		},
	}
	x.register(c)
	return c
}

type targetJSON struct {
	*target.Profile
	Name    string   `json:"name"`
	Enabled bool     `json:"enabled"`
	Running bool     `json:"running"`
	Last    *runJSON `json:"last,omitempty"`
	Missed  int      `json:"missed"`
}

func targetList(e *env) *cobra.Command {
	var js bool
	c := &cobra.Command{
		Use: "list", Short: "List targets with their last runs", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				out, err := listTargets(c.Context(), o)
				if err != nil {
					return err
				}
				if js {
					return e.printJSON(map[string]any{"targets": out})
				}
				for _, p := range out {
					last := "never run"
					if p.Last != nil {
						last = p.Last.Started.Format("2006-01-02 15:04") + " " + p.Last.State + ": " + sumAs(p.Last.Counts, "exported")
					}
					if p.Running {
						last = "running"
					}
					query := p.Query
					if query == "" {
						query = "*"
					}
					e.printf("%-20s %s -> %s  (%s)\n", p.Name, query, p.To, last)
				}
				return nil
			})
		},
	}
	return asJSON(c, &js)
}

func listTargets(ctx context.Context, o *server.Opened) ([]targetJSON, error) {
	ps, err := target.Profiles(ctx, o.Archive)
	if err != nil {
		return nil, err
	}
	live := map[int64]bool{}
	for _, l := range o.Targets.Live() {
		live[l.Profile] = true
	}
	out := []targetJSON{}
	for _, p := range ps {
		j := targetJSON{Profile: p, Name: p.Name, Enabled: p.Enabled, Running: live[p.ID]}
		if err := o.Archive.State().View(ctx, func(v catalog.View) error {
			rs, err := v.RunsOf(p.ID, 1)
			if err != nil {
				return err
			}
			if len(rs) > 0 {
				rs[0].Failures, rs[0].Skips = nil, nil
				j.Last = runOf(&rs[0])
			}
			missed, err := v.Missed(p.ID, 10_000)
			j.Missed = len(missed)
			return err
		}); err != nil {
			return nil, err
		}
		out = append(out, j)
	}
	return out, nil
}

func targetRun(e *env) *cobra.Command {
	var js, wait bool
	c := &cobra.Command{
		Use:   "run NAME",
		Short: "Bring what is new now",
		Long: `Brings what is new now, and goes on with a run that was interrupted or paused.
With a server, it runs there; --wait waits for its end. Without one it always
waits.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.withTarget(c.Context(), args[0], func(o *server.Opened, p *target.Profile) error {
				ctx := c.Context()
				if e.open != nil && !wait {
					ctx = o.Lifetime()
				}
				await, err := o.Targets.Start(ctx, p, keyOwner)
				if errors.Is(err, ingest.ErrRunning) {
					return hint(err, "letterhold target log %q shows it", p.Name)
				}
				if err != nil {
					return err
				}
				if e.open != nil && !wait {
					e.printf("running; follow it with: letterhold target log %q\n", p.Name)
					return nil
				}
				out, err := e.follow("exporting", o.Targets.Live, p.ID, await)
				if out == nil {
					return err
				}
				return errors.Join(e.reportRun(out, "exported", js), err)
			})
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "wait for the end")
	return asJSON(c, &js)
}

func targetRuns(e *env) *cobra.Command {
	var js bool
	var limit int
	c := &cobra.Command{
		Use: "runs NAME", Short: "List the last runs of a target", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.withTarget(c.Context(), args[0], func(o *server.Opened, p *target.Profile) error {
				return e.listRuns(c.Context(), o, func(v catalog.View) ([]catalog.Run, error) { return v.RunsOf(p.ID, limit) }, js)
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 30, "how many")
	return asJSON(c, &js)
}

func targetLog(e *env) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "log NAME", Short: "Show the log of the last run", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.withTarget(c.Context(), args[0], func(o *server.Opened, p *target.Profile) error {
				return e.showLog(c.Context(), o, p.ID, limit)
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 200, "how many lines")
	return c
}
