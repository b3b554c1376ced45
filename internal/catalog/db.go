// Package catalog is the only SQL on messages and state.
//
// Catalog (catalog.db) says which messages there are, where their objects lie,
// and in which folders of which mailboxes they occur. It is a cache of the
// commit frames and is made again from them. State (state.db) holds what
// exists nowhere else: mailboxes, users, sessions, runs, settings.
//
// Both are one writer and a few readers on one encrypted database. The package
// decides nothing: who may see what is asked with a Scope, by its callers.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/ncruces/go-sqlite3"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/vault"
)

// conn is a connection with its prepared statements. One goroutine at a time.
type conn struct {
	*sqlite3.Conn
	stmts map[string]*sqlite3.Stmt
}

func connect(v *vault.Vault, o vault.Options) (*conn, error) {
	c, err := v.Connect(o)
	if err != nil {
		return nil, err
	}
	return &conn{c, map[string]*sqlite3.Stmt{}}, nil
}

func (c *conn) close() error {
	for _, s := range c.stmts {
		s.Close()
	}
	return c.Conn.Close()
}

// bind prepares q once and binds args: int, int64, string, []byte, bool, nil.
func (c *conn) bind(q string, args []any) (*sqlite3.Stmt, error) {
	s := c.stmts[q]
	if s == nil {
		var err error
		if s, _, err = c.PrepareFlags(q, sqlite3.PREPARE_PERSISTENT); err != nil {
			return nil, fmt.Errorf("%w in %q", err, q)
		}
		c.stmts[q] = s
	}
	for i, a := range args {
		var err error
		switch a := a.(type) {
		case nil:
			err = s.BindNull(i + 1)
		case bool:
			err = s.BindBool(i+1, a)
		case int:
			err = s.BindInt64(i+1, int64(a))
		case int64:
			err = s.BindInt64(i+1, a)
		case string:
			err = s.BindText(i+1, a)
		case []byte:
			err = s.BindBlob(i+1, a)
		default:
			err = fmt.Errorf("argument %d of type %T", i+1, a)
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// run executes a statement.
func (c *conn) run(q string, args ...any) error {
	return c.query(q, func(*sqlite3.Stmt) error { return nil }, args...)
}

// errStop ends a query from inside its callback.
var errStop = errors.New("stop")

// query calls fn for each row.
func (c *conn) query(q string, fn func(*sqlite3.Stmt) error, args ...any) (err error) {
	s, err := c.bind(q, args)
	if err != nil {
		return err
	}
	for s.Step() {
		if err = fn(s); err != nil {
			break
		}
	}
	if rerr := s.Reset(); err == nil && rerr != nil {
		err = vault.Explain(rerr)
	}
	if err == errStop {
		return nil
	}
	return err
}

// number returns the first column of the first row; ok is false without one.
func (c *conn) number(q string, args ...any) (n int64, ok bool, err error) {
	err = c.query(q, func(s *sqlite3.Stmt) error {
		n, ok = s.ColumnInt64(0), true
		return errStop
	}, args...)
	return n, ok, err
}

// tx runs fn in a transaction that takes the write lock at once.
func (c *conn) tx(fn func() error) error {
	if err := c.run(`BEGIN IMMEDIATE`); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return errors.Join(err, c.rollback())
	}
	if err := c.run(`COMMIT`); err != nil {
		return errors.Join(err, c.rollback())
	}
	return nil
}

func (c *conn) rollback() error {
	if c.GetAutocommit() {
		return nil // SQLite rolled back by itself
	}
	return c.run(`ROLLBACK`)
}

// maxReaders bounds open connections: each holds a cache of its own.
const maxReaders = 4

// writerCaches is how many readers' caches the writer's is.
const writerCaches = 4

// database is a vault with one writer and a few readers.
type database struct {
	vault   *vault.Vault
	writer  *conn
	readers chan *conn // nil for one that is not open yet
	options vault.Options
}

func openDatabase(d durable.FS, name string, key seal.Key, sh shape, o vault.Options) (_ *database, err error) {
	v, err := vault.Open(d, name, key)
	if err != nil {
		return nil, err
	}
	db := &database{vault: v, readers: make(chan *conn, maxReaders), options: o}
	defer func() {
		if err != nil {
			db.close()
		}
	}()
	// Ids are random: the writer needs much of their index at hand.
	w := o
	w.Cache *= writerCaches
	if db.writer, err = connect(v, w); err != nil {
		return nil, err
	}
	for range maxReaders {
		db.readers <- nil
	}
	if err := migrate(db.writer, sh); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return db, nil
}

// shape is the tables of a database: the newest form, and the steps that lead
// to it from the first. SQLite's user_version counts them.
type shape struct {
	newest string
	steps  []string
}

func migrate(c *conn, sh shape) error {
	if sh.newest == "" {
		return nil
	}
	version := int64(len(sh.steps)) + 1
	n, _, err := c.number(`PRAGMA user_version`)
	switch {
	case err != nil:
		return err
	case n == version:
		return nil
	case n > version:
		return fmt.Errorf("schema version %d; this program knows version %d: use a newer program", n, version)
	}
	steps := []string{sh.newest}
	if n > 0 {
		steps = sh.steps[n-1:]
	}
	return c.tx(func() error {
		for _, s := range steps {
			if err := c.Exec(s); err != nil {
				return err
			}
		}
		return c.Exec(fmt.Sprintf(`PRAGMA user_version=%d`, version))
	})
}

func (db *database) close() error {
	var err error
	for range cap(db.readers) {
		select {
		case r := <-db.readers:
			if r != nil {
				err = errors.Join(err, r.close())
			}
		default:
		}
	}
	if db.writer != nil {
		err = errors.Join(err, db.writer.close())
	}
	return errors.Join(err, db.vault.Close())
}

// read runs fn with a reader.
func (db *database) read(ctx context.Context, fn func(*conn) error) error {
	var r *conn
	select {
	case r = <-db.readers:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { db.readers <- r }()
	if r == nil {
		o := db.options
		o.ReadOnly = true
		c, err := connect(db.vault, o)
		if err != nil {
			return err
		}
		r = c
	}
	old := r.SetInterrupt(ctx)
	defer r.SetInterrupt(old)
	return fn(r)
}

// snapshot is read with one state of the database for all its queries, and one
// lock. It must be short: the log cannot be emptied meanwhile.
func (db *database) snapshot(ctx context.Context, fn func(*conn) error) error {
	return db.read(ctx, func(r *conn) error { return r.snapshot(func() error { return fn(r) }) })
}

func (c *conn) snapshot(fn func() error) error {
	if err := c.run(`BEGIN`); err != nil {
		return err
	}
	return errors.Join(fn(), c.rollback())
}

// check opens every page and lets SQLite check its structure.
func (db *database) check(problem func(string)) error {
	if err := db.vault.Check(false, problem); err != nil {
		return err
	}
	return db.read(context.Background(), func(c *conn) error {
		return c.query(`PRAGMA integrity_check(20)`, func(s *sqlite3.Stmt) error {
			if t := s.ColumnText(0); t != "ok" {
				problem(t)
			}
			return nil
		})
	})
}

// Checkpoint copies the log into the main file.
func (db *database) checkpoint() error {
	return db.writer.run(`PRAGMA wal_checkpoint(TRUNCATE)`)
}

// Remove deletes a database and its log.
func Remove(d durable.FS, name string) error {
	for _, n := range []string{name, name + "-wal"} {
		if err := d.Remove(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
