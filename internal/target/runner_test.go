package target_test

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/export"
	"github.com/letterhold/letterhold/internal/index"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/mbox"
	"github.com/letterhold/letterhold/internal/search"
	"github.com/letterhold/letterhold/internal/target"
)

// world is an archive with an index and a runner of targets.
type world struct {
	a   *archive.Archive
	r   *target.Runner
	now time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{now: time.Now().UTC().Truncate(time.Second)}
	w.a = mailtest.Archive(t, func() time.Time { return w.now })
	x, err := index.Open(w.a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	w.r = target.NewRunner(w.a, func(ctx context.Context, query string, fn func(catalog.Hit) error) error {
		if err := x.Wait(ctx); err != nil {
			return err
		}
		return search.New(w.a, x).Each(ctx, search.Request{Query: query, Scope: everything}, fn)
	})
	w.r.Patience = time.Millisecond
	t.Cleanup(w.r.Close)
	return w
}

func (w *world) save(t *testing.T, p *target.Profile) *target.Profile {
	t.Helper()
	p.Enabled = true
	if p.Name == "" {
		p.Name = "out"
	}
	if err := target.Save(w.a, p, []byte(mailtest.Password), "test"); err != nil {
		t.Fatal(err)
	}
	return p
}

// run runs a target and compares state and numbers: exported, there already,
// skipped, failed.
func (w *world) run(t *testing.T, p *target.Profile, state string, exported, present, skipped, failed int64) *ingest.Outcome {
	t.Helper()
	wait, err := w.r.Start(ctx, p, "test")
	if err != nil {
		t.Fatal(err)
	}
	out, err := wait()
	if err != nil {
		t.Fatal(err)
	}
	if out.State != state || out.Archived != exported || out.Present != present || out.Counts.Skipped != skipped || out.Failed != failed || !out.AddUp() {
		t.Errorf("%s: %+v %v %v %s; want %s, %d exported, %d present, %d skipped, %d failed", out.State, out.Counts, out.Failures, out.Skipped, out.Error, state, exported, present, skipped, failed)
	}
	w.now = w.now.Add(time.Minute)
	return out
}

// manifest is what one says: ids by file, and that everything in it is so.
func manifest(t *testing.T, text []byte, open func(name string) []byte) map[string]string {
	t.Helper()
	out := map[string]string{}
	s := bufio.NewScanner(bytes.NewReader(text))
	for s.Scan() {
		var l export.Line
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			t.Fatalf("%v in %q", err, s.Text())
		}
		raw := open(l.File)
		sum := sha256.Sum256(raw)
		if l.SHA256 != hex.EncodeToString(sum[:]) || l.Size != int64(len(raw)) || len(l.Found) == 0 || l.Found[0].Mailbox == "" {
			t.Errorf("%+v is not %q", l, raw)
		}
		if out[l.File] != "" {
			t.Errorf("%s is there twice", l.File)
		}
		out[l.File] = l.ID
	}
	return out
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// exported returns how many messages all manifests below a folder have, and
// that each file has its line.
func exported(t *testing.T, dir string, f export.Format) (n int) {
	t.Helper()
	switch f {
	case export.EML, export.Maildir:
		m := manifest(t, read(t, filepath.Join(dir, "manifest.jsonl")), func(name string) []byte { return read(t, filepath.Join(dir, name)) })
		files := 0
		filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() && e.Name() != "manifest.jsonl" {
				files++
			}
			return err
		})
		if files != len(m) {
			t.Errorf("%d files, %d lines", files, len(m))
		}
		return len(m)
	case export.Mbox:
		names, _ := filepath.Glob(filepath.Join(dir, "*.mbox"))
		for _, name := range names {
			var all [][]byte
			r := mbox.NewReader(bytes.NewReader(read(t, name)), mbox.RD, 1<<20)
			for {
				m, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, bytes.Clone(m.Raw))
			}
			i := 0
			n += len(manifest(t, read(t, name+".manifest.jsonl"), func(file string) []byte {
				if i++; file != fmt.Sprintf("%s#%d", filepath.Base(name), i) {
					t.Errorf("line %d is of %s", i, file)
				}
				return all[i-1]
			}))
			if len(all) != i {
				t.Errorf("%d messages, %d lines", len(all), i)
			}
		}
	case export.Zip:
		names, _ := filepath.Glob(filepath.Join(dir, "*.zip"))
		for _, name := range names {
			z, err := zip.OpenReader(name)
			if err != nil {
				t.Fatal(err)
			}
			get := func(name string) []byte {
				f, err := z.Open(name)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(f)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			n += len(manifest(t, get("manifest.jsonl"), get))
			z.Close()
		}
	}
	return n
}

