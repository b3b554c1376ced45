package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/server"
)

func statsCmd(e *env) *cobra.Command {
	var js bool
	c := &cobra.Command{
		Use: "stats", Short: "Numbers of the archive", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				t, err := o.Archive.Catalog().Totals(c.Context())
				if err != nil {
					return err
				}
				sizes := map[string]int64{}
				total := int64(0)
				filepath.WalkDir(o.Dir, func(p string, d os.DirEntry, err error) error {
					if err != nil || !d.Type().IsRegular() {
						return nil
					}
					fi, err := d.Info()
					if err != nil {
						return nil
					}
					rel, _ := filepath.Rel(o.Dir, p)
					top, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
					if top == "store" {
						top = "store" + filepath.Ext(p)
					}
					sizes[strings.TrimSuffix(top, "-wal")] += fi.Size()
					total += fi.Size()
					return nil
				})
				behind, err := o.Index.Behind(c.Context())
				if err != nil {
					return err
				}
				if js {
					return e.printJSON(map[string]any{"messages": t.Messages, "bytes": t.Bytes, "occurrences": t.Occurrences, "parts": t.Parts, "partial": t.Partial, "disk": total, "disk_by": sizes, "index_behind": behind})
				}
				e.printf("%d messages, %s; %d occurrences, %d parts stored once, %d analysed in part\n", t.Messages, human(t.Bytes), t.Occurrences, t.Parts, t.Partial)
				e.printf("on disk %s", human(total))
				if t.Bytes > 0 {
					e.printf(" (%.3f of the raw size)", float64(total)/float64(t.Bytes))
				}
				e.printf("\n")
				for _, k := range []string{"store.pack", "store.keys", "ledger", "catalog.db", "index", "state.db"} {
					e.printf("  %-11s %10s\n", k, human(sizes[k]))
				}
				if behind > 0 {
					e.printf("%d changes are not searchable yet\n", behind)
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}
