package mailtest

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Gmail is a server that behaves as Gmail's IMAP does where that differs from
// others: a folder for each label, all mail in one folder, X-GM-EXT-1, and a
// limit after which an account is left alone. Its account is alice.
type Gmail struct {
	IMAPS int
	CA    *Authority

	mu       sync.Mutex
	messages []*gmailMessage // of all mail, in the order of their UIDs
	modseq   uint64
	bodies   map[string]int // that were sent, by folder and UID
	left     int            // bodies until the limit; -1: none
	bye      bool           // the limit ends the connection
	mute     bool           // and says nothing
}

type gmailMessage struct {
	uid    uint32
	modseq uint64
	labels []string
	flags  string
	raw    []byte
}

// StartGmail starts one.
func StartGmail(t testing.TB) *Gmail {
	t.Helper()
	g := &Gmail{CA: NewAuthority(t), modseq: 1, bodies: map[string]int{}, left: -1}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{g.CA.Issue(t, nil)}})
	if err != nil {
		t.Fatal(err)
	}
	g.IMAPS = l.Addr().(*net.TCPAddr).Port
	var sessions sync.WaitGroup
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() {
				defer c.Close()
				(&gmailSession{g: g, c: c}).serve()
			})
		}
	}()
	t.Cleanup(func() { l.Close(); sessions.Wait() })
	return g
}

// Add adds a message with labels, such as `\Inbox` and "work/old".
func (g *Gmail) Add(raw []byte, labels ...string) (uid uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.modseq++
	uid = uint32(100 + 3*len(g.messages))
	g.messages = append(g.messages, &gmailMessage{uid, g.modseq, labels, "", raw})
	return uid
}

// Change gives a message other labels and flags.
func (g *Gmail) Change(uid uint32, flags string, labels ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.modseq++
	for _, m := range g.messages {
		if m.uid == uid {
			m.labels, m.flags, m.modseq = labels, flags, g.modseq
		}
	}
}

// Limit has the account left alone after so many more bodies, with BYE or with
// NO; -1 is no limit.
func (g *Gmail) Limit(bodies int, bye bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left, g.bye = bodies, bye
}

// Break ends connections without a word after so many more bodies; -1 is never.
func (g *Gmail) Break(bodies int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left, g.mute = bodies, bodies >= 0
}

// Bodies returns how often each message was sent, by folder and UID, and forgets
// it.
func (g *Gmail) Bodies() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.bodies
	g.bodies = map[string]int{}
	return out
}

const gmailAll = "[Gmail]/All Mail"

