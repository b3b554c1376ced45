package journal

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestLimits(t *testing.T) {
	repeat := func(n int, lines ...string) (out []string) {
		for range n {
			out = append(out, lines...)
		}
		return out
	}
	for name, script := range map[string][]string{
		"errors":                append(repeat(maxErrors-1, "> XYZZY", "< 500"), "> XYZZY", "< 421 4.7.0 Too many errors", "< eof"),
		"a message forgives":    append(append(repeat(maxErrors-1, "> XYZZY", "< 500"), wellKnown("> .", "< 250")...), "> XYZZY", "< 500"),
		"refused forgive not":   append(repeat(maxErrors, wellKnown(">>\n\r\n.\r\n", "< 550")...), "< eof"),
		"commands":              append(repeat(maxCommands-3, "> NOOP", "< 250"), "> NOOP", "< 421 4.7.0", "< eof"), // three were for TLS
		"temporary is no error": append([]string{"> MAIL FROM:<>", "< 250"}, repeat(maxErrors+1, "> RCPT TO:<locked@journal.example>", "< 451")...),
		"recipients": append(append([]string{"> MAIL FROM:<>", "< 250"}, repeat(maxRcpt, "> RCPT TO:<j@journal.example>", "< 250")...),
			"> RCPT TO:<j@journal.example>", "< 452 4.5.3", "> DATA", "< 354", "> .", "< 250"),
		"messages":        append(repeat(maxMessages, wellKnown("> .", "< 250")...), "> MAIL FROM:<>", "< 421 4.7.0", "< eof"),
		"largest message": wellKnown(">>"+strings.Repeat("x", 1<<20-2)+"\r\n.\r\n", "< 250"),
		"too large":       append(wellKnown(">>"+strings.Repeat("x", 1<<20-1)+"\r\n.\r\n", "< 552 5.3.4"), wellKnown("> .", "< 250")...),
		"without end":     wellKnown(">>"+strings.Repeat("x", 1<<20+maxDrain+64<<10), "< 552 5.3.4", "< eof"),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, b *bed) {
				c := b.begin(sender)
				defer c.close()
				c.script(script...)
			})
		})
	}
}

// took tells how long the server waited, in the time of the bubble.
func took(t *testing.T, c *client, atLeast, atMost time.Duration, lines ...string) {
	t.Helper()
	began := time.Now()
	c.script(lines...)
	if d := time.Since(began); d < atLeast || d > atMost {
		t.Errorf("it took %s, not %s to %s", d, atLeast, atMost)
	}
}

// trickle writes s again and again until the connection ends, which the
// function it returns waits for.
func trickle(w io.Writer, s string, every time.Duration) (wait func()) {
	var done sync.WaitGroup
	done.Go(func() {
		for {
			if _, err := io.WriteString(w, s); err != nil {
				return
			}
			time.Sleep(every)
		}
	})
	return done.Wait
}

