package imapclient_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// idleAt signs in at a server that says what a script tells it to IDLE, and
// opens INBOX with 3 messages.
func idleAt(t *testing.T, caps string, idle func(s *session, tag string)) *imapclient.Client {
	t.Helper()
	ca := mailtest.NewAuthority(t)
	h := startHostile(t, ca.Issue(t, nil), 0, func(s *session) {
		if !s.secure() {
			return
		}
		s.say("* OK ready\r\n")
		s.serve(func(tag, cmd string) bool {
			switch word, _, _ := strings.Cut(cmd, " "); word {
			case "CAPABILITY":
				s.say("* CAPABILITY IMAP4rev1 AUTH=PLAIN " + caps + "\r\n" + tag + " OK\r\n")
			case "EXAMINE":
				s.say("* 3 EXISTS\r\n* OK [UIDVALIDITY 1]\r\n* OK [UIDNEXT 4]\r\n" + tag + " OK\r\n")
			case "IDLE":
				idle(s, tag)
			default:
				return false
			}
			return true
		})
	})
	c, err := imapclient.Dial(context.Background(), imapclient.Options{Dialer: &tlsconf.Dialer{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, Host: "localhost", Port: h.port,
		Security: imapclient.ImplicitTLS, Trust: tlsconf.Trust{CA: ca.PEM}, Literal: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SignIn(imapclient.Credential{User: "alice", Password: canary}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Examine(&imapclient.Folder{Name: "INBOX"}); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestIdle(t *testing.T) {
	// done reads the end of IDLE and answers it.
	done := func(t *testing.T, s *session, tag string) {
		if word, _ := s.hear(); word != "DONE" {
			t.Errorf("IDLE is ended with %q", word)
		}
		s.say(tag + " OK\r\n")
	}
	const long = 5 * time.Second
	for name, tc := range map[string]struct {
		wait time.Duration
		idle func(s *session, tag string)
		more bool
		want string // in the error
	}{
		"a message": {long, func(s *session, tag string) {
			s.say("+ idling\r\n* OK Still here\r\n* 2 FETCH (FLAGS (\\Seen))\r\n* 4 EXISTS\r\n")
			done(t, s, tag)
		}, true, ""},
		"one goes, one comes": {long, func(s *session, tag string) {
			s.say("+ idling\r\n* 1 EXPUNGE\r\n* 2 EXISTS\r\n* 3 EXISTS\r\n")
			done(t, s, tag)
		}, true, ""},
		"it came before": {long, func(s *session, tag string) {
			s.say("* 4 EXISTS\r\n+ idling\r\n")
			done(t, s, tag)
		}, true, ""},
		"it comes at the end": {10 * time.Millisecond, func(s *session, tag string) {
			s.say("+ idling\r\n")
			s.hear()
			s.say("* 4 EXISTS\r\n" + tag + " OK\r\n")
		}, true, ""},
		"nothing": {10 * time.Millisecond, func(s *session, tag string) {
			s.say("+ idling\r\n* 3 EXISTS\r\n* 3 EXPUNGE\r\n")
			done(t, s, tag)
		}, false, ""},
		"refused":    {long, func(s *session, tag string) { s.say(tag + " NO not now\r\n") }, false, "refused"},
		"bye":        {long, func(s *session, tag string) { s.say("+ idling\r\n* BYE restarting\r\n") }, false, "ended the connection"},
		"cut":        {long, func(s *session, tag string) { s.say("+ idling\r\n* 4 EXI"); s.c.Close() }, false, "EOF"},
		"tagged":     {long, func(s *session, tag string) { s.say("+ idling\r\n" + tag + " OK\r\n") }, false, "within IDLE"},
		"OK at once": {long, func(s *session, tag string) { s.say(tag + " OK\r\n") }, false, "by itself"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := idleAt(t, "IDLE", tc.idle)
			began := time.Now()
			more, err := c.Idle(tc.wait)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if more != tc.more {
				t.Errorf("more is %v", more)
			}
			if time.Since(began) > long-time.Second {
				t.Error("it waited although it knew")
			}
			if tc.want == "" { // the connection is still good
				if _, err := c.Examine(&imapclient.Folder{Name: "INBOX"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if _, err := idleAt(t, "", nil).Idle(time.Second); !errors.Is(err, imapclient.ErrNoIdle) {
		t.Errorf("without IDLE: %v", err)
	}
}
