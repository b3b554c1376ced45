package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/letterhold/letterhold/internal/posture"
	"github.com/letterhold/letterhold/internal/server"
)

func doctorCmd(e *env) *cobra.Command {
	var js bool
	c := &cobra.Command{
		Use: "doctor", Aliases: []string{"posture"}, Short: "Look for what is weaker than it should be, and grade it", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.with(c.Context(), func(o *server.Opened) error { return e.doctor(c.Context(), o, js) })
		},
	}
	c.Flags().BoolVar(&js, "json", false, "print JSON")
	return c
}

// knownKey is the path of the key file, or "".
func (e *env) knownKey() string {
	if e.keyFile == "" {
		return ""
	}
	return e.path(e.keyFile)
}

func (e *env) doctor(ctx context.Context, o *server.Opened, js bool) error {
	r, err := o.Posture(ctx, e.knownKey())
	if err != nil {
		return err
	}
	if js {
		return e.printJSON(r)
	}
	say, err := posture.Speak("en")
	if err != nil {
		return err
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		e.printf("%-11s %s: %s\n            %s\n            %s\n", f.State, f.ID, say.What(f), say.Why(f), say.Fix(f))
		if !f.Escalates.IsZero() {
			e.printf("            gets worse on %s\n", f.Escalates.Format(time.DateOnly))
		}
	}
	if len(r.Findings) == 0 {
		e.printf("Nothing found.\n")
	}
	if !r.Verified.IsZero() {
		e.printf("Everything was last found as it was written on %s.\n", r.Verified.Format(time.RFC3339))
	} else {
		e.printf("Not verified by the server yet; it does so every 30 days.\n")
	}
	e.printf("grade %s (%d of 100)\n", r.Grade, r.Score)
	return nil
}
