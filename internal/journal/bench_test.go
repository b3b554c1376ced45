package journal

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// group commits what waits together, as an archive does, in no time.
type group struct {
	mu      sync.Mutex
	waiting []chan struct{}
	kick    chan struct{}
	commits atomic.Int64
}

func (g *group) run(ctx context.Context) {
	for {
		select {
		case <-g.kick:
		case <-ctx.Done():
			return
		}
		g.mu.Lock()
		batch := g.waiting
		g.waiting = nil
		g.mu.Unlock()
		g.commits.Add(1)
		for _, ch := range batch {
			close(ch)
		}
	}
}

func (g *group) deliver(_ context.Context, _ Envelope, r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	ch := make(chan struct{})
	g.mu.Lock()
	g.waiting = append(g.waiting, ch)
	g.mu.Unlock()
	select {
	case g.kick <- struct{}{}:
	default:
	}
	<-ch
	return nil
}

// BenchmarkReceive is messages of 20 KiB over 50 connections with TLS.
func BenchmarkReceive(b *testing.B) {
	for _, lmtp := range []bool{false, true} {
		b.Run(fmt.Sprintf("lmtp=%v", lmtp), func(b *testing.B) { benchmarkReceive(b, lmtp) })
	}
}

func benchmarkReceive(b *testing.B, lmtp bool) {
	const connections = 50
	message := []byte("MAIL FROM:<>\r\nRCPT TO:<j@journal.example>\r\nDATA\r\n")
	body := append([]byte("Subject: x\r\n\r\n"), strings.Repeat(strings.Repeat("x", 70)+"\r\n", 284)+".\r\n"...)
	ca, cert := authority()
	g := &group{kick: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go g.run(ctx)
	r, err := New(Config{Name: "mx", LMTP: lmtp, Implicit: true, Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
		Senders: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Journal: func(context.Context, string) (bool, error) { return true, nil },
		Deliver: g.deliver, Spool: SealedSpool(b.TempDir()), PerHost: connections, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go r.Serve(l)
	defer r.Shutdown(context.Background())
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM)
	clients := make([]*tls.Conn, connections)
	expect := func(in *bufio.Reader, codes ...string) {
		for _, code := range codes {
			l, err := in.ReadString('\n')
			for ; err == nil && len(l) > 3 && l[3] == '-'; l, err = in.ReadString('\n') {
			}
			if err != nil || !strings.HasPrefix(l, code) {
				b.Errorf("reply %q, %v", l, err)
			}
		}
	}
	session := func() (*tls.Conn, *bufio.Reader) {
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "localhost"})
		if err != nil {
			b.Error(err)
			return nil, nil
		}
		in := bufio.NewReader(c)
		hello := "EHLO x\r\n"
		if lmtp {
			hello = "LHLO x\r\n"
		}
		expect(in, "220")
		io.WriteString(c, hello)
		expect(in, "250")
		return c, in
	}
	ins := make([]*bufio.Reader, connections)
	for i := range clients {
		if clients[i], ins[i] = session(); clients[i] == nil {
			return
		}
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	b.SetBytes(int64(len(body)))
	b.ResetTimer()
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			c, in := clients[i], ins[i]
			for n := 1; left.Add(-1) >= 0 && !b.Failed(); n++ {
				if n%maxMessages == 0 {
					c.Close()
					if c, in = session(); c == nil {
						return
					}
				}
				c.Write(message)
				expect(in, "250", "250", "354")
				c.Write(body)
				expect(in, "250")
			}
			c.Close()
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(b.N)/float64(g.commits.Load()), "messages/commit")
}
