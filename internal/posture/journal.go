package posture

import (
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/delivery"
)

// journals looks at what mail servers send, and at what of it belongs to nobody.
func (l *look) journals() error {
	if l.around.OldTLS {
		l.add(Finding{ID: "NET-JOUR-01", Group: InTransit, State: Information, Affects: []string{"journal listener"}})
	}
	var id int64
	err := l.a.State().View(l.ctx, func(v catalog.View) (err error) {
		id, _, err = v.Mailbox(delivery.Unassigned)
		return err
	})
	if err != nil || id == 0 {
		return err
	}
	n, err := l.a.Catalog().MailboxCount(l.ctx, id)
	if n > 0 {
		l.add(Finding{ID: "OPS-UNAS-01", Group: Operations, State: Information, Affects: []string{delivery.Unassigned}, args: map[string]any{"Count": n}})
	}
	return err
}
