package main

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/server"
)

// journalFlags are the options of the journal listener.
type journalFlags struct {
	SMTP     string   `toml:"journal"`
	LMTP     string   `toml:"journal_lmtp"`
	Implicit bool     `toml:"journal_implicit_tls"`
	Allow    []string `toml:"journal_allow"`
	MinTLS   string   `toml:"journal_tls_min"`
	Clients  string   `toml:"journal_clients"`
	Names    []string `toml:"journal_client_names"`
	Auth     bool     `toml:"journal_auth"`
}

func (x *journalFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&x.SMTP, "journal", "", "address to receive copies of mail on by SMTP, with TLS; off without it")
	f.StringVar(&x.LMTP, "journal-lmtp", "", "the same by LMTP; unix:PATH is a socket on this machine")
	f.BoolVar(&x.Implicit, "journal-implicit-tls", false, "TLS from the first byte instead of STARTTLS")
	f.StringSliceVar(&x.Allow, "journal-allow", nil, "network (CIDR) of mail servers that may send; repeatable")
	f.StringVar(&x.MinTLS, "journal-tls-min", "1.3", "least version of TLS: 1.3, or 1.2 for an old Exchange")
	f.StringVar(&x.Clients, "journal-clients", "", "file with the authorities (PEM) of certificates whose holders may send")
	f.StringSliceVar(&x.Names, "journal-client-names", nil, "only certificates for these host names; needed for authorities of the public")
	f.BoolVar(&x.Auth, "journal-auth", false, "who signs in with a journal address and its password may send")
}

// merge takes from the configuration file what the command line does not say.
func (x *journalFlags) merge(c *cobra.Command, file journalFlags) {
	given := c.Flags().Changed
	for name, set := range map[string]func(){
		"journal": func() { x.SMTP = file.SMTP }, "journal-lmtp": func() { x.LMTP = file.LMTP }, "journal-implicit-tls": func() { x.Implicit = file.Implicit },
		"journal-allow": func() { x.Allow = file.Allow }, "journal-clients": func() { x.Clients = file.Clients }, "journal-client-names": func() { x.Names = file.Names },
		"journal-auth": func() { x.Auth = file.Auth }, "journal-tls-min": func() {
			if file.MinTLS != "" {
				x.MinTLS = file.MinTLS
			}
		},
	} {
		if !given(name) {
			set()
		}
	}
}

// options checks the options; nil if nothing is to be received.
func (x *journalFlags) options(e *env) (*server.Journal, error) {
	if x.SMTP == "" && x.LMTP == "" {
		return nil, nil
	}
	j := &server.Journal{SMTP: x.SMTP, LMTP: x.LMTP, Implicit: x.Implicit, Auth: x.Auth, Ready: func(url string) { e.printf("journal %s\n", url) }}
	switch x.MinTLS {
	case "1.3":
	case "1.2":
		j.TLS12 = true
	default:
		return nil, usage("--journal-tls-min %s: it is 1.3 or 1.2", x.MinTLS)
	}
	for _, s := range x.Allow {
		p, err := parsePrefix(s)
		if err != nil {
			return nil, usage("--journal-allow %s: write it as 192.0.2.0/24 or 192.0.2.7", s)
		}
		j.Allow = append(j.Allow, p)
	}
	if x.Clients != "" {
		b, err := os.ReadFile(e.path(x.Clients))
		if err != nil {
			return nil, err
		}
		j.Clients.Roots, j.Clients.Names = x509.NewCertPool(), x.Names
		if !j.Clients.Roots.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("--journal-clients %s: it holds no certificate (PEM)", x.Clients)
		}
	}
	if len(j.Allow) == 0 && j.Clients.Roots == nil && !j.Auth && !strings.HasPrefix(x.LMTP, "unix:") {
		return nil, hint(usage("--journal: nobody may send"), "say who may: --journal-allow CIDR, --journal-clients FILE or --journal-auth")
	}
	return j, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Prefix(a.BitLen())
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

