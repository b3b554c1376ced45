package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	minRSA = 2048 // bits
	newRSA = 3072 // bits of a key that is made here

	certLife = 2 * 365 * 24 * time.Hour

	assertionLife = 5 * time.Minute
	// backdate is for a clock that is ahead of the provider's.
	backdate = time.Minute
)

// key signs assertions.
type key struct {
	crypto.Signer
	cert *x509.Certificate // nil if there is none
}

// parseKey reads a private key in PEM, and its certificate if one is there.
func parseKey(text string) (*key, error) {
	k := &key{}
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		var parsed any
		var err error
		switch b.Type {
		case "CERTIFICATE":
			if k.cert == nil {
				if k.cert, err = x509.ParseCertificate(b.Bytes); err != nil {
					return nil, fmt.Errorf("the key's certificate: %w", err)
				}
			}
			continue
		case "PRIVATE KEY":
			parsed, err = x509.ParsePKCS8PrivateKey(b.Bytes)
		case "RSA PRIVATE KEY":
			parsed, err = x509.ParsePKCS1PrivateKey(b.Bytes)
		case "EC PRIVATE KEY":
			parsed, err = x509.ParseECPrivateKey(b.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("the private key is encrypted: give it without a passphrase, it is kept sealed here")
		default:
			continue
		}
		if err != nil {
			return nil, errors.New("the private key is not readable") // the cause could repeat some of it
		}
		if k.Signer != nil {
			return nil, errors.New("there are two private keys: one is needed")
		}
		k.Signer, _ = parsed.(crypto.Signer)
	}
	if k.Signer == nil {
		return nil, errors.New("there is no private key in PEM")
	}
	if r, ok := k.Signer.(*rsa.PrivateKey); ok && r.N.BitLen() < minRSA {
		return nil, fmt.Errorf("the RSA key has %d bits, %d are the least", r.N.BitLen(), minRSA)
	}
	if k.cert != nil {
		if p, ok := k.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !p.Equal(k.cert.PublicKey) {
			return nil, errors.New("the certificate is not of this private key")
		}
	}
	return k, nil
}

// algorithm is what the key signs with: the wanted one, if it can.
func (k *key) algorithm(want jose.SignatureAlgorithm) (jose.SignatureAlgorithm, error) {
	can := []jose.SignatureAlgorithm{}
	switch s := k.Signer.(type) {
	case *rsa.PrivateKey:
		can = append(can, jose.RS256, jose.PS256)
	case *ecdsa.PrivateKey:
		switch s.Curve {
		case elliptic.P256():
			can = append(can, jose.ES256)
		case elliptic.P384():
			can = append(can, jose.ES384)
		}
	case ed25519.PrivateKey:
		can = append(can, jose.EdDSA)
	}
	for _, a := range can {
		if want == "" || a == want {
			return a, nil
		}
	}
	return "", fmt.Errorf("the private key cannot sign with %q", want)
}

// assertion signs claims about who asks (RFC 7523, 3).
func assertion(keyPEM string, c *Config, audience, subject string, now time.Time, more map[string]any) (string, error) {
	k, err := parseKey(keyPEM)
	if err != nil {
		return "", err
	}
	alg, err := k.algorithm(jose.SignatureAlgorithm(c.Algorithm))
	if err != nil {
		return "", err
	}
	o := (&jose.SignerOptions{}).WithType("JWT")
	if c.KeyID != "" {
		o.WithHeader("kid", c.KeyID)
	}
	if k.cert != nil { // RFC 7515, 4.1.7 and 4.1.8: how Microsoft finds the key
		s1, s256 := sha1.Sum(k.cert.Raw), sha256.Sum256(k.cert.Raw)
		o.WithHeader("x5t", base64.RawURLEncoding.EncodeToString(s1[:])).WithHeader("x5t#S256", base64.RawURLEncoding.EncodeToString(s256[:]))
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: k.Signer}, o)
	if err != nil {
		return "", errors.New("the private key cannot sign")
	}
	claims := map[string]any{
		"iss": c.ClientID, "sub": subject, "aud": audience, "jti": rand.Text(),
		"iat": now.Add(-backdate).Unix(), "nbf": now.Add(-backdate).Unix(), "exp": now.Add(assertionLife).Unix(),
	}
	for name, v := range more {
		claims[name] = v
	}
	return jwt.Signed(s).Claims(claims).Serialize()
}

// NewKey makes a key with a certificate of its own, the form in which Microsoft
// takes keys: the secret part for Secret.Key, and the certificate in PEM to be
// registered at the provider.
func NewKey(name string, now time.Time) (secret, certificate string, err error) {
	k, err := rsa.GenerateKey(rand.Reader, newRSA)
	if err != nil {
		return "", "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return "", "", err
	}
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certLife), KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		return "", "", err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return "", "", err
	}
	certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})) + certificate, certificate, nil
}