// Each format: all at first, then what is new, also of an old date; nothing new
// leaves nothing.
func TestFolderTargets(t *testing.T) {
	for _, f := range []export.Format{export.EML, export.Maildir, export.Mbox, export.Zip} {
		for _, query := range []string{"", "text"} {
			t.Run(string(f)+query, func(t *testing.T) {
				w := newWorld(t)
				dir := filepath.Join(t.TempDir(), "out")
				for i := range 5 {
					add(t, w.a, "alice", "Work", `\Seen`, time.Time{}, mail(i))
				}
				p := w.save(t, &target.Profile{Query: query, Format: f, Place: target.Place{To: "folder:" + dir}})
				w.run(t, p, catalog.RunDone, 5, 0, 0, 0)
				if n := exported(t, dir, f); n != 5 {
					t.Errorf("%d exported", n)
				}
				before := tree(t, dir)
				w.run(t, p, catalog.RunDone, 0, 0, 0, 0)
				if after := tree(t, dir); !slices.Equal(before, after) {
					t.Errorf("nothing was new: %v", after)
				}
				old := bytes.Replace(mail(9), []byte("2026"), []byte("1999"), 1)
				add(t, w.a, "alice", "Work", "", time.Time{}, old)
				add(t, w.a, "bob", "INBOX", "", time.Time{}, mail(10))
				w.run(t, p, catalog.RunDone, 2, 0, 0, 0)
				if n := exported(t, dir, f); n != 7 {
					t.Errorf("%d exported", n)
				}
				if names := top(t, dir, f); f == export.Mbox && len(names) != 2 || f == export.Zip && len(names) != 2 {
					t.Errorf("a file for each run: %v", names)
				}
			})
		}
	}
}

func tree(t *testing.T, dir string) (names []string) {
	t.Helper()
	filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		names = append(names, p)
		return err
	})
	return names
}

func top(t *testing.T, dir string, f export.Format) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "out-2*."+string(f)))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A message that the archive has already comes to a folder that the query asks
// for: it is meant now, and it is brought out once.
func TestMetAgain(t *testing.T) {
	for _, f := range []export.Format{export.EML, export.Maildir, export.Mbox, export.Zip} {
		w := newWorld(t)
		dir := t.TempDir()
		add(t, w.a, "alice", "First", "", time.Time{}, mail(0))
		add(t, w.a, "bob", "INBOX", "", time.Time{}, mail(1))
		add(t, w.a, "bob", "INBOX", "", time.Time{}, mail(2))
		add(t, w.a, "alice", "INBOX", "", time.Time{}, mail(3))
		p := w.save(t, &target.Profile{Query: "mailbox:alice", Format: f, Place: target.Place{To: "folder:" + dir}})
		w.run(t, p, catalog.RunDone, 2, 0, 0, 0)
		add(t, w.a, "alice", "INBOX", "", time.Time{}, mail(2)) // new to alice
		add(t, w.a, "alice", "First", "", time.Time{}, mail(3)) // once more, in another place of a Maildir
		w.run(t, p, catalog.RunDone, 1, 1, 0, 0)
		w.run(t, p, catalog.RunDone, 0, 0, 0, 0)
		if n := exported(t, dir, f); n != 3 {
			t.Errorf("%s: %d exported", f, n)
		}
	}
}

// Mail is archived while the query is walked, some of it on pages that have
// passed: the next run has it all.
func TestArchivedMeanwhile(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	add(t, w.a, "alice", "INBOX", "", time.Time{}, mail(1))
	walks := 0
	r := target.NewRunner(w.a, func(ctx context.Context, query string, fn func(catalog.Hit) error) error {
		walks++
		if walks > 1 {
			return all(w.a)(fn)
		}
		add(t, w.a, "alice", "INBOX", "", time.Time{}, mail(2))
		add(t, w.a, "alice", "INBOX", "", time.Time{}, mail(3))
		return all(w.a)(func(h catalog.Hit) error {
			if strings.Contains(h.Subject, "number 2") { // on a page that has passed
				return nil
			}
			return fn(h)
		})
	})
	t.Cleanup(r.Close)
	w.r = r
	p := w.save(t, &target.Profile{Query: "text", Format: export.EML, Place: target.Place{To: "folder:" + dir}})
	w.run(t, p, catalog.RunDone, 1, 0, 0, 0)
	w.run(t, p, catalog.RunDone, 2, 0, 0, 0)
	if n := exported(t, dir, export.EML); n != 3 {
		t.Errorf("%d exported", n)
	}
}

