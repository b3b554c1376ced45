package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/auth"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/posture"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/tlsconf"
	"github.com/letterhold/letterhold/internal/upload"
	"github.com/letterhold/letterhold/internal/web"
)

// Options of a server.
type Options struct {
	KeyFile string // "" if it is not known
	HTTPS   string // address to listen on
	Log     *slog.Logger
	Execute func(o *Opened) Execute // runs command lines of the local socket
	Journal *Journal                // nil: no copies of mail are received
	// Ready is called with the address once connections are accepted.
	Ready func(url string)
}

// ErrListen: the address cannot be listened on.
var ErrListen = errors.New("cannot listen")

// Server is a running server.
type Server struct {
	dir    string
	o      Options
	opened atomic.Pointer[Opened] // nil: locked
	door   atomic.Pointer[http.Handler]
	auth   *auth.Auth
	ca     *tlsconf.CA
	cert   atomic.Pointer[tls.Certificate]
	open   func(seal.Secret) (*Opened, error)
	life   context.Context // of Run
	base   string          // address, once it serves
}

// hosts are the names that the server's certificate is for.
func hosts(listen string) []string {
	names := []string{"localhost"}
	if h, _, err := net.SplitHostPort(listen); err == nil && h != "" && h != "localhost" && !net.ParseIP(h).IsUnspecified() {
		names = append(names, h)
	}
	if h, err := os.Hostname(); err == nil && h != "" && h != "localhost" {
		names = append(names, h)
	}
	return append(names, "127.0.0.1", "::1")
}

// labels are the parts of host names: among them are the machine's name and,
// mostly, that of the organisation.
func labels(hosts []string) []string {
	var all []string
	for _, h := range hosts {
		if net.ParseIP(h) == nil {
			all = append(append(all, h), strings.Split(h, ".")...)
		}
	}
	return all
}

// New returns the server of an archive that is open.
func New(x *Opened, o Options) (*Server, error) {
	s := &Server{dir: x.Dir, o: o}
	return s, s.enter(x)
}

// NewLocked returns the server of an archive that nobody has opened yet: it
// answers with the unlock page only. open opens it with a secret.
func NewLocked(dir string, o Options, open func(seal.Secret) (*Opened, error)) (*Server, error) {
	s := &Server{dir: dir, o: o, open: open}
	// The archive's own CA is sealed; until then a key of this process serves.
	ca, _, err := tlsconf.NewCA("(locked)", time.Now())
	if err != nil {
		return nil, err
	}
	if err := s.certify(ca); err != nil {
		return nil, err
	}
	var h http.Handler = web.Locked(func(passphrase string) error {
		secret, err := seal.Passphrase(passphrase)
		if err != nil {
			return err
		}
		return s.Unlock(secret, open)
	})
	s.door.Store(&h)
	return s, nil
}

// Unlock opens a locked server with a secret.
func (s *Server) Unlock(secret seal.Secret, open func(seal.Secret) (*Opened, error)) error {
	if s.opened.Load() != nil {
		return nil
	}
	x, err := open(secret)
	if err != nil {
		return err
	}
	if err := s.enter(x); err != nil {
		return errors.Join(err, x.Close())
	}
	return nil
}

// Locked tells whether nobody has opened the archive.
func (s *Server) Locked() bool { return s.opened.Load() == nil }

func (s *Server) certify(ca *tlsconf.CA) error {
	cert, err := ca.Issue(hosts(s.o.HTTPS), time.Now())
	if err != nil {
		return err
	}
	s.ca = ca
	s.cert.Store(&cert)
	return nil
}

// enter puts the doors in front of an archive.
func (s *Server) enter(x *Opened) error {
	ca, err := archiveCA(x.Archive)
	if err != nil {
		return fmt.Errorf("internal CA: %w", err)
	}
	if err := s.certify(ca); err != nil {
		return err
	}
	s.auth = auth.New(x.Archive, labels(hosts(s.o.HTTPS))...)
	if err := ingest.EndUploads(context.Background(), x.Archive); err != nil {
		return err
	}
	x.uploads = upload.New(upload.Options{Archive: x.Archive, Dir: filepath.Join(s.dir, "spool"), Free: func() (int64, error) { return free(s.dir) }})
	w, err := web.New(x.Archive, x.Search, s.auth, web.Options{Log: s.o.Log, CA: ca.PEM(), Runner: x.Runner, Exports: x.Targets.Live, Uploads: x.uploads, Posture: func(ctx context.Context) (*posture.Report, error) { return x.Posture(ctx, "") }})
	if err != nil {
		return err
	}
	var h http.Handler = w
	s.door.Store(&h)
	x.life, x.keyFile, x.oldTLS = s.life, s.o.KeyFile, s.o.Journal != nil && s.o.Journal.TLS12
	if s.base != "" {
		x.Link = s.link // it was unlocked while it serves
	}
	s.opened.Store(x)
	return nil
}

const caSecret = "internal CA"

