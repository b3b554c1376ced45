package imapclient_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// What an administrator says to open alice's account, and that a refusal is
// final.
func TestAdministrators(t *testing.T) {
	ca := mailtest.NewAuthority(t)
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for name, tc := range map[string]struct {
		caps   string
		cr     imapclient.Credential
		refuse string // the command that the server refuses
		want   []string
	}{
		"authorization identity": {"AUTH=PLAIN AUTH=SCRAM-SHA-256", imapclient.Credential{User: "root", Password: canary, As: "alice", Plain: true}, "",
			[]string{"AUTHENTICATE PLAIN " + b64("alice\x00root\x00"+canary)}},
		"PROXYAUTH": {"AUTH=PLAIN", imapclient.Credential{User: "root", Password: canary, As: "alice", Proxy: true}, "",
			[]string{"AUTHENTICATE PLAIN " + b64("\x00root\x00"+canary), `PROXYAUTH "alice"`}},
		"PROXYAUTH is refused": {"AUTH=PLAIN", imapclient.Credential{User: "root", Password: canary, As: "bob", Proxy: true}, "PROXYAUTH",
			[]string{"AUTHENTICATE PLAIN " + b64("\x00root\x00"+canary), `PROXYAUTH "bob"`}},
		"PLAIN is refused": {"AUTH=PLAIN AUTH=SCRAM-SHA-256 AUTH=LOGIN", imapclient.Credential{User: "root", Password: canary, As: "alice", Plain: true}, "AUTHENTICATE",
			[]string{"AUTHENTICATE PLAIN " + b64("alice\x00root\x00"+canary)}},
		"nothing for somebody else": {"AUTH=LOGIN", imapclient.Credential{User: "root", Password: canary, As: "alice", Plain: true}, "none", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var heard []string
			done := make(chan struct{})
			h := startHostile(t, ca.Issue(t, nil), 0, func(s *session) {
				defer close(done)
				if !s.secure() {
					return
				}
				s.say("* OK ready\r\n")
				s.serve(func(tag, cmd string) bool {
					word, _, _ := strings.Cut(cmd, " ")
					switch {
					case word == "CAPABILITY":
						s.say("* CAPABILITY IMAP4rev1 SASL-IR " + tc.caps + "\r\n" + tag + " OK\r\n")
						return true
					case word == "LOGOUT":
						return false
					}
					heard = append(heard, cmd)
					if word == tc.refuse {
						s.say(tag + " NO not you\r\n")
					} else {
						s.say(tag + " OK\r\n")
					}
					return true
				})
			})
			c, err := imapclient.Dial(context.Background(), imapclient.Options{Dialer: &tlsconf.Dialer{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, Host: "localhost", Port: h.port,
				Security: imapclient.ImplicitTLS, Trust: tlsconf.Trust{CA: ca.PEM}, Literal: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			err = c.SignIn(tc.cr)
			if tc.refuse == "" && err != nil || tc.refuse != "" && err == nil {
				t.Error(err)
			}
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("the password is in the error: %v", err)
			}
			c.Close()
			<-done
			if !slices.Equal(heard, tc.want) {
				t.Errorf("the server heard %q, want %q", heard, tc.want)
			}
		})
	}
}

// A limit is for a while, in whatever words; a mailbox that is full is a refusal.
func TestLater(t *testing.T) {
	for _, tc := range []struct {
		e    imapclient.StatusError
		want error
	}{
		{imapclient.StatusError{Command: "UID FETCH", Status: "NO", Code: "OVERQUOTA", Text: "x"}, imapclient.ErrLater},
		{imapclient.StatusError{Command: "AUTHENTICATE PLAIN", Status: "NO", Code: "ALERT", Text: "Account exceeded command or bandwidth limits. (Failure)"}, imapclient.ErrLater},
		{imapclient.StatusError{Command: "UID FETCH", Status: "BAD", Code: "throttled", Text: "x"}, imapclient.ErrLater},
		{imapclient.StatusError{Command: "APPEND", Status: "NO", Code: "OVERQUOTA", Text: "full"}, imapclient.ErrRefused},
		{imapclient.StatusError{Command: "UID FETCH", Status: "NO", Code: "", Text: "no"}, imapclient.ErrRefused},
	} {
		for _, err := range []error{imapclient.ErrLater, imapclient.ErrRefused} {
			if got := errors.Is(&tc.e, err); got != (err == tc.want) {
				t.Errorf("%v is %v: %v", &tc.e, err, got)
			}
		}
	}
}
