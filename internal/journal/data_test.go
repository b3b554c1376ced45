package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// readAll feeds in, in pieces of size n, and returns the message and what was
// not used.
func readAll(in []byte, n int) (d *data, message, rest string) {
	var out bytes.Buffer
	d = &data{w: &out, max: 1 << 20}
	for len(in) > 0 && d.at != ended {
		k := d.feed(in[:min(n, len(in))])
		in = in[k:]
	}
	return d, out.String(), string(in)
}

// What other programs take for the end of a message is none: the message is
// refused and read to its real end.
func TestSmuggling(t *testing.T) {
	const next = "MAIL FROM:<evil@example.org>\r\nRCPT TO:<x>\r\nDATA\r\nevil\r\n.\r\n"
	for in, want := range map[string]struct {
		message, bad, rest string
		open               bool // the message has not ended
	}{
		".\r\n":                             {},
		".\r\n" + next:                      {rest: next},
		"x\r\n.\r\n":                        {message: "x\r\n"},
		"x\r\n\r\n.\r\n":                    {message: "x\r\n\r\n"},
		"..\r\n.\r\n":                       {message: ".\r\n"},
		"...\r\n.\r\n":                      {message: "..\r\n"},
		".x\r\n.\r\n":                       {message: "x\r\n"},
		"x.\r\n.\r\n":                       {message: "x.\r\n"},
		". \r\n.\r\n":                       {message: " \r\n"},
		"x\r\n..\r\ny\r\n.\r\n":             {message: "x\r\n.\r\ny\r\n"},
		"\x00\xff\t\x1a\r\n.\r\n":           {message: "\x00\xff\t\x1a\r\n"},
		"x\n.\n" + next:                     {bad: "line 1 has LF without CR"},
		"x\r.\r" + next:                     {bad: "line 1 has CR without LF"},
		"x\n.\r\n" + next:                   {bad: "line 1 has LF without CR"},
		"x\r\n.\n" + next:                   {bad: "line 2 has LF without CR"},
		"x\r\n.\r" + next:                   {bad: "line 2 has CR without LF"},
		"x\r.\r\n" + next:                   {bad: "line 1 has CR without LF"},
		"x\r\r\n.\r\n" + next:               {bad: "line 1 has CR without LF", rest: next},
		"x\r\n.\r\r\n" + next:               {bad: "line 2 has CR without LF"},
		"x\r\n.\r.\r\n" + next:              {bad: "line 2 has CR without LF"},
		"x\r\n.\rx\n.\r\n" + next:           {bad: "line 2 has CR without LF"},
		"x\n\r\n.\r\n" + next:               {bad: "line 1 has LF without CR", rest: next},
		"x\r\n\n.\r\n" + next:               {bad: "line 2 has LF without CR"},
		".\n" + next:                        {bad: "line 1 has LF without CR"},
		"\n.\r\n" + next:                    {bad: "line 1 has LF without CR"},
		"\r\n.\x00\r\n" + next:              {message: "\r\n\x00\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<x>\r\nDATA\r\nevil\r\n"},
		"x\r\n \r\n. \r\n.\r \n" + next:     {bad: "line 4 has CR without LF"},
		"x\r\n.\r\n.\r\n":                   {message: "x\r\n", rest: ".\r\n"},
		"x":                                 {message: "x", open: true},
		"x\r\n.\r":                          {message: "x\r\n", open: true},
		"x\n.\n":                            {bad: "line 1 has LF without CR", open: true},
		"x\r\n" + strings.Repeat("y", 5000): {message: "x\r\n" + strings.Repeat("y", 5000), open: true},
	} {
		for _, n := range []int{1, 2, 3, 7, 1 << 20} {
			d, message, rest := readAll([]byte(in), n)
			if d.bad != want.bad || rest != want.rest || want.bad == "" && message != want.message || (d.at != ended) != want.open {
				t.Errorf("%.60q by %d: message %.60q, fault %q, rest %.60q, ended %v", in, n, message, d.bad, rest, d.at == ended)
			}
			if want.bad == "" && d.size != int64(len(want.message)) {
				t.Errorf("%.60q: size %d", in, d.size)
			}
		}
	}
}

