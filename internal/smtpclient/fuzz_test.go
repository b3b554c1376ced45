package smtpclient

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// pipe is a connection whose other side has said everything already.
type pipe struct {
	net.Conn
	r io.Reader
	w bytes.Buffer
}

func (p *pipe) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p *pipe) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *pipe) Close() error                { return nil }
func (p *pipe) SetDeadline(time.Time) error { return nil }

// A reply is read whole or not at all, and nothing behind it.
func FuzzReply(f *testing.F) {
	f.Add([]byte("250-a\r\n250 b\r\n"))
	f.Add([]byte("220 x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &pipe{r: bytes.NewReader(b)}
		c := &Client{c: p, r: bufio.NewReader(p), w: bufio.NewWriter(p)}
		lines, err := c.reply("test", 250)
		if err != nil {
			return
		}
		if n := bytes.Count(b, []byte("\n")); len(lines) == 0 || len(lines) > n {
			t.Fatalf("%d lines of %q", len(lines), b)
		}
	})
}

// What is sent is the message, once the dots are taken away again, and it ends
// where it should.
func FuzzData(f *testing.F) {
	f.Add("a\r\n.\r\n..b\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		raw := []byte(s)
		if Carries(raw) != nil {
			return
		}
		p := &pipe{r: strings.NewReader("")}
		c := &Client{c: p, w: bufio.NewWriterSize(p, 16)}
		if err := c.data(raw); err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		lines := strings.SplitAfter(p.w.String(), "\r\n")
		for i, l := range lines {
			if l == ".\r\n" {
				if i != len(lines)-2 {
					t.Fatalf("%q ends within", s)
				}
				break
			}
			got.WriteString(strings.TrimPrefix(l, "."))
		}
		want := s
		if s != "" && !strings.HasSuffix(s, "\r\n") {
			want += "\r\n"
		}
		if got.String() != want {
			t.Fatalf("%q became %q", s, got.String())
		}
	})
}
