package imapclient_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// A server that offers the binding is asked for it, but for Cyrus, which cannot
// do it; and Cyrus too where no certificate was verified.
func TestBinding(t *testing.T) {
	ca := mailtest.NewAuthority(t)
	for name, tc := range map[string]struct {
		id    string
		trust tlsconf.Trust
		want  string // the mechanism and the beginning of its first message
	}{
		"a server": {`("name" "Dovecot")`, tlsconf.Trust{CA: ca.PEM}, "SCRAM-SHA-256-PLUS p=tls-exporter,,"},
		"nameless": {`NIL`, tlsconf.Trust{CA: ca.PEM}, "SCRAM-SHA-256-PLUS p=tls-exporter,,"},
		"Cyrus":    {`("version" "3.6.1" "name" "Cyrus IMAPD")`, tlsconf.Trust{CA: ca.PEM}, "SCRAM-SHA-256 n,,"},
		"whoever says Cyrus and shows any certificate": {`("name" "Cyrus IMAPD")`, tlsconf.Trust{Unverified: true}, "SCRAM-SHA-256-PLUS p=tls-exporter,,"},
	} {
		t.Run(name, func(t *testing.T) {
			tried := []string{}
			done := make(chan struct{})
			h := startHostile(t, ca.Issue(t, nil), 0, func(s *session) {
				defer close(done)
				if !s.secure() {
					return
				}
				s.say("* OK ready\r\n")
				s.serve(func(tag, cmd string) bool {
					switch word, rest, _ := strings.Cut(cmd, " "); word {
					case "CAPABILITY":
						s.say("* CAPABILITY IMAP4rev1 ID SASL-IR AUTH=PLAIN AUTH=SCRAM-SHA-256 AUTH=SCRAM-SHA-256-PLUS\r\n" + tag + " OK\r\n")
					case "ID":
						s.say("* ID " + tc.id + "\r\n" + tag + " OK\r\n")
					case "AUTHENTICATE":
						mechanism, initial, _ := strings.Cut(rest, " ")
						b, _ := base64.StdEncoding.DecodeString(initial)
						head, _, _ := strings.Cut(string(b), "n=alice")
						tried = append(tried, mechanism+" "+head)
						s.say(tag + " NO refused\r\n")
					default:
						return false
					}
					return true
				})
			})
			if err := connect(h, imapclient.ImplicitTLS, tc.trust); err == nil {
				t.Error("signed in at a server that refuses")
			}
			<-done
			if len(tried) != 1 || tried[0] != tc.want {
				t.Errorf("tried %q, want %q alone", tried, tc.want)
			}
		})
	}
}