func TestTimeouts(t *testing.T) {
	t.Run("between commands", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, b *bed) {
			c := b.begin(sender)
			time.Sleep(commandTimeout - time.Second)
			took(t, c, commandTimeout, commandTimeout, "> NOOP", "< 250", "< 421 4.4.2", "< eof")
		})
	})
	t.Run("a command that trickles", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, b *bed) {
			c := b.begin(sender)
			defer trickle(c.nc, "x", 10*time.Second)()
			took(t, c, commandTimeout, commandTimeout, "< 421 4.4.2", "< eof")
		})
	})
	t.Run("before TLS", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, b *bed) {
			c := b.dial(sender)
			defer trickle(c.nc, "NOOP\r\n", 10*time.Second)()
			began := time.Now()
			io.Copy(io.Discard, c.nc)
			if d := time.Since(began); d != strangerTimeout {
				t.Errorf("it took %s", d)
			}
		})
	})
	t.Run("handshake", func(t *testing.T) {
		bubble(t, func(o *Config) { o.Implicit = true }, func(t *testing.T, b *bed) {
			took(t, b.dial(sender), strangerTimeout, strangerTimeout, "< eof")
		})
	})
	t.Run("before signing in", func(t *testing.T) {
		bubble(t, func(o *Config) {
			o.Auth = func(context.Context, netip.Addr, string, string) (bool, error) { return true, nil }
		}, func(t *testing.T, b *bed) {
			c := b.begin(stranger)
			took(t, c, strangerTimeout, strangerTimeout, "> AUTH PLAIN", "< 334", "< 421 4.4.2", "< eof")
			c = b.begin(stranger)
			took(t, c, commandTimeout, commandTimeout, "> AUTH PLAIN "+plain("a", "b"), "< 235", "< 421 4.4.2", "< eof")
		})
	})
	t.Run("silence in DATA", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, b *bed) {
			c := b.begin(sender)
			took(t, c, blockTimeout, blockTimeout, wellKnown(">>x\r\n", "< 421 4.4.2", "< eof")...)
			if len(b.messages()) > 0 {
				t.Error("half a message was delivered")
			}
		})
	})
	t.Run("DATA that trickles", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, b *bed) {
			c := b.begin(sender)
			c.script(wellKnown()...)
			defer trickle(c.nc, "x", time.Minute)()
			took(t, c, slowGrace, slowGrace+time.Second, "< 421 4.4.2", "< eof")
		})
	})
	t.Run("DATA that is slow", func(t *testing.T) {
		bubble(t, func(o *Config) { o.MaxSize = 8 << 20 }, func(t *testing.T, b *bed) {
			c := b.begin(sender)
			c.script(wellKnown()...)
			for range 100 { // at the least rate, for longer than the grace
				io.WriteString(c.nc, strings.Repeat("x", 10*minRate-2)+"\r\n")
				time.Sleep(10 * time.Second)
			}
			c.script("> .", "< 250")
			c.close()
		})
	})
	t.Run("only DATA counts", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, b *bed) {
			c := b.begin(sender)
			time.Sleep(commandTimeout - time.Second)
			c.script(wellKnown()...)
			time.Sleep(blockTimeout - time.Second)
			c.script("> .", "< 250")
			c.close()
		})
	})
	t.Run("a peer that does not read", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, b *bed) {
			c := b.begin(sender)
			began := time.Now()
			io.WriteString(c.nc, "NOOP\r\n")
			synctest.Wait()
			for conns(b.r) > 0 {
				time.Sleep(time.Second)
			}
			if d := time.Since(began); d > writeTimeout+10*time.Second {
				t.Errorf("it took %s", d)
			}
		})
	})
}

func conns(r *Receiver) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}

func TestConnections(t *testing.T) {
	bubble(t, func(o *Config) { o.Conns, o.PerHost = 5, 2 }, func(t *testing.T, b *bed) {
		var open []*client
		for _, from := range []string{sender, sender, "2001:db8::1", "2001:db8::2", "10.1.0.9"} {
			c := b.dial(from)
			c.script("< 220")
			open = append(open, c)
			if from == "2001:db8::2" || len(open) == 2 {
				c := b.dial(from)
				c.script("< 421 4.7.0 Too many", "< eof")
			}
		}
		b.dial("10.1.0.10").script("< 421 4.7.0", "< eof")
		open[0].script("> QUIT", "< 221", "< eof")
		synctest.Wait()
		c := b.dial(sender)
		c.script("< 220")
		for _, c := range append(open[1:], c) {
			c.close()
		}
		synctest.Wait()
		if b.r.mu.Lock(); len(b.r.conns) > 0 || len(b.r.perHost) > 0 {
			t.Errorf("left: %v, %v", b.r.conns, b.r.perHost)
		}
		b.r.mu.Unlock()
	})
	// Strangers fill no log.
	bubble(t, func(o *Config) { o.Implicit = true }, func(t *testing.T, b *bed) {
		for range 100 {
			b.dial(stranger).script("< eof")
		}
		synctest.Wait()
		if n := strings.Count(b.log.String(), "\n"); n != 1 {
			t.Errorf("%d lines:\n%s", n, b.log.String())
		}
	})
}

