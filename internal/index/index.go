// Package index is the full-text index: one encrypted FTS5 database for each
// year of message date, which follows the catalog's queue of changes by itself.
//
// It is a cache. Each shard keeps the number of the last change it has; a shard
// that is missing, from another catalog, or older than the catalog remembers is
// made again. Mailboxes, folders and properties are keys: tokens in a column
// that no query of a user can name. They narrow a search; who may see a message
// is decided by the catalog.
package index

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/ext/fts5"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/extract"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/vault"
)

const (
	batch      = 2000 // changes that are indexed in one go
	lookup     = 200  // messages that are looked up in one go
	maxWriters = 2
	maxReaders = 12
)

// Index is an open index. Searching is safe for concurrent use.
type Index struct {
	a   *archive.Archive
	fs  durable.FS
	key seal.Key

	mu      sync.Mutex
	shards  map[int]*shard
	clock   int64 // for least-recently-used
	err     error // why following stopped
	applied int64
	change  *sync.Cond // applied or err changed

	stop context.CancelFunc
	done chan struct{}
}

// shard is one year. Its fields are guarded by Index.mu, its writer by the
// follower.
type shard struct {
	year    int
	vault   *vault.Vault
	writer  *sqlite3.Conn
	insert  *sqlite3.Stmt
	doc     *sqlite3.Stmt
	byRow   *sqlite3.Stmt
	spill   int64 // how far an id is from its home at most
	idle    []*Reader
	readers int // idle or not
	used    int64
}

// Open opens the index of an archive and begins to follow the catalog.
func Open(a *archive.Archive) (*Index, error) {
	x := &Index{a: a, fs: a.FS(), key: a.Key(seal.PurposeIndex).Key, shards: map[int]*shard{}, done: make(chan struct{})}
	x.change = sync.NewCond(&x.mu)
	if err := x.fs.MkdirAll("index"); err != nil {
		return nil, err
	}
	if err := x.checkShards(); err != nil {
		x.closeShards()
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	x.stop = stop
	a.Follow(true)
	go x.follow(ctx)
	return x, nil
}

// Close stops following and closes all shards.
func (x *Index) Close() error {
	x.stop()
	<-x.done
	return x.closeShards()
}

func (x *Index) closeShards() (err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.shards {
		err = errors.Join(err, s.close())
	}
	clear(x.shards)
	return err
}

func (s *shard) close() (err error) {
	for _, r := range s.idle {
		err = errors.Join(err, r.close())
	}
	return errors.Join(err, s.closeWriter(), s.vault.Close())
}

func (s *shard) closeWriter() error {
	if s.writer == nil {
		return nil
	}
	s.insert.Close()
	s.doc.Close()
	s.byRow.Close()
	err := s.writer.Close()
	s.writer, s.insert, s.doc, s.byRow = nil, nil, nil, nil
	return err
}

func shardName(year int) string { return fmt.Sprintf("index/%04d.db", year) }

// tokenizer lets FTS5 use Tokens.
type tokenizer struct{}

func (tokenizer) Tokenize(flags fts5.TokenizeFlag, text, _ string, emit fts5.TokenCallback) error {
	return Tokens(text, flags&fts5.TOKENIZE_QUERY != 0, func(token string, start, end int, same bool) error {
		f := fts5.TokenFlag(0)
		if same {
			f = fts5.TOKEN_COLOCATED
		}
		return emit(f, token, start, end)
	})
}

func register(c *sqlite3.Conn) error {
	return fts5.RegisterCustom(c, func(api *fts5.API) error {
		return api.CreateTokenizer("letterhold", func([]string) (fts5.Tokenizer, error) { return tokenizer{}, nil })
	})
}

// Columns of the full-text table, in order. The body is first, because FTS5
// spends two bytes on each word of another column.
const columns = `body, keys, sender, recipients, cc, bcc, subject, list, names`

const schema = `
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS docs (id INTEGER PRIMARY KEY, row INTEGER NOT NULL UNIQUE, size INTEGER NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS f USING fts5(` + columns + `, content='', contentless_delete=1, tokenize='letterhold');
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5vocab(f, row);
INSERT INTO f(f, rank) VALUES ('hashsize', 12000000);
INSERT INTO f(f, rank) VALUES ('automerge', 8);
INSERT INTO f(f, rank) VALUES ('usermerge', 8);
`

// shard returns the shard of a year. The caller holds mu.
func (x *Index) shard(year int) (*shard, error) {
	x.clock++
	if s := x.shards[year]; s != nil {
		s.used = x.clock
		return s, nil
	}
	v, err := vault.Open(x.fs, shardName(year), x.key)
	if err != nil {
		return nil, err
	}
	s := &shard{year: year, vault: v, used: x.clock}
	x.shards[year] = s
	return s, nil
}

// openWriter opens the writer of a year; the one that was used longest ago is
// closed if there are too many.
func (x *Index) openWriter(year int) (*shard, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s, err := x.shard(year)
	if err != nil || s.writer != nil {
		return s, err
	}
	var open []*shard
	for _, o := range x.shards {
		if o.writer != nil {
			open = append(open, o)
		}
	}
	if len(open) >= maxWriters {
		slices.SortFunc(open, func(a, b *shard) int { return int(a.used - b.used) })
		if err := open[0].closeWriter(); err != nil {
			return nil, err
		}
	}
	c, err := s.vault.Connect(vault.Options{Cache: 8 << 10, WALPages: 3000, Relaxed: true, MaxMemory: 128 << 20})
	if err != nil {
		return nil, err
	}
	if err = register(c); err == nil {
		err = c.Exec(schema)
	}
	if err == nil {
		s.insert, _, err = c.Prepare(`INSERT INTO f (rowid, ` + columns + `) VALUES (?,?,?,?,?,?,?,?,?,?)`)
	}
	if err == nil {
		s.doc, _, err = c.Prepare(`INSERT INTO docs (id, row, size) VALUES (?,?,?)`)
	}
	if err == nil {
		s.byRow, _, err = c.Prepare(`SELECT id FROM docs WHERE row = ?`)
	}
	if err == nil {
		s.spill, err = readSpill(c)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("%s: %w", shardName(year), vault.Explain(err))
	}
	s.writer = c
	return s, nil
}

// remove deletes a shard that is of no use.
func (x *Index) remove(year int) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s := x.shards[year]; s != nil {
		if err := s.close(); err != nil {
			x.a.Log().Warn("closing a shard that is removed", "year", year, "err", err)
		}
		delete(x.shards, year)
	}
	return catalog.Remove(x.fs, shardName(year))
}

