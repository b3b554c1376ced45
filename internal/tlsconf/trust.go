package tlsconf

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Trust says which certificates of a server are good enough. The zero value
// asks the system's authorities.
type Trust struct {
	CA         []byte   // PEM of authorities, beside the system's
	Pin        [32]byte // SHA-256 of the key (or of the certificate), instead of authorities
	Unverified bool     // whatever the server shows: an exception that somebody answers for
}

// ErrCertificate: the server's certificate is not good enough.
var ErrCertificate = errors.New("certificate refused")

// minRSA is the least length of an RSA key in bits.
const minRSA = 2048

const handshakeTimeout = 20 * time.Second

// Pinned tells whether there is a pin.
func (t *Trust) Pinned() bool { return t.Pin != [32]byte{} }

// ParsePin reads a SHA-256 in hex, with or without colons, or in base64.
func ParsePin(s string) (pin [32]byte, err error) {
	text := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(s), "sha256/"), "SHA256:")
	b, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil || len(b) != 32 {
		if b, err = base64.StdEncoding.DecodeString(text); err != nil {
			b, err = base64.RawStdEncoding.DecodeString(text)
		}
	}
	if err != nil || len(b) != 32 {
		return pin, fmt.Errorf("pin %q: it is a SHA-256 in hex or base64", s)
	}
	return [32]byte(b), nil
}

// PinOf is the pin of a certificate's key, as ParsePin reads it.
func PinOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Handshake makes a client's TLS connection of c and says what the server
// showed, also when it was refused.
func (t *Trust) Handshake(ctx context.Context, c net.Conn, host string, now func() time.Time) (*tls.Conn, []*x509.Certificate, error) {
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: host, Time: now,
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
		// The check is below, in one place for authorities and pins.
		InsecureSkipVerify: true,
	}
	var chain []*x509.Certificate
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		chain = s.PeerCertificates
		if t.Unverified {
			return nil
		}
		return t.verify(chain, host, now())
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	s := tls.Client(c, conf)
	if err := s.HandshakeContext(ctx); err != nil {
		return nil, chain, At(StepTLS, explainTLS(host, err))
	}
	return s, chain, nil
}

func (t *Trust) verify(chain []*x509.Certificate, host string, now time.Time) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: the server showed none", ErrCertificate)
	}
	leaf := chain[0]
	if t.Pinned() {
		if sha256.Sum256(leaf.RawSubjectPublicKeyInfo) == t.Pin || sha256.Sum256(leaf.Raw) == t.Pin {
			return nil
		}
		return fmt.Errorf("%w: its key is not the pinned one, but %s", ErrCertificate, PinOf(leaf))
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if len(t.CA) > 0 && !roots.AppendCertsFromPEM(t.CA) {
		return fmt.Errorf("%w: the authority to trust is not in PEM", ErrCertificate)
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	paths, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host, CurrentTime: now})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	for _, c := range paths[0] {
		if k, ok := c.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() < minRSA {
			return fmt.Errorf("%w: the RSA key of %q has %d bits, %d are the least", ErrCertificate, c.Subject.CommonName, k.N.BitLen(), minRSA)
		}
	}
	return nil
}

// explainTLS turns the errors of the library into what an administrator can
// act on.
func explainTLS(host string, err error) error {
	var (
		record  tls.RecordHeaderError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &record):
		return fmt.Errorf("%s does not speak TLS on this port: %w", host, err)
	case errors.As(err, &unknown):
		return fmt.Errorf("%w (if it is your own authority: --ca FILE, or --pin SHA256 for this key alone)", err)
	case errors.As(err, &name):
		return fmt.Errorf("%w (connect by a name that the certificate has)", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w (the server needs a new certificate)", err)
	case strings.Contains(err.Error(), "protocol version"):
		return fmt.Errorf("%s offers no TLS 1.2 or newer: %w", host, err)
	}
	return fmt.Errorf("handshake with %s: %w", host, err)
}
