package extract

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/letterhold/letterhold/internal/mailtest/corpus"
	"github.com/letterhold/letterhold/internal/message"
)

// unknownCharsets are the samples whose charset has a name that no registry and
// no table of ours knows. The text is read as UTF-8, else as Windows-1252.
var unknownCharsets = map[string]string{
	"mime/enmime/testdata/low-quality/unk-charset-part.raw":              "an invented name",
	"mime/enmime/testdata/mail/html-mime-bad-unknown-charset-inline.raw": "an invented name",
	"mime/enmime/testdata/parts/missing-closing-param-quote.raw":         "a quote and a line end are missing, so that the next field is in the name",
}

// damaged are the samples with text that is invalid in its own charset.
var damaged = map[string]string{
	"spamassassin/spam-1/00116.29e39a0064e2714681726ac28ff3fdef.txt": "binary rubbish behind the text",
	"spamassassin/spam-2/01065.9ecef01b01ca912fa35453196b4dae4c.txt": "binary rubbish behind the text",
	"spamassassin/spam-2/01227.04a4f94c7a73b29cb56bf38c7d526116.txt": "binary rubbish behind the text",
	"spamassassin/spam-2/01376.73e738e4cd8121ce3dfb42d190b193c9.txt": "binary rubbish behind the text",
	"spamassassin/spam-2/01064.50715ffeb13446500895836b77fcee09.txt": "quoted-printable broken inside characters",
	"spamassassin/spam-2/00006.3ca1f399ccda5d897fecb8c57669a283.txt": "invalid Big5 among valid",
	"mime/sisimai/maildir/bsd/rfc3464-66.eml":                        "a picture that claims to be text",
	"mime/mimekit/yenc/simple.msg":                                   "yEnc inside the text",
	"mime/enmime/testdata/parts/chardet-fail.raw":                    "a picture that claims to be text",
}

// Every text of the suites is decoded, whatever its charset is called.
func TestCharsetsOfSuites(t *testing.T) {
	c := corpus.Dir(t)
	texts, unknown, broken := 0, map[string]int{}, map[string]int{}
	for _, suite := range []string{"cpython", "enmime", "mime4j", "mimekit", "mox", "nodemailer-mailparser", "ruby-mail", "sisimai", "stalwart-mail-parser", "../spamassassin"} {
		for _, f := range files(t, mimeSuite(t, suite), func(n string) bool {
			switch filepath.Ext(n) {
			case ".eml", ".raw", ".msg", ".txt":
				return !strings.Contains(n, "_decoded_")
			}
			return false
		}) {
			raw := slurp(t, f)
			if !message.LooksLikeMail(raw) {
				continue
			}
			m := message.Parse(raw)
			nodeOf(m, m.Root, 0).walk(func(n node) {
				if len(n.children) > 0 || !strings.HasPrefix(n.p.Type, "text/") {
					return
				}
				texts++
				charset := strings.ToLower(n.p.Params["charset"])
				b := n.m.Decode(n.p)
				s, known := message.DecodeCharset(b, charset)
				rel, _ := filepath.Rel(c, f)
				if charset != "" && !known {
					unknown[rel]++
					if unknownCharsets[rel] == "" {
						t.Errorf("%s: a charset is not known", rel)
					}
				}
				if strings.ContainsRune(s, 0xFFFD) && !strings.Contains(string(b), "\uFFFD") {
					broken[rel]++
					if damaged[rel] == "" {
						t.Errorf("%s: a text has replacement characters", rel)
					}
				}
			})
		}
	}
	t.Logf("%d texts; %d with an unknown charset, %d with invalid bytes", texts, sum(unknown), sum(broken))
	if len(unknown) != len(unknownCharsets) || len(broken) != len(damaged) {
		t.Errorf("of %d unknown charsets %d are met, of %d damaged samples %d", len(unknownCharsets), len(unknown), len(damaged), len(broken))
	}
}

func sum(m map[string]int) (n int) {
	for _, c := range m {
		n += c
	}
	return n
}
