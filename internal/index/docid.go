package index

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/letterhold/letterhold/internal/catalog"
)

// DocID is the rowid of a message in the shard of its year: seconds since the
// year began << docBits | a number that tells messages of one second apart.
//
// FTS5 keeps, for each word of each message, the distance to the message
// before it that has the word. With a catalog.Row, whose counter has 24 bits,
// this is most of the index; with small numbers it is a byte or two. The table
// docs says which row an id stands for.
type DocID int64

const (
	docBits  = 3
	docSlots = 1 << docBits
	docTries = 8 // numbers that are tried before the window grows
)

// home is the first id of a row's second.
func home(year int, row catalog.Row) DocID {
	return DocID(int64(row)>>24-time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Unix()) << docBits
}

// give finds an id for a row and writes it to docs. Messages of a second that
// has more of them than numbers get ids of the seconds after it; how far away
// any id is from its home is kept as the shard's spill.
func (s *shard) give(row catalog.Row, size int64) (DocID, error) {
	first := home(s.year, row)
	for window := int64(docSlots); ; window *= docTries {
		for try := range int64(docTries) {
			far := try
			if window > docSlots {
				far = rand.Int64N(window)
			}
			id := first + DocID(far)
			err := errors.Join(s.doc.BindInt64(1, int64(id)), s.doc.BindInt64(2, int64(row)), s.doc.BindInt64(3, size), s.doc.Exec())
			if err == nil {
				s.spill = max(s.spill, far)
				return id, nil
			}
			if !errors.Is(err, sqlite3.CONSTRAINT) {
				return 0, err
			}
		}
	}
}

// find returns the id of a row, and whether there is one.
func (s *shard) find(row catalog.Row) (id DocID, ok bool, err error) {
	if err := s.byRow.BindInt64(1, int64(row)); err != nil {
		return 0, false, err
	}
	if ok = s.byRow.Step(); ok {
		id = DocID(s.byRow.ColumnInt64(0))
	}
	return id, ok, s.byRow.Reset()
}

// Between is the condition in SQL that the message with an id, a column, was
// sent from one row up to another, exclusive. Ids alone decide it, except near
// the ends in a shard where ids have spilled.
func (r *Reader) Between(id string, from, to catalog.Row) (string, []any, error) {
	spill, err := r.spill()
	if err != nil {
		return "", nil, err
	}
	lo, hi := home(r.s.year, from), home(r.s.year, to)
	if spill < docSlots {
		return fmt.Sprintf("%s >= ? AND %[1]s < ?", id), []any{int64(lo), int64(hi)}, nil
	}
	far := DocID(spill)
	row := fmt.Sprintf("(SELECT row FROM docs WHERE docs.id = %s)", id)
	return fmt.Sprintf("%s >= ? AND %[1]s < ? AND (%[1]s > ? OR %[2]s >= ?) AND (%[1]s < ? OR %[2]s < ?)", id, row),
		[]any{int64(lo), int64(hi + far), int64(lo + far), int64(from), int64(hi), int64(to)}, nil
}

func (r *Reader) spill() (n int64, err error) {
	err = r.Query(`SELECT value FROM meta WHERE name = 'spill'`, nil, func(s *sqlite3.Stmt) bool {
		n = s.ColumnInt64(0)
		return false
	})
	return n, err
}

// readSpill is the same for a writer.
func readSpill(c *sqlite3.Conn) (int64, error) {
	st, _, err := c.Prepare(`SELECT value FROM meta WHERE name = 'spill'`)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	st.Step()
	return st.ColumnInt64(0), st.Err()
}

// Year is the reader's year.
func (r *Reader) Year() int { return r.s.year }
