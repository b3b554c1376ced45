package catalog

import (
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/store"
	"github.com/letterhold/letterhold/internal/vault"
)

//go:embed sql/catalog.sql
var catalogSchema string

//go:embed sql/migrations/catalog-2.sql
var catalog2 string

// Name is the file's name in the archive.
const Name = "catalog.db"

// ErrNotFound means that there is no such message, folder or mailbox.
var ErrNotFound = errors.New("not found")

// Catalog is the open catalog. Reading is safe for concurrent use; Apply is
// for the archive's writer.
type Catalog struct{ db *database }

// Open opens or creates the catalog.
func Open(d durable.FS, key seal.Key) (*Catalog, error) {
	db, err := openDatabase(d, Name, key, shape{catalogSchema, []string{catalog2}}, vault.Options{Cache: 6 << 10, WALPages: 4000})
	if err != nil {
		return nil, err
	}
	c := &Catalog{db}
	if n, err := c.Epoch(context.Background()); err != nil || n != 0 {
		return c, err
	}
	return c, db.writer.tx(func() error { return setMeta(db.writer, "epoch", rand.Int64()|1) })
}

// Close closes the catalog.
func (c *Catalog) Close() error { return c.db.close() }

// Check reads every page and the structure.
func (c *Catalog) Check(problem func(string)) error { return c.db.check(problem) }

// Row is a message's place in time: seconds since 1970 << 24 | counter.
type Row int64

// RowAt is the first row of a moment.
func RowAt(t time.Time) Row { return Row(t.Unix() << 24) }

// Time is the date of the message, in seconds.
func (r Row) Time() time.Time { return time.Unix(int64(r)>>24, 0).UTC() }

// Year is the year of the message's date, in UTC.
func (r Row) Year() int { return r.Time().Year() }

// Summary is what a message says of itself, for lists.
type Summary struct {
	Sender, Recipients, Subject string
	MessageID                   string
	Attachments, Unread         bool
}

// Limits of what is kept of a summary, in bytes: what a list can show.
const (
	maxSender     = 200
	maxRecipients = 300
	maxSubject    = 400
)

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "…"
}

// Flags of a message.
const (
	flagAttachments = 1 << iota
	flagPartial
	flagUnread // an attachment's contents are not searched
)

// HashID is the hash by which Message-IDs are found: the same for any case.
func HashID(id string) int64 {
	if id == "" {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(strings.ToLower(id)))
	return int64(binary.BigEndian.Uint64(h.Sum(nil)) | 1)
}

// Applied is the position up to which frames are in the catalog.
func (c *Catalog) Applied() (store.Position, error) {
	var p store.Position
	err := c.db.writer.query(`SELECT name, value FROM meta`, func(s *sqlite3.Stmt) error {
		v := s.ColumnInt64(1)
		switch s.ColumnText(0) {
		case "commit":
			p.Commit = uint64(v)
		case "pack":
			p.Pack = uint32(v)
		case "keys":
			p.Keys = v
		case "data":
			p.Data = v
		}
		return nil
	})
	return p, err
}

// Change is a committed frame with what its messages say of themselves.
type Change struct {
	Frame     *pack.Frame
	Place     store.Place
	End       store.Position // behind the frame
	Summaries map[seal.ID]Summary
}

// Apply adds a frame. It is one transaction.
func (c *Catalog) Apply(ch Change) error {
	w := c.db.writer
	err := w.tx(func() error { return apply(w, &ch) })
	if err != nil {
		return fmt.Errorf("catalog: commit %d: %w", ch.Frame.Number, err)
	}
	return nil
}

