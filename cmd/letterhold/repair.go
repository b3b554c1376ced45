package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/server"
)

func repairCmd(e *env) *cobra.Command {
	var js bool
	c := &cobra.Command{Use: "repair", Short: "Make catalog or index again from the packs"}
	alone := func() error {
		if e.open != nil {
			return hint(errors.New("the server is using them"), "stop the server, then repair")
		}
		return nil
	}
	c.AddCommand(asJSON(&cobra.Command{
		Use: "catalog", Short: "Make the catalog again, under a fresh key", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				if err := alone(); err != nil {
					return err
				}
				if err := o.Index.Close(); err != nil {
					return err
				}
				if err := o.Archive.RebuildCatalog(keyOwner); err != nil {
					return err
				}
				if err := o.RebuildIndex(keyOwner); err != nil {
					return err
				}
				return e.repaired(c.Context(), o, "catalog and index", js)
			})
		},
	}, &js), asJSON(&cobra.Command{
		Use: "index", Short: "Make the full-text index again, under a fresh key", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				if err := alone(); err != nil {
					return err
				}
				if err := o.RebuildIndex(keyOwner); err != nil {
					return err
				}
				return e.repaired(c.Context(), o, "index", js)
			})
		},
	}, &js))
	return c
}

func (e *env) repaired(ctx context.Context, o *server.Opened, what string, js bool) error {
	if err := o.Index.Wait(ctx); err != nil {
		return err
	}
	t, err := o.Archive.Catalog().Totals(ctx)
	if err != nil {
		return err
	}
	return e.report(js, map[string]any{"made": what, "messages": t.Messages}, "The %s was made again: %d messages.\n", what, t.Messages)
}

func compactCmd(e *env) *cobra.Command {
	var js bool
	return asJSON(&cobra.Command{
		Use: "compact", Short: "Free the space of erased messages", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				n, err := o.Archive.Compact(c.Context(), keyOwner)
				if err != nil {
					return err
				}
				return e.report(js, map[string]any{"freed": n}, "%s freed\n", human(n))
			})
		},
	}, &js)
}
