package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/sample"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/search"
	"github.com/letterhold/letterhold/internal/server"
)

const (
	mailboxes = 200
	rounds    = 200 // of each query, after warming up
)

// search fills an archive, once, and times searches in it: newest 50, decided
// by the catalog with the scope of who asks.
func (b *bench) search() error {
	n := cmp.Or(b.n, 150_000)
	dir := fmt.Sprintf("%s/search-%d", b.dir, n)
	if _, err := os.Stat(dir + "/archive.json"); err != nil {
		if _, err := run(nil, b.binary, "init", dir, "--key-file", dir+".key", "--json"); err != nil {
			return err
		}
	}
	key, err := os.ReadFile(dir + ".key")
	if err != nil {
		return err
	}
	secret, err := seal.ParseKeyFile(seal.KindKeyFile, key)
	if err != nil {
		return err
	}
	open := func() (*server.Opened, error) {
		return server.OpenArchive(dir, func() (seal.Secret, error) { return secret, nil }, archive.Options{})
	}
	x, err := open()
	if err != nil {
		return err
	}
	if err := fill(x, n); err != nil {
		return errors.Join(err, x.Close())
	}
	if err := x.Close(); err != nil {
		return err
	}
	if err := dropCaches(); err != nil {
		fmt.Printf("files are not cold: %v\n", err)
	}
	if x, err = open(); err != nil {
		return err
	}
	defer x.Close()
	return table(x, n)
}

func fill(x *server.Opened, n int) error {
	ctx := context.Background()
	t, err := x.Archive.Catalog().Totals(ctx)
	if err != nil || t.Messages >= int64(n) {
		return err
	}
	var ids []int64
	for i := range mailboxes {
		id, err := x.Archive.Mailbox(ctx, fmt.Sprintf("mailbox %03d", i), "bench")
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	var failed error
	i := 0
	for m := range sample.Scale(sample.Text, n, 1) {
		from := archive.Provenance{Mailbox: ids[i%mailboxes], Folder: m.Folder, Source: "bench", Flags: m.Flags}
		i++
		if err := x.Archive.Enqueue(ctx, m.Raw, from, func(_ archive.Result, err error) {
			if err != nil {
				failed = err
			}
		}); err != nil {
			return err
		}
	}
	return errors.Join(x.Archive.Flush(ctx), failed, x.Index.Wait(ctx))
}

// dropCaches makes the system forget what it has read.
func dropCaches() error {
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

func table(x *server.Opened, n int) error {
	ctx := context.Background()
	all := catalog.Scope{All: true}
	one := catalog.Scope{Mailboxes: []int64{7}}
	var fifty catalog.Scope
	for i := range 50 {
		fifty.Mailboxes = append(fifty.Mailboxes, int64(1+4*i))
	}
	sender := strings.Fields(sender(x))[0]
	rows := []struct {
		name  string
		req   search.Request
		goal  string
		count bool
	}{
		{"first search after start, cold files", search.Request{Query: sample.CommonWord, Scope: all}, "50", false},
		{"rare word", search.Request{Query: sample.RareWord, Scope: all}, "1 / 5", false},
		{"phrase", search.Request{Query: `"` + sample.Phrase + `"`, Scope: all}, "1 / 5", false},
		{"prefix", search.Request{Query: sample.RareWord[:6] + "*", Scope: all}, "1 / 5", false},
		{"from:", search.Request{Query: "from:" + sender, Scope: all}, "1 / 5", false},
		{"common word, all mailboxes", search.Request{Query: sample.CommonWord, Scope: all}, "3", false},
		{"common word, one mailbox", search.Request{Query: sample.CommonWord, Scope: one}, "3", false},
		{"common word, 50 of 200 mailboxes", search.Request{Query: sample.CommonWord, Scope: fifty}, "3", false},
		{"word and month", search.Request{Query: sample.CommonWord + " after:2024-03-01 before:2024-04-01", Scope: all}, "2", false},
		{"count of a common word, all", search.Request{Query: sample.CommonWord, Scope: all}, "5", true},
		{"count of a common word, one mailbox", search.Request{Query: sample.CommonWord, Scope: one}, "5", true},
		{"count of a common word, 50 of 200", search.Request{Query: sample.CommonWord, Scope: fifty}, "25", true},
	}
	fmt.Printf("%d messages in %d mailboxes, newest 50; milliseconds\n\n| search | hits | p50 | p95 | goal |\n|---|---|---|---|---|\n", n, mailboxes)
	for i, row := range rows {
		row.req.Count = row.count
		r := rounds
		if i == 0 {
			r = 1
		} else if _, err := x.Search.Search(ctx, row.req); err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
		var took []float64
		hits := ""
		for range r {
			res, err := x.Search.Search(ctx, row.req)
			if err != nil {
				return fmt.Errorf("%s: %w", row.name, err)
			}
			took = append(took, float64(res.Took.Microseconds())/1000)
			hits = fmt.Sprint(len(res.Hits))
			if row.count {
				hits = fmt.Sprint(res.Total)
			}
		}
		slices.Sort(took)
		fmt.Printf("| %s | %s | %.2f | %.2f | %s |\n", row.name, hits, took[len(took)/2], took[len(took)*95/100], row.goal)
	}
	fmt.Println()
	return nil
}

// sender is somebody who wrote a message.
func sender(x *server.Opened) string {
	r, err := x.Search.Search(context.Background(), search.Request{Query: sample.RareWord, Scope: catalog.Scope{All: true}, Limit: 1})
	if err != nil || len(r.Hits) == 0 {
		return "nobody"
	}
	return r.Hits[0].Sender
}
