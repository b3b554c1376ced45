package target_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/search"
	"github.com/letterhold/letterhold/internal/target"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

var ctx = context.Background()

var everything = catalog.Scope{All: true}

func mail(n int) []byte {
	return fmt.Appendf(nil, "From: ann%d@example.org\nTo: alice@example.org\nSubject: number %[1]d\nDate: Thu, 12 Mar 2026 08:00:%02[1]d +0000\nMessage-ID: <%[1]d@example.org>\n\nText %[1]d\n.\n..two\nFrom x\n%s\n", n, strings.Repeat("word ", n%50))
}

// add archives a message in a folder of a mailbox and returns its hit.
func add(t *testing.T, a *archive.Archive, mailbox, folder, flags string, internal time.Time, raw []byte) catalog.Row {
	t.Helper()
	id, err := a.Mailbox(ctx, mailbox, "test")
	if err != nil {
		t.Fatal(err)
	}
	r, err := a.Add(ctx, raw, archive.Provenance{Mailbox: id, Folder: folder, Source: "test", Flags: flags, Internal: internal})
	if err != nil {
		t.Fatal(err)
	}
	return r.Row
}

// all are all messages of an archive.
func all(a *archive.Archive) func(func(catalog.Hit) error) error {
	return func(fn func(catalog.Hit) error) error {
		rows, err := a.Catalog().Rows(ctx, -1<<62, 1<<62, 10_000)
		if err != nil {
			return err
		}
		hits, err := a.Catalog().Visible(ctx, everything, rows)
		for _, h := range hits {
			if err == nil {
				err = fn(h)
			}
		}
		return err
	}
}

func secret(context.Context) (imapclient.Credential, error) {
	return imapclient.Credential{User: "alice", Password: mailtest.Password}, nil
}

func place(d *mailtest.Dovecot, port int) target.Place {
	return target.Place{To: fmt.Sprintf("imaps://alice@localhost:%d", port), Connection: ingest.Connection{CA: string(d.CA.PEM), AllowNet: []string{"127.0.0.0/8"}}}
}

