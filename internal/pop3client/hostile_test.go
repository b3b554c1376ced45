package pop3client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

const canary = "canary-Passw0rd"

// talk is a server that answers lines; the script decides what.
func talk(t *testing.T, cert tls.Certificate, implicit bool, greeting string, answer func(line string) (say string, startTLS bool)) (port int, heard func() string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		conf := &tls.Config{Certificates: []tls.Certificate{cert}}
		if implicit {
			c = tls.Server(c, conf)
		}
		io.WriteString(c, greeting)
		r := bufio.NewReader(c)
		for {
			line, err := r.ReadString('\n')
			mu.Lock()
			all.WriteString(line)
			mu.Unlock()
			if err != nil {
				return
			}
			say, start := answer(strings.TrimSpace(line))
			io.WriteString(c, say)
			if start {
				c = tls.Server(c, conf)
				r = bufio.NewReader(c)
			}
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port, func() string { mu.Lock(); defer mu.Unlock(); return all.String() }
}

func session(port int, security imapclient.Security, ca []byte) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := Dial(ctx, imapclient.Options{Dialer: &tlsconf.Dialer{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, Host: "127.0.0.1", Port: port, Security: security, Trust: tlsconf.Trust{CA: ca}, Literal: 1 << 20})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SignIn(imapclient.Credential{User: "alice", Password: canary}); err != nil {
		return nil, err
	}
	ms, err := c.List()
	var out [][]byte
	for _, m := range ms {
		b, rerr := c.Retrieve(m)
		if rerr != nil {
			return out, rerr
		}
		out = append(out, b)
	}
	return out, err
}

func usual(line string) (string, bool) {
	switch word, _, _ := strings.Cut(line, " "); word {
	case "STLS":
		return "+OK begin\r\n", true
	case "CAPA":
		return "+OK\r\nUIDL\r\n.\r\n", false
	case "UIDL":
		return "+OK\r\n1 a\r\n.\r\n", false
	case "LIST":
		return "+OK\r\n1 20\r\n.\r\n", false
	case "RETR":
		return "+OK\r\nA: b\r\n\r\n..\r\n.\r\n", false
	}
	return "+OK\r\n", false
}

func TestHostile(t *testing.T) {
	ca := mailtest.NewAuthority(t)
	cert := ca.Issue(t, nil)
	with := func(word, say string) func(string) (string, bool) {
		return func(line string) (string, bool) {
			if strings.HasPrefix(line, word) {
				return say, false
			}
			return usual(line)
		}
	}
	for name, tc := range map[string]struct {
		cert     tls.Certificate
		implicit bool
		greeting string
		answer   func(string) (string, bool)
		want     string // "" means that all is well
		quiet    bool   // no credential may have left
	}{
		"all is well":           {cert, false, "+OK\r\n", usual, "", false},
		"all is well, TLS":      {cert, true, "+OK\r\n", usual, "", false},
		"STLS refused":          {cert, false, "+OK\r\n", with("STLS", "-ERR no\r\n"), "refused STLS", true},
		"bytes before TLS":      {cert, false, "+OK\r\n", with("STLS", "+OK begin\r\n+OK\r\n.\r\n"), "bytes follow", true},
		"answer too early":      {cert, false, "+OK\r\n+OK begin\r\n+OK\r\n", with("STLS", ""), "tls", true},
		"no TLS after +OK":      {cert, false, "+OK\r\n", func(l string) (string, bool) { return "+OK\r\n", false }, "tls", true},
		"refuses at once":       {cert, true, "-ERR busy\r\n", usual, "busy", true},
		"not POP3":              {cert, true, "* OK IMAP\r\n", usual, "does not follow", true},
		"unknown authority":     {mailtest.NewAuthority(t).Issue(t, nil), false, "+OK\r\n", usual, "unknown authority", true},
		"wrong password":        {cert, true, "+OK\r\n", with("PASS", "-ERR no\r\n"), "refused PASS", false},
		"no UIDL":               {cert, true, "+OK\r\n", with("UIDL", "-ERR no\r\n"), "without UIDL", false},
		"a reply without end":   {cert, true, "+OK\r\n", with("UIDL", "+OK "+strings.Repeat("x", 100_000)), "more than", false},
		"a message too large":   {cert, true, "+OK\r\n", with("RETR", "+OK\r\n"+strings.Repeat("x", 2<<20)), "announces", false},
		"ends within a message": {cert, true, "+OK\r\n", with("RETR", "+OK\r\nA: b\r\n"), "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port, heard := talk(t, tc.cert, tc.implicit, tc.greeting, tc.answer)
			security := imapclient.StartTLS
			if tc.implicit {
				security = imapclient.ImplicitTLS
			}
			got, err := session(port, security, ca.PEM)
			switch {
			case strings.HasPrefix(name, "ends"):
				if err == nil || len(got) > 0 {
					t.Errorf("%q %v", got, err)
				}
			case tc.want == "":
				if err != nil || len(got) != 1 || string(got[0]) != "A: b\r\n\r\n.\r\n" {
					t.Errorf("%q %v", got, err)
				}
			case err == nil || !strings.Contains(err.Error(), tc.want):
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if tc.quiet && (strings.Contains(heard(), canary) || strings.Contains(heard(), "USER")) {
				t.Errorf("the server was sent %q", heard())
			}
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

func FuzzRetrieve(f *testing.F) {
	f.Add([]byte("+OK\r\nA: b\r\n\r\n..\r\n.\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, out := net.Pipe()
		defer in.Close()
		go func() { io.Copy(io.Discard, out) }()
		go func() { out.Write(b); out.Close() }()
		c := &Client{o: imapclient.Options{Literal: 1 << 20}, c: in, r: bufio.NewReader(in), stop: func() bool { return true }}
		got, err := c.Retrieve(Message{Number: 1})
		if err == nil && len(got) > len(b) {
			t.Fatal("more than arrived")
		}
	})
}
