package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// progress draws one line on a terminal: done, of all, rate, time left. It is
// silent where there is no terminal.
type progress struct {
	w     io.Writer
	width int
	what  string
	start time.Time

	mu    sync.Mutex
	drawn time.Time
	open  bool
}

func (e *env) progress(what string) *progress {
	return &progress{w: e.stderr, width: e.width, what: what, start: time.Now()}
}

// set draws the line, ten times a second at most. note stands behind it.
func (p *progress) set(done, all int64, note string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.width == 0 || time.Since(p.drawn) < 100*time.Millisecond {
		return
	}
	p.drawn, p.open = time.Now(), true
	spent := time.Since(p.start)
	rate := float64(done) / max(spent.Seconds(), 0.001)
	line := fmt.Sprintf("%s %s/s", p.what, human(int64(rate)))
	if all > 0 {
		share := min(1, float64(done)/float64(all))
		const cells = 24
		full := int(share * cells)
		left := ""
		if share > 0.01 && spent > time.Second {
			left = ", " + round(time.Duration(float64(spent)*(1/share-1))) + " left"
		}
		line = fmt.Sprintf("%s [%s%s] %3.0f %%  %s/s%s", p.what, strings.Repeat("#", full), strings.Repeat(".", cells-full), share*100, human(int64(rate)), left)
	}
	if note != "" {
		line += "  " + note
	}
	if r := []rune(line); len(r) > p.width-1 {
		line = string(r[:max(0, p.width-1)])
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", line)
}

// end removes the line.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
	p.width = 0
}

func round(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds())+1)
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes())+1)
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}

// logger logs warnings and errors as text.
func (e *env) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
