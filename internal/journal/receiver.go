// Package journal takes in what mail servers send of every message: it
// receives SMTP and LMTP, and reads the reports of Exchange.
//
// A [Receiver] is the end of the way of a message. It never relays, adds no
// header and stores the bytes as they came, less the dots of transparency. It
// says 250 only after [Config.Deliver] has said that the message is committed,
// and whatever is uncertain is a temporary error, so that the sender keeps the
// message and comes again: a message may arrive twice, and none is lost.
//
// Absent on purpose: BDAT, DSN, VRFY and EXPN, mechanisms of AUTH other than
// PLAIN, lines that end in anything but CRLF.
package journal

import (
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/letterhold/letterhold/internal/tlsconf"
)

// Defaults of a Config.
const (
	defaultSize    = 256 << 20 // twice what any mail server known lets through
	defaultConns   = 200       // with 50 KiB of buffers each
	defaultPerHost = 50        // of Exchange's 20 to a host, Postfix's 20, and room
)

// minRSA is the least length of an RSA key in a sender's certificate, in bits.
const minRSA = 2048

// Config says what a receiver takes, from whom, and for which addresses.
//
// Who may send: at least one of the ways Senders, Clients, Auth and, on a
// socket of the file system, Local must be configured and hold. A host that no
// way is left for is greeted with 554 and cut off; one that still has to show
// a certificate or to sign in is told so at MAIL. With nothing configured
// nobody may send. In addition every connection has TLS, unless Local says
// otherwise.
type Config struct {
	Name string // of this host, for greetings
	LMTP bool   // RFC 2033 instead of SMTP

	// Certificate is that of the listener. It may be nil only with Local.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Implicit    bool // TLS from the first byte (RFC 8314, 3.3) instead of STARTTLS
	TLS12       bool // TLS 1.2 is taken too: ECDHE with AEAD only
	// Local lets LMTP on a socket of the file system or from loopback be without
	// TLS. Who may open the socket may send: its permissions say who that is.
	// Loopback is open to every process and is a sender only if listed.
	Local bool

	Senders []netip.Prefix // hosts that may send
	Clients Clients        // certificates whose holders may send
	// Auth tells whether user and password are right; nil: there is no AUTH. It
	// throttles. An error is temporary.
	Auth func(ctx context.Context, remote netip.Addr, user, password string) (bool, error)

	// Journal tells whether mail to an address is taken; any other is refused.
	// A *Refusal is told to the sender, any other error is temporary.
	Journal func(ctx context.Context, address string) (bool, error)
	// Deliver is called with a complete message, from many goroutines, and
	// returns once it is committed. It reads from r at most, and what it needs in
	// memory is needed only now, not while the message arrives. Its error is as
	// [Refusal] says. It must return soon after ctx ends.
	Deliver func(ctx context.Context, e Envelope, r io.Reader) error
	// Spool makes the place for a message that arrives.
	Spool func() (Spool, error)

	MaxSize int64 // of a message in bytes; default 256 MiB
	Conns   int   // at a time; default 200
	PerHost int   // at a time from one address, or one /64 of IPv6; default 50
	Log     *slog.Logger
	Now     func() time.Time // for Envelope.Received and certificates; default time.Now
}

// Clients are certificates that authorities vouch for; the zero value is none.
type Clients struct {
	Roots *x509.CertPool
	// Names restricts certificates to those for one of these host names; it is
	// needed if the authorities are not the organisation's own. A certificate that
	// is named may also be one for servers: mail servers show one in both
	// directions, and public authorities no longer issue any for clients.
	Names []string
}

// Envelope is what is known of a message beside its bytes. From, To and HELO
// are what the sender claims.
type Envelope struct {
	From     string   // "" for <>
	To       []string // all of them journal addresses, in order, with repetitions
	UTF8     bool     // RFC 6531: addresses and headers may be UTF-8
	HELO     string
	Remote   netip.Addr // invalid for a socket of the file system
	TLS      uint16     // version; 0: none
	Auth     string     // user who signed in
	Client   string     // subject of the certificate that was verified
	Received time.Time  // when its last byte came
	Size     int64      // bytes
}