// folders are the names of folders with their attributes.
func (g *Gmail) folders() (names []string, attrs map[string]string) {
	attrs = map[string]string{"INBOX": "", gmailAll: ` \All`, "[Gmail]/Sent Mail": ` \Sent`, "[Gmail]/Drafts": ` \Drafts`, "[Gmail]/Spam": ` \Junk`, "[Gmail]/Starred": ` \Flagged`}
	for _, m := range g.messages {
		for _, l := range m.labels {
			if !strings.HasPrefix(l, `\`) {
				attrs[l] = ""
			}
		}
	}
	for n := range attrs {
		names = append(names, n)
	}
	slices.Sort(names)
	return names, attrs
}

var gmailSystem = map[string]string{"INBOX": `\Inbox`, "[Gmail]/Sent Mail": `\Sent`, "[Gmail]/Drafts": `\Draft`, "[Gmail]/Starred": `\Starred`, "[Gmail]/Spam": `\Spam`}

// in are the messages of a folder. UIDs differ between folders at Gmail; here
// they do by a constant.
func (g *Gmail) in(folder string) (ms []gmailMessage, shift uint32) {
	label, ok := gmailSystem[folder]
	if !ok {
		label = folder
	}
	for _, m := range g.messages {
		if folder == gmailAll || slices.Contains(m.labels, label) {
			x := *m
			if folder != gmailAll {
				shift = 7
				x.uid += 7
			}
			ms = append(ms, x)
		}
	}
	return ms, shift
}

type gmailSession struct {
	g      *Gmail
	c      net.Conn
	folder string
}

func (s *gmailSession) say(format string, args ...any) { fmt.Fprintf(s.c, format+"\r\n", args...) }

func (s *gmailSession) serve() {
	r := bufio.NewReader(s.c)
	s.say("* OK Gimap ready for requests")
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		tag, cmd, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		word, rest, _ := strings.Cut(cmd, " ")
		if word == "AUTHENTICATE" && !strings.Contains(rest, " ") {
			s.say("+ ")
			r.ReadString('\n')
		}
		s.g.mu.Lock()
		status, goOn := s.answer(word, rest)
		s.g.mu.Unlock()
		if !goOn {
			return
		}
		s.say("%s %s", tag, status)
	}
}

const gmailOver = "Account exceeded command or bandwidth limits. Learn more at https://support.example/limits"

func (s *gmailSession) answer(word, rest string) (status string, goOn bool) {
	switch word {
	case "CAPABILITY":
		s.say("* CAPABILITY IMAP4rev1 UNSELECT IDLE NAMESPACE QUOTA ID XLIST CHILDREN X-GM-EXT-1 UIDPLUS COMPRESS=DEFLATE ENABLE MOVE CONDSTORE ESEARCH UTF8=ACCEPT LIST-EXTENDED LIST-STATUS SPECIAL-USE AUTH=PLAIN SASL-IR")
	case "NAMESPACE":
		s.say(`* NAMESPACE (("" "/")) NIL NIL`)
	case "LIST":
		s.say(`* LIST (\HasChildren \Noselect) "/" "[Gmail]"`)
		names, attrs := s.g.folders()
		for _, n := range names {
			s.say(`* LIST (\HasNoChildren%s) "/" "%s"`, attrs[n], n)
		}
	case "STATUS", "EXAMINE":
		name := strings.Trim(strings.SplitAfter(rest, `"`)[1], `"`)
		ms, _ := s.g.in(name)
		next := uint32(1)
		if len(ms) > 0 {
			next = ms[len(ms)-1].uid + 1
		}
		if word == "STATUS" {
			s.say(`* STATUS "%s" (MESSAGES %d UIDNEXT %d UIDVALIDITY 7 HIGHESTMODSEQ %d)`, name, len(ms), next, s.g.modseq)
			break
		}
		s.folder = name
		s.say("* %d EXISTS\r\n* OK [UIDVALIDITY 7]\r\n* OK [UIDNEXT %d]\r\n* OK [HIGHESTMODSEQ %d]", len(ms), next, s.g.modseq)
		return "OK [READ-ONLY] selected", true
	case "UID":
		return s.fetch(strings.TrimPrefix(rest, "FETCH "))
	case "LOGOUT":
		return "", false
	}
	return "OK Success", true
}

// fetch answers what package imapclient asks.
func (s *gmailSession) fetch(rest string) (status string, goOn bool) {
	set, items, _ := strings.Cut(rest, " ")
	since := uint64(0)
	if _, after, ok := strings.Cut(items, "(CHANGEDSINCE "); ok {
		since, _ = strconv.ParseUint(strings.TrimSuffix(after, ")"), 10, 64)
	}
	ms, shift := s.g.in(s.folder)
	for n, m := range ms {
		if !inSet(set, m.uid, n == len(ms)-1) || m.modseq <= since {
			continue
		}
		var b strings.Builder
		fmt.Fprintf(&b, "UID %d FLAGS (%s) MODSEQ (%d) INTERNALDATE \"12-Mar-2026 08:00:00 +0000\" RFC822.SIZE %d", m.uid, m.flags, m.modseq, len(m.raw))
		if strings.Contains(items, "X-GM-LABELS") {
			var labels []string
			for _, l := range m.labels {
				if gmailSystem[s.folder] != l && s.folder != l { // that of the folder goes without saying
					labels = append(labels, `"`+strings.ReplaceAll(l, `\`, `\\`)+`"`)
				}
			}
			fmt.Fprintf(&b, " X-GM-MSGID 1%d X-GM-LABELS (%s)", m.uid-shift, strings.Join(labels, " "))
		}
		if strings.Contains(items, "HEADER.FIELDS") {
			id := ""
			if _, after, ok := strings.Cut(string(m.raw), "Message-ID: "); ok {
				id, _, _ = strings.Cut(after, "\r\n")
				id = "Message-ID: " + id + "\r\n"
			}
			fmt.Fprintf(&b, " BODY[HEADER.FIELDS (MESSAGE-ID)] {%d}\r\n%s", len(id)+2, id+"\r\n")
		}
		if strings.Contains(items, "BODY.PEEK[]") {
			if s.g.left == 0 {
				if s.g.mute {
					return "", false
				}
				if s.g.bye {
					s.say("* BYE [OVERQUOTA] %s", gmailOver)
					return "", false
				}
				return "NO [OVERQUOTA] " + gmailOver, true
			}
			s.g.left--
			s.g.bodies[fmt.Sprintf("%s %d", s.folder, m.uid)]++
			fmt.Fprintf(&b, " BODY[] {%d}\r\n%s", len(m.raw), m.raw)
		}
		io.WriteString(s.c, fmt.Sprintf("* %d FETCH (%s)\r\n", n+1, b.String()))
	}
	return "OK Success", true
}

func inSet(set string, uid uint32, last bool) bool {
	for part := range strings.SplitSeq(set, ",") {
		a, b, isRange := strings.Cut(part, ":")
		from, _ := strconv.ParseUint(a, 10, 32)
		to, _ := strconv.ParseUint(b, 10, 32)
		switch {
		case !isRange && uint64(uid) == from:
			return true
		case b == "*" && (uint64(uid) >= from || last):
			return true
		case isRange && uint64(uid) >= from && uint64(uid) <= to:
			return true
		}
	}
	return false
}
