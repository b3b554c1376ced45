package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// peakMemory is what a process may hold with a message of 100 MB, in bytes.
const peakMemory = 512 << 20

const bigHead = "From: Ann <ann@example.org>\nTo: bob@example.org\nSubject: big\nDate: Thu, 12 Mar 2026 08:00:00 +0000\n"

// bigMessages are at the edges of what is archived.
func bigMessages() map[string]func() []byte {
	words := func(n int) []byte {
		r := rand.New(rand.NewPCG(1, 2))
		var b bytes.Buffer
		for b.Len() < n {
			fmt.Fprintf(&b, "word%d ", r.IntN(200_000))
			if r.IntN(10) == 0 {
				b.WriteByte('\n')
			}
		}
		return b.Bytes()
	}
	return map[string]func() []byte{
		"nul":         func() []byte { return []byte(bigHead + "\nhel\x00lo\x00") },
		"bare cr":     func() []byte { return []byte(bigHead + "\nhello\rthere\r") },
		"8bit header": func() []byte { return []byte("From: a@example.org\nSubject: caf\xe9 \xff\xfe\n\nx\n") },
		"no newline":  func() []byte { return []byte(bigHead + "\nhello") },
		"100 MB text": func() []byte { return append([]byte(bigHead+"\n"), words(100_000_000)...) },
		"100 MB attachment": func() []byte {
			r := rand.New(rand.NewPCG(3, 4))
			plain := make([]byte, 57*1_300_000)
			for i := 0; i+8 <= len(plain); i += 8 {
				copy(plain[i:], fmt.Sprintf("%08x", r.Uint32()))
			}
			b := bytes.NewBufferString(bigHead + "Content-Type: multipart/mixed; boundary=x\n\n--x\n\ntext\n--x\nContent-Type: application/pdf; name=a.pdf\nContent-Transfer-Encoding: base64\n\n")
			line := make([]byte, 77)
			line[76] = '\n'
			for i := 0; i < len(plain); i += 57 {
				base64.StdEncoding.Encode(line, plain[i:i+57])
				b.Write(line)
			}
			b.WriteString("\n--x--\n")
			return b.Bytes()
		},
		"20 MiB line": func() []byte { return []byte(bigHead + "\n" + strings.Repeat("x y", 20<<20/3) + "\n") },
		"10 MiB header": func() []byte {
			return []byte(bigHead + "X-Long: " + strings.Repeat("abc def\n ", 10<<20/9) + "end\n\ntext\n")
		},
		"100,000 parts": func() []byte {
			return []byte(bigHead + "Content-Type: multipart/mixed; boundary=x\n\n" + strings.Repeat("--x\nContent-Type: text/plain\n\npart\n", 100_000) + "--x--\n")
		},
		"nesting of 5,000": func() []byte {
			var b bytes.Buffer
			b.WriteString(bigHead)
			for i := range 5_000 {
				fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
			}
			b.WriteString("\ninnermost\n")
			for i := 4_999; i >= 0; i-- {
				fmt.Fprintf(&b, "--b%d--\n", i)
			}
			return b.Bytes()
		},
		"embedded 5,000 deep": func() []byte {
			return []byte(bigHead + strings.Repeat("Content-Type: message/rfc822\n\n", 5_000) + "\ninnermost\n")
		},
	}
}

// measured runs the real program and fails when its memory goes over the limit.
// The peak that the kernel reports for an ended process counts what its parent
// held, so the program's own is read while it runs.
func measured(t *testing.T, bin, dir string, args ...string) []byte {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(bin, append([]string{"--archive", "a", "--key-file", "key"}, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	peak := int64(0)
	for running := true; running; {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v: %v\n%s", args, err, stderr.Bytes())
			}
			running = false
		case <-time.After(2 * time.Millisecond):
			peak = max(peak, highWater(cmd.Process.Pid))
		}
	}
	if peak > 100<<20 {
		t.Logf("%s: %d MiB, %v", args[0], peak>>20, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	}
	if peak > peakMemory {
		t.Errorf("%v: %d MiB of memory, the limit is %d", args, peak>>20, peakMemory>>20)
	}
	return stdout.Bytes()
}

// highWater is the most memory that a process has held, in bytes; 0 where the
// system does not tell.
func highWater(pid int) (n int64) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	fmt.Sscanf(rest, "%d kB", &n)
	return n << 10
}

// Messages at the edges come out as they went in, in bounded memory.
func TestBigMessages(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	bin, dir := binary(t), t.TempDir()
	ok(t, dir, "init", "a", "--json")
	for name, make := range bigMessages() {
		t.Run(name, func(t *testing.T) {
			raw := make()
			want := sha256.Sum256(raw)
			if err := os.WriteFile(filepath.Join(dir, "in.eml"), raw, 0o600); err != nil {
				t.Fatal(err)
			}
			raw = nil
			var r struct{ Seen, Archived, Failed int64 }
			if err := json.Unmarshal(measured(t, bin, dir, "import", "in.eml", "--mailbox", name, "--json"), &r); err != nil || r.Archived != 1 || r.Failed != 0 {
				t.Fatalf("%+v, %v", r, err)
			}
			var found struct{ Hits []struct{ ID string } }
			if err := json.Unmarshal(measured(t, bin, dir, "search", fmt.Sprintf("mailbox:%q", name), "--json"), &found); err != nil || len(found.Hits) != 1 {
				t.Fatalf("%+v, %v", found, err)
			}
			if got := sha256.Sum256(measured(t, bin, dir, "show", found.Hits[0].ID, "--raw")); got != want {
				t.Error("shown with other bytes")
			}
			out := filepath.Join(dir, "out "+name)
			measured(t, bin, dir, "export", fmt.Sprintf("mailbox:%q", name), "--format", "eml", "--to", out)
			n := 0
			readAll(t, out, func(file string, b []byte) {
				if strings.HasSuffix(file, ".eml") {
					if n++; sha256.Sum256(b) != want {
						t.Error("exported with other bytes")
					}
				}
			})
			if n != 1 {
				t.Errorf("%d files exported", n)
			}
			os.RemoveAll(out)
		})
	}
	measured(t, bin, dir, "verify")
}
