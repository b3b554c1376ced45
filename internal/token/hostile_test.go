package token_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/letterhold/letterhold/internal/mailtest"
	"github.com/letterhold/letterhold/internal/tlsconf"
	"github.com/letterhold/letterhold/internal/token"
)

// script is a provider that does what a test says.
type script struct {
	url, ca string
}

func scripted(t *testing.T, h http.HandlerFunc) *script {
	t.Helper()
	ca := mailtest.NewAuthority(t)
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, nil)}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return &script{"https://" + srv.Listener.Addr().String(), string(ca.PEM)}
}

func (s *script) config(k token.Kind) token.Config {
	return token.Config{Kind: k, AuthURL: s.url + "/auth", TokenURL: s.url + "/token", DeviceURL: s.url + "/device", RevokeURL: s.url + "/revoke", ClientID: "client", Scopes: []string{"mail"}, AllowNet: []string{"127.0.0.0/8"}, CA: s.ca}
}

// open opens a source with a refresh token.
func (s *script) open(t *testing.T, o token.Options) *token.Source {
	t.Helper()
	if o.Save == nil {
		o.Save = (&safe{}).save
	}
	src, err := token.Open(s.config(token.Browser), token.Secret{Refresh: "old"}, o)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// answering answers with JSON.
func answering(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json;charset=UTF-8")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func TestHostileAnswers(t *testing.T) {
	typed := func(kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			io.WriteString(w, body)
		}
	}
	const good = `{"access_token":"a","token_type":"Bearer","expires_in":3600}`
	for name, x := range map[string]struct {
		h    http.HandlerFunc
		want string
	}{
		"HTML":                  {typed("text/html", "<html>"+good), "text/html"},
		"no type":               {typed("", good), "with \"\""},
		"plain text":            {typed("text/plain", "access_token=a&token_type=Bearer"), "text/plain"},
		"a form":                {typed("application/x-www-form-urlencoded", "access_token=a&token_type=Bearer"), "form-urlencoded"},
		"no JSON":               {answering(200, "access_token=a"), "no JSON"},
		"JSON of another kind":  {answering(200, `["a"]`), "no JSON"},
		"empty":                 {answering(200, ""), "no JSON"},
		"nothing":               {answering(200, "{}"), "type is \"\""},
		"an error of a gateway": {func(w http.ResponseWriter, r *http.Request) { http.Error(w, "bad", http.StatusBadGateway) }, "502"},
		"type mac":              {answering(200, `{"access_token":"a","token_type":"mac","expires_in":3600}`), "not Bearer"},
		"type N_A":              {answering(200, `{"access_token":"a","token_type":"N_A"}`), "not Bearer"},
		"type with controls":    {answering(200, `{"access_token":"a","token_type":"x\u001b[2J\u202e"}`), `x\x1b[2J\u202e`},
		"no token":              {answering(200, `{"token_type":"Bearer"}`), "no token"},
		"a token of 1 MB":       {answering(200, `{"access_token":"`+strings.Repeat("a", 1<<20)+`","token_type":"Bearer"}`), "too long"},
		"a token of 100 kB":     {answering(200, `{"access_token":"`+strings.Repeat("a", 100_000)+`","token_type":"Bearer"}`), "100000 bytes"},
		"SASL in the token":     {answering(200, `{"access_token":"a\u0001\u0001","token_type":"Bearer"}`), "characters"},
		"a line in the token":   {answering(200, `{"access_token":"a\r\nA1 LOGOUT","token_type":"Bearer"}`), "characters"},
		"a line in the refresh": {answering(200, `{"access_token":"a","refresh_token":"a\nb","token_type":"Bearer"}`), "characters"},
		"expired":               {answering(200, `{"access_token":"a","token_type":"Bearer","expires_in":-5}`), "expired already"},
		"expired now":           {answering(200, `{"access_token":"a","token_type":"Bearer","expires_in":0}`), "expired already"},
		"expires in words":      {answering(200, `{"access_token":"a","token_type":"Bearer","expires_in":"soon"}`), "no JSON"},
		"type in a list":        {answering(200, `{"access_token":"a","token_type":["Bearer"]}`), "no JSON"},
		"deep JSON":             {answering(200, strings.Repeat("[", 200_000)), "no JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := scripted(t, x.h).open(t, token.Options{}).Token(t.Context(), "")
			if !errors.Is(err, token.ErrProtocol) || !strings.Contains(err.Error(), x.want) || errors.Is(err, token.ErrRevoked) {
				t.Error(err)
			}
			if err != nil && (len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\x1b\r\n\u202e")) {
				t.Errorf("%d bytes: %q", len(err.Error()), err)
			}
		})
	}
}