// A run that is stopped goes on where it was; in the end each message was
// brought out once and counted once.
func TestInterrupted(t *testing.T) {
	for _, f := range []export.Format{export.EML, export.Maildir, export.Mbox, export.Zip} {
		for _, how := range []string{"stop", "pause"} {
			t.Run(string(f)+" "+how, func(t *testing.T) {
				w := newWorld(t)
				dir := t.TempDir()
				const n = 600
				for i := range n {
					id, err := w.a.Mailbox(ctx, "alice", "test")
					if err != nil {
						t.Fatal(err)
					}
					if err := w.a.Enqueue(ctx, mail(i), archive.Provenance{Mailbox: id, Folder: "Work"}, func(archive.Result, error) {}); err != nil {
						t.Fatal(err)
					}
				}
				if err := w.a.Flush(ctx); err != nil {
					t.Fatal(err)
				}
				p := w.save(t, &target.Profile{Format: f, Place: target.Place{To: "folder:" + dir}})
				life, stop := context.WithCancel(ctx)
				defer stop()
				wait, err := w.r.Start(life, p, "test")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := w.r.Start(ctx, p, "test"); !errors.Is(err, ingest.ErrRunning) {
					t.Errorf("a second run at the same time: %v", err)
				}
				for seen := int64(0); seen < 20; {
					if live := w.r.Live(); len(live) == 1 {
						seen = live[0].Seen
					} else {
						t.Fatal("it is over too early")
					}
				}
				state := catalog.RunRunning
				if how == "pause" {
					state = catalog.RunPaused
					if err := w.r.Pause(p); err != nil {
						t.Fatal(err)
					}
				}
				stop()
				out, _ := wait()
				if out.State != state || out.Archived < 20 || out.Archived >= n || !out.AddUp() {
					t.Fatalf("%s %+v", out.State, out.Counts)
				}
				if m := exported(t, dir, f); int64(m) != out.Archived {
					t.Errorf("%d exported, %d counted", m, out.Archived)
				}
				again := w.run(t, p, catalog.RunDone, n, 0, 0, 0)
				if again.Run != out.Run || !again.Resumed {
					t.Errorf("another run: %+v", again)
				}
				if m := exported(t, dir, f); m != n {
					t.Errorf("%d exported", m)
				}
			})
		}
	}
}

// Killed between a file and the mark: the file is there, and its line and its
// number come once.
func TestKilledBeforeTheMark(t *testing.T) {
	for _, f := range []export.Format{export.EML, export.Maildir} {
		w := newWorld(t)
		dir := t.TempDir()
		for i := range 3 {
			add(t, w.a, "alice", "Work", "", time.Time{}, mail(i))
		}
		p := w.save(t, &target.Profile{Format: f, Place: target.Place{To: "folder:" + dir}})
		w.run(t, p, catalog.RunDone, 3, 0, 0, 0)
		// The state as if it had been killed: no mark, the run open, the last line
		// of the manifest torn, and a file half written.
		if err := w.a.State().Write(func(tx catalog.Tx) error {
			for _, m := range []string{"leaf", "place", "change"} {
				if err := tx.SetMark(p.ID, m, ""); err != nil {
					return err
				}
			}
			return tx.SaveRun(&catalog.Run{ID: 1, State: catalog.RunRunning}, nil, nil)
		}); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "manifest.jsonl")
		b := read(t, name)
		lines := bytes.SplitAfter(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
		last := lines[len(lines)-1]
		var l export.Line
		if err := json.Unmarshal(last, &l); err != nil {
			t.Fatal(err)
		}
		mailtest.Write(t, name, b[:len(b)-len(last)/2])
		mailtest.Write(t, filepath.Join(dir, l.File), []byte("From: half"))
		w.run(t, p, catalog.RunDone, 1, 2, 0, 0)
		if n := exported(t, dir, f); n != 3 {
			t.Errorf("%d exported", n)
		}
	}
}

