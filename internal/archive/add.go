package archive

import (
	"context"
	"fmt"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/extract"
	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/store"
)

// Provenance is where a message comes from.
type Provenance struct {
	Mailbox  int64
	Folder   string   // levels separated by "/"
	Labels   []string // folders it is in at the same time, instead of Folder
	Source   string   // what brought it: "import", a profile
	Where    string   // path, offset or UID there
	Flags    string   // space-separated, in IMAP's spelling
	Internal time.Time
	// Also are further folders, of other mailboxes too, that it belongs to.
	Also []Spot
	// Envelope is what a mail server said of the delivery; nil if none did. Its
	// Row and Source are filled in.
	Envelope *pack.Envelope
}

// Spot is a folder of a mailbox.
type Spot struct {
	Mailbox int64
	Folder  string
}

// spots are all folders that the message belongs to.
func (p *Provenance) spots() []Spot {
	var out []Spot
	for _, name := range p.Labels {
		out = append(out, Spot{p.Mailbox, name})
	}
	if len(p.Labels) == 0 {
		out = append(out, Spot{p.Mailbox, p.Folder})
	}
	return append(out, p.Also...)
}

// Outcome says what became of a message that was seen.
type Outcome int

// The outcomes.
const (
	Archived Outcome = iota + 1 // new
	Present                     // its bytes were there already
)

// Result is the acknowledgement of a message.
type Result struct {
	ID      seal.ID
	Row     catalog.Row
	Outcome Outcome
	// NewOccurrence: it was not yet in this folder of this mailbox.
	NewOccurrence bool
}

// prepared is a message on its way into a commit.
type prepared struct {
	id       seal.ID
	sum      [32]byte
	size     int
	from     Provenance
	arrived  time.Time
	date     time.Time
	rule     pack.DateRule
	partial  bool
	skeleton *store.Sealed // nil if the message was known already
	parts    []seal.ID
	sealed   []store.Sealed // parts that were not stored yet
	doc      *extract.Document
	done     func(Result, error)
}

// Add archives a message and returns once it is durable.
func (a *Archive) Add(ctx context.Context, raw []byte, from Provenance) (Result, error) {
	type answer struct {
		r   Result
		err error
	}
	ch := make(chan answer, 1)
	if err := a.Enqueue(ctx, raw, from, func(r Result, err error) { ch <- answer{r, err} }); err != nil {
		return Result{}, err
	}
	a.Hurry()
	select {
	case x := <-ch:
		return x.r, x.err
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

// Enqueue prepares a message in the caller's goroutine and hands it to the
// next commit. done is called once it is durable, or failed. After an error
// from Enqueue itself, done is not called.
func (a *Archive) Enqueue(ctx context.Context, raw []byte, from Provenance, done func(Result, error)) error {
	p, err := a.prepare(ctx, raw, from)
	if err != nil {
		return err
	}
	p.done = done
	return a.queue.put(ctx, p)
}

// Hurry starts a commit with what is enqueued: somebody waits for it.
func (a *Archive) Hurry() { a.queue.hurry() }

// Flush returns once everything enqueued before is durable or failed.
func (a *Archive) Flush(ctx context.Context) error { return a.queue.flush(ctx) }

// prepare does all that needs no order: hash, parse, split, compress, seal.
func (a *Archive) prepare(ctx context.Context, raw []byte, from Provenance) (*prepared, error) {
	if len(raw) > MaxMessage {
		return nil, fmt.Errorf("%w: %d bytes, larger than %d MiB", ErrMessage, len(raw), MaxMessage>>20)
	}
	p := &prepared{sum: seal.Sum(raw), size: len(raw), from: from, arrived: a.opts.Now().UTC().Truncate(time.Millisecond)}
	p.id = a.store.IDs().Of(seal.TypeMessage, p.sum)
	known, err := a.catalog.Known(ctx, p.id)
	if err != nil || known {
		return p, err
	}
	return p, a.analyse(ctx, p, raw)
}

// IDOf returns the id of a message with these bytes, archived or not.
func (a *Archive) IDOf(raw []byte) seal.ID { return a.store.IDs().Of(seal.TypeMessage, seal.Sum(raw)) }

// Has tells whether a message is archived.
func (a *Archive) Has(ctx context.Context, id seal.ID) bool {
	known, err := a.catalog.Known(ctx, id)
	return err == nil && known
}

func (a *Archive) analyse(ctx context.Context, p *prepared, raw []byte) error {
	m := message.Parse(raw)
	p.partial = m.Partial
	p.doc = extract.Of(m)
	p.date, p.rule = extract.Date(m.Root.Header, p.from.Internal, p.arrived)
	k, pieces := split(m, a.store.IDs())
	encoded := k.Encode()
	if err := rebuilds(encoded, pieces, raw); err != nil {
		// A fault of ours; the message is stored whole instead.
		a.opts.Log.Error("split does not rebuild, storing whole", "message", p.id.String(), "err", err)
		encoded, pieces = pack.Skeleton{{Text: raw}}.Encode(), nil
	}
	for _, pc := range pieces {
		p.parts = append(p.parts, pc.id)
		if _, err := a.catalog.Object(ctx, pc.id); err == nil {
			continue
		}
		p.sealed = append(p.sealed, a.store.Seal(seal.TypePart, pc.content, pc.sum))
	}
	s := a.store.Seal(seal.TypeSkeleton, encoded, seal.Sum(encoded))
	p.skeleton = &s
	return nil
}

// footprint is about how much memory a prepared message holds, in bytes.
func (p *prepared) footprint() int {
	n := 1024
	if p.skeleton != nil {
		n += len(p.skeleton.Bytes) + p.doc.Size()
	}
	for i := range p.sealed {
		n += len(p.sealed[i].Bytes)
	}
	return n
}

func (p *prepared) summary() catalog.Summary { return summary(p.doc) }

func summary(d *extract.Document) catalog.Summary {
	return catalog.Summary{Sender: d.From, Recipients: d.To, Subject: d.Subject, MessageID: d.MessageID, Attachments: d.Attachments > 0, Unread: d.Unread}
}
