package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/letterhold/letterhold/internal/mailtest/corpus"
)

// notMail says why files with the endings of mail are no mail.
var notMail = map[string]string{
	"mime/cpython/Lib/test/test_email/data/msg_19.txt":                                    "text without a header: the body of a digest",
	"mime/enmime/testdata/mail/erroneous.raw":                                             "one line of text, to be refused",
	"mime/mime4j/core/src/test/resources/testmsgs/malformedHeader-noheader.msg":           "text without a header",
	"mime/mime4j/core/src/test/resources/testmsgs/malformedHeaderStartsBody-noheader.msg": "text without a header",
	"mime/mime4j/core/src/test/resources/mimetools-testmsgs/ARTISTIC-LICENSE.txt":         "a licence",
	"mime/mime4j/core/src/test/resources/mimetools-testmsgs/README.txt":                   "a description of the samples",
	"mime/ruby-mail/spec/fixtures/attachments/てすと.txt":                                    "a file to be attached",
	"mime/mox/testdata/imapclient/fuzzseed.txt":                                           "lines of the IMAP protocol",
}

// notMailIn says it for the files of a folder.
var notMailIn = map[string]string{
	"mime/mimekit/encoders":              "a text to be encoded",
	"mime/mimekit/text":                  "texts to be wrapped",
	"mime/mox/licenses":                  "licences",
	"mime/stalwart-mail-parser/LICENSES": "licences",
	"mime/mimekit/tnef/triples":          "what is inside a TNEF file",
	"mime/mox/vendor":                    "licences",
	"mime/mox/testdata/integration":      "descriptions of keys",
	"mime/mox/testdata/web":              "a page",
	"mime/mox/testdata/webserver":        "a page",
}

// Every file of the suites that is mail comes out with its own bytes; of an
// mbox each message, counted and cut by a reader that is not ours.
func TestCorpusBytes(t *testing.T) {
	c := corpus.Dir(t)
	dir := t.TempDir()
	ok(t, dir, "init", "a", "--json")
	paths := suiteFiles(t, c)
	out, errs, code := lh(t, dir, append([]string{"import", "--mailbox", "m", "--json"}, paths...)...)
	if code != 0 {
		t.Fatal(code, errs)
	}
	var r struct{ Seen, Archived, Present, Skipped, Failed int }
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	ok(t, dir, "export", "*", "--format", "maildir", "--to", "out")
	have := map[[32]byte]bool{}
	readAll(t, filepath.Join(dir, "out"), func(_ string, b []byte) { have[sha256.Sum256(b)] = true })

	messages, mboxes, skipped := 0, 0, 0
	used := map[string]bool{}
	for _, p := range paths {
		rel, _ := filepath.Rel(c, p)
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if at := listed(rel); at != "" {
			skipped++
			used[at] = true
			if have[sha256.Sum256(b)] {
				t.Errorf("%s is listed as no mail, and was archived", rel)
			}
			continue
		}
		whole := [][]byte{b}
		if mboxed.Match(b) && bytes.IndexByte(b, '\n') >= 0 {
			whole = splitMbox(b)
			mboxes++
		}
		for i, m := range whole {
			messages++
			if !have[sha256.Sum256(m)] {
				t.Errorf("%s: message %d of %d, %d bytes, is not among the exported ones", rel, i+1, len(whole), len(m))
			}
		}
	}
	t.Logf("%d messages in %d files, %d of these mboxes; %d files are no mail", messages, len(paths)-skipped, mboxes, skipped)
	if r.Archived+r.Present != messages || r.Skipped != skipped || r.Failed != 0 {
		t.Errorf("import %+v, the test's own reader: %d messages, %d skipped", r, messages, skipped)
	}
	for _, table := range []map[string]string{notMail, notMailIn} {
		for at := range table {
			if !used[at] {
				t.Errorf("%s is listed as no mail, and is not there", at)
			}
		}
	}
}

