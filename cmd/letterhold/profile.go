package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/delivery"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/server"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// profileFlags are the options of a profile on the command line.
type profileFlags struct {
	connectionFlags
	p         ingest.Profile
	accounts  string
	passwords map[string]string // of accounts
	every     time.Duration
	folders   []string
	exclude   []string
	disabled  bool
	bandwidth string
}

func (x *profileFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&x.p.From, "from", "", "where mail is collected: imaps://user@host:port, imap:// (with mandatory STARTTLS), pop3s://, pop3://, folder:/path")
	f.StringVar(&x.p.Mailbox, "mailbox", "", "mailbox that the mail belongs to, made if it is missing; may hold {account}, {user}, {domain}")
	f.BoolVar(&x.p.Multidrop, "multidrop", false, "the account holds everybody's mail: whose it is, is decided by the addresses of mailboxes")
	f.StringVar(&x.password, "password-file", "", `file with the account's password, "-" for standard input; it is sealed and never shown again`)
	f.StringVar(&x.p.Token, "token-source", "", "where a token for the account comes from, instead of a password: letterhold token add")
	f.StringVar(&x.accounts, "accounts", "", "file (CSV) with several accounts of the server; its first line is account,mailbox,password, the last two as needed; passwords are sealed")
	f.StringVar(&x.p.LoginAs, "login-as", "", "open accounts with the password of an administrator: master (account*admin), authzid (SASL) or proxyauth; needs --admin")
	f.StringVar(&x.p.Admin, "admin", "", "the administrator of --login-as")
	f.DurationVar(&x.every, "every", 0, "collect again after this time: 5m or more; without it, by hand")
	f.StringVar(&x.p.At, "at", "", `collect daily ("02:30") or weekly ("Mon 02:30")`)
	f.BoolVar(&x.p.Idle, "idle", false, "collect as soon as the IMAP server tells of new mail in INBOX, or in the only one of --folders; besides --every or --at")
	f.StringVar(&x.p.Window, "window", "", "collect only between these times of the day: 22:00-06:00")
	f.StringSliceVar(&x.folders, "folders", nil, "folders to collect (patterns); without it all but spam, trash and drafts")
	f.StringSliceVar(&x.exclude, "exclude", nil, "folders to leave out (patterns)")
	f.StringVar(&x.p.Target, "target", "", "folder in the archive, with {folder}, {account}, {user}, {domain}; default {folder}")
	f.IntVar(&x.p.DeleteAfter, "delete-after", 0, "delete at the source what is archived and older than so many days; 0: delete nothing")
	f.StringVar(&x.bandwidth, "bandwidth", "", `read no faster than this in a second: "2MB", "500kB"; 0: no limit`)
	f.IntVar(&x.p.Connections, "connections", 1, "folders of an IMAP account that are read at a time, each over a connection of its own")
	x.connectionFlags.register(c)
	f.BoolVar(&x.disabled, "disabled", false, "do not run it by itself")
}

// apply puts the options that were given into a profile.
func (x *profileFlags) apply(e *env, c *cobra.Command, p *ingest.Profile, now time.Time) error {
	given := c.Flags().Changed
	for name, set := range map[string]func(){
		"from": func() { p.From = x.p.From }, "mailbox": func() { p.Mailbox = x.p.Mailbox }, "multidrop": func() { p.Multidrop = x.p.Multidrop }, "every": func() { p.Every = ingest.Duration(x.every) },
		"at": func() { p.At = x.p.At }, "idle": func() { p.Idle = x.p.Idle }, "login-as": func() { p.LoginAs = x.p.LoginAs }, "admin": func() { p.Admin = x.p.Admin }, "window": func() { p.Window = x.p.Window }, "folders": func() { p.Include = x.folders }, "exclude": func() { p.Exclude = x.exclude },
		"target": func() { p.Target = x.p.Target }, "delete-after": func() { p.DeleteAfter = x.p.DeleteAfter }, "connections": func() { p.Connections = x.p.Connections }, "token-source": func() { p.Token = x.p.Token }, "disabled": func() { p.Enabled = !x.disabled },
	} {
		if given(name) {
			set()
		}
	}
	if given("bandwidth") {
		n, err := parseBytes(x.bandwidth)
		if err != nil {
			return usageError{fmt.Errorf("--bandwidth: %w", err)}
		}
		p.Bandwidth = n
	}
	if given("accounts") {
		if err := x.readAccounts(e, p); err != nil {
			return err
		}
	}
	to := p.Connection()
	err := x.connectionFlags.apply(e, c, &to, now)
	p.SetConnection(to)
	return err
}

func (x *profileFlags) readAccounts(e *env, p *ingest.Profile) error {
	if x.accounts == "" {
		p.Accounts, x.passwords = nil, map[string]string{}
		return nil
	}
	f, err := os.Open(e.path(x.accounts))
	if err != nil {
		return err
	}
	defer f.Close()
	p.Accounts, x.passwords, err = ingest.ReadAccounts(f)
	if err != nil {
		return usageError{err}
	}
	return nil
}

