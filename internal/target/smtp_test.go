package target_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/export"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/target"
)

func relayTo(s *mailtest.SMTP, scheme, user string) target.Place {
	return target.Place{To: s.URL(scheme, user), From: "archive@example.org", Rcpt: "alice@example.org", Connection: ingest.Connection{CA: string(s.CA.PEM), AllowNet: []string{"127.0.0.0/8"}}}
}

// By SMTP messages go once, byte for byte with CRLF, and without a field more.
func TestResend(t *testing.T) {
	for scheme, implicit := range map[string]bool{"smtp": false, "smtps": true} {
		s := mailtest.StartSMTP(t, implicit)
		w := newWorld(t)
		for i := range 3 {
			add(t, w.a, "alice", "Work", "", time.Time{}, mail(i))
		}
		add(t, w.a, "alice", "Work", "", time.Time{}, []byte("Subject: crlf\r\n\r\n.\r\n"))
		odd := []byte("Subject: odd\r\n\r\na\rb\r\n")
		add(t, w.a, "alice", "Work", "", time.Time{}, odd)
		p := w.save(t, &target.Profile{Place: relayTo(s, scheme, "alice")})
		out := w.run(t, p, catalog.RunPartial, 4, 0, 0, 1)
		if len(out.Failures) != 1 || !strings.Contains(out.Failures[0].Reason, "CR without") {
			t.Errorf("%v", out.Failures)
		}
		want := map[string]bool{"Subject: crlf\r\n\r\n.\r\n": true}
		for i := range 3 {
			want[withCRLF(mail(i))] = true
		}
		for _, d := range s.Got() {
			if !want[string(d.Raw)] || d.User != "alice" || !d.TLS || d.From != "archive@example.org" || d.To != "alice@example.org" {
				t.Errorf("%+v %q", d, d.Raw)
			}
			delete(want, string(d.Raw))
		}
		if len(want) > 0 {
			t.Errorf("%d did not arrive", len(want))
		}
		// Met again in another folder: it has gone already.
		p.Query = "mailbox:alice"
		w.save(t, p)
		add(t, w.a, "alice", "Copies", "", time.Time{}, mail(1))
		add(t, w.a, "alice", "Work", "", time.Time{}, mail(7))
		w.run(t, p, catalog.RunPartial, 1, 0, 1, 1)
		if n := len(s.Got()); n != 5 {
			t.Errorf("%d arrived", n)
		}
	}
}

// What the server refuses fails and is tried again by the next run.
func TestResendRefused(t *testing.T) {
	s := mailtest.StartSMTP(t, false)
	refuse := true
	s.Refuse = func(raw []byte) string {
		if refuse && bytes.Contains(raw, []byte("number 1")) {
			return "looks like spam"
		}
		return ""
	}
	w := newWorld(t)
	for i := range 3 {
		add(t, w.a, "alice", "Work", "", time.Time{}, mail(i))
	}
	p := w.save(t, &target.Profile{Place: relayTo(s, "smtp", "")})
	out := w.run(t, p, catalog.RunPartial, 2, 0, 0, 1)
	if len(out.Failures) != 1 || !strings.Contains(out.Failures[0].Reason, "looks like spam") {
		t.Errorf("%v", out.Failures)
	}
	if got := s.Got(); len(got) != 2 || got[0].User != "" {
		t.Errorf("%+v", got)
	}
	refuse = false
	w.run(t, p, catalog.RunDone, 1, 0, 0, 0)
	w.run(t, p, catalog.RunDone, 0, 0, 0, 0)
	// A restore sends each time that it is asked.
	r := target.Restore{Place: p.Place, Hits: all(w.a), Patience: time.Millisecond}
	report, err := r.Run(ctx, w.a)
	if err != nil {
		t.Fatal(err)
	}
	wants(t, report, 3, 0, 0)
	if n := len(s.Got()); n != 6 {
		t.Errorf("%d arrived", n)
	}
}

// A server without STARTTLS gets neither password nor mail, unless the exception
// is made; and then no password.
func TestResendNeedsTLS(t *testing.T) {
	w := newWorld(t)
	add(t, w.a, "alice", "Work", "", time.Time{}, mail(1))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	heard := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(c, "220 ready\r\n250-here\r\n250 AUTH PLAIN LOGIN\r\n")
		b, _ := io.ReadAll(c)
		c.Close()
		heard <- string(b)
	}()
	to := target.Place{To: fmt.Sprintf("smtp://alice@localhost:%d", l.Addr().(*net.TCPAddr).Port), From: "a@example.org", Rcpt: "b@example.org", Connection: ingest.Connection{AllowNet: []string{"127.0.0.0/8"}}}
	p := w.save(t, &target.Profile{Place: to})
	if out := w.run(t, p, catalog.RunFailed, 0, 0, 0, 0); !strings.Contains(out.Error, "STARTTLS") {
		t.Error(out.Error)
	}
	if b := <-heard; strings.Contains(b, "AUTH") || strings.Contains(b, "MAIL") {
		t.Errorf("it was sent %q", b)
	}
	p.Exception = &ingest.Exception{Kind: ingest.Cleartext, Owner: "IT", Reason: "old", Since: w.now, Until: w.now.Add(time.Hour)}
	if err := p.Check(w.now); err == nil || !strings.Contains(err.Error(), "nobody signs in") {
		t.Error(err)
	}
	for name, change := range map[string]func(*target.Profile){
		"no sender":     func(p *target.Profile) { p.From = "" },
		"no recipient":  func(p *target.Profile) { p.Rcpt = "" },
		"two":           func(p *target.Profile) { p.Rcpt = "a@b, c@d" },
		"a folder":      func(p *target.Profile) { p.Folder = "x" },
		"a format":      func(p *target.Profile) { p.Format = export.EML },
		"IMAP with one": func(p *target.Profile) { p.To = "imaps://a@b" },
	} {
		q := *p
		q.Exception = nil
		change(&q)
		if err := q.Check(w.now); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// A connection that breaks within a message is made again.
func TestResendBroken(t *testing.T) {
	s := mailtest.StartSMTP(t, true)
	w := newWorld(t)
	const n = 12
	for i := range n {
		add(t, w.a, "alice", "Work", "", time.Time{}, mail(i))
	}
	to := relayTo(s, "smtps", "alice")
	to.To = fmt.Sprintf("smtps://alice@localhost:%d", cut(t, s.Port, func(c int) int64 { return int64(3000 + 400*c) }))
	p := w.save(t, &target.Profile{Place: to})
	w.run(t, p, catalog.RunDone, n, 0, 0, 0)
	seen := map[string]bool{}
	for _, d := range s.Got() {
		seen[string(d.Raw)] = true
	}
	if len(seen) != n {
		t.Errorf("%d of %d arrived", len(seen), n)
	}
}
