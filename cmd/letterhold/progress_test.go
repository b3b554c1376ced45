package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestBar(t *testing.T) {
	got := bar("importing", 10e6, 20e6, 10*time.Second, "3000 messages", 90)
	if want := "importing [############............]  50 %  1.0 MB/s, 11 s left  3000 messages"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for width := range 120 {
		for _, done := range []int64{0, 1, 7e6, 20e6, 30e6} {
			for _, all := range []int64{0, 20e6} {
				line := bar("importing", done, all, 90*time.Minute, "12345678 messages", width)
				if n := utf8.RuneCountInString(line); n > width {
					t.Errorf("%d cells in a terminal of %d: %q", n, width, line)
				}
				if all > 0 && width >= 5 && !strings.Contains(line, "%") {
					t.Errorf("no share at %d cells: %q", width, line)
				}
			}
		}
	}
}

func TestProgressDrawsOneLine(t *testing.T) {
	var w bytes.Buffer
	p := (&env{stderr: &w, width: 30}).progress("importing")
	p.set(1, 2, "x")
	p.set(2, 2, "too soon")
	p.say("making the rest searchable, whatever that takes")
	p.end()
	p.set(1, 2, "after the end")
	lines := strings.Split(w.String(), "\r\x1b[K")
	if len(lines) != 4 || !strings.Contains(lines[1], "50 %") || lines[2] != "importing: making the rest se" || lines[3] != "" || strings.Contains(w.String(), "\n") {
		t.Errorf("%q is drawn", w.String())
	}
	w.Reset()
	(&env{stderr: &w}).progress("importing").set(1, 2, "no terminal")
	if w.Len() > 0 {
		t.Errorf("%q is drawn where there is no terminal", w.String())
	}
}

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "100": 100, "2MB": 2_000_000, "500 kB": 500_000, "1.5G": 1_500_000_000, "64KiB": 65536, "3m": 3_000_000, "x": -1, "": -1, "-1": -1, "2TB": -1, "MB": -1, "1e99": -1, "NaN": -1} {
		n, err := parseBytes(s)
		if want < 0 && err == nil || want >= 0 && (err != nil || n != want) {
			t.Errorf("%q: %d %v", s, n, err)
		}
	}
}
