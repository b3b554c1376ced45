package ingest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/extract"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/source"
)

// laterAfter is how long a run waits when the source wants to be asked later.
// Gmail's limits are for a day, and it does not say when they are over.
const laterAfter = time.Hour

// wantsLater tells whether a run that ended with cause goes on by itself.
func wantsLater(cause error) bool { return errors.Is(cause, imapclient.ErrLater) }

// goesOn tells whether a run that waits is to go on.
func goesOn(run *catalog.Run, s schedule, now time.Time) bool {
	return s.open(now) && !now.Before(run.Ended.Add(laterAfter))
}

// unfinished tells whether the next run goes on with this one.
func unfinished(run *catalog.Run) bool {
	return slices.Contains([]string{catalog.RunRunning, catalog.RunPaused, catalog.RunWaiting}, run.State)
}

// letKnow tells IMAP accounts what the archive has of their mailboxes.
func (r *Runner) letKnow(ctx context.Context, src source.Source, account string, of func(account string) (mailbox int64, folder func(string) string)) {
	switch s := src.(type) {
	case *source.IMAP:
		mailbox, folder := of(account)
		s.Known = r.known(ctx, mailbox, folder)
	case source.Accounts:
		for _, a := range s {
			r.letKnow(ctx, a.Source, a.Name, of)
		}
	}
}

// known returns what tells whether a message, by its Message-ID field and size,
// is in all of these folders of a mailbox.
func (r *Runner) known(ctx context.Context, mailbox int64, folder func(string) string) func([]byte, int64, []string) bool {
	return func(header []byte, size int64, folders []string) bool {
		id := extract.MessageID(message.Parse(header).Root.Header)
		if id == "" {
			return false
		}
		rows, err := r.a.Catalog().ByMessageID(ctx, id)
		if err != nil {
			return false
		}
		for _, row := range rows {
			e, err := r.a.Catalog().MessageAt(ctx, row)
			if err != nil || e.Size != size {
				continue
			}
			met, err := r.a.Catalog().Occurrences(ctx, row)
			if err == nil && !slices.ContainsFunc(folders, func(name string) bool {
				return !slices.ContainsFunc(met, func(o catalog.Occurrence) bool { return o.Mailbox == mailbox && o.Name == folder(name) })
			}) {
				return true
			}
		}
		return false
	}
}