// The same through a connection: what is behind a false end never runs, the
// sender hears which line is at fault, and can go on.
func TestSmugglingSession(t *testing.T) {
	for _, end := range []string{"\n.\n", "\r.\r", "\n.\r\n", "\r\n.\n", "\r\n.\r", "\r.\r\n", "\r\n.\r\r\n"} {
		bubble(t, nil, func(t *testing.T, b *bed) {
			c := b.begin(sender)
			defer c.close()
			c.script(wellKnown(">>Subject: x\r\n\r\n"+end+"MAIL FROM:<evil@example.org>\r\nRCPT TO:<j@journal.example>\r\nDATA\r\nevil\r\n.\r\n", "< 550 5.6.0 Lines must end in CRLF: line ")...)
			if got := b.messages(); len(got) > 0 {
				t.Errorf("%q: delivered %+v", end, got)
			}
			c.script(wellKnown(">>ok\r\n.\r\n", "< 250")...)
			if got := b.messages(); len(got) != 1 || got[0].raw != "ok\r\n" || got[0].From != "a@example.org" {
				t.Errorf("%q: delivered %+v", end, got)
			}
		})
	}
}

// stuff is what a sender does (RFC 5321, 4.5.2).
func stuff(message string) []byte {
	s := strings.ReplaceAll("\r\n"+message, "\r\n.", "\r\n..")[2:]
	if !strings.HasSuffix(s, "\r\n") && s != "" {
		s += "\r\n"
	}
	return []byte(s + ".\r\n")
}

func FuzzData(f *testing.F) {
	f.Add([]byte("a\r\n.\r\nb"), 1)
	f.Add([]byte("a\n.\nb\r\n.\r\n"), 3)
	f.Add([]byte(".\r\r\n"), 2)
	f.Fuzz(func(t *testing.T, in []byte, n int) {
		n = max(1, n)
		// Any bytes: a message ends at the first CRLF.CRLF and nowhere else; it is
		// taken only if CR and LF are together everywhere in it.
		d, message, rest := readAll(in, n)
		end := bytes.Index(append([]byte("\r\n"), in...), []byte("\r\n.\r\n"))
		if (d.at == ended) != (end >= 0) {
			t.Fatalf("%q ended: %v", in, d.at == ended)
		}
		if end < 0 {
			return
		}
		wire := string(in[:end+3])
		if rest != string(in[end+3:]) || d.read != int64(end+3) {
			t.Fatalf("%q: rest %q", in, rest)
		}
		pairs := strings.ReplaceAll(wire, "\r\n", "")
		if (d.bad != "") != strings.ContainsAny(pairs, "\r\n") {
			t.Fatalf("%q: fault %q", wire, d.bad)
		}
		if d.bad != "" {
			return
		}
		want := strings.ReplaceAll("\r\n"+wire[:end], "\r\n.", "\r\n")[2:]
		if message != want || d.size != int64(len(want)) {
			t.Fatalf("%q: message %q", wire, message)
		}
		if again, back, _ := readAll(stuff(message), n); again.bad != "" || back != message {
			t.Fatalf("%q came back as %q (%s)", message, back, again.bad)
		}
	})
}

// Any line: what is taken for an address holds nothing that is not in the
// line, controls nothing, and is taken again when it is written down.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{`FROM:<"a>b"@x> SIZE=1`, "FROM:<@a:b@c>", "FROM:<é@x> SMTPUTF8", "FROM:<a@[1.2.3.4]>", "PLAIN AGEAYg==", "FROM:<\">", `FROM:<"\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		cmd := parseCommand(line)
		for _, arg := range []string{line, cmd.arg} {
			address, params, err := parsePath(arg, "FROM:")
			if err == nil {
				again, more, err := parsePath("FROM:<"+address+">", "FROM:")
				if err != nil || again != address || len(more) > 0 {
					t.Fatalf("%q: %q comes back as %q, %v", arg, address, again, err)
				}
				if address != "" && (!isMailbox(address) || !printable(address) || !strings.Contains(arg, address)) {
					t.Fatalf("%q: address %q", arg, address)
				}
				p, err := parseMailParams(params)
				if err == nil && p.size < 0 {
					t.Fatalf("%q: size %d", arg, p.size)
				}
			}
			if user, password, err := parsePlain(arg); err == nil && (user == "" || password == "" || strings.Contains(user+password, "\x00")) {
				t.Fatalf("%q: user %q", arg, user)
			}
			_, status, text := (&Refusal{400 + len(arg), arg, arg}).line()
			if strings.ContainsAny(status+text, "\r\n\x00") || !ascii(status+text) || len(text) > maxText {
				t.Fatalf("%q: reply %q %q", arg, status, text)
			}
		}
	})
}