// secretFile reads a password: one line, of a file or standard input.
func (e *env) secretFile(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	var b []byte
	var err error
	if name == "-" {
		b, err = io.ReadAll(io.LimitReader(e.stdin, 4096))
	} else {
		b, err = os.ReadFile(e.path(name))
	}
	if err != nil {
		return nil, err
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" || strings.ContainsAny(s, "\r\n\x00") {
		return nil, fmt.Errorf("password file %s: it holds one line, the password", name)
	}
	return []byte(s), nil
}

func profileCmd(e *env) *cobra.Command {
	c := &cobra.Command{Use: "profile", Short: "Archiving profiles: what is collected, from where, how often"}
	c.AddCommand(profileAdd(e), profileEdit(e), profileList(e), profileTest(e), profileRun(e), profileRetry(e), profileLog(e), profileRuns(e), profileMissed(e), profileWouldDelete(e),
		e.profileVerb("pause NAME", "Pause the run under way; the next run goes on with it", func(o *server.Opened, p *ingest.Profile) error { return o.Runner.Pause(p) }, "paused"),
		e.profileVerb("cancel NAME", "End the run under way; what it archived stays", func(o *server.Opened, p *ingest.Profile) error { return o.Runner.Cancel(p) }, "cancelled"),
		e.profileVerb("remove NAME", "Remove a profile; what it collected stays", func(o *server.Opened, p *ingest.Profile) error { return ingest.Remove(o.Archive, p, keyOwner) }, "removed"))
	return c
}

// profileVerb is a verb that does one thing to a profile.
func (e *env) profileVerb(use, short string, do func(*server.Opened, *ingest.Profile) error, done string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		return e.withProfile(c.Context(), args[0], func(o *server.Opened, p *ingest.Profile) error {
			err := do(o, p)
			if err == nil {
				e.printf("%s: %s\n", p.Name, done)
			}
			return err
		})
	}}
}

func (e *env) withProfile(ctx context.Context, name string, fn func(*server.Opened, *ingest.Profile) error) error {
	return e.with(ctx, func(o *server.Opened) error {
		p, err := ingest.Load(ctx, o.Archive, name)
		if errors.Is(err, ingest.ErrNoProfile) {
			return hint(err, "letterhold profile list")
		}
		if err != nil {
			return err
		}
		return fn(o, p)
	})
}