// Killed between a file that is whole and the mark: it is not written again.
func TestKilledAfterTheFile(t *testing.T) {
	for _, f := range []export.Format{export.Mbox, export.Zip} {
		w := newWorld(t)
		dir := t.TempDir()
		for i := range 3 {
			add(t, w.a, "alice", "Work", "", time.Time{}, mail(i))
		}
		p := w.save(t, &target.Profile{Format: f, Place: target.Place{To: "folder:" + dir}})
		w.run(t, p, catalog.RunDone, 3, 0, 0, 0)
		if err := w.a.State().Write(func(tx catalog.Tx) error {
			for _, m := range []string{"leaf", "place", "change"} {
				if err := tx.SetMark(p.ID, m, ""); err != nil {
					return err
				}
			}
			return tx.SaveRun(&catalog.Run{ID: 1, State: catalog.RunRunning}, nil, nil)
		}); err != nil {
			t.Fatal(err)
		}
		add(t, w.a, "alice", "Work", "", time.Time{}, mail(3))
		w.run(t, p, catalog.RunDone, 1, 3, 0, 0)
		if n := exported(t, dir, f); n != 4 || len(top(t, dir, f)) != 2 {
			t.Errorf("%d exported in %v", n, top(t, dir, f))
		}
	}
}

// A folder that cannot be written fails the run; nothing is counted that is not
// there, and the next run has it all.
func TestFolderFails(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	add(t, w.a, "alice", "Work", "", time.Time{}, mail(1))
	mailtest.Write(t, filepath.Join(dir, "file"), nil)
	for _, f := range []export.Format{export.EML, export.Zip} {
		p := w.save(t, &target.Profile{Name: string(f), Format: f, Place: target.Place{To: "folder:" + filepath.Join(dir, "file", string(f))}})
		w.run(t, p, catalog.RunFailed, 0, 0, 0, 0)
		p.To = "folder:" + filepath.Join(dir, string(f))
		w.save(t, p)
		w.run(t, p, catalog.RunDone, 1, 0, 0, 0)
	}
	// Another target does not write into the same folder.
	if err := target.Save(w.a, &target.Profile{Name: "second", Format: export.Zip, Place: target.Place{To: "folder:" + filepath.Join(dir, "eml")}}, nil, "test"); err == nil || !strings.Contains(err.Error(), "already") {
		t.Error(err)
	}
	// A folder with something else in it is left alone.
	mailtest.Write(t, filepath.Join(dir, "file2"), nil)
	p := w.save(t, &target.Profile{Name: "other", Format: export.EML, Place: target.Place{To: "folder:" + dir}})
	w.run(t, p, catalog.RunFailed, 0, 0, 0, 0)
}

// To a mailbox: what fails is tried again by the next run, and what is new goes
// on meanwhile.
func TestMailboxTarget(t *testing.T) {
	d := mailtest.StartDovecot(t, "")
	w := newWorld(t)
	for i := range 3 {
		add(t, w.a, "alice", "Work", `\Seen`, time.Time{}, mail(i))
	}
	add(t, w.a, "bob", "INBOX", "", time.Time{}, mail(3))
	p := w.save(t, &target.Profile{Query: "mailbox:alice", Place: place(d, d.IMAPS)})
	p.Folder = "Copy/{folder}"
	w.save(t, p)
	w.run(t, p, catalog.RunDone, 3, 0, 0, 0)
	w.run(t, p, catalog.RunDone, 0, 0, 0, 0)
	if have := look(t, d); len(have) != 1 || len(have["Copy/Work"]) != 3 || have["Copy/Work"][0].Flags != `\Seen` {
		t.Errorf("%v", have)
	}
	// Another folder: it begins anew.
	p.Folder = "Second"
	w.save(t, p)
	w.run(t, p, catalog.RunDone, 3, 0, 0, 0)
	// Back to the first: they are there already.
	p.Folder = "Copy/{folder}"
	w.save(t, p)
	w.run(t, p, catalog.RunDone, 0, 3, 0, 0)
}