func apply(w *conn, ch *Change) error {
	f := ch.Frame
	pk, fr := int64(ch.Place.Pack), ch.Place.Frame
	for _, x := range f.Folders {
		if err := w.run(`INSERT OR REPLACE INTO folders (id, mailbox, name, uidvalidity, uidnext) VALUES (?,?,?,?,1)`, x.ID, x.Mailbox, x.Name, int64(x.UIDValidity)); err != nil {
			return err
		}
	}
	for _, x := range f.Sources {
		if err := w.run(`INSERT OR REPLACE INTO sources (id, name) VALUES (?,?)`, x.ID, x.Name); err != nil {
			return err
		}
	}
	for i := range f.Entries {
		e := &f.Entries[i]
		if e.Type == seal.TypePart && !e.Erased() {
			if err := w.run(`INSERT OR REPLACE INTO objects (id, pack, frame) VALUES (?,?,?)`, e.ID[:], pk, fr); err != nil {
				return err
			}
		}
	}
	queue := map[int64]bool{}
	for i := range f.Messages {
		m := &f.Messages[i]
		s := ch.Summaries[m.ID]
		flags := 0
		if s.Attachments {
			flags |= flagAttachments
		}
		if s.Unread {
			flags |= flagUnread
		}
		if m.Partial {
			flags |= flagPartial
		}
		if err := w.run(`INSERT INTO messages (row, id, leaf, pack, frame, size, rule, flags, arrived, msgid, sender, recipients, subject) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)`,
			m.Row, m.ID[:], m.Leaf, pk, fr, m.Size, int64(m.DateRule), flags, m.Arrived.Unix(), HashID(s.MessageID),
			clip(s.Sender, maxSender), clip(s.Recipients, maxRecipients), clip(s.Subject, maxSubject)); err != nil {
			return err
		}
		queue[m.Row] = true
	}
	next := map[int64]uint32{}
	for i := range f.Occurrences {
		o := &f.Occurrences[i]
		if err := w.run(`INSERT INTO occurrences (folder, uid, row, pack, frame, modseq, flags) VALUES (?,?,?,?,?,?,?)`,
			o.Folder, int64(o.UID), o.Row, pk, fr, o.ModSeq, o.Flags); err != nil {
			return err
		}
		next[o.Folder] = max(next[o.Folder], o.UID+1)
		queue[o.Row] = true
	}
	for i := range f.Envelopes {
		if err := w.run(`INSERT INTO envelopes (row, key, pack, frame) VALUES (?,?,?,?)`, f.Envelopes[i].Row, f.Envelopes[i].Key, pk, fr); err != nil {
			return err
		}
	}
	for folder, uid := range next {
		if err := w.run(`UPDATE folders SET uidnext = max(uidnext, ?) WHERE id = ?`, int64(uid), folder); err != nil {
			return err
		}
	}
	if err := enqueue(w, f, queue); err != nil {
		return err
	}
	for i := range f.Acts {
		a := &f.Acts[i]
		if err := w.run(`INSERT OR REPLACE INTO acts (leaf, time, detail) VALUES (?,?,?)`, a.Leaf, f.Time.Unix(), string(a.Detail)); err != nil {
			return err
		}
	}
	for name, v := range map[string]int64{"commit": int64(ch.End.Commit), "pack": int64(ch.End.Pack), "keys": ch.End.Keys, "data": ch.End.Data} {
		if err := setMeta(w, name, v); err != nil {
			return err
		}
	}
	return nil
}

// enqueue hands rows to the index, in the order in which the frame has them.
func enqueue(w *conn, f *pack.Frame, rows map[int64]bool) error {
	n, _, err := w.number(`SELECT value FROM meta WHERE name = 'change'`)
	if err != nil {
		return err
	}
	put := func(row int64) error {
		if !rows[row] {
			return nil
		}
		delete(rows, row)
		n++
		return w.run(`INSERT INTO queue (change, row) VALUES (?,?)`, n, row)
	}
	for i := range f.Messages {
		if err := put(f.Messages[i].Row); err != nil {
			return err
		}
	}
	for i := range f.Occurrences {
		if err := put(f.Occurrences[i].Row); err != nil {
			return err
		}
	}
	return setMeta(w, "change", n)
}

