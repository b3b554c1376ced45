// Command bench measures Letterhold as whole processes beside notmuch and
// restic on the same invented mail, and prints tables for docs/performance.md.
//
//	go run ./contrib/bench import    archive until searchable, and verify
//	go run ./contrib/bench search    150,000 messages in 200 mailboxes
//	go run ./contrib/bench scale     1,000,000 small messages against 100,000
//
// Runs of the programs are interleaved, and each number is the median of them.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/letterhold/letterhold/internal/sample"
)

type bench struct {
	dir    string
	binary string
	n      int
	runs   int
	mail   string // a Maildir to use instead of invented mail
}

func main() {
	b := &bench{}
	flag.StringVar(&b.dir, "dir", filepath.Join(os.TempDir(), "letterhold-bench"), "folder to work in")
	flag.StringVar(&b.binary, "letterhold", "./letterhold", "the program")
	flag.IntVar(&b.n, "n", 0, "messages; 0 is the measurement's own number")
	flag.IntVar(&b.runs, "runs", 3, "runs of each program")
	flag.StringVar(&b.mail, "mail", "", "a Maildir to import instead of invented mail")
	flag.Parse()
	err := os.MkdirAll(b.dir, 0o700)
	if err == nil {
		b.binary, err = filepath.Abs(b.binary)
	}
	for _, what := range flag.Args() {
		if err != nil {
			break
		}
		fmt.Printf("%s, %d cores, %s\n\n", time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.Version())
		switch what {
		case "import":
			err = b.imports()
		case "search":
			err = b.search()
		case "scale":
			err = b.scale()
		default:
			err = fmt.Errorf("measurement %q: it is import, search or scale", what)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// maildir makes a Maildir of invented mail, once, and returns it with the size
// of its messages in bytes.
func (b *bench) maildir(kind sample.Kind, n int) (string, int64, error) {
	dir := filepath.Join(b.dir, fmt.Sprintf("%s-%d", kind, n))
	if size, err := tree(filepath.Join(dir, "cur")); err == nil && size > 0 {
		return dir, size, nil
	}
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return "", 0, err
	}
	for _, d := range []string{"cur", "new", "tmp"} {
		if err := os.MkdirAll(filepath.Join(tmp, d), 0o700); err != nil {
			return "", 0, err
		}
	}
	i, size := 0, int64(0)
	for m := range sample.Scale(kind, n, 1) {
		if err := os.WriteFile(filepath.Join(tmp, "cur", fmt.Sprintf("%08d:2,S", i)), m.Raw, 0o600); err != nil {
			return "", 0, err
		}
		i++
		size += int64(len(m.Raw))
	}
	return dir, size, os.Rename(tmp, dir)
}

// mbox makes an mbox of invented mail: a million files would measure the file
// system.
func (b *bench) mbox(kind sample.Kind, n int) (string, int64, error) {
	name := filepath.Join(b.dir, fmt.Sprintf("%s-%d.mbox", kind, n))
	if fi, err := os.Stat(name); err == nil {
		return name, fi.Size(), nil
	}
	f, err := os.Create(name + ".new")
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	for m := range sample.Scale(kind, n, 1) {
		if _, err := fmt.Fprintf(f, "From - Thu Jan  1 00:00:00 2026\n%s\n", m.Raw); err != nil {
			return "", 0, err
		}
	}
	fi, err := f.Stat()
	if err := errors.Join(err, f.Close()); err != nil {
		return "", 0, err
	}
	return name, fi.Size(), os.Rename(name+".new", name)
}

// usage is what a process took.
type usage struct {
	wall, cpu float64 // seconds
	peak      int64   // bytes
	out       []byte
}

func run(env []string, name string, args ...string) (usage, error) {
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), env...)
	c.Stderr = os.Stderr
	begin := time.Now()
	out, err := c.Output()
	if err != nil {
		return usage{}, fmt.Errorf("%s %s: %w", filepath.Base(name), strings.Join(args[:min(2, len(args))], " "), err)
	}
	p := c.ProcessState
	u := usage{wall: time.Since(begin).Seconds(), cpu: (p.UserTime() + p.SystemTime()).Seconds(), out: out}
	if ru, ok := p.SysUsage().(*syscall.Rusage); ok {
		u.peak = ru.Maxrss << 10
	}
	return u, nil
}