// wire is a connection on which all has come already.
type wire struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (w *wire) Read(b []byte) (int, error)       { return w.in.Read(b) }
func (w *wire) Write(b []byte) (int, error)      { return w.out.Write(b) }
func (*wire) RemoteAddr() net.Addr               { return &net.UnixAddr{Net: "unix"} }
func (*wire) SetReadDeadline(time.Time) error    { return nil }
func (*wire) SetWriteDeadline(t time.Time) error { return nil }
func (*wire) Close() error                       { return nil }

// Any conversation: what is delivered was sent as it is, with a strict end, for
// a journal address; and nothing of what was sent is in a reply.
func FuzzSession(f *testing.F) {
	f.Add([]byte("LHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<j@journal.example>\r\nDATA\r\n"), []byte("x\r\n.\r\n"))
	f.Add([]byte("LHLO x\r\nMAIL FROM:<> SIZE=5\r\nRCPT TO:<j@journal.example>\r\nRCPT TO:<\"j\"@journal.example>\r\nDATA\r\n"), []byte("x\n.\r\n.\r\nRSET\r\nNOOP\r\n"))
	f.Add([]byte("LHLO x\r\nAUTH PLAIN\r\nVRFY x\r\nSTARTTLS\r\n"), []byte("*\r\nBDAT 5\r\n"))
	var sent []byte
	var wanted func(format string, args ...any)
	r, err := New(Config{Name: "mx", LMTP: true, Local: true, Log: slog.New(slog.DiscardHandler), Spool: SealedSpool(f.TempDir()), MaxSize: 1000,
		Journal: func(_ context.Context, a string) (bool, error) { return strings.HasSuffix(a, "@journal.example"), nil },
		Deliver: func(_ context.Context, e Envelope, r io.Reader) error {
			raw, err := io.ReadAll(r)
			unstuffed := strings.ReplaceAll(string(sent), "\r\n.", "\r\n")
			if err != nil || !strings.Contains(unstuffed, "\r\n"+string(raw)+"\r\n") || !bytes.Contains(sent, []byte("\r\n.\r\n")) || int64(len(raw)) != e.Size || e.Size > 1000 {
				wanted("delivered %q, %v", raw, err)
			}
			for _, a := range e.To {
				if !strings.HasSuffix(a, "@journal.example") {
					wanted("delivered to %q", a)
				}
			}
			return nil
		}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, commands, body []byte) {
		sent, wanted = append(append([]byte{}, commands...), body...), t.Fatalf
		// DATA is the last of a group: what follows comes when it is asked for.
		w := &wire{in: io.MultiReader(bytes.NewReader(commands), bytes.NewReader(body))}
		newConn(r, w).serve()
		for l := range strings.SplitAfterSeq(w.out.String(), "\r\n") {
			if l != "" && (len(l) < 6 || l[0] < '2' || l[0] > '5' || strings.ContainsAny(l[:len(l)-2], "\r\n") || !ascii(l)) {
				t.Fatalf("reply %q", l)
			}
		}
	})
}

// pattern yields lines.
func pattern(i int) []byte {
	return bytes.Repeat([]byte{byte('a' + i%26)}, 1000+i%500)
}

// A message of 96 MiB takes no more memory than a small one, until it is
// delivered; and comes as it was sent.
func TestLargeMessage(t *testing.T) {
	const size = 96 << 20
	var got hash.Hash
	var grew uint64
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	bubble(t, func(o *Config) {
		o.MaxSize = 2 * size
		o.Deliver = func(_ context.Context, e Envelope, r io.Reader) error {
			got = sha256.New()
			n, err := io.Copy(got, r)
			if n != e.Size {
				err = errors.New("not of the size that was said")
			}
			return err
		}
	}, func(t *testing.T, b *bed) {
		c := b.begin(sender)
		defer c.close()
		c.script(wellKnown()...)
		want := sha256.New()
		before := heap()
		for i, n := 0, 0; n < size; i++ {
			l := append(pattern(i), "\r\n"...)
			n += len(l)
			want.Write(l)
			if _, err := c.nc.Write(l); err != nil {
				t.Fatal(err)
			}
			if i%10_000 == 0 {
				grew = max(grew, heap()-min(before, heap()))
			}
		}
		c.script("> .", "< 250")
		if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
			t.Error("it is not what was sent")
		}
	})
	t.Logf("it took %d KiB", grew>>10)
	if grew > 8<<20 {
		t.Errorf("it took %d bytes of memory", grew)
	}
}
