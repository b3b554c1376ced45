package archive

import (
	"context"
	"fmt"
	"sync"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/extract"
	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
)

// Raw returns the complete bytes of a message, checked against its id.
func (a *Archive) Raw(e *catalog.Entry) ([]byte, error) {
	m, err := a.store.Message(e.ID, e.Place)
	if err != nil {
		return nil, fmt.Errorf("message %s: %w", e.ID, err)
	}
	raw, err := a.loadRecord(&m, e.Place, nil, a.object)
	if err != nil {
		return nil, fmt.Errorf("message %s: %w", e.ID, err)
	}
	if a.store.IDs().Of(seal.TypeMessage, seal.Sum(raw)) != e.ID {
		return nil, fmt.Errorf("message %s: its bytes are not those that were archived: %w", e.ID, ErrDamaged)
	}
	return raw, nil
}

// Occurrence returns what an occurrence's record says beside the catalog.
func (a *Archive) Occurrence(o *catalog.Occurrence) (pack.Occurrence, string, error) {
	f, err := a.store.Frame(o.Place)
	if err != nil {
		return pack.Occurrence{}, "", err
	}
	for _, x := range f.Occurrences {
		if x.Folder == o.Folder && x.UID == o.UID {
			a.w.Lock()
			defer a.w.Unlock()
			for name, id := range a.sources {
				if id == x.Source {
					return x, name, nil
				}
			}
			return x, "", nil
		}
	}
	return pack.Occurrence{}, "", fmt.Errorf("the record of folder %d, UID %d is missing: %w", o.Folder, o.UID, ErrDamaged)
}

// Envelopes returns what mail servers said of a message's deliveries.
func (a *Archive) Envelopes(ctx context.Context, row catalog.Row) (out []pack.Envelope, err error) {
	places, err := a.catalog.Envelopes(ctx, row)
	for _, at := range places {
		if err != nil {
			return out, err
		}
		var f *pack.Frame
		if f, err = a.store.Frame(at); err != nil {
			return out, err
		}
		for _, x := range f.Envelopes {
			if x.Row == int64(row) {
				out = append(out, x)
			}
		}
	}
	return out, err
}

// Proof is what shows that a message is in the ledger.
type Proof struct {
	Leaf       int64
	Salt       [16]byte
	Record     []byte // the leaf
	Inclusion  [][32]byte
	Checkpoint []byte
	Verifier   string
}

// Prove makes the proof of a message.
func (a *Archive) Prove(e *catalog.Entry) (Proof, error) {
	m, err := a.store.Message(e.ID, e.Place)
	if err != nil {
		return Proof{}, err
	}
	raw, err := a.Raw(e)
	if err != nil {
		return Proof{}, err
	}
	a.w.Lock()
	defer a.w.Unlock()
	p := Proof{Leaf: m.Leaf, Salt: m.Salt, Record: messageLeaf(&m, seal.Sum(raw)).Encode(), Verifier: a.signer.Verifier}
	hs, err := a.ledger.Inclusion(m.Leaf)
	if err != nil {
		return Proof{}, err
	}
	for _, h := range hs {
		p.Inclusion = append(p.Inclusion, h)
	}
	p.Checkpoint, err = a.ledger.Signed()
	return p, err
}

// Document returns the words of a message: from memory if it was archived a
// moment ago, else read again.
func (a *Archive) Document(e *catalog.Entry) (*extract.Document, error) {
	if d := a.recent.take(e.Row); d != nil {
		return d, nil
	}
	raw, err := a.Raw(e)
	if err != nil {
		return nil, err
	}
	return extract.Of(message.Parse(raw)), nil
}

// Indexed forgets changes that the index has followed.
func (a *Archive) Indexed(upTo int64, shards map[int]int64) error {
	a.w.Lock()
	defer a.w.Unlock()
	return a.catalog.Indexed(upTo, shards)
}

// Requeue makes the index read all messages of a year again.
func (a *Archive) Requeue(year int) error {
	a.w.Lock()
	defer a.w.Unlock()
	return a.catalog.Requeue(year)
}

// Follow says that somebody takes documents: then archiving waits for him
// rather than that he must read everything again.
func (a *Archive) Follow(on bool) { a.recent.follow(on) }

// recent keeps the documents of messages that were archived a moment ago, so
// that the index need not load and parse them again.
type recent struct {
	mu        sync.Mutex
	room      *sync.Cond
	docs      map[catalog.Row]*extract.Document
	bytes     int
	followers int
}

// maxRecent bounds the documents kept, in bytes.
const maxRecent = 24 << 20

func newRecent() *recent {
	r := &recent{docs: map[catalog.Row]*extract.Document{}}
	r.room = sync.NewCond(&r.mu)
	return r
}

func (r *recent) follow(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if on {
		r.followers++
	} else {
		r.followers--
	}
	if r.followers == 0 {
		clear(r.docs)
		r.bytes = 0
	}
	r.room.Broadcast()
}

// put keeps a document. It comes before the commit that makes its row visible,
// or the follower would miss it.
func (r *recent) put(row catalog.Row, d *extract.Document) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.followers > 0 {
		r.docs[row] = d
		r.bytes += d.Size()
	}
}

// wait returns once there is room again, or nobody follows.
func (r *recent) wait() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.bytes > maxRecent && r.followers > 0 {
		r.room.Wait()
	}
}

func (r *recent) take(row catalog.Row) *extract.Document {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.docs[row]
	if d != nil {
		delete(r.docs, row)
		r.bytes -= d.Size()
		r.room.Broadcast()
	}
	return d
}
