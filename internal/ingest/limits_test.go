package ingest_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
)

// Several folders are read at a time; all is there once, also over connections
// that break.
func TestConnections(t *testing.T) {
	w := newWorld(t)
	const folders, each = 9, 12
	for f := range folders {
		for i := range each {
			w.d.Put(t, "alice", fmt.Sprintf("f%d", f), fmt.Sprintf("%d.m:2,", i), mail(100*f+i))
		}
	}
	var opened atomic.Int32
	port := startCutter(t, w.d.IMAPS, func(int) int64 { opened.Add(1); return 0 })
	p := w.profile(t, port, func(p *ingest.Profile) { p.Connections = 3 })
	w.want(t, w.run(t, p), catalog.RunDone, folders*each, 0, 0)
	if n := opened.Load(); n != 3 {
		t.Errorf("%d connections", n)
	}
	w.want(t, w.run(t, p), catalog.RunDone, 0, 0, 0)

	port = startCutter(t, w.d.IMAPS, func(c int) int64 { return int64(5000 + 3001*(c%4)) })
	p = w.profile(t, port, func(p *ingest.Profile) { p.Connections, p.Mailbox = 3, "cut" })
	var all int64
	for round := 0; ; round++ {
		out := w.run(t, p)
		all += out.Archived + out.Present
		if out.State == catalog.RunDone {
			break
		}
		if round > 40 {
			t.Fatalf("it does not end: %+v", out)
		}
	}
	if n, err := w.a.Catalog().Totals(ctx); err != nil || n.Messages != folders*each || n.Occurrences != 2*folders*each {
		t.Errorf("%+v, %v; %d", n, err, all)
	}
}

// A server that allows fewer connections gives fewer.
func TestFewerConnections(t *testing.T) {
	w := newWorld(t)
	for f := range 6 {
		w.d.Put(t, "alice", fmt.Sprintf("f%d", f), "1.m:2,", mail(f))
	}
	port := startCutter(t, w.d.IMAPS, func(c int) int64 { return int64(min(c, 1)) }) // the first alone is let in
	p := w.profile(t, port, func(p *ingest.Profile) { p.Connections = 6 })
	out := w.run(t, p)
	w.want(t, out, catalog.RunDone, 6, 0, 0)
	var lines []catalog.Line
	if err := w.a.State().View(ctx, func(v catalog.View) (err error) {
		lines, err = v.Lines(out.Run, 100)
		return err
	}); err != nil || !strings.Contains(fmt.Sprint(lines), "fewer than 6 connections") {
		t.Errorf("%v %v", lines, err)
	}
}

func TestBandwidth(t *testing.T) {
	w := newWorld(t)
	for i := range 4 {
		w.d.Put(t, "alice", "", fmt.Sprintf("%d.m:2,", i), append(mail(i), bytes.Repeat([]byte("0123456789\n"), 10_000)...))
	}
	p := w.profile(t, w.d.IMAPS, func(p *ingest.Profile) { p.Bandwidth = 300_000 })
	start := time.Now()
	w.want(t, w.run(t, p), catalog.RunDone, 4, 0, 0)
	if d := time.Since(start); d < 1200*time.Millisecond {
		t.Errorf("480 kB at 300 kB/s took %s", d)
	}
}