// What is odd, and right.
func TestLifetimes(t *testing.T) {
	clock := now()
	for in, want := range map[string]time.Duration{
		`"expires_in":3600`: time.Hour, `"expires_in":"3599"`: 3599 * time.Second, `"expires_in":90.5`: 90*time.Second + 500*time.Millisecond,
		`"expires_in":1e300`: 24 * time.Hour, `"expires_in":9223372036854775807`: 24 * time.Hour, `"expires_in":1e99999`: 24 * time.Hour,
		`"x":1`: 5 * time.Minute, `"expires_in":null`: 5 * time.Minute,
	} {
		s := scripted(t, answering(200, `{"access_token":"a","token_type":"bEARER",`+in+`}`))
		tok, err := s.open(t, token.Options{Now: func() time.Time { return clock }}).Token(t.Context(), "")
		if err != nil || tok.Until.Sub(clock) != want {
			t.Errorf("%s: %s %v", in, tok.Until.Sub(clock), err)
		}
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	elsewhere := scripted(t, func(w http.ResponseWriter, r *http.Request) { t.Error("somebody came with a secret") })
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := scripted(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", elsewhere.url)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
		})
		src := s.open(t, token.Options{})
		if _, err := src.Token(t.Context(), ""); !errors.Is(err, token.ErrProtocol) || !strings.Contains(err.Error(), "sends elsewhere") {
			t.Error(err)
		}
		if err := src.Revoke(t.Context()); !errors.Is(err, token.ErrProtocol) {
			t.Error(err)
		}
	}
}

