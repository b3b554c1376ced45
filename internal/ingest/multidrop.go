package ingest

import (
	"context"
	"errors"
	"strings"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/delivery"
	"github.com/letterhold/letterhold/internal/source"
)

// multidrop says whose an item is, of an account that holds everybody's mail: by
// its journal report or by the headers that servers leave. What belongs to
// nobody goes to the profile's own mailbox.
func (r *Runner) multidrop(ctx context.Context, p *Profile, mailbox int64, i *source.Item) archive.Provenance {
	d := p.delivery(i.Raw)
	d.Envelope.Time = i.Internal
	var spots []archive.Spot
	err := r.a.State().View(context.WithoutCancel(ctx), func(v catalog.View) (err error) {
		spots, err = delivery.Spots(v, &d.Envelope, mailbox)
		return err
	})
	if err == nil && len(spots) == 0 {
		err = errors.New("no rule assigns it")
	}
	if err != nil {
		i.Err = err
		return archive.Provenance{}
	}
	i.Raw = d.Raw
	return archive.Provenance{Mailbox: spots[0].Mailbox, Folder: spots[0].Folder, Also: spots[1:], Source: p.Name, Where: i.Where, Internal: i.Internal, Envelope: &d.Envelope}
}

func (p *Profile) delivery(raw []byte) delivery.Delivery {
	var own []string
	if e, err := p.endpoint(); err == nil && strings.Contains(e.user, "@") {
		own = append(own, e.user)
	}
	return delivery.Of(raw, delivery.Told{Own: own})
}

// archived is what of a message at the source is in the archive.
func (p *Profile) archived(raw []byte) []byte {
	if p.Multidrop {
		return p.delivery(raw).Raw
	}
	return raw
}
