package journal

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/seal"
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
		b.Run(fmt.Sprintf("lmtp=%v", lmtp), func(b *testing.B) {
			g := &group{kick: make(chan struct{}, 1)}
			go g.run(b.Context())
			benchmarkReceive(b, Config{LMTP: lmtp, Deliver: g.deliver, Journal: func(context.Context, string) (bool, error) { return true, nil }})
			b.ReportMetric(float64(b.N)/float64(g.commits.Load()), "messages/commit")
		})
	}
}

// BenchmarkKeep does the same with an archive on a disk behind it.
func BenchmarkKeep(b *testing.B) {
	d, err := durable.OpenFolder(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	ring, err := archive.Create(d, archive.Options{}, func(k *seal.KeyFile, r *seal.Ring) error {
		s, err := seal.ParseKeyFile(seal.KindKeyFile, seal.NewKeyFile())
		if err == nil {
			_, err = k.AddSlot(r, s, "", seal.WeakCost, time.Now())
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	a, err := archive.Open(d, ring, archive.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	if err := a.State().Write(func(t catalog.Tx) error {
		return t.AddJournal(catalog.Journal{Address: "j@journal.example", Label: "bench", Secret: []byte{}})
	}); err != nil {
		b.Fatal(err)
	}
	before, _, err := a.Checkpoint()
	if err != nil {
		b.Fatal(err)
	}
	k := &Keeper{Archive: func() *archive.Archive { return a }, Free: func() (int64, error) { return 1 << 40, nil }, Log: slog.New(slog.DiscardHandler)}
	benchmarkReceive(b, Config{Deliver: k.Deliver, Journal: k.Journal})
	if after, _, err := a.Checkpoint(); err != nil || bytes.Equal(before, after) {
		b.Fatal("nothing was archived", err)
	}
}

// benchmarkReceive sends messages that differ to a receiver.
func benchmarkReceive(b *testing.B, o Config) {
	const connections = 50
	lmtp := o.LMTP
	message := []byte("MAIL FROM:<>\r\nRCPT TO:<j@journal.example>\r\nDATA\r\n")
	text := "\r\nDate: Thu, 12 Mar 2026 08:00:00 +0000\r\n\r\n" + noise(284) + ".\r\n"
	ca, cert := authority()
	o.Name, o.Implicit, o.Certificate = "mx", true, func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }
	o.Senders, o.Spool, o.PerHost, o.Log = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, SealedSpool(b.TempDir()), connections, slog.New(slog.DiscardHandler)
	r, err := New(o)
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
	b.SetBytes(int64(len(text)))
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
				fmt.Fprintf(c, "Subject: %d of %d%s", n, i, text)
				expect(in, "250")
			}
			c.Close()
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

// noise is lines of words that compress about as text does.
func noise(lines int) string {
	var b strings.Builder
	r := rand.New(rand.NewPCG(1, 2))
	for range lines {
		for range 10 {
			fmt.Fprintf(&b, "w%d ", r.IntN(20_000))
		}
		b.WriteString("\r\n")
	}
	return b.String()
}
