package vault

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/ext/fts5"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/seal"
)

var key = seal.Key{5}

func open(t testing.TB, d durable.FS) (*Vault, *sqlite3.Conn, error) {
	v, err := Open(d, "x.db", key)
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { v.Close() })
	c, err := v.Connect(Options{WALPages: 20})
	return v, c, err
}

func count(c *sqlite3.Conn) (n int, err error) {
	st, _, err := c.Prepare(`SELECT count(*), coalesce(sum(length(b)),0) FROM t`)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	if st.Step() {
		n = st.ColumnInt(0)
	}
	return n, st.Err()
}

func insert(c *sqlite3.Conn, i int) error {
	return c.Exec(fmt.Sprintf(`INSERT INTO t VALUES(%d, '%s')`, i, strings.Repeat("canary", 600)))
}

func TestNothingReadableAndEveryChangeNoticed(t *testing.T) {
	dir := t.TempDir()
	d, err := durable.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	v, c, err := open(t, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Exec(`CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)`); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if err := insert(c, i); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"x.db", "x.db-wal"} {
		b, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"canary", "SQLite format", "CREATE TABLE"} {
			if bytes.Contains(b, []byte(s)) {
				t.Errorf("%q is readable in %s", s, name)
			}
		}
	}
	if es, _ := os.ReadDir(dir); len(es) != 2 {
		t.Errorf("files: %v", es)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := v.Check(true, func(p string) { t.Error(p) }); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(dir + "/x.db")
	for at := 0; at < len(b); at += 611 {
		bad := bytes.Clone(b)
		bad[at] ^= 8
		os.WriteFile(dir+"/x.db", bad, 0o600)
		n := 0
		v.Check(true, func(string) { n++ })
		if n == 0 {
			t.Fatalf("byte %d can be changed unnoticed", at)
		}
	}
	for _, bad := range [][]byte{b[:len(b)-1], b[:len(b)-PageSize], append(bytes.Clone(b), 1), append(bytes.Clone(b), b[:PageSize]...), append(bytes.Clone(b), make([]byte, PageSize)...)} {
		os.WriteFile(dir+"/x.db", bad, 0o600)
		n := 0
		v.Check(true, func(string) { n++ })
		if n == 0 {
			t.Errorf("%d bytes instead of %d go unnoticed", len(bad), len(b))
		}
	}
	swapped := bytes.Clone(b)
	copy(swapped[PageSize:], b[2*PageSize:3*PageSize])
	copy(swapped[2*PageSize:], b[PageSize:2*PageSize])
	os.WriteFile(dir+"/x.db", swapped, 0o600)
	c, err = v.Connect(Options{})
	if err == nil {
		_, err = count(c)
		c.Close()
	}
	if !errors.Is(Explain(err), ErrDamaged) {
		t.Errorf("swapped pages: %v", err)
	}
	other, err := Open(d, "x.db", seal.Key{6})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Connect(Options{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("another key: %v", err)
	}
}

// A power cut at each operation of inserts and checkpoints: what a transaction
// acknowledged is there afterwards.
func TestPowerCut(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 7
	}
	for k := 1; ; k += step {
		d := crashfs.New()
		_, c, err := open(t, d)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Exec(`CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)`); err != nil {
			t.Fatal(err)
		}
		d.StopAt(k)
		done := 0
		for done < 25 && insert(c, done) == nil {
			done++
		}
		finished := done == 25 && c.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`) == nil
		d.StopAt(0)
		for seed := range uint64(3) {
			after := d.Crash(seed)
			_, c2, err := open(t, after)
			if err != nil {
				t.Fatalf("stop %d seed %d: %v", k, seed, err)
			}
			n, err := count(c2)
			if err != nil || n < done || n > done+1 {
				t.Fatalf("stop %d seed %d: %d rows of %d acknowledged: %v", k, seed, n, done, Explain(err))
			}
			if err := insert(c2, 1000); err != nil {
				t.Fatalf("stop %d seed %d: %v", k, seed, err)
			}
			if err := c2.Close(); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
		if finished {
			return
		}
	}
}

func TestFTSOptimizeAndConcurrentReaders(t *testing.T) {
	v, c, err := open(t, crashfs.New())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := fts5.Register(c); err != nil {
		t.Fatal(err)
	}
	if err := c.Exec(`CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); CREATE VIRTUAL TABLE f USING fts5(b, content='', contentless_delete=1)`); err != nil {
		t.Fatal(err)
	}
	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		r, err := v.Connect(Options{ReadOnly: true})
		for err == nil {
			select {
			case <-stop:
				failed <- r.Close()
				return
			default:
				_, err = count(r)
			}
		}
		failed <- err
	}()
	for i := range 200 {
		if err := insert(c, i); err != nil {
			t.Fatal(err)
		}
		if err := c.Exec(fmt.Sprintf(`INSERT INTO f(rowid,b) VALUES(%d,'word%d common text')`, i, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Exec(`INSERT INTO f(f) VALUES('optimize'); PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		t.Fatal(err)
	}
	close(stop)
	if err := <-failed; err != nil {
		t.Fatal("reader:", err)
	}
}