// A listener that fails for a moment is asked again.
func TestAcceptAgain(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *bed) {
		l := &faulty{plug: newPlug()}
		served := make(chan error, 1)
		go func() { served <- b.r.Serve(l) }()
		usual := b.p
		b.p = l.plug
		c := b.dial(sender)
		b.p = usual
		c.script("< 220")
		c.close()
		b.r.Shutdown(t.Context())
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

type faulty struct {
	*plug
	n atomic.Int32
}

func (f *faulty) Accept() (net.Conn, error) {
	if f.n.Add(1) < 5 {
		return nil, errors.New("too many open files")
	}
	return f.plug.Accept()
}

// Shutdown ends what is idle at once and waits for transactions.
func TestShutdown(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *bed) {
		idle, busy, dark := b.begin(sender), b.begin(sender), b.dial(sender)
		busy.script(wellKnown()...)
		dark.script("< 220", "> EHLO x", "< 250", "> STARTTLS", "< 220")
		done := make(chan error, 1)
		go func() { done <- b.r.Shutdown(t.Context()) }()
		idle.script("< 421 4.3.2", "< eof")
		dark.script("< eof")
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("it did not wait")
		default:
		}
		took(t, busy, 0, 0, ">>x\r\n.\r\n", "< 250", "< 421 4.3.2", "< eof")
		if err := <-done; err != nil || len(b.messages()) != 1 {
			t.Errorf("%v, %d messages", err, len(b.messages()))
		}
		if err := b.r.Serve(newPlug()); err != nil {
			t.Errorf("serve after shutdown: %v", err)
		}
	})
	// A pipelined second message does not begin.
	bubble(t, nil, func(t *testing.T, b *bed) {
		c := b.begin(sender)
		c.script(wellKnown()...)
		go b.r.Shutdown(t.Context())
		synctest.Wait()
		c.script(">>.\r\nMAIL FROM:<>\r\nRCPT TO:<j@journal.example>\r\n", "< 250", "< 421", "< eof")
	})
	// Patience ends: the connection is cut, Deliver is told.
	var told atomic.Bool
	bubble(t, func(o *Config) {
		o.Deliver = func(ctx context.Context, _ Envelope, _ io.Reader) error {
			<-ctx.Done()
			told.Store(true)
			return ctx.Err()
		}
	}, func(t *testing.T, b *bed) {
		stuck, slow := b.begin(sender), b.begin(sender)
		stuck.script(wellKnown("> .")...)
		slow.script(wellKnown(">>x")...)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		if err := b.r.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 10*time.Second || !told.Load() {
			t.Errorf("%v after %s, told %v", err, time.Since(began), told.Load())
		}
		stuck.script("< eof")
		slow.script("< eof")
	})
}

// A transaction is one line of the log, without addresses of mail.
func TestLog(t *testing.T) {
	bubble(t, nil, func(t *testing.T, b *bed) {
		c := b.begin(sender)
		c.script(wellKnown(">>Subject: "+canary+"\r\n.\r\n", "< 250")...)
		c.script(wellKnown(">>Subject: "+canary+"\n\r\n.\r\n", "< 550")...)
		c.script("> QUIT", "< 221", "< eof")
		synctest.Wait()
		lines := 0
		for l := range strings.Lines(b.log.String()) {
			if strings.Contains(l, "level=DEBUG") {
				continue
			}
			lines++
			if strings.Contains(l, "@") || !strings.Contains(l, "duration=") || !strings.Contains(l, "recipients=1") || !strings.Contains(l, "bytes=") {
				t.Error(l)
			}
		}
		if lines != 2 {
			t.Errorf("%d lines:\n%s", lines, b.log.String())
		}
	})
}
