package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/ingest"
)

// connectionFlags are the options of whatever is connected to.
type connectionFlags struct {
	password      string // the caller says what for
	ca, pin       string
	allow         []string
	insecure      string
	until         string
	owner, reason string
}

func (x *connectionFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&x.ca, "ca", "", "file with the authority (PEM) that vouches for the server")
	f.StringVar(&x.pin, "pin", "", "SHA-256 of the server's key, to trust this key alone")
	f.StringSliceVar(&x.allow, "allow-net", nil, "network (CIDR) of this machine or its neighbours that may be reached; repeatable")
	f.StringVar(&x.insecure, "allow-insecure", "", "an exception, for 30 days at most: unverified or cleartext; needs --until, --owner, --reason")
	f.StringVar(&x.until, "until", "", "when the exception ends (2026-12-31)")
	f.StringVar(&x.owner, "owner", "", "who answers for the exception")
	f.StringVar(&x.reason, "reason", "", "why the exception is needed")
}

// apply puts the options that were given into a connection.
func (x *connectionFlags) apply(e *env, c *cobra.Command, to *ingest.Connection, now time.Time) error {
	given := c.Flags().Changed
	if given("pin") {
		to.Pin = x.pin
	}
	if given("allow-net") {
		to.AllowNet = x.allow
	}
	if given("ca") {
		to.CA = ""
		if x.ca != "" {
			b, err := os.ReadFile(e.path(x.ca))
			if err != nil {
				return err
			}
			to.CA = string(b)
		}
	}
	return x.exception(c, to, now)
}

func (x *connectionFlags) exception(c *cobra.Command, to *ingest.Connection, now time.Time) error {
	if !c.Flags().Changed("allow-insecure") {
		return nil
	}
	if x.insecure == "" {
		to.Exception = nil
		return nil
	}
	if x.until == "" || x.owner == "" || x.reason == "" {
		return usage("an exception needs --until, --owner and --reason")
	}
	until, err := time.Parse(time.DateOnly, x.until)
	if err != nil {
		if until, err = time.Parse(time.RFC3339, x.until); err != nil {
			return usage("--until %s: it is a date like 2026-12-31", x.until)
		}
	}
	to.Exception = &ingest.Exception{Kind: x.insecure, Owner: x.owner, Reason: x.reason, Since: now.UTC().Truncate(time.Second), Until: until.UTC()}
	return nil
}