// result is what one run of one program came to.
type result struct {
	usage
	disk   int64
	verify usage
	parts  string
}

// imports archives the same mail with each program, in turn.
func (b *bench) imports() error {
	kinds := []sample.Kind{sample.Text, sample.Attachments}
	if b.mail != "" {
		kinds = []sample.Kind{"mail"}
	}
	for _, kind := range kinds {
		n := cmp.Or(b.n, 20_000)
		dir, size, err := b.mail, int64(0), error(nil)
		if b.mail == "" {
			dir, size, err = b.maildir(kind, n)
		} else if size, err = tree(dir); err == nil {
			n, err = files(dir)
		}
		if err != nil {
			return err
		}
		programs := []struct {
			name string
			run  func(dir string) (result, error)
		}{{"letterhold", b.letterhold}, {"notmuch", b.notmuch}, {"restic", b.restic}}
		results := map[string][]result{}
		for range b.runs {
			for _, p := range programs {
				r, err := p.run(dir)
				if errors.Is(err, exec.ErrNotFound) {
					continue
				}
				if err != nil {
					return err
				}
				results[p.name] = append(results[p.name], r)
			}
		}
		fmt.Printf("%s: %d messages, %.1f MB, mean %.1f KB\n\n", kind, n, float64(size)/1e6, float64(size)/float64(n)/1e3)
		fmt.Println("| program | messages/CPU-s | MB/CPU-s | messages/s | peak MB | disk / raw | verify MB/CPU-s |\n|---|---|---|---|---|---|---|")
		for _, p := range programs {
			rs := results[p.name]
			if len(rs) == 0 {
				fmt.Printf("| %s | not installed | | | | | |\n", p.name)
				continue
			}
			cpu := median(rs, func(r result) float64 { return r.cpu })
			verify := "-"
			if v := median(rs, func(r result) float64 { return r.verify.cpu }); v > 0 {
				verify = fmt.Sprintf("%.0f", float64(size)/1e6/v)
			}
			fmt.Printf("| %s | %.0f | %.0f | %.0f | %.0f | %.3f%s | %s |\n", p.name, float64(n)/cpu, float64(size)/1e6/cpu,
				float64(n)/median(rs, func(r result) float64 { return r.wall }), median(rs, func(r result) float64 { return float64(r.peak) / 1e6 }),
				median(rs, func(r result) float64 { return float64(r.disk) / float64(size) }), rs[0].parts, verify)
		}
		fmt.Println()
	}
	return nil
}

