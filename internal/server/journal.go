package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/journal"
)

// Journal says where copies of mail are received, and from whom.
type Journal struct {
	SMTP     string // address to listen on; "" for none
	Implicit bool   // SMTP with TLS from the first byte
	LMTP     string // address, or unix:PATH
	TLS12    bool
	Allow    []netip.Prefix
	Clients  journal.Clients
	Auth     bool // who signs in with a journal address and its password may send
	// Ready is called with the address of each listener.
	Ready func(url string)
}

// lastTransactions is how long a stop waits for messages that are arriving.
const lastTransactions = 10 * time.Second

// journals serves the listeners until ctx ends. The returned function waits for
// that.
func (s *Server) journals(ctx context.Context) (wait func(), err error) {
	o := s.o.Journal
	k := &journal.Keeper{Archive: func() *archive.Archive {
		if x := s.opened.Load(); x != nil {
			return x.Archive
		}
		return nil
	}, Free: func() (int64, error) { return free(s.dir) }, Log: s.o.Log}
	var work sync.WaitGroup
	serve := func(address string, lmtp bool) error {
		r, err := s.receiver(k, o, lmtp, strings.HasPrefix(address, "unix:"))
		if err != nil {
			return err
		}
		l, err := listenJournal(address)
		if err != nil {
			return fmt.Errorf("%w for journals on %s: %w", ErrListen, address, err)
		}
		work.Go(func() {
			if err := r.Serve(l); err != nil && ctx.Err() == nil {
				s.o.Log.Error("the journal listener has ended", "err", err)
			}
		})
		work.Go(func() {
			<-ctx.Done()
			last, forget := context.WithTimeout(context.Background(), lastTransactions)
			defer forget()
			r.Shutdown(last)
		})
		if o.Ready != nil {
			o.Ready(journalURL(l.Addr(), lmtp, o.Implicit))
		}
		return nil
	}
	for _, l := range []struct {
		address string
		lmtp    bool
	}{{o.SMTP, false}, {o.LMTP, true}} {
		if l.address != "" {
			if err := serve(l.address, l.lmtp); err != nil {
				return work.Wait, err
			}
		}
	}
	work.Go(func() { k.Run(ctx) })
	return work.Wait, nil
}

func (s *Server) receiver(k *journal.Keeper, o *Journal, lmtp, local bool) (*journal.Receiver, error) {
	c := journal.Config{
		Name: hostName(), LMTP: lmtp, TLS12: o.TLS12, Implicit: o.Implicit && !lmtp, Local: local,
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.Load(), nil },
		Senders:     o.Allow, Clients: o.Clients,
		Journal: k.Journal, Deliver: k.Deliver, Spool: journal.SealedSpool(filepath.Join(s.dir, "spool")), Log: s.o.Log,
	}
	if o.Auth {
		c.Auth = k.Auth
	}
	return journal.New(c)
}

func hostName() string {
	if h, err := os.Hostname(); err == nil && h != "" {
		return h
	}
	return "localhost"
}

// listenJournal listens on an address, or on a socket of the file system that
// its owner and group may open.
func listenJournal(address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return net.Listen("tcp", address)
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket != 0 {
		os.Remove(path) // of a server that was killed
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func journalURL(a net.Addr, lmtp, implicit bool) string {
	scheme := "smtp"
	if implicit {
		scheme = "smtps"
	}
	if lmtp {
		scheme = "lmtp"
	}
	return scheme + "://" + a.String()
}
