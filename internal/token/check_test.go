package token_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/token"
)

func unbase64(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCheck(t *testing.T) {
	good := token.Config{Kind: token.Browser, Issuer: "https://id.test", ClientID: "x", Scopes: []string{"mail"}}
	for want, change := range map[string]func(*token.Config){
		"":                         func(*token.Config) {},
		"it is browser":            func(c *token.Config) { c.Kind = "password" },
		"begins with https://":     func(c *token.Config) { c.Issuer = "http://id.test" },
		"token endpoint: \"http":   func(c *token.Config) { c.TokenURL = "http://127.0.0.1/t" },
		"revocation endpoint":      func(c *token.Config) { c.RevokeURL = "http://id.test/r" },
		"no address of a provider": func(c *token.Config) { c.Issuer = "https://u:p@id.test" },
		"is no address":            func(c *token.Config) { c.Issuer = "https://id.test/\x01" },
		"issuer or the token":      func(c *token.Config) { c.Issuer = "" },
		"the authorization":        func(c *token.Config) { c.TokenURL = "https://id.test/t" },
		"the device endpoint":      func(c *token.Config) { c.Kind, c.TokenURL = token.Device, "https://id.test/t" },
		"client id":                func(c *token.Config) { c.ClientID = "" },
		"the scope is missing":     func(c *token.Config) { c.Scopes = nil },
		"scope \"a b\"":            func(c *token.Config) { c.Scopes = []string{"a b"} },
		"openid needs": func(c *token.Config) {
			c.Issuer, c.AuthURL, c.TokenURL, c.Scopes = "", "https://id.test/a", "https://id.test/t", []string{"openid"}
		},
		"algorithm \"none\"":        func(c *token.Config) { c.Algorithm = "none" },
		"algorithm \"HS256\"":       func(c *token.Config) { c.Algorithm = "HS256" },
		"network \"everything\"":    func(c *token.Config) { c.AllowNet = []string{"everything"} },
		"SHA-256 in hex or base64":  func(c *token.Config) { c.Pin = "x" },
		"device endpoint: \"ftp://": func(c *token.Config) { c.DeviceURL = "ftp://id.test" },
	} {
		c := good
		change(&c)
		if err := c.Check(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", want, err)
		}
	}
	for _, redirect := range []string{"http://localhost:1", "http://10.0.0.1/", "http://archive.test/", "custom:back", "https://archive.test/#x", "https://u@archive.test/", ""} {
		if _, err := token.Begin(t.Context(), good, token.Secret{}, token.Options{}, redirect, ""); err == nil || !strings.Contains(err.Error(), "redirect") {
			t.Errorf("%q: %v", redirect, err)
		}
	}
}

func TestKeys(t *testing.T) {
	secret, certificate, err := token.NewKey("Letterhold", now())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(certificate, "PRIVATE") {
		t.Fatal("the certificate holds the key")
	}
	other, _, err := token.NewKey("other", now())
	if err != nil {
		t.Fatal(err)
	}
	private := func(s string) string { s, _, _ = strings.Cut(s, "-----BEGIN CERTIFICATE"); return s }
	small, _ := rsa.GenerateKey(rand.Reader, 1024)
	curve, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	odd, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	encode := func(k any) string {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	c := token.Config{Kind: token.Application, Issuer: "https://id.test", ClientID: "x", Scopes: []string{"mail"}}
	for _, x := range []struct{ key, alg, want string }{
		{secret, "", ""}, {secret, "PS256", ""}, {private(secret), "", ""}, {encode(curve), "", ""}, {encode(curve), "ES256", ""},
		{secret, "ES256", "cannot sign"}, {encode(curve), "RS256", "cannot sign"}, {encode(odd), "", "cannot sign"},
		{"", "", "missing"}, {"nonsense", "", "no private key"}, {certificate, "", "no private key"}, {encode(small), "", "1024 bits"},
		{private(other) + certificate, "", "not of this private key"}, {private(other) + secret, "", "two private keys"},
		{"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "", "encrypted"},
		{"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "", "not readable"},
	} {
		c.Algorithm = x.alg
		if err := (token.Secret{Key: x.key}).Check(&c, now()); x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%s %q: %v", x.alg, x.want, err)
		}
	}
	c.Algorithm = ""
	s := token.Secret{Key: secret}
	if until := s.Until(); until.Before(now().AddDate(1, 0, 0)) {
		t.Error(until)
	}
	if err := s.Check(&c, now().Add(3*365*24*time.Hour)); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Error(err)
	}
}