func median(rs []result, of func(result) float64) float64 {
	var v []float64
	for _, r := range rs {
		v = append(v, of(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func (b *bench) fresh(name string) (string, error) {
	dir := filepath.Join(b.dir, name)
	return dir, os.RemoveAll(dir)
}

func (b *bench) letterhold(mail string) (r result, err error) {
	dir, err := b.fresh("archive")
	if err != nil {
		return r, err
	}
	env := []string{"LETTERHOLD_ARCHIVE=" + dir, "LETTERHOLD_KEY_FILE=" + dir + ".key"}
	if _, err := run(nil, b.binary, "init", dir, "--key-file", dir+".key", "--json"); err != nil {
		return r, err
	}
	if r.usage, err = run(env, b.binary, "import", mail, "--mailbox", "bench", "--json"); err != nil {
		return r, err
	}
	if err := addsUp(r.out); err != nil {
		return r, err
	}
	if r.disk, err = tree(dir); err != nil {
		return r, err
	}
	raw, err := tree(mail)
	if err != nil {
		return r, err
	}
	for _, part := range []string{"store", "index", "catalog.db", "ledger"} {
		n, err := tree(filepath.Join(dir, part))
		if err != nil {
			return r, err
		}
		r.parts += fmt.Sprintf(", %s %.3f", part, float64(n)/float64(raw))
	}
	r.verify, err = run(env, b.binary, "verify", "--json")
	return r, err
}

// addsUp makes sure that nothing was left out of what is measured.
func addsUp(out []byte) error {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var c struct{ Seen, Archived, Failed int64 }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &c); err != nil {
		return err
	}
	if c.Failed > 0 || c.Archived == 0 {
		return fmt.Errorf("import: %d seen, %d archived, %d failed", c.Seen, c.Archived, c.Failed)
	}
	return nil
}

func (b *bench) notmuch(mail string) (r result, err error) {
	dir, err := b.fresh("notmuch")
	if err != nil {
		return r, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return r, err
	}
	conf := filepath.Join(dir, "config")
	text := fmt.Sprintf("[database]\npath=%s\nmail_root=%s\n[user]\nname=bench\nprimary_email=bench@example.org\n[new]\ntags=\n[search]\n[maildir]\nsynchronize_flags=false\n", dir, mail)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return r, err
	}
	if r.usage, err = run([]string{"NOTMUCH_CONFIG=" + conf}, "notmuch", "new", "--quiet", "--no-hooks"); err != nil {
		return r, err
	}
	r.disk, err = tree(dir)
	return r, err
}

func (b *bench) restic(mail string) (r result, err error) {
	dir, err := b.fresh("restic")
	if err != nil {
		return r, err
	}
	env := []string{"RESTIC_PASSWORD=bench", "RESTIC_REPOSITORY=" + dir}
	if _, err := run(env, "restic", "init", "--quiet", "--no-cache"); err != nil {
		return r, err
	}
	if r.usage, err = run(env, "restic", "backup", "--quiet", "--no-cache", mail); err != nil {
		return r, err
	}
	if r.disk, err = tree(dir); err != nil {
		return r, err
	}
	r.verify, err = run(env, "restic", "check", "--quiet", "--no-cache", "--read-data")
	return r, err
}

// tree is the size of all files below a path, in bytes.
func tree(path string) (n int64, err error) {
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			n += fi.Size()
		}
		return err
	})
	return n, err
}

func files(path string) (n int, err error) {
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	})
	return n, err
}

// scale compares the rate at a million messages with that at 100,000, and times
// how long the large archive takes to open.
func (b *bench) scale() error {
	large := cmp.Or(b.n, 1_000_000)
	fmt.Println("| messages | messages/s | messages/CPU-s | peak MB | disk / raw | open s |\n|---|---|---|---|---|---|")
	for _, n := range []int{large / 10, large} {
		mail, size, err := b.mbox(sample.Small, n)
		if err != nil {
			return err
		}
		dir, err := b.fresh("archive")
		if err != nil {
			return err
		}
		env := []string{"LETTERHOLD_ARCHIVE=" + dir, "LETTERHOLD_KEY_FILE=" + dir + ".key"}
		if _, err := run(nil, b.binary, "init", dir, "--key-file", dir+".key", "--json"); err != nil {
			return err
		}
		u, err := run(env, b.binary, "import", mail, "--mailbox", "bench", "--json")
		if err == nil {
			err = addsUp(u.out)
		}
		if err != nil {
			return err
		}
		disk, err := tree(dir)
		if err != nil {
			return err
		}
		open, err := run(env, b.binary, "mailbox", "list", "--json")
		if err != nil {
			return err
		}
		fmt.Printf("| %d | %.0f | %.0f | %.0f | %.3f | %.2f |\n", n, float64(n)/u.wall, float64(n)/u.cpu, float64(u.peak)/1e6, float64(disk)/float64(size), open.wall)
	}
	fmt.Println()
	return nil
}