// Refusal is an error with the reply to give. Of Deliver, an error that
// wraps none is replied to with 452 4.3.1 if it wraps syscall.ENOSPC, else with 451 4.3.0.
type Refusal struct {
	Code   int    // 400 to 599
	Status string // RFC 3463: "4.3.1"
	Text   string // ASCII, one line
}

func (r *Refusal) Error() string { return fmt.Sprintf("%d %s %s", r.Code, r.Status, r.Text) }

// Each is an error of Deliver that differs by recipient: one for each of
// Envelope.To, nil where the message is committed. LMTP replies to each. SMTP
// has one reply, and says the first temporary error, else the first: a sender
// that comes again brings a message twice to those who have it.
type Each []error

func (e Each) Error() string { return fmt.Sprint(errors.Join(e...)) }

// Receiver serves listeners. Its methods may be called at any time from any
// goroutine.
type Receiver struct {
	o    Config
	tls  *tls.Config // nil: there is none
	ctx  context.Context
	stop context.CancelFunc // ends what waits for others

	stopping  atomic.Bool // changed while mu is held
	mu        sync.Mutex
	listeners map[net.Listener]bool
	conns     map[*conn]bool
	perHost   map[netip.Prefix]int
	work      sync.WaitGroup // of connections; added to only while not stopping
	told      time.Time      // when a stranger was last logged
	untold    int            // strangers since then
}

// New checks a configuration.
func New(o Config) (*Receiver, error) {
	o.MaxSize = cmp.Or(o.MaxSize, defaultSize)
	o.Conns = cmp.Or(o.Conns, defaultConns)
	o.PerHost = cmp.Or(o.PerHost, defaultPerHost)
	if o.Now == nil {
		o.Now = time.Now
	}
	switch {
	case o.Name == "" || !printable(o.Name) || strings.Contains(o.Name, " "):
		return nil, fmt.Errorf("journal listener: %q is no host name", o.Name)
	case o.Local && !o.LMTP:
		return nil, errors.New("journal listener: without TLS it takes LMTP only")
	case o.Certificate == nil && (!o.Local || o.Implicit):
		return nil, errors.New("journal listener: it has no certificate")
	case o.Journal == nil || o.Deliver == nil || o.Spool == nil || o.Log == nil:
		return nil, errors.New("journal listener: Journal, Deliver, Spool or Log is missing")
	}
	for _, p := range o.Senders {
		if !p.IsValid() || p.Addr().Is4In6() {
			return nil, fmt.Errorf("journal listener: senders %s: it is written like 10.1.0.0/16", p)
		}
	}
	r := &Receiver{o: o, listeners: map[net.Listener]bool{}, conns: map[*conn]bool{}, perHost: map[netip.Prefix]int{}}
	if o.Certificate != nil {
		r.tls = serverTLS(&o)
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r, nil
}

// serverTLS is the TLS of a listener. A certificate of a client is asked for
// only where it counts, and a bad one counts as none: the handshake must not
// fail for a host that may send in another way. There is no resumption, so
// that a certificate is proved on each connection.
func serverTLS(o *Config) *tls.Config {
	t := tlsconf.Server(tls.Certificate{})
	t.Certificates, t.GetCertificate = nil, o.Certificate
	t.SessionTicketsDisabled = true
	t.NextProtos = []string{"smtp", "lmtp"} // a client that asks for something else is not talking to us (RFC 7301, 3.2)
	if o.Clients.Roots != nil {
		t.ClientAuth = tls.RequestClientCert
	}
	if o.TLS12 {
		t.MinVersion = tls.VersionTLS12
		t.CipherSuites = []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		}
	}
	return t
}