// archiveCA returns the archive's CA and makes it at the first start. Its key
// is sealed in state.db.
func archiveCA(a *archive.Archive) (*tlsconf.CA, error) {
	key := a.Key(seal.PurposeSecret).Key
	var box []byte
	err := a.State().View(context.Background(), func(v catalog.View) (err error) {
		box, err = v.Secret(caSecret)
		return err
	})
	if err == nil {
		plain, err := seal.OpenBox(key, []byte(caSecret), box)
		if err != nil {
			return nil, err
		}
		return tlsconf.ParseCA(plain)
	}
	if !errors.Is(err, catalog.ErrNotFound) {
		return nil, err
	}
	ca, secret, err := tlsconf.NewCA(a.ID(), a.Now())
	if err != nil {
		return nil, err
	}
	return ca, a.Change(archive.Act{What: "internal CA made", Who: "server", Of: ca.Fingerprint()}, func(t catalog.Tx) error {
		return t.SetSecret(caSecret, seal.SealBox(key, []byte(caSecret), secret))
	})
}

// Fingerprint is that of the CA that vouches for the server.
func (s *Server) Fingerprint() string { return s.ca.Fingerprint() }

// link makes a one-time link: an account that administers the archive and owns
// a mailbox.
func (s *Server) link(mailbox int64) (string, error) {
	secret, err := s.auth.NewLink(mailbox)
	return s.base + "/welcome?t=" + secret, err
}

// Run serves until ctx ends, then stops in order.
func (s *Server) Run(ctx context.Context) error {
	s.life = ctx
	if x := s.opened.Load(); x != nil {
		x.life = ctx
	}
	defer func() {
		if x := s.opened.Load(); x != nil {
			x.Close()
		}
	}()
	path, err := SocketPath(s.dir)
	if err != nil {
		return err
	}
	stopSocket, err := listenSocket(ctx, path, s.execute)
	if err != nil {
		return err
	}
	defer stopSocket()
	defer os.Remove(path)
	l, err := net.Listen("tcp", s.o.HTTPS)
	if err != nil {
		return fmt.Errorf("%w on %s: %w", ErrListen, s.o.HTTPS, err)
	}
	conf := tlsconf.Server(*s.cert.Load())
	conf.Certificates = nil
	conf.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.Load(), nil }
	hs := web.Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*s.door.Load()).ServeHTTP(w, r) }), s.o.Log)
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { s.verifyMonthly(ctx) })
	work.Go(func() { s.settleRefusals(ctx) })
	work.Go(func() { s.collect(ctx) })
	defer work.Wait() // before the archive is closed
	defer cancel()
	if s.o.Journal != nil {
		wait, err := s.journals(ctx)
		defer wait()
		defer cancel()
		if err != nil {
			return errors.Join(err, l.Close())
		}
	}
	failed := make(chan error, 1)
	go func() { failed <- hs.Serve(tls.NewListener(l, conf)) }()
	s.base = s.url(l.Addr())
	if x := s.opened.Load(); x != nil {
		x.Link = s.link
	}
	if s.o.Ready != nil {
		s.o.Ready(s.base)
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	if x := s.opened.Load(); x != nil {
		x.uploads.Stop() // a piece under way would hold the stop up
	}
	last, forget := context.WithTimeout(context.Background(), 10*time.Second)
	defer forget()
	return hs.Shutdown(last)
}

// settleRefusals lets refused sign-ins that were counted reach the ledger, the
// last of them when ctx ends.
func (s *Server) settleRefusals(ctx context.Context) {
	for {
		settle := func() error { return s.auth.Settle() }
		select {
		case <-ctx.Done():
			settle = func() error { return s.auth.SettleAll() }
		case <-time.After(time.Minute):
		}
		if s.opened.Load() != nil {
			if err := settle(); err != nil {
				s.o.Log.Error("refused sign-ins do not reach the ledger", "err", err)
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// collect runs profiles and targets once somebody has opened the archive.
func (s *Server) collect(ctx context.Context) {
	for s.opened.Load() == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
	var targets sync.WaitGroup
	targets.Go(func() { s.opened.Load().Targets.Serve(ctx) })
	s.opened.Load().Runner.Serve(ctx)
	targets.Wait()
}

// url is how a browser on this machine reaches the server.
func (s *Server) url(a net.Addr) string {
	host, _, err := net.SplitHostPort(s.o.HTTPS)
	_, port, _ := net.SplitHostPort(a.String())
	if err != nil || host == "" || net.ParseIP(host).IsUnspecified() {
		host = "localhost"
	}
	if port == "443" {
		return "https://" + host
	}
	return "https://" + net.JoinHostPort(host, port)
}

func (s *Server) execute(ctx context.Context, c Call, stdin io.Reader, stdout, stderr io.Writer) int {
	x := s.opened.Load()
	if len(c.Args) > 0 && c.Args[0] == UnlockCall {
		if x != nil {
			return 0 // unlocked already
		}
		return s.unlockCall(stdin, stderr)
	}
	if x == nil {
		fmt.Fprintln(stderr, "letterhold: the server is locked\nhint: letterhold unlock --key-file F")
		return 1
	}
	return s.o.Execute(x)(ctx, c, stdin, stdout, stderr)
}

// UnlockCall is the first argument of the call that unlocks; the second is the
// kind of the secret, which comes on standard input.
const UnlockCall = "unlock-with"

func (s *Server) unlockCall(stdin io.Reader, stderr io.Writer) int {
	b, err := io.ReadAll(io.LimitReader(stdin, 4096))
	var secret seal.Secret
	if err == nil {
		if secret, err = seal.ParseKeyFile(seal.KindKeyFile, b); err != nil {
			secret, err = seal.Passphrase(string(b))
		}
	}
	if err == nil {
		err = s.Unlock(secret, s.open)
	}
	if err != nil {
		fmt.Fprintf(stderr, "letterhold: %v\n", err)
		return 1
	}
	return 0
}
