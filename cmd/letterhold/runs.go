package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/server"
)

type runJSON struct {
	Run     int64      `json:"run"`
	What    string     `json:"what"`
	State   string     `json:"state"`
	Who     string     `json:"by"`
	Started time.Time  `json:"started"`
	Ended   *time.Time `json:"ended,omitempty"`
	catalog.Counts
	Causes   []ingest.Cause    `json:"causes,omitempty"`
	Failures []catalog.Failure `json:"failures,omitempty"`
	Skips    []catalog.Failure `json:"skips,omitempty"`
	done     string            // what became of a message, for people
}

func runOf(r *catalog.Run) *runJSON {
	j := &runJSON{Run: r.ID, What: strings.ReplaceAll(r.What, "\n", " "), State: r.State, Who: r.Who, Started: r.Started, Counts: r.Counts, Causes: ingest.Causes(r.Failures), Failures: r.Failures, Skips: r.Skips, done: doneIn(r)}
	if !r.Ended.IsZero() {
		j.Ended = &r.Ended
	}
	return j
}

func runsCmd(e *env) *cobra.Command {
	var js bool
	var limit int
	c := &cobra.Command{
		Use:   "runs [RUN]",
		Short: "List past imports and runs of profiles, or show the report of one",
		Long: `Lists imports and runs of profiles, the newest first. With the number of a run,
shows its report: the sum, what failed and why, and what was skipped by which rule.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				if len(args) == 0 {
					return e.listRuns(c.Context(), o, func(v catalog.View) ([]catalog.Run, error) { return v.Runs(limit) }, js)
				}
				return e.showRun(c.Context(), o, args[0], js)
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 30, "how many")
	return asJSON(c, &js)
}

// listRuns prints runs without what failed in them.
func (e *env) listRuns(ctx context.Context, o *server.Opened, get func(catalog.View) ([]catalog.Run, error), js bool) error {
	var rs []catalog.Run
	if err := o.Archive.State().View(ctx, func(v catalog.View) (err error) {
		rs, err = get(v)
		return err
	}); err != nil {
		return err
	}
	out := []*runJSON{}
	for i := range rs {
		j := runOf(&rs[i])
		j.Failures, j.Skips = nil, nil
		out = append(out, j)
	}
	if js {
		return e.printJSON(map[string]any{"runs": out})
	}
	for _, r := range out {
		e.printf("%6d  %s  %-9s  %s: %s\n", r.Run, r.Started.Format("2006-01-02 15:04"), r.State, plain(r.What), sumAs(r.Counts, r.done))
		e.printCauses(r.Causes)
	}
	return nil
}

// printCauses says why something failed, how often, and what helps.
func (e *env) printCauses(cs []ingest.Cause) {
	for _, c := range cs {
		e.printf("        %d x %s, for example %s\n", c.Count, plain(c.Reason), plain(c.Example.Where))
		if c.Fix != "" {
			e.printf("            %s\n", c.Fix)
		}
	}
}

func (e *env) showRun(ctx context.Context, o *server.Opened, arg string, js bool) error {
	id, err := strconv.ParseInt(arg, 10, 64)
	if err != nil {
		return usage("runs: %q is not the number of a run", arg)
	}
	var r *catalog.Run
	err = o.Archive.State().View(ctx, func(v catalog.View) (err error) {
		r, err = v.Run(id)
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return hint(fmt.Errorf("run %d: %w", id, err), "letterhold runs")
	}
	if err != nil {
		return err
	}
	if js {
		return e.printJSON(runOf(r))
	}
	e.printf("run %d, %s, by %s: %s\nbegun %s", r.ID, r.State, r.Who, plain(runOf(r).What), r.Started.Format(time.RFC3339))
	if !r.Ended.IsZero() {
		e.printf(", ended %s", r.Ended.Format(time.RFC3339))
	}
	e.printf("\n%s, %s\n", sumAs(r.Counts, doneIn(r)), human(r.Bytes))
	e.printCauses(ingest.Causes(r.Failures))
	for _, f := range r.Failures {
		e.printf("failed: %s: %s\n", plain(f.Where), plain(f.Reason))
	}
	for _, f := range r.Skips {
		e.printf("skipped: %s: %s\n", plain(f.Where), plain(f.Reason))
	}
	return nil
}

// doneIn is the word for what a run did with a message.
func doneIn(r *catalog.Run) string {
	switch {
	case r.Kind == catalog.KindTarget:
		return "exported"
	case r.Kind == "" && r.Profile != 0: // nobody knows any more which way it went
		return "done"
	}
	return "archived"
}

// sum says what became of everything that was seen.
func sum(c catalog.Counts) string { return sumAs(c, "archived") }

// sumAs is sum with another word for what was done.
func sumAs(c catalog.Counts, done string) string {
	return fmt.Sprintf("%d seen = %d %s + %d already there + %d skipped by rule + %d failed", c.Seen, c.Archived, done, c.Present, c.Skipped, c.Failed)
}