// verify returns the subject of a client's certificate if it may send.
func (x *Clients) verify(chain []*x509.Certificate, now time.Time) (string, error) {
	if x.Roots == nil || len(chain) == 0 {
		return "", errors.New("no certificate")
	}
	leaf := chain[0]
	use := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(x.Names) > 0 {
		use = append(use, x509.ExtKeyUsageServerAuth)
		if !slices.ContainsFunc(x.Names, func(n string) bool { return leaf.VerifyHostname(n) == nil }) {
			return "", errors.New("certificate for another name")
		}
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	paths, err := leaf.Verify(x509.VerifyOptions{Roots: x.Roots, Intermediates: between, KeyUsages: use, CurrentTime: now})
	if err != nil {
		return "", err
	}
	for _, c := range paths[0] {
		if k, ok := c.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() < minRSA {
			return "", fmt.Errorf("an RSA key of %d bits", k.N.BitLen())
		}
	}
	return cmp.Or(leaf.Subject.String(), "(no subject)"), nil
}

// Serve accepts connections on l, which it closes, until Shutdown. Several
// listeners may be served at a time; limits hold for them together.
func (r *Receiver) Serve(l net.Listener) error {
	defer l.Close()
	r.mu.Lock()
	r.listeners[l] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.listeners, l)
		r.mu.Unlock()
	}()
	for wait := time.Duration(0); !r.stopping.Load(); {
		nc, err := l.Accept()
		switch {
		case err == nil:
			wait = 0
			r.accept(nc)
		case r.stopping.Load():
		case errors.Is(err, net.ErrClosed) || wait > time.Minute:
			return fmt.Errorf("journal listener: %w", err)
		default: // out of descriptors, or the peer is gone already
			wait = max(5*time.Millisecond, 2*wait)
			r.o.Log.Warn("a connection was not accepted", "err", err)
			select {
			case <-time.After(wait):
			case <-r.ctx.Done():
			}
		}
	}
	return nil
}

// accept serves a connection, or says why not.
func (r *Receiver) accept(nc net.Conn) {
	c := newConn(r, nc)
	if !r.possible(c) {
		r.stranger(c)
		r.dismiss(nc, "554 5.7.1 This host may not send here\r\n")
		return
	}
	r.mu.Lock()
	full := r.stopping.Load() || len(r.conns) >= r.o.Conns || c.host.IsValid() && r.perHost[c.host] >= r.o.PerHost
	if !full {
		r.conns[c] = true
		r.perHost[c.host]++
		r.work.Add(1)
	}
	r.mu.Unlock()
	if full {
		r.o.Log.Debug("too many connections", "remote", c.remote)
		r.dismiss(nc, "421 4.7.0 Too many connections, try later\r\n")
		return
	}
	go func() {
		defer r.forget(c)
		c.serve()
	}()
}

func (r *Receiver) forget(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	if r.perHost[c.host]--; r.perHost[c.host] == 0 {
		delete(r.perHost, c.host)
	}
	r.work.Done()
}

// possible tells whether there is any way left for the peer to be a sender.
func (r *Receiver) possible(c *conn) bool {
	return c.listed || r.tls != nil && (r.o.Clients.Roots != nil || r.o.Auth != nil)
}

// dismiss says a last word. Where TLS comes first nothing can be said: a
// handshake is not made for it.
func (r *Receiver) dismiss(nc net.Conn, word string) {
	if !r.o.Implicit {
		nc.SetWriteDeadline(time.Now().Add(time.Second)) // it fits into the socket's buffer
		io.WriteString(nc, word)
	}
	nc.Close()
}

// stranger logs hosts that may not send: one a minute, since they decide how
// many there are.
func (r *Receiver) stranger(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.untold++; time.Since(r.told) < time.Minute {
		return
	}
	r.o.Log.Warn("a host that may not send was cut off", "remote", c.remote, "since the last", r.untold)
	r.told, r.untold = time.Now(), 0
}

// Shutdown stops accepting, lets transactions that have begun end, and says
// 421 to everybody else. When ctx ends before that, connections are cut and
// the context of Deliver ends. It returns when no connection is left.
func (r *Receiver) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	r.stopping.Store(true)
	for l := range r.listeners {
		l.Close()
	}
	for c := range r.conns {
		c.wake()
	}
	r.mu.Unlock()
	done := make(chan struct{})
	go func() {
		r.work.Wait()
		close(done)
	}()
	defer r.stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	r.stop()
	r.mu.Lock()
	for c := range r.conns {
		c.raw.Close()
	}
	r.mu.Unlock()
	<-done
	return ctx.Err()
}