// A transaction that does not fit into the cache goes to the log in pieces, and
// SQLite rewrites frames of it: all of them must open again.
func TestTransactionLargerThanCache(t *testing.T) {
	d := crashfs.New()
	v, err := Open(d, "x.db", key)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	c, err := v.Connect(Options{Cache: 256, WALPages: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Exec(`CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); BEGIN`); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if err := insert(c, i*7919%1009); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Exec(`COMMIT`); err != nil {
		t.Fatal(err)
	}
	_, c2, err := open(t, d.Crash(1)) // what is in the log must be recovered
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	if n, err := count(c2); err != nil || n != 1000 {
		t.Fatal(n, Explain(err))
	}
	if err := c.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := v.Check(true, func(p string) { t.Error(p) }); err != nil {
		t.Fatal(err)
	}
}

// A power cut at each operation of transactions that do not fit into the
// cache: each is there as a whole or not at all, and what was acknowledged is.
func TestPowerCutOfLargeTransactions(t *testing.T) {
	t.Parallel()
	step := 1
	if testing.Short() {
		step = 17
	}
	for k := 1; ; k += step {
		d := crashfs.New()
		v, err := Open(d, "x.db", key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := v.Connect(Options{Cache: 80, WALPages: 60})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Exec(`CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); CREATE TABLE n(n INTEGER); INSERT INTO n VALUES(0)`); err != nil {
			t.Fatal(err)
		}
		// Each transaction changes rows that were spilled before, so that SQLite
		// rewrites frames; every third is rolled back.
		transaction := func(i int) error {
			if err := c.Exec(`BEGIN`); err != nil {
				return err
			}
			for j := range 40 {
				if err := insert(c, 1000*i+j*7%41); err != nil {
					return err
				}
			}
			return c.Exec(fmt.Sprintf(`UPDATE t SET b = b || 'x' WHERE a %% 3 = 0; UPDATE n SET n = %d; %s`, i+1, map[bool]string{true: "ROLLBACK", false: "COMMIT"}[i%3 == 1]))
		}
		d.StopAt(k)
		done := 0
		for done < 4 && transaction(done) == nil {
			done++
		}
		finished := done == 4 && c.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`) == nil
		d.StopAt(0)
		after := d.Crash(uint64(k))
		w, c2, err := open(t, after)
		if err != nil {
			t.Fatalf("stop %d: %v", k, err)
		}
		last := -1
		st, _, err := c2.Prepare(`SELECT n FROM n`)
		if err == nil && st.Step() {
			last = st.ColumnInt(0)
			err = st.Close()
		}
		rows, cerr := count(c2)
		// Transaction 1 was rolled back: n goes 0, 1, 3, 4, and each leaves 40 rows.
		want := map[int]int{0: 0, 1: 40, 3: 80, 4: 120}
		acked := map[int]int{0: 0, 1: 1, 2: 1, 3: 3, 4: 4}[done]
		if n, ok := want[last]; err != nil || cerr != nil || !ok || rows != n || last < acked {
			t.Fatalf("stop %d: %d rows at transaction %d, %d acknowledged: %v %v", k, rows, last, done, err, Explain(cerr))
		}
		if err := c2.Close(); err != nil {
			t.Fatal(err)
		}
		if err := w.Check(true, func(p string) { t.Errorf("stop %d: %s", k, p) }); err != nil {
			t.Fatal(err)
		}
		c.Close()
		v.Close()
		if finished {
			t.Logf("%d operations", k)
			return
		}
	}
}

func FuzzRead(f *testing.F) {
	d := crashfs.New()
	v, c, err := open(f, d)
	if err != nil {
		f.Fatal(err)
	}
	if err := c.Exec(`CREATE TABLE t(a, b)`); err != nil {
		f.Fatal(err)
	}
	if err := insert(c, 1); err != nil {
		f.Fatal(err)
	}
	wal, err := durable.ReadFile(d, "x.db-wal", 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wal, int64(0), uint16(32))
	f.Add(wal, int64(32), uint16(frameSize))
	f.Add(wal[:100], int64(40), uint16(8))
	f.Fuzz(func(t *testing.T, b []byte, off int64, n uint16) {
		if off < 0 {
			return
		}
		e := crashfs.New()
		for _, name := range []string{"x.db", "x.db-wal"} {
			if err := durable.WriteNew(e, name, b); err != nil {
				t.Fatal(err)
			}
		}
		w := &Vault{fs: e, name: "x.db", pages: v.pages}
		for _, wal := range []bool{false, true} {
			name := "x.db"
			if wal {
				name = "x.db-wal"
			}
			h, err := e.OpenFile(name, os.O_RDWR)
			if err != nil {
				t.Fatal(err)
			}
			(&file{v: w, f: h, wal: wal, buf: make([]byte, frameSize)}).ReadAt(make([]byte, n), off)
		}
		w.repairPage1()
		w.Check(true, func(string) {})
	})
}
