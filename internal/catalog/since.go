package catalog

import (
	"context"

	"github.com/ncruces/go-sqlite3"

	"github.com/letterhold/letterhold/internal/store"
)

// Horizon is how far the catalog reaches at a moment. Leaves and places only
// grow: what is archived later lies behind it, however old its date.
type Horizon struct {
	Leaf   int64       // of the last message; -1: none
	Place  store.Place // of the last occurrence's record
	Change int64       // as Changes says
}

// Horizon returns how far the catalog reaches now.
func (c *Catalog) Horizon(ctx context.Context) (h Horizon, err error) {
	err = c.db.snapshot(ctx, func(r *conn) error {
		var err error
		if h.Change, _, err = r.number(`SELECT value FROM meta WHERE name = 'change'`); err != nil {
			return err
		}
		if h.Leaf, _, err = r.number(`SELECT coalesce(max(leaf), -1) FROM messages`); err != nil {
			return err
		}
		return r.query(`SELECT pack, frame FROM occurrences ORDER BY pack DESC, frame DESC LIMIT 1`, func(s *sqlite3.Stmt) error {
			h.Place = store.Place{Pack: uint32(s.ColumnInt64(0)), Frame: s.ColumnInt64(1)}
			return nil
		})
	})
	return h, err
}

// Placed is a message with its leaf.
type Placed struct {
	Leaf int64
	Row  Row
}

// Since returns messages whose leaves lie behind one and not behind another, in
// the order of their leaves.
func (c *Catalog) Since(ctx context.Context, after, upTo int64, limit int) (out []Placed, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		return r.query(`SELECT leaf, row FROM messages WHERE leaf > ? AND leaf <= ? ORDER BY leaf LIMIT ?`, func(s *sqlite3.Stmt) error {
			out = append(out, Placed{s.ColumnInt64(0), Row(s.ColumnInt64(1))})
			return nil
		}, after, upTo, limit)
	})
	return out, err
}