func journalCmd(e *env) *cobra.Command {
	c := &cobra.Command{Use: "journal", Short: "Journals: mail servers send a copy of every message"}
	address := &cobra.Command{Use: "address", Short: "Addresses that mail servers send copies to"}
	address.AddCommand(journalAdd(e), journalList(e), journalRemove(e))
	c.AddCommand(address)
	return c
}

func journalAdd(e *env) *cobra.Command {
	var js, password bool
	var label, domain string
	c := &cobra.Command{
		Use:   "add --label L",
		Short: "Make an address that nobody can guess",
		Long: `Makes an address that a mail server is to send copies to; mail to any other is
refused. Exchange and Microsoft 365: a journal rule with this address. Postfix:
recipient_bcc_maps that carry each recipient behind a plus sign, as in
  /^(.+)@(example\.org)$/  ADDRESS+$1=$2   (before the @ of the address)

Whose mail it is, is decided by the addresses of mailboxes: letterhold mailbox
address add. What belongs to nobody goes to the mailbox "unassigned".`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if label == "" {
				return usage("journal address add: name the mail server with --label L")
			}
			return e.with(c.Context(), func(o *server.Opened) error {
				j := catalog.Journal{Address: "j" + random() + "@" + strings.ToLower(domain), Label: label, Created: o.Archive.Now(), Secret: []byte{}}
				out := map[string]string{"address": j.Address, "label": label}
				if password {
					out["password"] = random()
					sum := sha256.Sum256([]byte(out["password"]))
					j.Secret = sum[:]
				}
				if err := o.Archive.Change(archive.Act{What: "journal address made", Who: keyOwner, Of: label}, func(t catalog.Tx) error { return t.AddJournal(j) }); err != nil {
					return err
				}
				if js {
					return e.printJSON(out)
				}
				e.printf("%s\n", j.Address)
				if password {
					e.printf("password, shown once: %s\n", out["password"])
				}
				return nil
			})
		},
	}
	f := c.Flags()
	f.StringVar(&label, "label", "", "what it is for: the mail server, the journal rule")
	f.StringVar(&domain, "domain", archiveDomain(), "domain of the address; the mail server must route it here")
	f.BoolVar(&password, "password", false, "also make a password, for --journal-auth")
	return asJSON(c, &js)
}

// archiveDomain is the name of this machine, as a mail domain.
func archiveDomain() string {
	if h, err := os.Hostname(); err == nil && strings.Contains(h, ".") {
		return strings.ToLower(h)
	}
	return "archive.invalid"
}

// random is what nobody guesses: 160 bits, in letters and digits.
func random() string {
	var b [20]byte
	rand.Read(b[:])
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

func journalList(e *env) *cobra.Command {
	var js bool
	return asJSON(&cobra.Command{
		Use: "list", Short: "List journal addresses", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				list := []catalog.Journal{}
				if err := o.Archive.State().View(c.Context(), func(v catalog.View) error {
					all, err := v.Journals()
					list = append(list, all...)
					return err
				}); err != nil {
					return err
				}
				if js {
					return e.printJSON(map[string]any{"addresses": list})
				}
				for _, j := range list {
					e.printf("%s  %s  %s\n", j.Created.Format("2006-01-02"), j.Address, plain(j.Label))
				}
				return nil
			})
		},
	}, &js)
}

func journalRemove(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "remove ADDRESS", Short: "Remove a journal address: mail to it is refused from now on", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				var j catalog.Journal
				err := o.Archive.State().View(c.Context(), func(v catalog.View) (err error) {
					j, err = v.JournalAt(strings.ToLower(args[0]))
					return err
				})
				if errors.Is(err, catalog.ErrNotFound) {
					return hint(fmt.Errorf("journal address %s: %w", args[0], err), "letterhold journal address list")
				}
				if err != nil {
					return err
				}
				err = o.Archive.Change(archive.Act{What: "journal address removed", Who: keyOwner, Of: j.Label}, func(t catalog.Tx) error { return t.RemoveJournal(j.Address) })
				if err == nil {
					e.printf("removed\n")
				}
				return err
			})
		},
	}
}