func TestMailboxTargetTriesAgain(t *testing.T) {
	d := mailtest.StartDovecot(t, "protocol imap {\n  mail_plugins = quota imap_quota\n}\nplugin {\n  quota = count:User quota\n  quota_vsizes = yes\n  quota_rule = *:messages=2\n}\n")
	w := newWorld(t)
	for i := range 3 {
		add(t, w.a, "alice", "INBOX", "", time.Time{}, mail(i))
	}
	p := w.save(t, &target.Profile{Query: "", Place: place(d, d.IMAPS)})
	out := w.run(t, p, catalog.RunPartial, 2, 0, 0, 1)
	if len(out.Failures) != 1 || !strings.Contains(out.Failures[0].Reason, "OVERQUOTA") {
		t.Errorf("%+v", out.Failures)
	}
	w.run(t, p, catalog.RunPartial, 0, 0, 0, 1) // still full
	// Room is made.
	for _, sub := range []string{"cur", "new"} {
		dir := filepath.Join(d.Maildir(t, "alice", ""), sub)
		es, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	w.run(t, p, catalog.RunDone, 1, 0, 0, 0)
	w.run(t, p, catalog.RunDone, 0, 0, 0, 0)
	if n := len(look(t, d)["INBOX"]); n != 1 {
		t.Errorf("%d messages", n)
	}
}

// An exception ends: the target rests, and says why.
func TestException(t *testing.T) {
	d := mailtest.StartDovecot(t, "")
	w := newWorld(t)
	add(t, w.a, "alice", "INBOX", "", time.Time{}, mail(1))
	p := &target.Profile{Query: "", Place: place(d, d.IMAPS)}
	p.CA = ""
	p.Exception = &ingest.Exception{Kind: ingest.Unverified, Owner: "IT", Reason: "old server", Since: w.now, Until: w.now.Add(24 * time.Hour)}
	p.Every = ingest.Duration(time.Hour)
	w.save(t, p)
	w.run(t, p, catalog.RunDone, 1, 0, 0, 0)
	add(t, w.a, "alice", "INBOX", "", time.Time{}, mail(2))
	w.now = w.now.Add(25 * time.Hour)
	if out := w.run(t, p, catalog.RunFailed, 0, 0, 0, 0); !strings.Contains(out.Error, "rests") {
		t.Error(out.Error)
	}
	for name, change := range map[string]func(*target.Profile){
		"too long":       func(p *target.Profile) { p.Exception.Until = w.now.Add(31 * 24 * time.Hour) },
		"nobody":         func(p *target.Profile) { p.Exception.Owner = "" },
		"no reason":      func(p *target.Profile) { p.Exception.Reason = "" },
		"large provider": func(p *target.Profile) { p.To = "imaps://alice@imap.gmail.com" },
		"folder":         func(p *target.Profile) { p.To, p.Format = "folder:/x", export.EML },
		"encrypted":      func(p *target.Profile) { p.Exception.Kind = ingest.Cleartext },
	} {
		q := *p
		x := *p.Exception
		x.Until = w.now.Add(24 * time.Hour)
		q.Exception = &x
		change(&q)
		if err := q.Check(w.now); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// By schedule: what is due runs, once.
func TestSchedule(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	add(t, w.a, "alice", "Work", "", time.Time{}, mail(1))
	p := w.save(t, &target.Profile{Format: export.EML, Place: target.Place{To: "folder:" + dir}, Timing: ingest.Timing{Every: ingest.Duration(time.Hour)}})
	life, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); w.r.Serve(life) }()
	var rs []catalog.Run
	for range 500 {
		if err := w.a.State().View(ctx, func(v catalog.View) (err error) { rs, err = v.RunsOf(p.ID, 10); return err }); err != nil {
			t.Fatal(err)
		}
		if len(rs) == 1 && rs[0].State == catalog.RunDone {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	<-done
	if len(rs) != 1 || rs[0].State != catalog.RunDone || rs[0].Archived != 1 || rs[0].Who != "schedule" {
		t.Errorf("%+v", rs)
	}
	// It is an act in the ledger, and so are adding and what it reads.
	acts, err := w.a.Catalog().Acts(ctx, 10)
	if err != nil {
		t.Fatal(err)
	}
	var whats []string
	for _, a := range acts {
		whats = append(whats, a.Detail)
	}
	if s := strings.Join(whats, "\n"); !strings.Contains(s, `"target added"`) || !strings.Contains(s, `"exported by a target"`) {
		t.Error(s)
	}
}
