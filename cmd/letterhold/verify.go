package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/server"
)

func verifyCmd(e *env) *cobra.Command {
	var js bool
	var checkpoint string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Read everything and compare it with what was written",
		Long: `Reads every pack, frame, leaf, tile and database page, rebuilds every message
and compares it with the ledger. Nothing is changed. Exit code 4 if anything is
not as it was written.

An archive that was put back as a whole to an older state is noticed only with a
checkpoint that was kept elsewhere: "letterhold checkpoint" prints one.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var o archive.VerifyOptions
			if checkpoint != "" {
				b, err := os.ReadFile(e.path(checkpoint))
				if err != nil {
					return err
				}
				o.Checkpoint = b
			}
			p := e.progress("verifying")
			o.Progress = func(done, all int64) { p.set(done, all, "") }
			var r *archive.Report
			verify := func(a *archive.Archive) (err error) {
				r, err = a.Verify(c.Context(), o)
				p.end()
				return err
			}
			err := error(nil)
			if e.open != nil {
				o.Index = e.open.Index.Check
				err = verify(e.open.Archive)
			} else {
				err = e.strict(c.Context(), verify)
			}
			if err != nil {
				if js && exitCode(err) == exitIntegrity {
					e.printJSON(archive.Report{Problems: []archive.Problem{{File: "archive", What: err.Error()}}})
				}
				return err
			}
			if r == nil {
				return nil // the server ran it and has reported
			}
			return e.reportVerify(r, js)
		},
	}
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	c.Flags().StringVar(&checkpoint, "checkpoint", "", "signed checkpoint that was kept elsewhere")
	return c
}

func (e *env) reportVerify(r *archive.Report, js bool) error {
	if js {
		if err := e.printJSON(r); err != nil {
			return err
		}
	} else {
		for _, p := range r.Problems {
			e.printf("PROBLEM %s %s: %s\n", p.File, p.Object, p.What)
		}
		for _, n := range r.Notes {
			e.printf("note: %s\n", n)
		}
		e.printf("%d messages (%s), %d objects, %d acts, %d leaves, root %s\n", r.Messages, human(r.Bytes), r.Objects, r.Acts, r.Leaves, r.Root)
	}
	if !r.Clean() {
		if !js {
			e.printf("%d problems. Damaged data is left alone; restore the named files from a backup.\n", len(r.Problems))
		}
		return codeError(exitIntegrity)
	}
	if !js {
		e.printf("Everything is as it was written.\n")
	}
	return nil
}

func checkpointCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "checkpoint", Short: "Print the signed checkpoint, to be kept elsewhere", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error {
				b, _, err := o.Archive.Checkpoint()
				if err == nil {
					_, err = e.stdout.Write(b)
				}
				return err
			})
		},
	}
}
