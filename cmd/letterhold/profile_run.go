package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/server"
)

func profileRun(e *env) *cobra.Command {
	var js, wait bool
	c := &cobra.Command{
		Use:   "run NAME",
		Short: "Collect now",
		Long: `Collects now, and goes on with a run that was interrupted or paused. With a
server, it runs there; --wait waits for its end. Without one it always waits.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.withProfile(c.Context(), args[0], func(o *server.Opened, p *ingest.Profile) error {
				ctx := c.Context()
				if e.open != nil && !wait {
					ctx = o.Lifetime()
				}
				await, err := o.Runner.Start(ctx, p, keyOwner)
				if errors.Is(err, ingest.ErrRunning) {
					return hint(err, "letterhold profile log %q shows it", p.Name)
				}
				if err != nil {
					return err
				}
				if e.open != nil && !wait {
					e.printf("running; follow it with: letterhold profile log %q\n", p.Name)
					return nil
				}
				out, err := e.follow(o, p, await)
				if err == nil {
					err = o.Index.Wait(ctx)
				}
				if out == nil {
					return err
				}
				return errors.Join(e.reportRun(out, js), err)
			})
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "wait for the end")
	c.Flags().BoolVar(&js, "json", false, "print the report as JSON")
	return c
}

// follow waits for a run and shows its progress.
func (e *env) follow(o *server.Opened, p *ingest.Profile, await func() (*ingest.Outcome, error)) (*ingest.Outcome, error) {
	bar := e.progress("collecting")
	defer bar.end()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
			}
			for _, l := range o.Runner.Live() {
				if l.Profile == p.ID {
					bar.set(l.Bytes, 0, fmt.Sprintf("%d messages, %d new", l.Seen, l.Archived))
				}
			}
		}
	}()
	return await()
}

func (e *env) reportRun(out *ingest.Outcome, js bool) error {
	if js {
		if err := e.printJSON(out); err != nil {
			return err
		}
	} else {
		for _, f := range out.Failures {
			e.printf("failed: %s: %s\n", f.Where, f.Reason)
		}
		e.printf("%s: %s\n", out.State, sum(out.Counts))
		if out.State == catalog.RunWaiting {
			e.printf("it goes on by itself: %s\n", plain(out.Error))
		}
	}
	switch out.State {
	case catalog.RunDone:
		return nil
	case catalog.RunPartial, catalog.RunPaused, catalog.RunWaiting, catalog.RunCancelled:
		return codeError(exitPartial)
	}
	return codeError(exitError)
}

func profileRuns(e *env) *cobra.Command {
	var js bool
	var limit int
	c := &cobra.Command{
		Use: "runs NAME", Short: "List the last runs of a profile", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.withProfile(c.Context(), args[0], func(o *server.Opened, p *ingest.Profile) error {
				return e.listRuns(c.Context(), o, func(v catalog.View) ([]catalog.Run, error) { return v.RunsOf(p.ID, limit) }, js)
			})
		},
	}
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	c.Flags().IntVar(&limit, "limit", 30, "how many")
	return c
}

func profileLog(e *env) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "log NAME", Short: "Show the log of the last run", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.withProfile(c.Context(), args[0], func(o *server.Opened, p *ingest.Profile) error {
				return o.Archive.State().View(c.Context(), func(v catalog.View) error {
					rs, err := v.RunsOf(p.ID, 1)
					if err != nil || len(rs) == 0 {
						return err
					}
					lines, err := v.Lines(rs[0].ID, limit)
					for _, l := range lines {
						e.printf("%s  %s\n", l.Time.Format("2006-01-02 15:04:05"), l.Text)
					}
					e.printf("%s: %s\n", rs[0].State, sum(rs[0].Counts))
					return err
				})
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 200, "how many lines")
	return c
}

func profileMissed(e *env) *cobra.Command {
	var js bool
	c := &cobra.Command{
		Use: "missed NAME", Short: "List messages that could not be archived; each run tries them again", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.withProfile(c.Context(), args[0], func(o *server.Opened, p *ingest.Profile) error {
				ms := []catalog.Missed{}
				if err := o.Archive.State().View(c.Context(), func(v catalog.View) error {
					some, err := v.Missed(p.ID, 10_000)
					ms = append(ms, some...)
					return err
				}); err != nil {
					return err
				}
				if js {
					return e.printJSON(map[string]any{"missed": ms})
				}
				for _, m := range ms {
					e.printf("%s: %s (%s, %d tries)\n", m.Where, m.Reason, human(m.Size), m.Tries)
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}