func profileAdd(e *env) *cobra.Command {
	var x profileFlags
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a profile",
		Long: `Adds a profile. Connections are encrypted and certificates verified; a private
authority is named with --ca, a single key with --pin. A weaker connection is an
exception: it needs somebody who answers for it, a reason, and an end of at most
30 days, after which the profile rests and the mail stays at its source.

With --from user@host the server is asked how it is reached best: with TLS from
the first byte, else with STARTTLS, by IMAP, else by POP3.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if x.p.Multidrop && x.p.Mailbox == "" {
				x.p.Mailbox = delivery.Unassigned
				c.Flags().Set("mailbox", delivery.Unassigned)
			}
			if x.p.From == "" || x.p.Mailbox == "" && x.accounts == "" {
				return usage("profile add: --from URL and --mailbox NAME are needed")
			}
			password, err := e.secretFile(x.password)
			if err != nil {
				return err
			}
			return e.with(c.Context(), func(o *server.Opened) error {
				p := &ingest.Profile{Name: args[0], Enabled: true}
				if err := x.apply(e, c, p, o.Archive.Now()); err != nil {
					return err
				}
				if err := e.probe(c.Context(), o, p); err != nil {
					return err
				}
				if err := p.Check(o.Archive.Now()); err != nil {
					return usageError{err}
				}
				if err := ingest.SaveWith(o.Archive, p, ingest.Secrets{Password: password, Accounts: x.passwords}, keyOwner); err != nil {
					return err
				}
				e.printf("profile %s added; try it with: letterhold profile test %q\n", p.Name, p.Name)
				return nil
			})
		},
	}
	x.register(c)
	return c
}

// probe finds out how a server is reached, where only user@host is given.
func (e *env) probe(ctx context.Context, o *server.Opened, p *ingest.Profile) error {
	if strings.Contains(p.From, "://") || strings.HasPrefix(p.From, "folder:") {
		return nil
	}
	url, err := ingest.Probe(ctx, p.From, p.Connection(), o.Archive.Now)
	var x *ingest.CertificateError
	if errors.As(err, &x) {
		e.showChain(e.stderr, x.Chain)
	}
	if err != nil {
		return err
	}
	p.From = url
	e.printf("reached best at %s\n", url)
	return nil
}

// showChain prints the certificates that a server showed, and how they could be
// trusted: after a comparison with what its administrator says.
func (e *env) showChain(w io.Writer, chain []ingest.Shown) {
	for _, x := range chain {
		fmt.Fprintf(w, "  the server showed %s, issued by %s, valid until %s\n  key SHA-256 %s\n", plain(x.Subject), plain(x.Issuer), x.Until.Format(time.DateOnly), x.Pin)
	}
	if len(chain) > 0 {
		fmt.Fprintf(w, "  If that is right, trust this key alone with --pin %s, or its authority with --ca FILE.\n", chain[0].Pin)
	}
}

func profileEdit(e *env) *cobra.Command {
	var x profileFlags
	c := &cobra.Command{
		Use: "edit NAME", Short: "Change a profile: the options that are given", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			password, err := e.secretFile(x.password)
			if err != nil {
				return err
			}
			return e.withProfile(c.Context(), args[0], func(o *server.Opened, p *ingest.Profile) error {
				if err := x.apply(e, c, p, o.Archive.Now()); err != nil {
					return err
				}
				if err := p.Check(o.Archive.Now()); err != nil {
					return usageError{err}
				}
				if err := ingest.SaveWith(o.Archive, p, ingest.Secrets{Password: password, Accounts: x.passwords}, keyOwner); err != nil {
					return err
				}
				e.printf("profile %s changed\n", p.Name)
				return nil
			})
		},
	}
	x.register(c)
	return c
}

type profileJSON struct {
	*ingest.Profile
	Name    string           `json:"name"`
	Enabled bool             `json:"enabled"`
	Running bool             `json:"running"`
	Live    *ingest.Progress `json:"live,omitempty"`
	Last    *runJSON         `json:"last,omitempty"`
	Missed  int              `json:"missed"`
}

func profileList(e *env) *cobra.Command {
	var js bool
	c := &cobra.Command{
		Use: "list", Short: "List profiles with their last runs", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				out, err := listProfiles(c.Context(), o)
				if err != nil {
					return err
				}
				if js {
					return e.printJSON(map[string]any{"profiles": out})
				}
				for _, p := range out {
					last := "never run"
					if p.Last != nil {
						last = fmt.Sprintf("%s %s, %d new", p.Last.Started.Format("2006-01-02 15:04"), p.Last.State, p.Last.Archived)
					}
					if p.Running {
						last = "running"
					}
					from := p.From
					if n := len(p.Accounts); n > 0 {
						from += fmt.Sprintf(" (%d accounts)", n)
					}
					e.printf("%-20s %s -> %s  (%s)\n", p.Name, from, p.Mailbox, last)
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}

func listProfiles(ctx context.Context, o *server.Opened) ([]profileJSON, error) {
	ps, err := ingest.Profiles(ctx, o.Archive)
	if err != nil {
		return nil, err
	}
	live := map[int64]*ingest.Progress{}
	for _, l := range o.Runner.Live() {
		live[l.Profile] = &l
	}
	out := []profileJSON{}
	for _, p := range ps {
		j := profileJSON{Profile: p, Name: p.Name, Enabled: p.Enabled, Running: live[p.ID] != nil, Live: live[p.ID]}
		err := o.Archive.State().View(ctx, func(v catalog.View) error {
			rs, err := v.RunsOf(p.ID, 1)
			if err != nil {
				return err
			}
			if len(rs) > 0 {
				j.Last = runOf(&rs[0])
				j.Last.Failures, j.Last.Skips = nil, nil
			}
			missed, err := v.Missed(p.ID, 10_000)
			j.Missed = len(missed)
			return err
		})
		if err != nil {
			return nil, err
		}
		out = append(out, j)
	}
	return out, nil
}

func profileTest(e *env) *cobra.Command {
	var js bool
	c := &cobra.Command{
		Use: "test NAME", Short: "Connect step by step and archive nothing", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.withProfile(c.Context(), args[0], func(o *server.Opened, p *ingest.Profile) error {
				t, err := o.Runner.Test(c.Context(), p)
				if err != nil {
					return err
				}
				return e.reportTest(t, js)
			})
		},
	}
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}

func (e *env) reportTest(t *ingest.Tested, js bool) error {
	ok := true
	for _, s := range t.Steps {
		ok = ok && s.OK
	}
	if js {
		if err := e.printJSON(t); err != nil {
			return err
		}
	} else {
		for _, s := range t.Steps {
			e.printf("%-8s %-7s %s\n", s.Step, map[bool]string{true: "ok", false: "FAILED"}[s.OK], s.Detail)
			if !s.OK && s.Step == tlsconf.StepTLS {
				e.showChain(e.stdout, t.Chain)
			}
		}
		for _, f := range t.Folders {
			left := ""
			if f.LeftOut != "" {
				left = "  left out: " + f.LeftOut
			}
			e.printf("  %8d  %s%s\n", f.Messages, f.Name, left)
		}
	}
	if !ok {
		return codeError(exitError)
	}
	return nil
}
