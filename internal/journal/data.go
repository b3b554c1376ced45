package journal

import (
	"fmt"
	"io"
)

// place is where in a line of DATA the reader is.
type place uint8

const (
	begin place = iota // of a line: after DATA or after CRLF, and nothing else
	within
	afterCR  // whose LF is due
	afterDot // at the beginning of a line
	afterDotCR
	ended // by CRLF.CRLF
)

// step is what one byte does.
type step struct {
	to   place
	keep bool   // the byte belongs to the message
	bad  string // why the message is refused
}

const (
	bareCR = "CR without LF"
	bareLF = "LF without CR"
)

// steps is the reader (RFC 5321, 4.1.1.4 and 4.5.2). Only CRLF begins a line,
// so only CRLF.CRLF ends a message: what other programs might take for its end
// (LF.LF, CR.CR, LF.CRLF, CRLF.LF) is part of a message that is refused, and
// nothing can be smuggled behind it.
var steps = [ended][4]step{
	//            CR                        LF                          dot                      other
	begin:      {{afterCR, true, ""}, {within, true, bareLF}, {afterDot, false, ""}, {within, true, ""}},
	within:     {{afterCR, true, ""}, {within, true, bareLF}, {within, true, ""}, {within, true, ""}},
	afterCR:    {{afterCR, true, bareCR}, {begin, true, ""}, {within, true, bareCR}, {within, true, bareCR}},
	afterDot:   {{afterDotCR, false, ""}, {within, true, bareLF}, {within, true, ""}, {within, true, ""}},
	afterDotCR: {{afterCR, true, bareCR}, {ended, false, ""}, {within, true, bareCR}, {within, true, bareCR}},
}

// class is the column of steps for a byte.
func class(b byte) int {
	switch b {
	case '\r':
		return 0
	case '\n':
		return 1
	case '.':
		return 2
	}
	return 3
}

// data reads what follows DATA and writes the message to w, until the first
// fault; after one it only looks for the end. The zero value with w and max
// set is ready.
type data struct {
	w   io.Writer
	max int64 // bytes of a message

	at    place
	read  int64 // bytes that came
	size  int64 // bytes of the message
	lines int   // that have ended
	bad   string
	err   error // of w
}

// feed takes bytes and returns how many of them it used: all, unless the
// message ended.
func (d *data) feed(b []byte) (n int) {
	from := 0 // of what is not written yet
	for n < len(b) && d.at != ended {
		s := steps[d.at][class(b[n])]
		d.at = s.to
		if s.bad != "" && d.bad == "" {
			d.bad = fmt.Sprintf("line %d has %s", d.lines+1, s.bad)
		}
		if b[n] == '\n' {
			d.lines++
		}
		if !s.keep {
			d.write(b[from:n])
			from = n + 1
		}
		n++
	}
	if from < n {
		d.write(b[from:n])
	}
	d.read += int64(n)
	return n
}

func (d *data) write(b []byte) {
	d.size += int64(len(b))
	if len(b) > 0 && d.bad == "" && !d.tooLarge() && d.err == nil {
		_, d.err = d.w.Write(b)
	}
}

func (d *data) tooLarge() bool { return d.size > d.max }