// checkShards compares each shard with what the catalog remembers of it.
func (x *Index) checkShards() error {
	ctx := context.Background()
	known, err := x.a.Catalog().Shards(ctx)
	if err != nil {
		return err
	}
	epoch, err := x.a.Catalog().Epoch(ctx)
	if err != nil {
		return err
	}
	years, err := x.a.Catalog().Years(ctx)
	if err != nil {
		return err
	}
	_, x.applied, err = x.a.Catalog().Changes(ctx)
	if err != nil {
		return err
	}
	for _, y := range years {
		ok, err := durable.Exists(x.fs, shardName(y))
		if err != nil {
			return err
		}
		if want, indexed := known[y]; indexed {
			have := int64(-1)
			if ok {
				have = x.shardApplied(y, epoch)
			}
			if have < want {
				x.a.Log().Info("a year of the index is made again", "year", y)
				if err := x.remove(y); err != nil {
					return err
				}
				if err := x.a.Requeue(y); err != nil {
					return err
				}
			}
		} else if ok && x.shardApplied(y, epoch) < 0 {
			if err := x.remove(y); err != nil {
				return err
			}
		}
	}
	return x.removeStrays(years)
}

// removeStrays removes shards of years in which there are no messages.
func (x *Index) removeStrays(years []int) error {
	return durable.Files(x.fs, "index", func(name string, _ int64) error {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(name, "index/"), "-wal"), ".db")
		if y, err := strconv.Atoi(base); err != nil || slices.Contains(years, y) {
			return nil // in use, or not ours: verify names it
		}
		return x.fs.Remove(name)
	})
}

// shardApplied is the last change that a shard has; -1 if it is of another
// catalog or does not open.
func (x *Index) shardApplied(year int, epoch int64) int64 {
	s, err := x.openWriter(year)
	if err != nil {
		x.a.Log().Warn("a year of the index does not open", "year", year, "err", err)
		return -1
	}
	vals := map[string]int64{}
	st, _, err := s.writer.Prepare(`SELECT name, value FROM meta`)
	if err != nil {
		return -1
	}
	defer st.Close()
	for st.Step() {
		vals[st.ColumnText(0)] = st.ColumnInt64(1)
	}
	if st.Err() != nil || vals["epoch"] != epoch || vals["rules"] != rules {
		return -1
	}
	return vals["applied"]
}

// poll is how often the follower looks for changes when nothing wakes it.
const poll = 50 * time.Millisecond

func (x *Index) follow(ctx context.Context) {
	defer close(x.done)
	defer x.a.Follow(false)
	for ctx.Err() == nil {
		n, err := x.step(ctx)
		if err != nil && ctx.Err() == nil {
			x.a.Log().Error("the index does not follow", "err", err)
			x.mu.Lock()
			x.err = err
			x.change.Broadcast()
			x.mu.Unlock()
			return
		}
		if n == 0 {
			x.change.Broadcast()
			select {
			case <-ctx.Done():
			case <-time.After(poll):
			}
		}
	}
}