func restore(t *testing.T, a *archive.Archive, to target.Place) *target.Report {
	t.Helper()
	r := target.Restore{Place: to, Credential: secret, Hits: all(a), Patience: time.Millisecond}
	out, err := r.Run(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// wants compares the numbers: restored, present, failed.
func wants(t *testing.T, r *target.Report, restored, present, failed int64) {
	t.Helper()
	if r.Restored != restored || r.Present != present || r.Failed != failed || r.Seen != restored+present+failed {
		t.Errorf("%+v; want %d restored, %d present, %d failed", *r, restored, present, failed)
	}
}

// stored is a message on the server.
type stored struct {
	Flags    string
	Internal string
	Body     string
}

// look returns what each folder of the account holds.
func look(t *testing.T, d *mailtest.Dovecot) map[string][]stored {
	t.Helper()
	c, err := imapclient.Dial(ctx, imapclient.Options{Dialer: &tlsconf.Dialer{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, Host: "127.0.0.1", Port: d.IMAPS, Security: imapclient.ImplicitTLS, Trust: tlsconf.Trust{CA: d.CA.PEM}, Literal: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SignIn(imapclient.Credential{User: "alice", Password: mailtest.Password}); err != nil {
		t.Fatal(err)
	}
	fs, err := c.Folders()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]stored{}
	for i := range fs {
		if _, err := c.Examine(&fs[i]); err != nil {
			t.Fatal(err)
		}
		uids, err := c.UIDs(1)
		if err != nil {
			t.Fatal(err)
		}
		about := map[uint32]*stored{}
		if err := c.Describe(uids, func(m *imapclient.Message) error {
			slices.Sort(m.Flags)
			flags := strings.ReplaceAll(strings.Join(m.Flags, " "), `\Recent`, "")
			about[m.UID] = &stored{Flags: strings.TrimSpace(flags), Internal: m.Internal.UTC().Format(time.DateTime)}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := c.Bodies(uids, func(m *imapclient.Message) error {
			about[m.UID].Body = string(m.Body)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for _, u := range uids {
			out[fs[i].Path()] = append(out[fs[i].Path()], *about[u])
		}
	}
	return out
}

func withCRLF(raw []byte) string { return strings.ReplaceAll(string(raw), "\n", "\r\n") }

// Mail comes back as it was: bytes, folders, flags, dates. The second time
// nothing is there twice.
func TestRestore(t *testing.T) {
	d := mailtest.StartDovecot(t, "")
	a := mailtest.Archive(t, nil)
	got := time.Date(2026, 3, 12, 9, 30, 1, 0, time.UTC)
	add(t, a, "alice", "INBOX", `\Seen \Flagged $Work \Recent`, got, mail(1))
	add(t, a, "alice", "Grüße/日本 & mehr", `\Answered \Draft \Deleted`, got.Add(time.Hour), mail(2))
	add(t, a, "alice", "Projects/2026/a.b", "", time.Time{}, mail(3)) // no date of its own
	add(t, a, "alice", "INBOX", "", got, []byte("Subject: no id\r\nDate: Thu, 12 Mar 2026 08:00:00 +0000\r\n\r\nwith CRLF\r\n"))
	large := append(mail(5), bytes.Repeat([]byte("0123456789abcdef0123456789abcdef0123456789abcdef\n"), 40_000)...)
	add(t, a, "alice", "Large", "", got, large)
	out := restore(t, a, place(d, d.IMAPS))
	wants(t, out, 5, 0, 0)
	want := map[string][]stored{
		"INBOX":             {{"", "2026-03-12 09:30:01", "Subject: no id\r\nDate: Thu, 12 Mar 2026 08:00:00 +0000\r\n\r\nwith CRLF\r\n"}, {`$Work \Flagged \Seen`, "2026-03-12 09:30:01", withCRLF(mail(1))}},
		"Grüße/日本 & mehr":   {{`\Answered \Draft`, "2026-03-12 10:30:01", withCRLF(mail(2))}},
		"Projects/2026/a_b": {{"", "2026-03-12 08:00:03", withCRLF(mail(3))}}, // a dot ends a level of a Maildir
		"Large":             {{"", "2026-03-12 09:30:01", withCRLF(large)}},
	}
	have := look(t, d)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
	wants(t, restore(t, a, place(d, d.IMAPS)), 0, 5, 0)
	if diff := cmp.Diff(have, look(t, d)); diff != "" {
		t.Errorf("the second time: %s", diff)
	}
	// By STARTTLS, to another folder: there they are not yet.
	to := place(d, d.IMAP)
	to.To, to.Folder = fmt.Sprintf("imap://alice@localhost:%d", d.IMAP), "Restored/{mailbox}"
	wants(t, restore(t, a, to), 5, 0, 0)
	if n := len(look(t, d)["Restored/alice"]); n != 5 {
		t.Errorf("%d messages below Restored", n)
	}
}

// Other bytes under the same Message-ID, or the same size and day without one,
// are another message.
func TestRestoreComparesBytes(t *testing.T) {
	d := mailtest.StartDovecot(t, "")
	a := mailtest.Archive(t, nil)
	at := time.Date(2026, 3, 12, 9, 0, 0, 0, time.UTC)
	d.Put(t, "alice", "", "1.m:2,", bytes.Replace(mail(1), []byte("Text 1"), []byte("Text X"), 1))
	d.Put(t, "alice", "", "2.m:2,S", mail(2))
	add(t, a, "alice", "INBOX", "", at, mail(1))
	add(t, a, "alice", "INBOX", "", at, []byte(withCRLF(mail(2)))) // the server has it with LF
	add(t, a, "alice", "INBOX", "", at, []byte("Subject: one\n\nabc\n"))
	add(t, a, "alice", "INBOX", "", at, []byte("Subject: two\n\nabc\n"))
	// Ids that are hard to ask for.
	for _, id := range []string{"<grüße@example.org>", `<"a b\c"@example.org>`, "no brackets", "<folded\n @example.org>", "<" + strings.Repeat("long", 200) + "@example.org>", "<>", "<a@b> <c@d>", "<gr\xfc\xdfe@example.org>"} {
		add(t, a, "alice", "INBOX", "", at, []byte("Subject: id\nMessage-ID: "+id+"\n\nabc\n"))
	}
	wants(t, restore(t, a, place(d, d.IMAPS)), 11, 1, 0)
	wants(t, restore(t, a, place(d, d.IMAPS)), 0, 12, 0)
	if n := len(look(t, d)["INBOX"]); n != 13 {
		t.Errorf("%d messages", n)
	}
}

// Of several places, the message goes to the one that the query names.
func TestRestoreMeantPlace(t *testing.T) {
	d := mailtest.StartDovecot(t, "")
	a := mailtest.Archive(t, nil)
	add(t, a, "bob", "Sent", `\Flagged`, time.Time{}, mail(1))
	add(t, a, "alice", "INBOX", "", time.Time{}, mail(1))
	add(t, a, "alice", "Work/2026", `\Seen`, time.Time{}, mail(1))
	for query, want := range map[string]string{"mailbox:alice": "INBOX", "in:work mailbox:alice": "Work/2026", "-mailbox:alice text": "Sent", "text": "Sent", "mailbox:alice -in:INBOX": "Work/2026"} {
		e, _, err := search.Parse(query)
		if err != nil {
			t.Fatal(err)
		}
		to := place(d, d.IMAPS)
		to.Folder = "For " + strings.Map(func(r rune) rune { return map[bool]rune{true: r, false: '-'}[r >= 'a' && r <= 'z'] }, query) + "/{mailbox}/{folder}"
		r := target.Restore{Place: to, Credential: secret, Hits: all(a), Names: e.Names, Patience: time.Millisecond}
		if _, err := r.Run(ctx, a); err != nil {
			t.Fatal(err)
		}
		owner := map[bool]string{true: "bob", false: "alice"}[want == "Sent"]
		path := strings.NewReplacer("{mailbox}", owner, "{folder}", want).Replace(to.Folder)
		if have := look(t, d)[path]; len(have) != 1 || have[0].Flags != map[string]string{"Sent": `\Flagged`, "INBOX": "", "Work/2026": `\Seen`}[want] {
			t.Errorf("%s: nothing, or other flags, in %s: %v", query, path, have)
		}
	}
}

// A message that the server refuses is reported; the others are restored.
func TestRestoreRefused(t *testing.T) {
	d := mailtest.StartDovecot(t, `
protocol imap {
  mail_plugins = quota imap_quota
}
plugin {
  quota = count:User quota
  quota_vsizes = yes
  quota_rule = *:storage=100M
  quota_max_mail_size = 20K
}
`)
	a := mailtest.Archive(t, nil)
	for i := range 3 {
		add(t, a, "alice", "INBOX", "", time.Time{}, mail(i))
	}
	add(t, a, "alice", "INBOX", "", time.Time{}, append(mail(9), bytes.Repeat([]byte("0123456789abcdef\n"), 4000)...))
	out := restore(t, a, place(d, d.IMAPS))
	wants(t, out, 3, 0, 1)
	if len(out.Failures) != 1 || !strings.Contains(out.Failures[0].Reason, "refused APPEND") || out.Failures[0].Where == "" {
		t.Errorf("%+v", out.Failures)
	}
	if n := len(look(t, d)["INBOX"]); n != 3 {
		t.Errorf("%d messages", n)
	}
}

// cut passes bytes to a port and ends each connection after so many bytes of
// the client.
func cut(t *testing.T, to int, after func(connection int) int64) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for n := 0; ; n++ {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", to))
			if err != nil {
				in.Close()
				continue
			}
			go func() { io.Copy(in, out); in.Close() }()
			go func() { io.CopyN(out, in, after(n)); in.Close(); out.Close() }()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// The connection breaks at places all over the conversation: in the end all is
// there once.
func TestRestoreBrokenConnections(t *testing.T) {
	d := mailtest.StartDovecot(t, "")
	a := mailtest.Archive(t, nil)
	const n = 30
	for i := range n {
		add(t, a, "alice", "INBOX", "", time.Time{}, mail(i))
	}
	for step := range 8 {
		to := place(d, cut(t, d.IMAPS, func(c int) int64 { return int64(4500 + 577*step + 1501*(c%3)) }))
		to.Folder = fmt.Sprint("step ", step)
		for round := 0; ; round++ {
			r := target.Restore{Place: to, Credential: secret, Hits: all(a), Patience: time.Millisecond}
			out, err := r.Run(ctx, a)
			if out.Seen != out.Restored+out.Present+out.Failed {
				t.Fatalf("%+v", *out)
			}
			if err == nil && out.Failed == 0 {
				break
			}
			if round > 40 {
				t.Fatalf("step %d does not end: %+v %v", step, *out, err)
			}
		}
	}
	for step, ms := range look(t, d) {
		if len(ms) != n {
			t.Errorf("%s: %d messages", step, len(ms))
		}
	}
}

// A server that cannot be trusted, or does not let us in, gets nothing.
func TestRestoreUnsafe(t *testing.T) {
	d := mailtest.StartDovecot(t, "")
	a := mailtest.Archive(t, nil)
	add(t, a, "alice", "INBOX", "", time.Time{}, mail(1))
	for name, tc := range map[string]struct {
		change func(*target.Place)
		want   error
	}{
		"authority":      {func(p *target.Place) { p.CA = string(mailtest.NewAuthority(t).PEM) }, tlsconf.ErrCertificate},
		"no leave":       {func(p *target.Place) { p.AllowNet = nil }, tlsconf.ErrForbidden},
		"not its user":   {func(p *target.Place) { p.To = strings.Replace(p.To, "alice", "nobody", 1) }, nil},
		"exception over": {func(p *target.Place) { p.Exception = exception(ingest.Unverified, -time.Hour) }, nil},
	} {
		to := place(d, d.IMAPS)
		tc.change(&to)
		r := target.Restore{Place: to, Hits: all(a), Patience: time.Millisecond, Credential: func(ctx context.Context) (imapclient.Credential, error) {
			cr, err := secret(ctx)
			cr.User = to.Account()
			if tc.want == nil {
				cr.Password = "wrong"
			}
			return cr, err
		}}
		out, err := r.Run(ctx, a)
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		wants(t, out, 0, 0, 0)
	}
}

func exception(kind string, left time.Duration) *ingest.Exception {
	now := time.Now()
	return &ingest.Exception{Kind: kind, Owner: "IT", Reason: "test", Since: now.Add(-48 * time.Hour), Until: now.Add(left)}
}