// An answer without end takes neither memory nor time.
func TestEndless(t *testing.T) {
	s := scripted(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "2147483648")
		b := []byte(strings.Repeat(" ", 64<<10))
		for range (2 << 30) / len(b) {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	src := s.open(t, token.Options{})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := src.Token(t.Context(), "")
	runtime.ReadMemStats(&after)
	if !errors.Is(err, token.ErrProtocol) || !errors.Is(err, tlsconf.ErrLong) {
		t.Error(err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("%d bytes were set aside", n)
	}
}

func TestHanging(t *testing.T) {
	hang := func(r *http.Request) {
		io.Copy(io.Discard, r.Body) // only then the server notices that the client has gone
		<-r.Context().Done()
	}
	for name, h := range map[string]http.HandlerFunc{
		"before the answer": func(w http.ResponseWriter, r *http.Request) { hang(r) },
		"within the answer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"access_token":`)
			w.(http.Flusher).Flush()
			hang(r)
		},
	} {
		s := scripted(t, h)
		src := s.open(t, token.Options{Timeout: 300 * time.Millisecond})
		start := time.Now()
		_, err := src.Token(t.Context(), "")
		var timeout interface{ Timeout() bool }
		if !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(start) > 5*time.Second {
			t.Errorf("%s: %v after %s", name, err, time.Since(start))
		}
		// Whoever waits behind another may give up.
		go src.Token(t.Context(), "")
		time.Sleep(50 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if _, err := src.Token(ctx, ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

// A refresh that the provider has heard of is ended and stored, whoever asked
// for it.
func TestRefreshIsEnded(t *testing.T) {
	asked, goOn := make(chan struct{}), make(chan struct{})
	s := scripted(t, func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-goOn
		answering(200, `{"access_token":"a","refresh_token":"new","token_type":"Bearer"}`)(w, r)
	})
	box := &safe{}
	src := s.open(t, token.Options{Save: box.save})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
		close(goOn)
	}()
	if _, err := src.Token(ctx, ""); err != nil {
		t.Error(err)
	}
	if len(box.saved) != 1 || box.saved[0].Refresh != "new" {
		t.Error("the new refresh token is lost")
	}
}

func TestRefusals(t *testing.T) {
	clock := now().Truncate(time.Second)
	for _, x := range []struct {
		status  int
		body    string
		skew    time.Duration
		want    string
		revoked bool
	}{
		{400, `{"error":"invalid_grant","error_description":"AADSTS700082: The refresh token has expired"}`, 0, "AADSTS700082", true},
		{400, `{"error":"interaction_required"}`, 0, "consent again", true},
		{200, `{"error":"invalid_grant"}`, 0, "consent again", true},
		{401, `{"error":"invalid_client","error_description":"a\u0000b\u001b]0;x\u0007c"}`, 0, `a\x00b\x1b]0;x\ac`, false},
		{400, `{"error":"x\r\nSet-Cookie: a"}`, 0, `x\r\nSet-Cookie: a`, false},
		{400, `{"error":"x","error_description":"` + strings.Repeat("y", 10_000) + `"}`, 0, "yyy...", false},
		{400, `{"error":"x","error_description":"\ud800"}`, 0, `"x"`, false},
		{503, `{"error":"temporarily_unavailable"}`, 0, "try again later", false},
		{500, `{}`, 0, "try again later", false},
		{400, `{"error":"invalid_client"}`, 3 * time.Minute, "its clock is 3m0s ahead of this machine's", false},
		{400, `{"error":"invalid_client"}`, -2 * time.Hour, "its clock is 2h0m0s behind this machine's", false},
		{400, `{"error":"invalid_client"}`, time.Minute, `"invalid_client"`, false},
	} {
		s := scripted(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", clock.Add(x.skew).UTC().Format(http.TimeFormat))
			answering(x.status, x.body)(w, r)
		})
		_, err := s.open(t, token.Options{Now: func() time.Time { return clock }}).Token(t.Context(), "")
		var e *token.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), x.want) || errors.Is(err, token.ErrRevoked) != x.revoked {
			t.Errorf("%s: %v", x.body, err)
		}
		if err != nil && (len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\x00\x1b\r\n\a")) {
			t.Errorf("%q", err)
		}
		if e != nil && (e.Skew != 0) != (x.skew.Abs() > time.Minute) {
			t.Errorf("%s: %s", x.skew, e.Skew)
		}
	}
}

// Only HTTPS, only with a good certificate, only to addresses that may be
// reached.
func TestWayToTheProvider(t *testing.T) {
	s := scripted(t, answering(200, `{"access_token":"a","token_type":"Bearer"}`))
	for want, change := range map[error]func(*token.Config){
		tlsconf.ErrForbidden:   func(c *token.Config) { c.AllowNet = nil },
		tlsconf.ErrCertificate: func(c *token.Config) { c.CA = "" },
	} {
		c := s.config(token.Browser)
		change(&c)
		src, err := token.Open(c, token.Secret{Refresh: "old"}, token.Options{Save: (&safe{}).save})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := src.Token(t.Context(), ""); !errors.Is(err, want) {
			t.Errorf("want %v: %v", want, err)
		}
	}
	// A pin instead of an authority.
	c := s.config(token.Browser)
	c.CA, c.Pin = "", strings.Repeat("1", 64)
	src, err := token.Open(c, token.Secret{Refresh: "old"}, token.Options{Save: (&safe{}).save})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := src.Token(t.Context(), ""); !errors.Is(err, tlsconf.ErrCertificate) || !strings.Contains(err.Error(), "pinned") {
		t.Error(err)
	}
	// The client itself has no other way, whatever it is asked.
	hc := (&tlsconf.Dialer{}).HTTP(tlsconf.Trust{}, time.Now, time.Second, 1)
	if _, err := hc.Get("http://127.0.0.1:1/"); !errors.Is(err, tlsconf.ErrForbidden) || !strings.Contains(err.Error(), "without TLS") {
		t.Error(err)
	}
}