func setMeta(w *conn, name string, v int64) error {
	return w.run(`INSERT INTO meta (name, value) VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, v)
}

// Folder is a folder of a mailbox.
type Folder struct {
	ID          int64
	Mailbox     int64
	Name        string
	UIDValidity uint32
	UIDNext     uint32
}

// Folders returns all folders, by mailbox and name.
func (c *Catalog) Folders(ctx context.Context) (out []Folder, err error) {
	err = c.db.read(ctx, func(r *conn) error { out, err = folders(r); return err })
	return out, err
}

func folders(r *conn) (out []Folder, err error) {
	err = r.query(`SELECT id, mailbox, name, uidvalidity, uidnext FROM folders ORDER BY mailbox, name`, func(s *sqlite3.Stmt) error {
		out = append(out, Folder{s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnText(2), uint32(s.ColumnInt64(3)), uint32(s.ColumnInt64(4))})
		return nil
	})
	return out, err
}

// Writer is what the archive's writer asks while it builds a commit. It reads
// what Apply wrote last, and is not for other goroutines.
type Writer struct{ c *conn }

// Writer returns the writer's view.
func (c *Catalog) Writer() Writer { return Writer{c.db.writer} }

// Row returns the row of a message by its id.
func (w Writer) Row(id seal.ID) (Row, bool, error) {
	n, ok, err := w.c.number(`SELECT row FROM messages WHERE id = ?`, id[:])
	return Row(n), ok, err
}

// Taken tells whether a row is in use.
func (w Writer) Taken(r Row) (bool, error) {
	_, ok, err := w.c.number(`SELECT 1 FROM messages WHERE row = ?`, int64(r))
	return ok, err
}

// HasEnvelope tells whether a report of a delivery is known.
func (w Writer) HasEnvelope(r Row, key int64) (bool, error) {
	_, ok, err := w.c.number(`SELECT 1 FROM envelopes WHERE row = ? AND key = ?`, int64(r), key)
	return ok, err
}

// Occurs tells whether a message occurs in a folder.
func (w Writer) Occurs(r Row, folder int64) (bool, error) {
	_, ok, err := w.c.number(`SELECT 1 FROM occurrences WHERE row = ? AND folder = ?`, int64(r), folder)
	return ok, err
}

// HasObject tells whether a part is stored.
func (w Writer) HasObject(id seal.ID) (bool, error) {
	_, ok, err := w.c.number(`SELECT 1 FROM objects WHERE id = ?`, id[:])
	return ok, err
}

// Folders returns all folders.
func (w Writer) Folders() ([]Folder, error) { return folders(w.c) }

// Sources returns the ids of sources by name.
func (w Writer) Sources() (map[string]int64, error) {
	out := map[string]int64{}
	err := w.c.query(`SELECT id, name FROM sources`, func(s *sqlite3.Stmt) error {
		out[s.ColumnText(1)] = s.ColumnInt64(0)
		return nil
	})
	return out, err
}

// ModSeq is the highest modification sequence given so far.
func (w Writer) ModSeq() (int64, error) {
	n, _, err := w.c.number(`SELECT value FROM meta WHERE name = 'change'`)
	return n, err
}

// Known tells whether a message is in the catalog.
func (c *Catalog) Known(ctx context.Context, id seal.ID) (known bool, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		_, known, err = r.number(`SELECT 1 FROM messages WHERE id = ?`, id[:])
		return err
	})
	return known, err
}

// Entry is a message as a list shows it.
type Entry struct {
	Row         Row
	ID          seal.ID
	Leaf        int64
	Place       store.Place
	Size        int64
	Rule        pack.DateRule
	Arrived     time.Time
	Sender      string
	Recipients  string
	Subject     string
	Attachments bool
	Partial     bool
	Unread      bool
}

const entryColumns = `row, id, leaf, pack, frame, size, rule, flags, arrived, sender, recipients, subject`

func scanEntry(s *sqlite3.Stmt) (Entry, error) {
	e := Entry{
		Row: Row(s.ColumnInt64(0)), Leaf: s.ColumnInt64(2), Place: store.Place{Pack: uint32(s.ColumnInt64(3)), Frame: s.ColumnInt64(4)}, Size: s.ColumnInt64(5),
		Rule: pack.DateRule(s.ColumnInt64(6)), Arrived: time.Unix(s.ColumnInt64(8), 0).UTC(), Sender: s.ColumnText(9), Recipients: s.ColumnText(10), Subject: s.ColumnText(11),
	}
	id := s.ColumnRawBlob(1)
	if len(id) != len(e.ID) {
		return e, fmt.Errorf("message %d: id of %d bytes", e.Row, len(id))
	}
	e.ID = seal.ID(id)
	flags := s.ColumnInt(7)
	e.Attachments, e.Partial, e.Unread = flags&flagAttachments != 0, flags&flagPartial != 0, flags&flagUnread != 0
	return e, nil
}

// Message returns a message by id.
func (c *Catalog) Message(ctx context.Context, id seal.ID) (Entry, error) {
	return c.one(ctx, `SELECT `+entryColumns+` FROM messages WHERE id = ?`, id[:])
}

// MessageAt returns a message by row.
func (c *Catalog) MessageAt(ctx context.Context, row Row) (Entry, error) {
	return c.one(ctx, `SELECT `+entryColumns+` FROM messages WHERE row = ?`, int64(row))
}

func (c *Catalog) one(ctx context.Context, q string, arg any) (e Entry, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		found := false
		err := r.query(q, func(s *sqlite3.Stmt) (err error) {
			found = true
			e, err = scanEntry(s)
			return err
		}, arg)
		if err == nil && !found {
			err = ErrNotFound
		}
		return err
	})
	return e, err
}

// Object returns where a part lies.
func (c *Catalog) Object(ctx context.Context, id seal.ID) (p store.Place, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		found := false
		err := r.query(`SELECT pack, frame FROM objects WHERE id = ?`, func(s *sqlite3.Stmt) error {
			found = true
			p = store.Place{Pack: uint32(s.ColumnInt64(0)), Frame: s.ColumnInt64(1)}
			return nil
		}, id[:])
		if err == nil && !found {
			err = fmt.Errorf("object %s: %w", id, ErrNotFound)
		}
		return err
	})
	return p, err
}

// Occurrence is where a message is met.
type Occurrence struct {
	Folder  int64
	Mailbox int64
	Name    string // of the folder
	UID     uint32
	ModSeq  int64
	Flags   string
	Place   store.Place // of the frame with its record
}

const occurrenceQuery = `SELECT o.folder, f.mailbox, f.name, o.uid, o.modseq, o.flags, o.pack, o.frame
	FROM occurrences o INDEXED BY occurrences_row JOIN folders f ON f.id = o.folder WHERE o.row = ? ORDER BY o.folder, o.uid`

// Occurrences returns where a message is met.
func (c *Catalog) Occurrences(ctx context.Context, row Row) (out []Occurrence, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		out, err = occurrences(r, row)
		return err
	})
	return out, err
}

func occurrences(r *conn, row Row) (out []Occurrence, err error) {
	err = r.query(occurrenceQuery, func(s *sqlite3.Stmt) error {
		out = append(out, Occurrence{
			Folder: s.ColumnInt64(0), Mailbox: s.ColumnInt64(1), Name: s.ColumnText(2), UID: uint32(s.ColumnInt64(3)), ModSeq: s.ColumnInt64(4), Flags: s.ColumnText(5),
			Place: store.Place{Pack: uint32(s.ColumnInt64(6)), Frame: s.ColumnInt64(7)},
		})
		return nil
	}, int64(row))
	return out, err
}

// Scope is whose mail may be seen: everything, or some mailboxes.
type Scope struct {
	All       bool
	Mailboxes []int64
}

// Allows tells whether a mailbox is in the scope.
func (s Scope) Allows(mailbox int64) bool {
	if s.All {
		return true
	}
	for _, m := range s.Mailboxes {
		if m == mailbox {
			return true
		}
	}
	return false
}

// Hit is an entry with the mailboxes of the scope in which it occurs.
type Hit struct {
	Entry
	Occurrences []Occurrence // those in the scope
}

// Visible returns the messages of rows that the scope may see, in the order of
// rows. It decides; the index only proposes.
func (c *Catalog) Visible(ctx context.Context, scope Scope, rows []Row) (out []Hit, err error) {
	err = c.db.snapshot(ctx, func(r *conn) error {
		for _, row := range rows {
			h, ok, err := visible(r, scope, row)
			if err != nil {
				return err
			}
			if ok {
				out = append(out, h)
			}
		}
		return nil
	})
	return out, err
}

func visible(r *conn, scope Scope, row Row) (h Hit, ok bool, err error) {
	os, err := occurrences(r, row)
	if err != nil {
		return h, false, err
	}
	for _, o := range os {
		if scope.Allows(o.Mailbox) {
			h.Occurrences = append(h.Occurrences, o)
		}
	}
	if len(h.Occurrences) == 0 && !scope.All {
		return h, false, nil
	}
	err = r.query(`SELECT `+entryColumns+` FROM messages WHERE row = ?`, func(s *sqlite3.Stmt) (err error) {
		ok = true
		h.Entry, err = scanEntry(s)
		return err
	}, int64(row))
	return h, ok, err
}

// ByMessageID returns the rows of messages with a Message-ID (by hash; the
// caller compares).
func (c *Catalog) ByMessageID(ctx context.Context, id string) (rows []Row, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		return r.query(`SELECT row FROM messages WHERE msgid = ? LIMIT 10000`, func(s *sqlite3.Stmt) error {
			rows = append(rows, Row(s.ColumnInt64(0)))
			return nil
		}, HashID(id))
	})
	return rows, err
}

// Pending is a change that the index has to follow.
type Pending struct {
	Change int64
	Row    Row
}

// Queue returns up to limit changes after one, in order.
func (c *Catalog) Queue(ctx context.Context, after int64, limit int) (out []Pending, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		return r.query(`SELECT change, row FROM queue WHERE change > ? ORDER BY change LIMIT ?`, func(s *sqlite3.Stmt) error {
			out = append(out, Pending{s.ColumnInt64(0), Row(s.ColumnInt64(1))})
			return nil
		}, after, limit)
	})
	return out, err
}

// Changes returns the number of the last change, and of the last that was
// taken out of the queue.
func (c *Catalog) Changes(ctx context.Context) (last, dequeued int64, err error) {
	err = c.db.read(ctx, func(r *conn) (err error) {
		if last, _, err = r.number(`SELECT value FROM meta WHERE name = 'change'`); err != nil {
			return err
		}
		dequeued, _, err = r.number(`SELECT value FROM meta WHERE name = 'dequeued'`)
		return err
	})
	return last, dequeued, err
}

// Indexed forgets changes up to one, and remembers the last change of each
// year's shard. The archive's writer calls it.
func (c *Catalog) Indexed(upTo int64, shards map[int]int64) error {
	w := c.db.writer
	return w.tx(func() error {
		for y, n := range shards {
			if err := w.run(`INSERT INTO shards (year, applied) VALUES (?,?) ON CONFLICT (year) DO UPDATE SET applied = excluded.applied`, y, n); err != nil {
				return err
			}
		}
		if err := w.run(`DELETE FROM queue WHERE change <= ?`, upTo); err != nil {
			return err
		}
		return setMeta(w, "dequeued", upTo)
	})
}

// Shards returns the last change that each year's shard had.
func (c *Catalog) Shards(ctx context.Context) (out map[int]int64, err error) {
	out = map[int]int64{}
	err = c.db.read(ctx, func(r *conn) error {
		return r.query(`SELECT year, applied FROM shards`, func(s *sqlite3.Stmt) error {
			out[s.ColumnInt(0)] = s.ColumnInt64(1)
			return nil
		})
	})
	return out, err
}

// Epoch tells this catalog from one that was made again.
func (c *Catalog) Epoch(ctx context.Context) (n int64, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		n, _, err = r.number(`SELECT value FROM meta WHERE name = 'epoch'`)
		return err
	})
	return n, err
}

// Requeue puts all messages of a year into the queue again and forgets its
// shard. The archive's writer calls it.
func (c *Catalog) Requeue(year int) error {
	w := c.db.writer
	from, to := RowAt(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)), RowAt(time.Date(year+1, 1, 1, 0, 0, 0, 0, time.UTC))
	return w.tx(func() error {
		if err := w.run(`DELETE FROM shards WHERE year = ?`, year); err != nil {
			return err
		}
		n, _, err := w.number(`SELECT value FROM meta WHERE name = 'change'`)
		if err != nil {
			return err
		}
		if err := w.run(`INSERT INTO queue (change, row) SELECT ? + row_number() OVER (ORDER BY row), row FROM messages WHERE row >= ? AND row < ?`, n, int64(from), int64(to)); err != nil {
			return err
		}
		return setMeta(w, "change", n+w.Changes())
	})
}

// Rows returns up to limit rows after one and before another, in order.
func (c *Catalog) Rows(ctx context.Context, after, before Row, limit int) (out []Row, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		return r.query(`SELECT row FROM messages WHERE row > ? AND row < ? ORDER BY row LIMIT ?`, func(s *sqlite3.Stmt) error {
			out = append(out, Row(s.ColumnInt64(0)))
			return nil
		}, int64(after), int64(before), limit)
	})
	return out, err
}

// Years returns the years in which there are messages, newest first.
func (c *Catalog) Years(ctx context.Context) (out []int, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		for before := int64(1) << 62; ; {
			n, ok, err := r.number(`SELECT row FROM messages WHERE row < ? ORDER BY row DESC LIMIT 1`, before)
			if err != nil || !ok {
				return err
			}
			y := Row(n).Year()
			out = append(out, y)
			before = int64(RowAt(time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC)))
		}
	})
	return out, err
}

// Totals are the numbers of the catalog.
type Totals struct {
	Messages    int64 `json:"messages"`
	Bytes       int64 `json:"bytes"`
	Occurrences int64 `json:"occurrences"`
	Parts       int64 `json:"parts"`
	Partial     int64 `json:"partial"`
}

// Totals counts everything.
func (c *Catalog) Totals(ctx context.Context) (t Totals, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		err := r.query(`SELECT count(*), coalesce(sum(size),0), coalesce(sum(flags & 2),0)/2 FROM messages`, func(s *sqlite3.Stmt) error {
			t.Messages, t.Bytes, t.Partial = s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnInt64(2)
			return nil
		})
		if err != nil {
			return err
		}
		if t.Occurrences, _, err = r.number(`SELECT count(*) FROM occurrences`); err != nil {
			return err
		}
		t.Parts, _, err = r.number(`SELECT count(*) FROM objects`)
		return err
	})
	return t, err
}

// MailboxCount is how many messages a mailbox holds.
func (c *Catalog) MailboxCount(ctx context.Context, mailbox int64) (n int64, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		n, _, err = r.number(`SELECT count(DISTINCT o.row) FROM folders f JOIN occurrences o ON o.folder = f.id WHERE f.mailbox = ?`, mailbox)
		return err
	})
	return n, err
}

// FolderCount is how many messages a folder holds.
func (c *Catalog) FolderCount(ctx context.Context, folder int64) (n int64, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		n, _, err = r.number(`SELECT count(*) FROM occurrences WHERE folder = ?`, folder)
		return err
	})
	return n, err
}

// Envelopes returns where the records of a message's deliveries lie.
func (c *Catalog) Envelopes(ctx context.Context, row Row) (out []store.Place, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		return r.query(`SELECT DISTINCT pack, frame FROM envelopes WHERE row = ? ORDER BY pack, frame`, func(s *sqlite3.Stmt) error {
			out = append(out, store.Place{Pack: uint32(s.ColumnInt64(0)), Frame: s.ColumnInt64(1)})
			return nil
		}, int64(row))
	})
	return out, err
}

// Comparison checks the catalog against the records.
type Comparison struct{ c *conn }

// Compare runs fn with a view of the catalog for verification.
func (c *Catalog) Compare(ctx context.Context, fn func(Comparison) error) error {
	return c.db.read(ctx, func(r *conn) error { return fn(Comparison{r}) })
}

// Snapshot runs fn with one state of the catalog for all its comparisons. It
// must be short, like every read transaction.
func (v Comparison) Snapshot(fn func() error) error { return v.c.snapshot(fn) }

// Message says in words what the catalog has otherwise than the record; "" if
// nothing.
func (v Comparison) Message(m *pack.Message, at store.Place) (string, error) {
	what := "is missing in the catalog"
	err := v.c.query(`SELECT id, leaf, pack, frame, size, rule FROM messages WHERE row = ?`, func(s *sqlite3.Stmt) error {
		what = ""
		if string(s.ColumnRawBlob(0)) != string(m.ID[:]) || s.ColumnInt64(1) != m.Leaf || s.ColumnInt64(2) != int64(at.Pack) || s.ColumnInt64(3) != at.Frame || s.ColumnInt64(4) != m.Size || s.ColumnInt64(5) != int64(m.DateRule) {
			what = "differs in the catalog"
		}
		return nil
	}, m.Row)
	return what, err
}

// Applied is the number of the last commit that the catalog has.
func (v Comparison) Applied() (uint64, error) {
	n, _, err := v.c.number(`SELECT value FROM meta WHERE name = 'commit'`)
	return uint64(n), err
}

// Occurrence does the same for an occurrence.
func (v Comparison) Occurrence(o *pack.Occurrence, at store.Place) (string, error) {
	what := "an occurrence is missing in the catalog"
	err := v.c.query(`SELECT row, modseq, flags, pack, frame FROM occurrences WHERE folder = ? AND uid = ?`, func(s *sqlite3.Stmt) error {
		what = ""
		if s.ColumnInt64(0) != o.Row || s.ColumnInt64(1) != o.ModSeq || s.ColumnText(2) != o.Flags || s.ColumnInt64(3) != int64(at.Pack) || s.ColumnInt64(4) != at.Frame {
			what = "an occurrence differs in the catalog"
		}
		return nil
	}, o.Folder, int64(o.UID))
	return what, err
}

// Envelope does the same for an envelope.
func (v Comparison) Envelope(x *pack.Envelope, at store.Place) (string, error) {
	n, ok, err := v.c.number(`SELECT pack = ? AND frame = ? FROM envelopes WHERE row = ? AND key = ?`, int64(at.Pack), at.Frame, x.Row, x.Key)
	switch {
	case !ok:
		return "an envelope is missing in the catalog", err
	case n == 0:
		return "an envelope differs in the catalog", err
	}
	return "", err
}

// Part returns where the catalog says a part lies.
func (v Comparison) Part(id seal.ID) (p store.Place, ok bool, err error) {
	err = v.c.query(`SELECT pack, frame FROM objects WHERE id = ?`, func(s *sqlite3.Stmt) error {
		p, ok = store.Place{Pack: uint32(s.ColumnInt64(0)), Frame: s.ColumnInt64(1)}, true
		return nil
	}, id[:])
	return p, ok, err
}

// Counts returns how many messages, occurrences and envelopes the catalog has.
func (v Comparison) Counts() (n [3]int64, err error) {
	for i, table := range []string{"messages", "occurrences", "envelopes"} {
		if n[i], _, err = v.c.number(`SELECT count(*) FROM ` + table); err != nil {
			return n, err
		}
	}
	return n, nil
}

// Forget removes messages and the parts that nobody else needs.
func (c *Catalog) Forget(rows []Row, parts []seal.ID) error {
	w := c.db.writer
	return w.tx(func() error {
		n, _, err := w.number(`SELECT value FROM meta WHERE name = 'change'`)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := w.run(`DELETE FROM occurrences WHERE (folder, uid) IN (SELECT folder, uid FROM occurrences WHERE row = ?)`, int64(r)); err != nil {
				return err
			}
			if err := w.run(`DELETE FROM envelopes WHERE row = ?`, int64(r)); err != nil {
				return err
			}
			if err := w.run(`DELETE FROM messages WHERE row = ?`, int64(r)); err != nil {
				return err
			}
			n++
			if err := w.run(`INSERT INTO queue (change, row) VALUES (?,?)`, n, int64(r)); err != nil {
				return err
			}
		}
		for _, id := range parts {
			if err := w.run(`DELETE FROM objects WHERE id = ?`, id[:]); err != nil {
				return err
			}
		}
		return setMeta(w, "change", n)
	})
}

// Act is an administrative act as the ledger has it.
type Act struct {
	Leaf   int64
	Time   time.Time
	Detail string // JSON
}

// Acts returns the newest acts, newest first; only those of the given kinds if
// there are any.
func (c *Catalog) Acts(ctx context.Context, limit int, kinds ...string) (out []Act, err error) {
	err = c.db.read(ctx, func(r *conn) error {
		return r.query(`SELECT leaf, time, detail FROM acts ORDER BY leaf DESC`, func(s *sqlite3.Stmt) error {
			a := Act{s.ColumnInt64(0), time.Unix(s.ColumnInt64(1), 0).UTC(), s.ColumnText(2)}
			if len(kinds) == 0 || slices.ContainsFunc(kinds, func(k string) bool { return strings.HasPrefix(a.Detail, `{"act":"`+k+`"`) }) {
				out = append(out, a)
			}
			if len(out) >= limit {
				return errStop
			}
			return nil
		})
	})
	return out, err
}