// step indexes the next changes and returns how many.
func (x *Index) step(ctx context.Context) (int, error) {
	todo, err := x.a.Catalog().Queue(ctx, x.applied, batch)
	if err != nil || len(todo) == 0 {
		return 0, err
	}
	upTo := todo[len(todo)-1].Change
	rows := make([]catalog.Row, 0, len(todo))
	for _, p := range todo {
		rows = append(rows, p.Row)
	}
	slices.Sort(rows)
	rows = slices.Compact(rows)
	epoch, err := x.a.Catalog().Epoch(ctx)
	if err != nil {
		return 0, err
	}
	shards := map[int]int64{}
	for len(rows) > 0 {
		year, n := rows[0].Year(), 1
		for n < len(rows) && rows[n].Year() == year {
			n++
		}
		if err := x.write(ctx, year, epoch, upTo, rows[:n]); err != nil {
			return 0, fmt.Errorf("%s: %w", shardName(year), err)
		}
		shards[year] = upTo
		rows = rows[n:]
	}
	if err := x.a.Indexed(upTo, shards); err != nil {
		return 0, err
	}
	x.mu.Lock()
	x.applied = upTo
	x.change.Broadcast()
	x.mu.Unlock()
	return len(todo), nil
}

func (x *Index) write(ctx context.Context, year int, epoch, upTo int64, rows []catalog.Row) error {
	s, err := x.openWriter(year)
	if err != nil {
		return err
	}
	if err := s.writer.Exec(`BEGIN IMMEDIATE`); err != nil {
		return err
	}
	err = func() error {
		for some := range slices.Chunk(rows, lookup) {
			hits, err := x.a.Catalog().Visible(ctx, catalog.Scope{All: true}, some)
			if err != nil {
				return err
			}
			if err := x.putAll(s, some, hits); err != nil {
				return err
			}
		}
		return s.writer.Exec(fmt.Sprintf(`INSERT OR REPLACE INTO meta VALUES ('epoch', %d), ('rules', %d), ('applied', %d), ('spill', %d)`, epoch, rules, upTo, s.spill))
	}()
	if err == nil {
		err = s.writer.Exec(`COMMIT`)
	}
	if err != nil && !s.writer.GetAutocommit() {
		err = errors.Join(err, s.writer.Exec(`ROLLBACK`))
	}
	return err
}

// putAll indexes messages; those that the catalog does not have are removed.
func (x *Index) putAll(s *shard, rows []catalog.Row, hits []catalog.Hit) error {
	for _, row := range rows {
		var h *catalog.Hit
		if len(hits) > 0 && hits[0].Row == row {
			h, hits = &hits[0], hits[1:]
		}
		if err := x.put(s, row, h); err != nil {
			return err
		}
	}
	return nil
}

// put indexes one message, or removes it if there is no hit.
func (x *Index) put(s *shard, row catalog.Row, h *catalog.Hit) error {
	id, known, err := s.find(row)
	if err != nil {
		return err
	}
	if known {
		if err := s.writer.Exec(fmt.Sprintf(`DELETE FROM f WHERE rowid = %d; DELETE FROM docs WHERE id = %[1]d`, id)); err != nil {
			return err
		}
	}
	if h == nil {
		return nil
	}
	d, err := x.a.Document(&h.Entry)
	if err != nil {
		// Its bytes cannot be read, which verify reports; what the catalog
		// knows is searched.
		x.a.Log().Error("message is indexed by its summary only", "message", h.ID.String(), "err", err)
		d = &extract.Document{From: h.Sender, To: h.Recipients, Subject: h.Subject}
	}
	if id, err = s.give(row, h.Size); err != nil {
		return err
	}
	if err := s.insert.BindInt64(1, int64(id)); err != nil {
		return err
	}
	for i, text := range [...]string{text(d.Body), keysOf(h), text(d.From), text(d.To), text(d.Cc), text(d.Bcc), text(d.Subject), text(d.List), text(d.Names)} {
		if err := s.insert.BindText(i+2, text); err != nil {
			return err
		}
	}
	return s.insert.Exec()
}

// text makes sure that no text is taken for keys.
func text(s string) string { return strings.TrimLeft(s, "\x01") }

// Keys of a message: the mailboxes and folders it occurs in, and properties.
func keysOf(h *catalog.Hit) string {
	var b strings.Builder
	b.WriteString(KeyAll)
	seen := map[string]bool{}
	add := func(k string) {
		if !seen[k] {
			seen[k] = true
			b.WriteByte(' ')
			b.WriteString(k)
		}
	}
	for _, o := range h.Occurrences {
		add(KeyMailbox(o.Mailbox))
		add(KeyFolder(o.Folder))
	}
	if h.Attachments {
		add(KeyAttachment)
	}
	return b.String()
}

