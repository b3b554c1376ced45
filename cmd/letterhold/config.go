package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/server"
)

// settings is letterhold.toml: what is needed to start. Everything else is in
// the archive.
type settings struct {
	Archive string `toml:"archive"`
	HTTPS   string `toml:"https"`
	KeyFile string `toml:"key_file"`
	Log     string `toml:"log"`
	journalFlags
}

var defaults = settings{HTTPS: defaultHTTPS, Log: "info"}

func (s settings) level() slog.Level {
	var l slog.Level
	if l.UnmarshalText([]byte(s.Log)) != nil {
		return slog.LevelInfo
	}
	return l
}

// keys are the keys of letterhold.toml with default and text.
var keys = []struct {
	name string
	def  any
	text string
}{
	{"archive", "", "folder of the archive (LETTERHOLD_ARCHIVE)"},
	{"https", defaultHTTPS, "address to listen on, TLS 1.3 only"},
	{"key_file", "", "key file that opens the archive (LETTERHOLD_KEY_FILE); without it the server starts locked, unless systemd hands over the credential " + server.Credential},
	{"log", "info", "least severity that is logged: debug, info, warn, error"},
	{"journal", "", "address to receive copies of mail on by SMTP, with TLS; off without it"},
	{"journal_lmtp", "", "the same by LMTP; unix:PATH is a socket on this machine"},
	{"journal_implicit_tls", false, "TLS from the first byte instead of STARTTLS"},
	{"journal_allow", []string{}, "networks (CIDR) of mail servers that may send"},
	{"journal_tls_min", "1.3", "least version of TLS: 1.3, or 1.2 for an old Exchange"},
	{"journal_clients", "", "file with the authorities (PEM) of certificates whose holders may send"},
	{"journal_client_names", []string{}, "only certificates for these host names; needed for authorities of the public"},
	{"journal_auth", false, "who signs in with a journal address and its password may send"},
}

func (e *env) config(name string) (settings, error) {
	s := defaults
	if name == "" {
		return s, nil
	}
	meta, err := toml.DecodeFile(e.path(name), &s)
	if err != nil {
		return s, fmt.Errorf("configuration: %w", err)
	}
	for _, k := range meta.Undecoded() {
		return s, hint(usage("configuration %s: unknown key %q", name, k), "did you mean %q? `letterhold config` prints every key", nearest(k.String()))
	}
	if s.Log != "" {
		var l slog.Level
		if l.UnmarshalText([]byte(s.Log)) != nil {
			return s, usage("configuration %s: log = %q: it is debug, info, warn or error", name, s.Log)
		}
	}
	return s, nil
}

// nearest is the key that shares most letters with an unknown one.
func nearest(unknown string) string {
	best, most := keys[0].name, -1
	for _, k := range keys {
		n := 0
		for _, c := range k.name {
			if strings.ContainsRune(unknown, c) {
				n++
			}
		}
		if n > most {
			best, most = k.name, n
		}
	}
	return best
}

func configCmd(e *env) *cobra.Command {
	var js bool
	c := &cobra.Command{
		Use: "config", Short: "Print every key of letterhold.toml with its default", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if js {
				out := []map[string]any{}
				for _, k := range keys {
					out = append(out, map[string]any{"key": k.name, "default": k.def, "text": k.text})
				}
				return e.printJSON(map[string]any{"keys": out})
			}
			for _, k := range keys {
				v, err := json.Marshal(k.def)
				if err != nil {
					return err
				}
				e.printf("# %s\n# %s = %s\n\n", k.text, k.name, v)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}
