package imapclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// taker is a server under TLS that takes messages as its capabilities say, and
// keeps what it was told.
type taker struct {
	caps string
	over func(s *session, tag, cmd string) bool

	mu   sync.Mutex
	said []string // commands
	got  []string // literals of APPEND
}

func (k *taker) start(t *testing.T) *imapclient.Client {
	t.Helper()
	ca := mailtest.NewAuthority(t)
	h := startHostile(t, ca.Issue(t, nil), 0, func(s *session) {
		if !s.secure() {
			return
		}
		s.say("* OK ready\r\n")
		s.serve(func(tag, cmd string) bool { return k.hear(s, tag, cmd) })
	})
	c, err := imapclient.Dial(context.Background(), imapclient.Options{
		Dialer: &tlsconf.Dialer{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
		Host:   "127.0.0.1", Port: h.port, Security: imapclient.ImplicitTLS, Trust: tlsconf.Trust{CA: ca.PEM}, Literal: 1 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SignIn(imapclient.Credential{User: "alice", Password: canary}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (k *taker) hear(s *session, tag, cmd string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.said = append(k.said, cmd)
	if k.over != nil && k.over(s, tag, cmd) {
		return true
	}
	switch word, _, _ := strings.Cut(cmd, " "); word {
	case "CAPABILITY":
		s.say("* CAPABILITY IMAP4rev1 AUTH=PLAIN " + k.caps + "\r\n" + tag + " OK\r\n")
		return true
	case "APPEND":
		var n int
		var plus bool
		head := cmd[strings.LastIndexByte(cmd, '{'):]
		if _, err := fmt.Sscanf(head, "{%d+}", &n); err == nil && strings.HasSuffix(head, "+}") {
			plus = true
		} else {
			fmt.Sscanf(head, "{%d}", &n)
		}
		if !plus {
			s.say("+ go on\r\n")
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(s.r, b); err != nil {
			return true
		}
		if end, err := s.r.ReadString('\n'); err != nil || end != "\r\n" {
			s.say("* BYE the command does not end\r\n")
			return true
		}
		k.got = append(k.got, string(b))
		s.say(tag + " OK [APPENDUID 1 1] done\r\n")
		return true
	}
	return false
}

// last is the last command that begins with a word.
func (k *taker) last(word string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := len(k.said) - 1; i >= 0; i-- {
		if strings.HasPrefix(k.said[i], word) {
			return k.said[i]
		}
	}
	return ""
}

// A message arrives byte for byte, however literals are sent; the server's
// leave is waited for where it must be.
func TestAppendLiterals(t *testing.T) {
	at := time.Date(2009, 3, 5, 7, 8, 9, 0, time.FixedZone("", 3600))
	small, large := "Subject: a\r\n\r\n.\r\n..\r\nL9 OK\r\n", "Subject: b\r\n\r\n"+strings.Repeat(strings.Repeat("x", 70)+"\r\n", 3000)
	for caps, want := range map[string][2]string{
		"":                  {"{28}", "{216014}"},
		"LITERAL+":          {"{28+}", "{216014}"},
		"LITERAL-":          {"{28+}", "{216014}"},
		"LITERAL+ LITERAL-": {"{28+}", "{216014}"},
	} {
		k := &taker{caps: caps}
		c := k.start(t)
		for i, raw := range []string{small, large} {
			if err := c.Append(&imapclient.Folder{Name: "Grüße & mehr"}, []string{`\Seen`, "$Work"}, at, []byte(raw)); err != nil {
				t.Fatalf("%q: %v", caps, err)
			}
			if got, want := k.last("APPEND"), `APPEND "Gr&APwA3w-e &- mehr" (\Seen $Work) " 5-Mar-2009 07:08:09 +0100" `+want[i]; got != want {
				t.Errorf("%q: %s, want %s", caps, got, want)
			}
		}
		if len(k.got) != 2 || k.got[0] != small || k.got[1] != large {
			t.Errorf("%q: other bytes arrived", caps)
		}
	}
}

func TestAppendMinus(t *testing.T) {
	k := &taker{caps: "LITERAL-"}
	c := k.start(t)
	for n, want := range map[int]string{4096: "{4096+}", 4097: "{4097}"} {
		if err := c.Append(&imapclient.Folder{Name: "INBOX"}, nil, time.Time{}, []byte(strings.Repeat("x", n))); err != nil {
			t.Fatal(err)
		}
		if got := k.last("APPEND"); got != `APPEND "INBOX" `+want {
			t.Errorf("%d bytes: %s", n, got)
		}
	}
}

// What a server must not do, and what it may refuse.
func TestAppendRefused(t *testing.T) {
	folder := &imapclient.Folder{Name: "INBOX"}
	for name, tc := range map[string]struct {
		caps  string
		over  func(s *session, tag, cmd string) bool
		raw   string
		want  string
		alive bool // the connection can be used after it
	}{
		"before it has come":    {"", func(s *session, tag, cmd string) bool { s.say(tag + " NO [OVERQUOTA] full\r\n"); return true }, "x\r\n", "OVERQUOTA", true},
		"OK before it has come": {"", func(s *session, tag, cmd string) bool { s.say(tag + " OK done\r\n"); return true }, "x\r\n", "before it has the message", false},
		"after it has come": {"LITERAL+", func(s *session, tag, cmd string) bool {
			io.CopyN(io.Discard, s.r, 5)
			s.say(tag + " NO [TRYCREATE] no such folder\r\n")
			return true
		}, "x\r\n", "TRYCREATE", true},
		"it asks again":        {"LITERAL+", func(s *session, tag, cmd string) bool { s.say("+ more\r\n"); return true }, "x\r\n", "waits for more", false},
		"it ends":              {"LITERAL+", func(s *session, tag, cmd string) bool { s.say("* BYE no\r\n"); return true }, "x\r\n", "ended the connection", false},
		"too large for all":    {"APPENDLIMIT=10", nil, strings.Repeat("x", 11), "takes 10 at most", true},
		"too large for folder": {"APPENDLIMIT", nil, strings.Repeat("x", 8), "takes 7 at most", true},
		"NUL":                  {"", nil, "a\x00b", "NUL", true},
	} {
		t.Run(name, func(t *testing.T) {
			k := &taker{caps: tc.caps}
			k.over = func(s *session, tag, cmd string) bool {
				switch {
				case strings.HasPrefix(cmd, "APPEND") && tc.over != nil:
					return tc.over(s, tag, cmd)
				case strings.HasPrefix(cmd, "STATUS"):
					s.say("* STATUS INBOX (APPENDLIMIT 7)\r\n" + tag + " OK\r\n")
					return true
				}
				return false
			}
			c := k.start(t)
			err := c.Append(folder, nil, time.Time{}, []byte(tc.raw))
			if err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, imapclient.ErrRefused) != tc.alive {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			k.mu.Lock()
			k.over = nil
			k.mu.Unlock()
			if _, err := c.Folders(); (err == nil) != tc.alive {
				t.Errorf("the connection afterwards: %v", err)
			}
			if tc.over == nil && len(k.got) > 0 {
				t.Error("it was sent all the same")
			}
		})
	}
}

// A flag cannot end the command and begin another.
func TestAppendFlags(t *testing.T) {
	k := &taker{}
	c := k.start(t)
	for _, flag := range []string{"a b", "a)\r\nL9 DELETE INBOX", `\Recent`, "", "{5}", `"x"`, "grün", "a]"} {
		if err := c.Append(&imapclient.Folder{Name: "INBOX"}, []string{flag}, time.Time{}, []byte("x\r\n")); err == nil {
			t.Errorf("flag %q was sent: %s", flag, k.last("APPEND"))
		}
	}
}

func TestPersonalNamespace(t *testing.T) {
	for name, tc := range map[string]struct{ caps, namespace, list, prefix, delim string }{
		"Courier":       {"NAMESPACE", `* NAMESPACE (("INBOX." ".")) NIL (("#shared." "."))`, "", "INBOX.", "."},
		"Dovecot":       {"NAMESPACE", `* NAMESPACE (("" "/")) NIL NIL`, "", "", "/"},
		"none":          {"", "", `* LIST (\Noselect) "." ""`, "", "."},
		"no levels":     {"", "", `* LIST (\Noselect) NIL ""`, "", ""},
		"nothing there": {"NAMESPACE", "* NAMESPACE NIL NIL NIL", `* LIST (\Noselect) "/" ""`, "", "/"},
	} {
		k := &taker{caps: tc.caps}
		k.over = func(s *session, tag, cmd string) bool {
			switch {
			case cmd == "NAMESPACE":
				s.say(tc.namespace + "\r\n" + tag + " OK\r\n")
			case cmd == `LIST "" ""`:
				s.say(tc.list + "\r\n" + tag + " OK\r\n")
			default:
				return false
			}
			return true
		}
		prefix, delim, err := k.start(t).Personal()
		if err != nil || prefix != tc.prefix || delim != tc.delim {
			t.Errorf("%s: %q %q %v", name, prefix, delim, err)
		}
	}
}

func TestSearchAnswers(t *testing.T) {
	k := &taker{}
	answer := ""
	k.over = func(s *session, tag, cmd string) bool {
		if !strings.HasPrefix(cmd, "UID SEARCH") {
			return false
		}
		s.say(answer + tag + " OK\r\n")
		return true
	}
	c := k.start(t)
	for in, want := range map[string]string{
		"* SEARCH 7 3 3\r\n* SEARCH 9 (MODSEQ 5)\r\n": "[3 7 9] <nil>", "": "[] <nil>", "* SEARCH\r\n": "[] <nil>",
	} {
		k.mu.Lock()
		answer = in
		k.mu.Unlock()
		uids, err := c.Search(imapclient.Search{MessageID: `<a"b@x>`})
		if got := fmt.Sprint(uids, " ", err); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	if got := k.last("UID SEARCH"); got != `UID SEARCH HEADER Message-ID "<a\"b@x>"` {
		t.Error(got)
	}
	if _, err := c.Search(imapclient.Search{Size: 44, Date: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}); err != nil || k.last("UID SEARCH") != "UID SEARCH LARGER 43 SMALLER 45 SINCE 27-Feb-2026 BEFORE 4-Mar-2026" {
		t.Error(k.last("UID SEARCH"), err)
	}
	for _, in := range []string{"* SEARCH x\r\n", "* SEARCH 0\r\n", "* SEARCH 4294967296\r\n"} {
		k.mu.Lock()
		answer = in
		k.mu.Unlock()
		if uids, err := k.start(t).Search(imapclient.Search{MessageID: "x"}); !errors.Is(err, imapclient.ErrProtocol) {
			t.Errorf("%q: %v %v", in, uids, err)
		}
	}
}
