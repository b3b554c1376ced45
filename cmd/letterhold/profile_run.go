package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/server"
)

func profileRun(e *env) *cobra.Command {
	return e.collect("run NAME", "Collect now", `Collects now, and goes on with a run that was interrupted or paused. With a
server, it runs there; --wait waits for its end. Without one it always waits.`, (*ingest.Runner).Start)
}

func profileRetry(e *env) *cobra.Command {
	return e.collect("retry NAME", "Collect now, and try again what was missed, however often it was tried", `Collects now like run, and tries everything again that "profile missed" lists, also
what was tried five times already. With a server, it runs there; --wait waits for
its end.`, (*ingest.Runner).Retry)
}

// collect is a verb that starts a run.
func (e *env) collect(use, short, long string, start func(*ingest.Runner, context.Context, *ingest.Profile, string) (func() (*ingest.Outcome, error), error)) *cobra.Command {
	var js, wait bool
	c := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		return e.withProfile(c.Context(), args[0], func(o *server.Opened, p *ingest.Profile) error {
			ctx := c.Context()
			if e.open != nil && !wait {
				ctx = o.Lifetime()
			}
			await, err := start(o.Runner, ctx, p, keyOwner)
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
			out, err := e.follow("collecting", o.Runner.Live, p.ID, await)
			if err == nil {
				err = o.Index.Wait(ctx)
			}
			if out == nil {
				return err
			}
			return errors.Join(e.reportRun(out, "archived", js), err)
		})
	}}
	c.Flags().BoolVar(&wait, "wait", false, "wait for the end")
	c.Flags().BoolVar(&js, "json", false, "print the report as JSON")
	return c
}

// follow waits for a run and shows its progress.
func (e *env) follow(what string, live func() []ingest.Progress, id int64, await func() (*ingest.Outcome, error)) (*ingest.Outcome, error) {
	bar := e.progress(what)
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
			for _, l := range live() {
				if l.Profile == id {
					showProgress(bar, &l)
				}
			}
		}
	}()
	return await()
}

// showProgress draws a run under way. The share is that of messages, the rate
// that of bytes.
func showProgress(bar *progress, l *ingest.Progress) {
	if l.Step == ingest.StepDeleting {
		bar.say("deleting at the source what is archived")
		return
	}
	note, all := fmt.Sprintf("%d messages, %d new", l.Seen, l.Archived), int64(0)
	if l.Total > 0 {
		note = fmt.Sprintf("%d of %d messages, %d new", l.Seen, l.Total, l.Archived)
		all = int64(float64(l.Bytes) * float64(l.Total) / float64(max(l.Seen, 1)))
	}
	bar.set(l.Bytes, all, note)
}

// reportRun says what became of a run; done is the word for what it is for.
func (e *env) reportRun(out *ingest.Outcome, done string, js bool) error {
	if js {
		if err := e.printJSON(out); err != nil {
			return err
		}
	} else {
		for _, f := range out.Failures {
			e.printf("failed: %s: %s\n", f.Where, f.Reason)
		}
		e.printf("%s: %s\n", out.State, sumAs(out.Counts, done))
		if out.State == catalog.RunWaiting {
			e.printf("it goes on by itself: %s\n", plain(out.Error))
		}
		e.printCauses(out.Causes)
		if d := out.Deletion; d != nil {
			e.printf("deleted at the source: %d messages, %s; %d that are old enough stay\n", d.Count, human(d.Bytes), len(d.Kept))
			e.printKept(d)
		}
	}
	if d := out.Deletion; d != nil && d.Error != "" && out.State == catalog.RunDone {
		return codeError(exitPartial)
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
				defer e.printLive(o, p)
				return e.showLog(c.Context(), o, p.ID, limit)
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 200, "how many lines")
	return c
}

// printLive says how far the run under way is.
func (e *env) printLive(o *server.Opened, p *ingest.Profile) {
	for _, l := range o.Runner.Live() {
		if l.Profile != p.ID {
			continue
		}
		e.printf("now: %s", sum(l.Counts))
		if l.Total > 0 {
			e.printf(", of %d", l.Total)
		}
		e.printf("; %.1f messages and %s a second", l.Rate, human(int64(l.Speed)))
		if l.Left != nil {
			e.printf(", %s left", round(time.Duration(*l.Left)*time.Second))
		}
		e.printf("\n")
	}
}

// showLog prints the log of the last run of a profile or target.
func (e *env) showLog(ctx context.Context, o *server.Opened, id int64, limit int) error {
	return o.Archive.State().View(ctx, func(v catalog.View) error {
		rs, err := v.RunsOf(id, 1)
		if err != nil || len(rs) == 0 {
			return err
		}
		lines, err := v.Lines(rs[0].ID, limit)
		for _, l := range lines {
			e.printf("%s  %s\n", l.Time.Format("2006-01-02 15:04:05"), plain(l.Text))
		}
		e.printf("%s: %s\n", rs[0].State, sumAs(rs[0].Counts, doneIn(&rs[0])))
		e.printCauses(ingest.Causes(rs[0].Failures))
		return err
	})
}

func profileMissed(e *env) *cobra.Command {
	var js bool
	c := &cobra.Command{
		Use: "missed NAME", Short: "List messages that could not be archived; each run tries them again, retry all of them", Args: cobra.ExactArgs(1),
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

func profileWouldDelete(e *env) *cobra.Command {
	var js bool
	var days int
	c := &cobra.Command{
		Use:   "would-delete NAME",
		Short: "List what the next run would delete at the source; delete nothing",
		Long: `Lists what --delete-after would delete at the source now: what has been collected,
is old enough, is not flagged, and is in the archive byte for byte. For that, it
is read again at the source. Nothing is deleted. --delete-after tries another
number of days, also for a profile that deletes nothing yet.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return e.withProfile(c.Context(), args[0], func(o *server.Opened, p *ingest.Profile) error {
				if c.Flags().Changed("delete-after") {
					p.DeleteAfter = days
				}
				d, err := o.Runner.WouldDelete(c.Context(), p)
				if errors.Is(err, ingest.ErrNoDeletion) {
					return hint(err, "letterhold profile would-delete %q --delete-after 30", p.Name)
				}
				if err != nil {
					return err
				}
				return e.reportDeletion(d, js)
			})
		},
	}
	c.Flags().IntVar(&days, "delete-after", 0, "days, instead of the profile's")
	return asJSON(c, &js)
}

func (e *env) reportDeletion(d *ingest.Deletion, js bool) error {
	if js {
		if err := e.printJSON(d); err != nil {
			return err
		}
	} else {
		for _, m := range d.Messages {
			e.printf("%s  %9s  %s\n", m.Date.Format("2006-01-02 15:04"), human(m.Size), plain(m.Where))
		}
		e.printf("%d messages, %s, would be deleted at the source; %d that are old enough stay\n", d.Count, human(d.Bytes), len(d.Kept))
		e.printKept(d)
	}
	if d.Error != "" {
		return codeError(exitPartial)
	}
	return nil
}

func (e *env) printKept(d *ingest.Deletion) {
	for _, f := range d.Kept {
		e.printf("stays: %s: %s\n", plain(f.Where), plain(f.Reason))
	}
	if d.Error != "" {
		e.printf("not all was looked at: %s\n", plain(d.Error))
	}
}
