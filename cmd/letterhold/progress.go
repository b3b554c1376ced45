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
	p.drawn = time.Now()
	p.draw(bar(p.what, done, all, time.Since(p.start), note, p.width-1))
}

// say draws the line with words instead of numbers.
func (p *progress) say(words string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.width > 0 {
		p.draw(cut(p.what+": "+words, p.width-1))
	}
}

func (p *progress) draw(line string) {
	p.open = true
	fmt.Fprintf(p.w, "\r\x1b[K%s", line)
}

// The length of the bar in cells.
const (
	mostCells  = 24
	leastCells = 4
)

// bar is the line for a terminal of width cells. Where there is not enough room
// the note goes first, then the time left, then the rate, then the bar shrinks.
func bar(what string, done, all int64, spent time.Duration, note string, width int) string {
	rate := human(int64(float64(done)/max(spent.Seconds(), 0.001))) + "/s"
	if note != "" {
		note = "  " + note
	}
	if all <= 0 {
		if line := what + " " + rate + note; len([]rune(line)) <= width {
			return line
		}
		return cut(what+" "+rate, width)
	}
	share := min(1, float64(done)/float64(all))
	left := ""
	if share > 0.01 && spent > time.Second {
		left = ", " + round(time.Duration(float64(spent)*(1/share-1))) + " left"
	}
	for _, tail := range []string{"  " + rate + left + note, "  " + rate + left, "  " + rate, ""} {
		tail = fmt.Sprintf(" %3.0f %%", share*100) + tail
		cells := min(mostCells, width-len([]rune(what+" []"+tail)))
		if cells >= leastCells {
			full := int(share * float64(cells))
			return what + " [" + strings.Repeat("#", full) + strings.Repeat(".", cells-full) + "]" + tail
		}
	}
	return cut(fmt.Sprintf("%.0f %%", share*100), width)
}

func cut(s string, width int) string {
	if r := []rune(s); len(r) > width {
		return string(r[:max(0, width)])
	}
	return s
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
