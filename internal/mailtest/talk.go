package mailtest

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Talk is a bare IMAP connection, for what a test changes at a server.
type Talk struct {
	t testing.TB
	c net.Conn
	r *bufio.Reader
	n int
}

// NewTalk connects to a port of loopback that speaks TLS.
func NewTalk(t testing.TB, ca *Authority, port int) *Talk {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{RootCAs: roots, ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	k := &Talk{t: t, c: c, r: bufio.NewReader(c)}
	k.line()
	return k
}

func (k *Talk) line() string {
	k.t.Helper()
	k.c.SetDeadline(time.Now().Add(30 * time.Second))
	s, err := k.r.ReadString('\n')
	if err != nil {
		k.t.Fatal(err)
	}
	return strings.TrimRight(s, "\r\n")
}

// Close ends the connection.
func (k *Talk) Close() {
	k.t.Helper()
	k.Do("LOGOUT")
	k.c.Close()
}

// Do sends a command, which must succeed, and returns what was said before its
// answer.
func (k *Talk) Do(format string, args ...any) []string {
	k.t.Helper()
	return k.send(nil, format, args...)
}

// Append adds a message to a folder, its lines ending with CRLF. more is what
// stands between: flags and a date.
func (k *Talk) Append(folder, more string, raw []byte) {
	k.t.Helper()
	if more != "" {
		more += " "
	}
	k.send(raw, "APPEND %s %s{%d}", folder, more, len(raw))
}

func (k *Talk) send(literal []byte, format string, args ...any) (said []string) {
	k.t.Helper()
	k.n++
	tag := fmt.Sprintf("t%d", k.n)
	fmt.Fprintf(k.c, "%s %s\r\n", tag, fmt.Sprintf(format, args...))
	for {
		s := k.line()
		if literal != nil && strings.HasPrefix(s, "+") {
			k.c.Write(append(literal[:len(literal):len(literal)], "\r\n"...))
			continue
		}
		if rest, ok := strings.CutPrefix(s, tag+" "); ok {
			if !strings.HasPrefix(rest, "OK") {
				k.t.Fatalf(format+": %s", append(args, rest)...)
			}
			return said
		}
		said = append(said, s)
	}
}

// Said returns the commands in the protocols that a server keeps of sessions,
// once one of them has ended, and removes the protocols.
func Said(t testing.TB, dir string) (commands []string) {
	t.Helper()
	for range 200 {
		commands = nil
		ended := false
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range commandLine.FindAllStringSubmatch(string(b), -1) {
				commands = append(commands, m[1])
				ended = ended || m[1] == "LOGOUT"
			}
		}
		if ended {
			for _, f := range files {
				os.Remove(f)
			}
			return commands
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("no protocol of a session that has ended in %s", dir)
	return nil
}

// commandLine is a command of package imapclient, in a protocol.
var commandLine = regexp.MustCompile(`(?m)^(?:[0-9.]+ |<[0-9]+<)?L\d+ ((?:UID )?[A-Z]+[^\r\n]*)\r?$`)