func TestDiscovery(t *testing.T) {
	for name, x := range map[string]struct {
		change func(map[string]any)
		want   string
	}{
		"good":                         {func(map[string]any) {}, ""},
		"another issuer":               {func(d map[string]any) { d["issuer"] = "https://evil.test\x1b" }, `"https://evil.test\x1b"`},
		"a slash more":                 {func(d map[string]any) { d["issuer"] = d["issuer"].(string) + "/" }, "its issuer is"},
		"no issuer":                    {func(d map[string]any) { delete(d, "issuer") }, "its issuer is"},
		"a token endpoint without TLS": {func(d map[string]any) { d["token_endpoint"] = "http://id.test/token" }, "https://"},
		"keys without TLS":             {func(d map[string]any) { d["jwks_uri"] = "http://id.test/keys" }, "https://"},
		"no token endpoint":            {func(d map[string]any) { delete(d, "token_endpoint") }, "no token endpoint"},
		"PKCE plain":                   {func(d map[string]any) { d["code_challenge_methods_supported"] = []string{"plain"} }, "no PKCE with S256"},
		"an endpoint that is a script": {func(d map[string]any) { d["authorization_endpoint"] = "javascript:alert(1)" }, "https://"},
		"no authorization endpoint":    {func(d map[string]any) { delete(d, "authorization_endpoint") }, "no authorization endpoint"},
	} {
		var s *script
		s = scripted(t, func(w http.ResponseWriter, r *http.Request) {
			d := map[string]any{"issuer": s.url, "authorization_endpoint": s.url + "/auth", "token_endpoint": s.url + "/token", "jwks_uri": s.url + "/keys"}
			x.change(d)
			b, _ := json.Marshal(d)
			answering(200, string(b))(w, r)
		})
		c := token.Config{Kind: token.Browser, Issuer: s.url, ClientID: "x", Scopes: []string{"mail"}, AllowNet: []string{"127.0.0.0/8"}, CA: s.ca}
		_, err := token.Begin(t.Context(), c, token.Secret{}, token.Options{}, "http://127.0.0.1:1", "")
		if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A provider that says that it names itself in its answers has to (RFC 9207).
func TestMissingIss(t *testing.T) {
	var s *script
	s = scripted(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			answering(200, `{"access_token":"a","refresh_token":"r","token_type":"Bearer"}`)(w, r)
			return
		}
		answering(200, fmt.Sprintf(`{"issuer":%q,"authorization_endpoint":"%[2]s/auth","token_endpoint":"%[2]s/token","authorization_response_iss_parameter_supported":true}`, s.url, s.url))(w, r)
	})
	c := token.Config{Kind: token.Browser, Issuer: s.url, ClientID: "x", Scopes: []string{"mail"}, AllowNet: []string{"127.0.0.0/8"}, CA: s.ca}
	for iss, good := range map[string]bool{"": false, "https://evil.test": false, s.url + "/": false, s.url: true} {
		q, err := token.Begin(t.Context(), c, token.Secret{}, token.Options{}, "http://127.0.0.1:1", "")
		if err != nil {
			t.Fatal(err)
		}
		back := url.Values{"state": {q.State}, "code": {"c"}}
		if iss != "" {
			back.Set("iss", iss)
		}
		if _, err := q.Finish(t.Context(), back); good && err != nil || !good && !errors.Is(err, token.ErrForged) {
			t.Errorf("%q: %v", iss, err)
		}
	}
}

