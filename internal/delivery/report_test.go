package delivery

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/letterhold/letterhold/internal/mailtest/corpus"
)

func report(text, carried string) string {
	return "From: journal@example.org\nMessage-ID: <1@journal.report.generator>\nX-MS-Journal-Report:\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\n" +
		text + "\n--b\nContent-Type: message/rfc822\n\n" + carried + "\n--b--\n"
}

const inner = "From: ann@example.org\nTo: bob@example.org\nSubject: s\n\nRecipient: eve@example.org\n"

func TestReport(t *testing.T) {
	got, ok := ParseReport([]byte(report("Sender: ann@example.org\nOn-Behalf-Of: boss@example.org\nSubject: Recipient: eve@example.org\nMessage-Id: <7@example.org>\nTo: bob@example.org, Expanded: team@example.org\nBcc: \"Carl, C.\" <carl@example.org>\nRecipient: dan@example.org, Forwarded: bob@example.org\nLabel: x\nUnknown: y\n", inner)))
	if !ok {
		t.Fatal("not taken for a report")
	}
	want := &Report{Sender: "ann@example.org", OnBehalfOf: "boss@example.org", MessageID: "7@example.org", Label: "x", Original: []byte(inner), Recipients: []Recipient{
		{Address: "bob@example.org", Kind: "to", Expanded: "team@example.org"}, {Address: "carl@example.org", Kind: "bcc"}, {Address: "dan@example.org", Kind: "recipient", Forwarded: "bob@example.org"}}}
	if raw := string(got.Before) + inner + string(got.Behind); !strings.HasPrefix(raw, "From: journal@") || !strings.HasSuffix(raw, "--b--\n") {
		t.Errorf("around the message: %q", raw)
	}
	got.Before, got.Behind = nil, nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name, raw := range map[string]string{
		"a plain mail":             inner,
		"its text alone":           "Message-ID: <1@journal.report.generator>\n\nSender: a@example.org\nRecipient: b@example.org\n",
		"a mail that carries one":  strings.ReplaceAll(strings.ReplaceAll(report("Sender: a@example.org", inner), "X-MS-Journal-Report:\n", ""), "@journal.report.generator", "@example.org"),
		"without an envelope":      report("hello", inner),
		"nothing":                  "",
		"a multipart of one child": "X-MS-Journal-Report:\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nSender: a@example.org\n--b--\n",
	} {
		if r, ok := ParseReport([]byte(raw)); ok {
			t.Errorf("%s is taken for a report: %+v", name, r)
		}
	}
	cut, ok := ParseReport([]byte(strings.TrimSuffix(report("Sender: a@example.org\nTo: b@example.org", inner), "--b--\n")))
	if !ok || cut.Original != nil || cut.Sender != "a@example.org" {
		t.Errorf("cut off: %v %+v", ok, cut)
	}
}

// The reports of the corpus give the recipients and originals that belong to
// them.
func TestCorpus(t *testing.T) {
	real := corpus.Dir(t)
	n := 0
	for _, dir := range []string{"o365", "synthetic"} {
		dir = filepath.Join(real, "journal", dir)
		b, err := os.ReadFile(filepath.Join(dir, "expected.json"))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var expected []struct {
			File       string
			IsReport   bool   `json:"is_journal_report"`
			Sum        string `json:"original_sha256"`
			Sender     string
			OnBehalfOf string `json:"on_behalf_of"`
			MessageID  string `json:"original_message_id"`
			Label      string
			Recipients []struct {
				Address, Kind string
				Expanded      string `json:"expanded_from"`
				Forwarded     string `json:"forwarded_from"`
			}
		}
		if err := json.Unmarshal(b, &expected); err != nil {
			t.Fatal(err)
		}
		for _, e := range expected {
			n++
			raw, err := os.ReadFile(filepath.Join(dir, e.File))
			if err != nil {
				t.Fatal(err)
			}
			r, ok := ParseReport(raw)
			if ok != e.IsReport {
				t.Errorf("%s: taken for a report: %v", e.File, ok)
				continue
			}
			if !ok {
				continue
			}
			sum := ""
			if r.Original != nil {
				s := sha256.Sum256(r.Original)
				sum = hex.EncodeToString(s[:])
			}
			if sum != e.Sum || r.Sender != e.Sender || r.OnBehalfOf != e.OnBehalfOf || r.MessageID != e.MessageID || len(r.Recipients) != len(e.Recipients) || r.Label != e.Label {
				t.Errorf("%s: original %v, sender %v, behalf %v, id %v, label %v, %d recipients of %d", e.File, sum == e.Sum, r.Sender == e.Sender, r.OnBehalfOf == e.OnBehalfOf, r.MessageID == e.MessageID, r.Label == e.Label, len(r.Recipients), len(e.Recipients))
				continue
			}
			for i, x := range e.Recipients {
				if (Recipient{Address: x.Address, Kind: x.Kind, Expanded: x.Expanded, Forwarded: x.Forwarded}) != r.Recipients[i] {
					t.Errorf("%s: recipient %d differs", e.File, i)
				}
			}
		}
	}
	if n == 0 {
		t.Error("no expected results found")
	}
	t.Logf("%d reports", n)
}

func FuzzReport(f *testing.F) {
	f.Add([]byte(report("Sender: a@example.org\nRecipients:\n\"B\" b@example.org\nTo: c@example.org, Expanded: d@example.org", inner)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := ParseReport(b)
		if ok && len(r.Original) > len(b) {
			t.Fatal("more than was there")
		}
	})
}