// listed tells where a file is listed as no mail; "" if it is mail.
func listed(rel string) string {
	if notMail[rel] != "" {
		return rel
	}
	for d := filepath.Dir(rel); d != "."; d = filepath.Dir(d) {
		if notMailIn[d] != "" {
			return d
		}
	}
	return ""
}

// suiteFiles lists what has the name of a message, an mbox or a text.
func suiteFiles(t *testing.T, real string) (out []string) {
	t.Helper()
	for _, suite := range []string{"mime/cpython", "mime/enmime", "mime/mime4j", "mime/mimekit", "mime/mox", "mime/nodemailer-mailparser", "mime/ruby-mail", "mime/sisimai", "mime/stalwart-mail-parser", "journal/o365", "journal/synthetic"} {
		err := filepath.WalkDir(filepath.Join(real, suite), func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			if strings.Contains(d.Name(), "_decoded_") || strings.HasSuffix(d.Name(), "-summary.txt") {
				return nil // a result that is shipped with a sample
			}
			switch filepath.Ext(p) {
			case ".eml", ".raw", ".msg", ".txt", ".mbox", ".rfc822", ".original":
				out = append(out, p)
			default:
				if strings.HasPrefix(d.Name(), "mbox") {
					out = append(out, p)
				}
			}
			return nil
		})
		if err != nil {
			corpus.Lacking(t, err)
		}
	}
	return out
}

var (
	dated   = regexp.MustCompile(`(?m)^From \S.* \d\d?:\d\d(:\d\d)?( .*)? \d{4}[ \t]*\r?$`)
	odd     = regexp.MustCompile(`(?m)^From (-|\S+@\S+|\S+ .*\d\d:\d\d.*)[ \t]*\r?\n[A-Za-z-]+:`)
	mboxed  = regexp.MustCompile(`^(\x{FEFF})?From [ \t]*[^ \t:]`)
	counted = regexp.MustCompile(`(?mi)^Content-Length:[ \t]*(\d+)[ \t]*\r?$`)
	headEnd = regexp.MustCompile(`\n\r?\n`)
)

func firstLine(b []byte) []byte {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return line
}

// splitMbox cuts an mbox by the rules on the first page of package mbox, in
// another way: all separators are looked up first.
func splitMbox(b []byte) (out [][]byte) {
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	seps := map[int]bool{0: true}
	re := []*regexp.Regexp{dated}
	if !dated.Match(firstLine(b)) {
		re = append(re, odd)
	}
	for _, re := range re {
		for _, loc := range re.FindAllIndex(b, -1) {
			seps[loc[0]] = true
		}
	}
	for at := 0; at < len(b); {
		body := len(b)
		if i := bytes.IndexByte(b[at:], '\n'); i >= 0 {
			body = at + i + 1
		}
		end := body
		for end < len(b) && !seps[end] {
			n := bytes.IndexByte(b[end:], '\n') + 1
			if n == 0 {
				n = len(b) - end
			}
			end += n
		}
		next, cut := end, true
		if h := headEnd.FindIndex(b[body:]); h != nil {
			if l := counted.FindSubmatch(b[body : body+h[0]+1]); l != nil {
				n, _ := strconv.Atoi(string(l[1]))
				if stop := body + h[1] + n; stop <= len(b) {
					rest := bytes.TrimPrefix(bytes.TrimPrefix(b[stop:], []byte("\r")), []byte("\n"))
					if seps[stop] || len(rest) == 0 || seps[len(b)-len(rest)] {
						end, next, cut = stop, len(b)-len(rest), false
						if seps[stop] {
							next = stop
						}
					}
				}
			}
		}
		m := b[body:end]
		if cut && (next < len(b) || len(out) > 0) {
			for _, blank := range []string{"\r\n", "\n"} {
				if rest, ok := bytes.CutSuffix(m, []byte(blank)); ok && (len(rest) == 0 || rest[len(rest)-1] == '\n') {
					m = rest
					break
				}
			}
		}
		out = append(out, m)
		at = next
	}
	return out
}