// Keys that a query is compiled to.
const (
	KeyAll        = "\x01a"
	KeyAttachment = "\x01t"
)

// KeyMailbox is the key of a mailbox.
func KeyMailbox(id int64) string { return "\x01m" + strconv.FormatInt(id, 36) }

// KeyFolder is the key of a folder.
func KeyFolder(id int64) string { return "\x01f" + strconv.FormatInt(id, 36) }

// Check opens every page of every shard, also while the index is in use, and
// calls problem for each that does not open.
func (x *Index) Check(ctx context.Context, problem func(file, what string)) error {
	var names []string
	if err := durable.Files(x.fs, "index", func(name string, _ int64) error {
		if strings.HasSuffix(name, ".db") {
			names = append(names, name)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, name := range names {
		v, err := vault.Open(x.fs, name, x.key)
		if err == nil {
			err = errors.Join(v.Check(false, func(what string) { problem(name, what) }), v.Close())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a shard may be made again meanwhile
			problem(name, err.Error())
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// Wait returns once the index has followed every change that is in the catalog
// now, or cannot.
func (x *Index) Wait(ctx context.Context) error {
	last, _, err := x.a.Catalog().Changes(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, x.change.Broadcast)
	defer stop()
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.applied < last && x.err == nil && ctx.Err() == nil {
		x.change.Wait()
	}
	return errors.Join(x.err, ctx.Err())
}

// Behind is how many changes the index has not followed yet.
func (x *Index) Behind(ctx context.Context) (int64, error) {
	last, _, err := x.a.Catalog().Changes(ctx)
	x.mu.Lock()
	defer x.mu.Unlock()
	return last - x.applied, errors.Join(err, x.err)
}

// Reader is a connection to one year for searching.
type Reader struct {
	x     *Index
	s     *shard
	conn  *sqlite3.Conn
	stmts map[string]*sqlite3.Stmt
}

func (r *Reader) close() error {
	for _, s := range r.stmts {
		s.Close()
	}
	return r.conn.Close()
}

// Years lists the years that there are, newest first.
func (x *Index) Years(ctx context.Context) ([]int, error) { return x.a.Catalog().Years(ctx) }

// Read runs fn with a reader of a year. A year that is not indexed yet calls
// nothing.
func (x *Index) Read(ctx context.Context, year int, fn func(*Reader) error) error {
	r, err := x.reader(year)
	if err != nil || r == nil {
		return err
	}
	old := r.conn.SetInterrupt(ctx)
	err = fn(r)
	r.conn.SetInterrupt(old)
	x.mu.Lock()
	defer x.mu.Unlock()
	r.s.idle = append(r.s.idle, r)
	return vault.Explain(err)
}

func (x *Index) reader(year int) (*Reader, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.shards[year] == nil {
		if ok, err := durable.Exists(x.fs, shardName(year)); err != nil || !ok {
			return nil, err
		}
	}
	s, err := x.shard(year)
	if err != nil {
		return nil, err
	}
	if n := len(s.idle); n > 0 {
		r := s.idle[n-1]
		s.idle = s.idle[:n-1]
		return r, nil
	}
	if err := x.makeRoom(); err != nil {
		return nil, err
	}
	c, err := s.vault.Connect(vault.Options{Cache: 2 << 10, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	if err := register(c); err != nil {
		c.Close()
		return nil, err
	}
	s.readers++
	return &Reader{x: x, s: s, conn: c, stmts: map[string]*sqlite3.Stmt{}}, nil
}

// makeRoom closes the idle reader that was used longest ago if there are many.
func (x *Index) makeRoom() error {
	total := 0
	var oldest *shard
	for _, s := range x.shards {
		total += s.readers
		if len(s.idle) > 0 && (oldest == nil || s.used < oldest.used) {
			oldest = s
		}
	}
	if total < maxReaders || oldest == nil {
		return nil
	}
	r := oldest.idle[0]
	oldest.idle = oldest.idle[1:]
	oldest.readers--
	return r.close()
}

// Query runs a SELECT and calls fn for each row; false ends it.
func (r *Reader) Query(q string, args []any, fn func(*sqlite3.Stmt) bool) error {
	s := r.stmts[q]
	if s == nil {
		var err error
		if s, _, err = r.conn.Prepare(q); err != nil {
			return err
		}
		if len(r.stmts) > 50 {
			for k, old := range r.stmts {
				old.Close()
				delete(r.stmts, k)
			}
		}
		r.stmts[q] = s
	}
	for i, a := range args {
		var err error
		switch a := a.(type) {
		case int64:
			err = s.BindInt64(i+1, a)
		case string:
			err = s.BindText(i+1, a)
		default:
			err = fmt.Errorf("argument of type %T", a)
		}
		if err != nil {
			return err
		}
	}
	for s.Step() {
		if !fn(s) {
			break
		}
	}
	return s.Reset()
}
