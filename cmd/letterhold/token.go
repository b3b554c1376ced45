package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/server"
	"github.com/letterhold/letterhold/internal/token"
)

// tokenFlags are the options of a source of tokens.
type tokenFlags struct {
	c                                  token.Config
	provider, kind, tenant, protocol   string
	keyFile, clientSecret, certificate string
	ca, user                           string
}

func tokenCmd(e *env) *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Token sources: OAuth 2 for mailboxes that take no passwords"}
	c.AddCommand(tokenAdd(e), tokenList(e), tokenTest(e), tokenRemove(e))
	return c
}

func tokenAdd(e *env) *cobra.Command {
	var x tokenFlags
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a source of tokens",
		Long: `Adds a source of tokens, which profiles name with --token-source.

  Microsoft 365, every mailbox, by an application with a certificate:
    letterhold token add m365 --provider microsoft --tenant ID --client ID \
      --certificate-out m365.pem        register the certificate at Entra
  Microsoft 365, one mailbox, by the consent of the person:
    letterhold token add ann --provider microsoft --kind device --tenant ID --client ID
  Google Workspace, every mailbox, by a service account with domain-wide delegation:
    letterhold token add google --provider google --key-file key.json
  Google, one mailbox, by the consent of the person:
    letterhold token add ann --provider google --kind browser --client ID --client-secret-file F
  Another provider:
    letterhold token add x --issuer https://login.example.org --kind device --client ID --scope SCOPE

Keys and refresh tokens are sealed and never shown again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			conf, secret, err := x.config(e)
			if err != nil {
				return err
			}
			return e.with(c.Context(), func(o *server.Opened) error {
				if secret, err = e.consent(c.Context(), conf, secret, x.user); err != nil {
					return err
				}
				if err := ingest.AddTokenSource(o.Archive, args[0], conf, secret, keyOwner); err != nil {
					return err
				}
				e.printf("token source %s added; try it with: letterhold token test %q --user ADDRESS\n", args[0], args[0])
				return nil
			})
		},
	}
	f := c.Flags()
	f.StringVar(&x.provider, "provider", "", "microsoft or google; without it, --issuer")
	f.StringVar(&x.kind, "kind", "", "application, service, device (a code that is typed elsewhere) or browser")
	f.StringVar(&x.tenant, "tenant", "", "Microsoft: the directory's id, or consumers")
	f.StringVar(&x.protocol, "protocol", "imap", "Microsoft, with a person's consent: imap or pop3")
	f.StringVar(&x.c.ClientID, "client", "", "id of the registered application")
	f.StringVar(&x.clientSecret, "client-secret-file", "", "file with the client's secret, where the provider gives one")
	f.StringVar(&x.keyFile, "key-file", "", "private key: Google's key file (JSON), or PEM with its certificate")
	f.StringVar(&x.certificate, "certificate-out", "", "make a key, and write its certificate to this file, to be registered at the provider")
	f.StringVar(&x.c.Issuer, "issuer", "", "another provider, by its issuer (https://...)")
	f.StringSliceVar(&x.c.Scopes, "scope", nil, "what is asked for; repeatable")
	f.StringVar(&x.ca, "ca", "", "file with the authority (PEM) that vouches for the provider")
	f.StringSliceVar(&x.c.AllowNet, "allow-net", nil, "network (CIDR) of this machine or its neighbours that may be reached; repeatable")
	f.StringVar(&x.user, "user", "", "account that is proposed when the person consents")
	return c
}

// config is what the options say.
func (x *tokenFlags) config(e *env) (c token.Config, s token.Secret, err error) {
	switch x.provider {
	case "microsoft":
		kind := token.Kind(x.kind)
		if kind == "" {
			kind = token.Application
		}
		c, err = token.Microsoft(kind, x.tenant, x.c.ClientID, token.Protocol(x.protocol))
	case "google":
		if x.kind == "" || token.Kind(x.kind) == token.Service {
			return x.googleKey(e)
		}
		c, err = token.Google(x.c.ClientID)
	case "":
		c = x.c
		c.Kind = token.Kind(x.kind)
	default:
		err = fmt.Errorf("--provider %s: it is microsoft or google", x.provider)
	}
	if err == nil && x.ca != "" {
		var b []byte
		b, err = os.ReadFile(e.path(x.ca))
		c.CA = string(b)
	}
	if err == nil {
		err = c.Check()
	}
	if err != nil {
		return c, s, usageError{err}
	}
	return c, s, x.secret(e, &c, &s)
}

func (x *tokenFlags) googleKey(e *env) (token.Config, token.Secret, error) {
	if x.keyFile == "" {
		return token.Config{}, token.Secret{}, usage("token add: name the service account's key file with --key-file F, or choose --kind browser")
	}
	b, err := os.ReadFile(e.path(x.keyFile))
	if err != nil {
		return token.Config{}, token.Secret{}, err
	}
	return token.GoogleKey(b)
}

// secret reads or makes what the source proves itself with.
func (x *tokenFlags) secret(e *env, c *token.Config, s *token.Secret) error {
	if x.clientSecret != "" {
		b, err := e.secretFile(x.clientSecret)
		if err != nil {
			return err
		}
		s.Client = string(b)
	}
	switch {
	case x.keyFile != "" && x.certificate != "":
		return usage("token add: --key-file or --certificate-out, not both")
	case x.keyFile != "":
		b, err := os.ReadFile(e.path(x.keyFile))
		s.Key = string(b)
		return err
	case x.certificate != "":
		key, certificate, err := token.NewKey("letterhold "+c.ClientID, time.Now())
		if err != nil {
			return err
		}
		s.Key = key
		return os.WriteFile(e.path(x.certificate), []byte(certificate), 0o644)
	case c.Kind == token.Application || c.Kind == token.Service:
		return usage("token add: name the key with --key-file F, or make one with --certificate-out F")
	}
	return nil
}

// consent asks the person, where a person has to consent.
func (e *env) consent(ctx context.Context, c token.Config, s token.Secret, user string) (token.Secret, error) {
	var g *token.Granted
	var err error
	switch c.Kind {
	case token.Device:
		g, err = token.OnDevice(ctx, c, s, token.Options{}, func(p token.Prompt) error {
			e.printf("Open %s\nand type the code %s (until %s).\n", p.URL, p.Code, p.Until.Local().Format("15:04"))
			return nil
		})
	case token.Browser:
		g, err = token.InBrowser(ctx, c, s, token.Options{}, user, func(url string) error {
			e.printf("Open this address in a browser on this machine:\n%s\n", url)
			return nil
		})
	default:
		return s, nil
	}
	if err != nil {
		return s, err
	}
	if g.Who != "" {
		e.printf("consent given by %s\n", plain(g.Who))
	}
	return g.Secret, nil
}

func tokenList(e *env) *cobra.Command {
	var js bool
	return asJSON(&cobra.Command{
		Use: "list", Short: "List token sources", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				ts, err := ingest.TokenSources(c.Context(), o.Archive)
				if err != nil {
					return err
				}
				if js {
					return e.printJSON(map[string]any{"token_sources": append([]ingest.TokenSource{}, ts...)})
				}
				for _, t := range ts {
					e.printf("%-20s %-11s %s %s\n", t.Name, t.Config.Kind, t.Config.ClientID, strings.Join(t.Config.Scopes, " "))
				}
				return nil
			})
		},
	}, &js)
}

func tokenTest(e *env) *cobra.Command {
	var user string
	var js bool
	c := &cobra.Command{
		Use: "test NAME --user ADDRESS", Short: "Get a token for an account, and show only until when it holds", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				t, err := o.Runner.Token(c.Context(), args[0], user)
				if err != nil {
					return explainToken(err)
				}
				return e.report(js, map[string]any{"until": t.Until}, "a token was given; it holds until %s\n", t.Until.Format(time.RFC3339))
			})
		},
	}
	c.Flags().StringVar(&user, "user", "", "account whose mail is to be collected")
	return asJSON(c, &js)
}

func tokenRemove(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Remove a token source, and take its consent back", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				left, err := o.Runner.RemoveTokenSource(c.Context(), args[0], keyOwner)
				if err != nil {
					return explainToken(err)
				}
				e.printf("removed\n")
				if left != "" {
					fmt.Fprintf(e.stderr, "note: %s\n", plain(left))
				}
				return nil
			})
		},
	}
}

// explainToken adds the way out.
func explainToken(err error) error {
	var x *token.Error
	switch {
	case errors.Is(err, ingest.ErrNoTokenSource):
		return hint(err, "letterhold token list")
	case errors.As(err, &x) && x.Do != "":
		return hint(err, "%s", x.Do)
	}
	return err
}