// ID tokens that are not what was asked for.
func TestForgedIDToken(t *testing.T) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	var s *script
	var id string
	s = scripted(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/token":
			answering(200, fmt.Sprintf(`{"access_token":"a","refresh_token":"r","token_type":"Bearer","id_token":%q}`, id))(w, r)
		case "/keys":
			b, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), Algorithm: "ES256", Use: "sig"}}})
			answering(200, string(b))(w, r)
		default:
			answering(200, fmt.Sprintf(`{"issuer":%q,"authorization_endpoint":"%[2]s/auth","token_endpoint":"%[2]s/token","jwks_uri":"%[2]s/keys","id_token_signing_alg_values_supported":["ES256","HS256","none"]}`, s.url, s.url))(w, r)
		}
	})
	c := token.Config{Kind: token.Browser, Issuer: s.url, ClientID: "x", Scopes: []string{"openid", "mail"}, AllowNet: []string{"127.0.0.0/8"}, CA: s.ca}
	for name, x := range map[string]struct {
		key    any
		alg    jose.SignatureAlgorithm
		change func(map[string]any)
		good   bool
	}{
		"good":               {key, jose.ES256, func(map[string]any) {}, true},
		"another key":        {other, jose.ES256, func(map[string]any) {}, false},
		"a shared secret":    {[]byte(strings.Repeat("x", 32)), jose.HS256, func(map[string]any) {}, false},
		"another nonce":      {key, jose.ES256, func(m map[string]any) { m["nonce"] = "another" }, false},
		"no nonce":           {key, jose.ES256, func(m map[string]any) { delete(m, "nonce") }, false},
		"another issuer":     {key, jose.ES256, func(m map[string]any) { m["iss"] = "https://evil.test" }, false},
		"another client":     {key, jose.ES256, func(m map[string]any) { m["aud"] = "another" }, false},
		"expired":            {key, jose.ES256, func(m map[string]any) { m["exp"] = now().Add(-time.Hour).Unix() }, false},
		"of another at_hash": {key, jose.ES256, func(m map[string]any) { m["at_hash"] = "AAAAAAAAAAAAAAAAAAAAAA" }, false},
	} {
		q, err := token.Begin(t.Context(), c, token.Secret{}, token.Options{}, "http://127.0.0.1:1", "")
		if err != nil {
			t.Fatal(err)
		}
		u, _ := url.Parse(q.URL)
		m := map[string]any{"iss": s.url, "aud": "x", "sub": "7", "email": "ann@example.test", "nonce": u.Query().Get("nonce"), "exp": now().Add(time.Hour).Unix(), "iat": now().Unix()}
		x.change(m)
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: x.alg, Key: x.key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if id, err = jwt.Signed(signer).Claims(m).Serialize(); err != nil {
			t.Fatal(err)
		}
		g, err := q.Finish(t.Context(), url.Values{"state": {q.State}, "code": {"c"}})
		if x.good && (err != nil || g.Who != "ann@example.test") || !x.good && !errors.Is(err, token.ErrProtocol) && !errors.Is(err, token.ErrForged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	id = ""
	q, err := token.Begin(t.Context(), c, token.Secret{}, token.Options{}, "http://127.0.0.1:1", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Finish(t.Context(), url.Values{"state": {q.State}, "code": {"c"}}); !errors.Is(err, token.ErrProtocol) {
		t.Error("no ID token:", err)
	}
}

// Consents that are of no use say so at once.
func TestUselessConsent(t *testing.T) {
	for want, body := range map[string]string{
		"no refresh token":    `{"access_token":"a","token_type":"Bearer"}`,
		"did not allow":       `{"access_token":"a","refresh_token":"r","token_type":"Bearer","scope":"openid profile"}`,
		"":                    `{"access_token":"a","refresh_token":"r","token_type":"Bearer","scope":"https://outlook.office.com/imap.accessasuser.all"}`,
		"the token's type is": `{"access_token":"a","refresh_token":"r","token_type":"x"}`,
	} {
		c := scripted(t, answering(200, body)).config(token.Browser)
		c.Scopes = []string{"https://outlook.office365.com/IMAP.AccessAsUser.All", "offline_access"}
		q, err := token.Begin(t.Context(), c, token.Secret{}, token.Options{}, "http://127.0.0.1:1", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.Finish(t.Context(), url.Values{"state": {q.State}, "code": {"c"}}); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

func TestHostileDevice(t *testing.T) {
	never := func(context.Context, time.Duration) error { return errors.New("it waits") }
	for name, body := range map[string]string{
		"a terminal's commands": `{"device_code":"d","user_code":"\u001b[2J","verification_uri":"https://id.test/d","expires_in":100}`,
		"a long code":           `{"device_code":"d","user_code":"` + strings.Repeat("A", 100) + `","verification_uri":"https://id.test/d","expires_in":100}`,
		"no code":               `{"device_code":"d","verification_uri":"https://id.test/d","expires_in":100}`,
		"no device code":        `{"user_code":"A","verification_uri":"https://id.test/d","expires_in":100}`,
		"an address without":    `{"device_code":"d","user_code":"A","verification_uri":"http://id.test/d","expires_in":100}`,
		"an address that is":    `{"device_code":"d","user_code":"A","verification_uri":"https://id.test/\u001b[2J","expires_in":100}`,
		"a script":              `{"device_code":"d","user_code":"A","verification_uri":"javascript:alert(1)","expires_in":100}`,
		"expired":               `{"device_code":"d","user_code":"A","verification_uri":"https://id.test/d","expires_in":-1}`,
		"no end":                `{"device_code":"d","user_code":"A","verification_uri":"https://id.test/d"}`,
	} {
		_, err := token.OnDevice(t.Context(), scripted(t, answering(200, body)).config(token.Device), token.Secret{}, token.Options{Wait: never}, func(p token.Prompt) error {
			t.Errorf("%s: the person is shown %q", name, p)
			return nil
		})
		if !errors.Is(err, token.ErrProtocol) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The pace of the questions is the provider's (RFC 8628, 3.5), within reason.
func TestDevicePace(t *testing.T) {
	pending, slow := `{"error":"authorization_pending"}`, `{"error":"slow_down"}`
	for _, x := range []struct {
		interval, want string
		answers        []string
		err            error
	}{
		{`"interval":2`, "[2s 2s 7s 12s 12s]", []string{pending, slow, slow, pending, ""}, nil},
		{`"interval":0`, "[5s 5s]", []string{pending, ""}, nil},
		{`"x":0`, "[5s]", []string{""}, nil},
		{`"interval":-1`, "[5s]", []string{""}, nil},
		{`"interval":9223372036854775807`, "[1m0s 1m0s 1m0s]", []string{slow, pending, ""}, nil},
		{`"interval":40`, "[40s 40s 40s]", []string{pending, pending, pending}, token.ErrLate},
		{`"interval":1`, "[1s 2s 2s]", []string{"hang", pending, ""}, nil},
	} {
		clock := now()
		var asked atomic.Int32
		release := make(chan struct{})
		s := scripted(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/device" {
				life := "100"
				if strings.Contains(x.interval, "92233") {
					life = "9223372036854775807"
				}
				answering(200, `{"device_code":"d","user_code":"A","verification_uri":"https://id.test/d","expires_in":`+life+`,`+x.interval+`}`)(w, r)
				return
			}
			a := x.answers[asked.Add(1)-1]
			switch a {
			case "":
				answering(200, `{"access_token":"a","refresh_token":"r","token_type":"Bearer"}`)(w, r)
			case "hang":
				<-release
			default:
				answering(400, a)(w, r)
			}
		})
		var waits []time.Duration
		o := token.Options{Now: func() time.Time { return clock }, Timeout: time.Second, Wait: func(_ context.Context, d time.Duration) error {
			clock = clock.Add(d)
			waits = append(waits, d)
			return nil
		}}
		g, err := token.OnDevice(t.Context(), s.config(token.Device), token.Secret{}, o, func(token.Prompt) error { return nil })
		close(release)
		if !errors.Is(err, x.err) || x.err == nil && (err != nil || g.Secret.Refresh != "r") || fmt.Sprint(waits) != x.want {
			t.Errorf("%s: %v %v", x.interval, waits, err)
		}
	}
}

// The assertions are what Microsoft and Google describe.
func TestAssertions(t *testing.T) {
	secret, certificate, err := token.NewKey("Letterhold", now())
	if err != nil {
		t.Fatal(err)
	}
	b, _ := pem.Decode([]byte(certificate))
	cert, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	var form url.Values
	s := scripted(t, func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		form = r.PostForm
		answering(200, `{"access_token":"a","token_type":"Bearer","expires_in":3599}`)(w, r)
	})
	clock := now().Truncate(time.Second)
	type body struct {
		Iss   string `json:"iss"`
		Sub   string `json:"sub"`
		Aud   string `json:"aud"`
		Scope string `json:"scope"`
		Jti   string `json:"jti"`
		Iat   int64  `json:"iat"`
		Nbf   int64  `json:"nbf"`
		Exp   int64  `json:"exp"`
	}
	read := func(text string, alg jose.SignatureAlgorithm) (h jose.Header, c body) {
		t.Helper()
		j, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{alg})
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Claims(cert.PublicKey, &c); err != nil {
			t.Fatal(err)
		}
		return j.Headers[0], c
	}
	ask := func(c token.Config, key, user string) {
		t.Helper()
		src, err := token.Open(c, token.Secret{Key: key}, token.Options{Now: func() time.Time { return clock }})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := src.Token(t.Context(), user); err != nil {
			t.Fatal(err)
		}
	}

	c := s.config(token.Application)
	c.Algorithm = "PS256"
	c.Scopes = []string{"https://outlook.office365.com/.default"}
	ask(c, secret, "ann@example.test")
	if form.Get("grant_type") != "client_credentials" || form.Get("scope") != "https://outlook.office365.com/.default" || form.Get("client_id") != "client" || form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		t.Error(form)
	}
	h, m := read(form.Get("client_assertion"), jose.PS256)
	s1, s256 := sha1.Sum(cert.Raw), sha256.Sum256(cert.Raw)
	if h.ExtraHeaders["x5t"] != base64.RawURLEncoding.EncodeToString(s1[:]) || h.ExtraHeaders["x5t#S256"] != base64.RawURLEncoding.EncodeToString(s256[:]) || h.ExtraHeaders["typ"] != "JWT" || h.KeyID != "" {
		t.Error(h)
	}
	if m.Iss != "client" || m.Sub != "client" || m.Aud != s.url+"/token" || len(m.Jti) < 20 || m.Iat != clock.Unix()-60 || m.Nbf != m.Iat || m.Exp != clock.Unix()+300 {
		t.Errorf("%+v", m)
	}

	c = s.config(token.Service)
	c.KeyID, c.ClientID, c.Scopes = "k7", "robot@project.iam.gserviceaccount.com", []string{"https://mail.google.com/"}
	key, _, _ := strings.Cut(secret, "-----BEGIN CERTIFICATE")
	ask(c, key, "ann@example.test")
	if form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || form.Get("client_assertion") != "" {
		t.Error(form)
	}
	h, m = read(form.Get("assertion"), jose.RS256)
	if h.KeyID != "k7" || h.ExtraHeaders["x5t"] != nil || m.Iss != c.ClientID || m.Sub != "ann@example.test" || m.Scope != "https://mail.google.com/" || m.Aud != s.url+"/token" || m.Exp-m.Iat > 3600 {
		t.Errorf("%+v %+v", h, m)
	}
}

// A client secret is shown in the form, never in the address.
func TestClientSecret(t *testing.T) {
	var form url.Values
	s := scripted(t, func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		form = r.PostForm
		if r.URL.RawQuery != "" || r.Header.Get("Authorization") != "" {
			t.Error(r.URL, r.Header)
		}
		if r.URL.Path == "/revoke" {
			if r.PostForm.Get("token") == "gone" {
				answering(400, `{"error":"invalid_token"}`)(w, r)
			}
			return
		}
		answering(200, `{"access_token":"a","refresh_token":"gone","token_type":"Bearer"}`)(w, r)
	})
	box := &safe{}
	src, err := token.Open(s.config(token.Browser), token.Secret{Refresh: "old", Client: "secret"}, token.Options{Save: box.save})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := src.Token(t.Context(), ""); err != nil || form.Get("client_secret") != "secret" || form.Get("refresh_token") != "old" || form.Get("scope") != "" || box.saved[0].Client != "secret" {
		t.Error(form, err)
	}
	if err := src.Revoke(t.Context()); err != nil || form.Get("token") != "gone" || form.Get("token_type_hint") != "refresh_token" {
		t.Error(form, err)
	}
	c := s.config(token.Browser)
	c.RevokeURL = ""
	if src, err = token.Open(c, token.Secret{Refresh: "old"}, token.Options{Save: box.save}); err != nil {
		t.Fatal(err)
	}
	if err := src.Revoke(t.Context()); !errors.Is(err, token.ErrStays) {
		t.Error(err)
	}
}
