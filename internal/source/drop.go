package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Drop is a folder that others put mail into: everything that Files reads. What
// has been archived moves to its subfolder done, what failed to failed, with
// the reasons in a file beside it.
type Drop struct {
	Dir   string
	Quiet time.Duration // how long a file must be unchanged to be whole; default 3 s
}

const (
	dropDone   = "done"
	dropFailed = "failed"
	dropQuiet  = 3 * time.Second
)

// Walk yields what lies in the folder. It needs no marks.
func (d *Drop) Walk(ctx context.Context, _ Marks, yield func(Item) bool) error {
	es, err := os.ReadDir(d.Dir)
	if err != nil {
		return fmt.Errorf("drop folder: %w", err)
	}
	for _, sub := range []string{dropDone, dropFailed} {
		if err := os.MkdirAll(filepath.Join(d.Dir, sub), 0o700); err != nil {
			return fmt.Errorf("drop folder: %w", err)
		}
	}
	for _, e := range es {
		name := e.Name()
		if name == dropDone || name == dropFailed || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".tmp") || strings.HasSuffix(name, ".part") || !d.whole(filepath.Join(d.Dir, name)) {
			continue
		}
		en := &dropped{dir: d.Dir, name: name, open: true}
		stopped := false
		err := Files(ctx, []string{filepath.Join(d.Dir, name)}, Options{}, func(i Item) bool {
			en.begin()
			i.Done = en.done
			stopped = !yield(i)
			return !stopped
		})
		if err != nil || stopped {
			return err
		}
		if err := en.close(); err != nil {
			return err
		}
	}
	return nil
}

// whole tells whether nothing in a path has changed for a while.
func (d *Drop) whole(path string) bool {
	quiet := d.Quiet
	if quiet == 0 {
		quiet = dropQuiet
	}
	old := true
	err := filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err == nil && time.Since(fi.ModTime()) < quiet {
			old = false
			return fs.SkipAll
		}
		return err
	})
	return err == nil && old
}

// dropped is a file or folder that was dropped. It moves once all its messages
// are accounted for.
type dropped struct {
	dir, name string

	mu      sync.Mutex
	pending int
	open    bool // more may come
	errs    []error
}

func (e *dropped) begin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pending++
}

func (e *dropped) done(where string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pending--
	if err != nil {
		e.errs = append(e.errs, fmt.Errorf("%s: %w", where, err))
	}
	e.move()
}

func (e *dropped) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open = false
	return e.move()
}

// move puts the entry where it belongs; the caller holds mu. That it cannot be
// moved loses nothing: the next run finds that all of it is archived.
func (e *dropped) move() error {
	if e.open || e.pending > 0 {
		return nil
	}
	to := dropDone
	if len(e.errs) > 0 {
		to = dropFailed
	}
	target := filepath.Join(e.dir, to, e.name)
	for n := 2; ; n++ {
		if _, err := os.Lstat(target); errors.Is(err, fs.ErrNotExist) {
			break
		}
		target = filepath.Join(e.dir, to, fmt.Sprintf("%s (%d)", e.name, n))
	}
	if err := os.Rename(filepath.Join(e.dir, e.name), target); err != nil {
		return fmt.Errorf("drop folder: %w", err)
	}
	if len(e.errs) == 0 {
		return nil
	}
	return os.WriteFile(target+".reason.txt", []byte(errors.Join(e.errs...).Error()+"\n"), 0o600)
}
