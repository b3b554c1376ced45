package imapclient

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/xdg-go/scram"

	"github.com/letterhold/letterhold/internal/tlsconf"
)

// Credential is what an account is opened with. It prints as [redacted].
type Credential struct {
	User     string
	Password string
	Token    string // an OAuth 2 access token, instead of the password
	// As is the account to be opened with an administrator's credential
	// (RFC 4616: the authorization identity).
	As string
	// Proxy opens As with PROXYAUTH after signing in.
	Proxy bool
	// Plain prefers SASL PLAIN, for administrators: in SCRAM, Dovecot refuses
	// whoever signs in for somebody else.
	Plain bool
}

// String implements fmt.Stringer.
func (Credential) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (Credential) GoString() string { return "[redacted]" }

// TokenError: the server does not take the token. Another one may be taken; a
// password is not tried.
type TokenError struct {
	Status string // RFC 7628, 3.2.2: "invalid_token", or what the server says
	Err    error  // the server's refusal
}

func (e *TokenError) Error() string {
	if e.Status == "" {
		return fmt.Sprintf("the server does not take the token: %v", e.Err)
	}
	return fmt.Sprintf("the server does not take the token (%q): %v", e.Status, e.Err)
}

func (e *TokenError) Unwrap() error { return e.Err }

// SignIn signs in with the strongest way that both sides know. A refusal is
// final: nothing weaker is tried after it.
func (c *Client) SignIn(cr Credential) error {
	return tlsconf.At(tlsconf.StepSignIn, c.signIn(cr))
}

func (c *Client) signIn(cr Credential) error {
	if !c.secure && c.o.Security != Cleartext {
		return fmt.Errorf("%w: the connection is not encrypted", ErrUnsafe)
	}
	var err error
	switch {
	case cr.Token != "":
		err = c.token(cr)
	case cr.Plain && c.Has("AUTH=PLAIN"):
		err = c.plain(cr)
	case c.Has("AUTH=SCRAM-SHA-256") || c.Has("AUTH=SCRAM-SHA-256-PLUS") && c.secure:
		err = c.scram(cr)
	case c.Has("AUTH=PLAIN"):
		err = c.plain(cr)
	case cr.authorization() != "":
		return errors.New("the server offers no way to sign in for somebody else (SASL PLAIN or SCRAM)")
	case c.Has("AUTH=LOGIN"):
		err = c.authenticateLogin(cr)
	case !c.Has("LOGINDISABLED"):
		_, err = c.run("LOGIN", line("LOGIN", cr.User, cr.Password), nil)
	default:
		return errors.New("the server offers no way to sign in that is known here (SCRAM-SHA-256, PLAIN, LOGIN)")
	}
	if err != nil {
		return err
	}
	if cr.Proxy {
		if _, err := c.run("PROXYAUTH", line("PROXYAUTH", cr.As), nil); err != nil {
			return err
		}
	}
	// Capabilities change with sign-in.
	if err := c.capability(); err != nil {
		return err
	}
	if c.Has("ENABLE") && c.Has("UTF8=ACCEPT") { // RFC 6855, 3
		if err := c.command("ENABLE", "ENABLE UTF8=ACCEPT", func(p *response) error {
			for _, v := range p.values {
				c.utf8 = c.utf8 || v.is("UTF8=ACCEPT")
			}
			return nil
		}); err != nil && !errors.Is(err, ErrRefused) {
			return err
		}
	}
	return nil
}

func (cr Credential) authorization() string {
	if cr.Proxy {
		return ""
	}
	return cr.As
}

// plain signs in with RFC 4616.
func (c *Client) plain(cr Credential) error {
	return c.authenticate("PLAIN", cr.authorization()+"\x00"+cr.User+"\x00"+cr.Password)
}

func saslName(s string) string {
	return strings.NewReplacer("=", "=3D", ",", "=2C").Replace(s)
}

// authenticate sends a SASL response, at once if the server takes it so, and
// then the answers to what the server asks (RFC 9051, 6.2.2).
func (c *Client) authenticate(mechanism, first string, more ...string) error {
	i := -1 // the next of more
	return c.exchange(mechanism, first, func(string) (string, error) {
		if i++; i < len(more) {
			return more[i], nil
		}
		return "", fmt.Errorf("%w: the server asks again in %s", ErrProtocol, mechanism)
	})
}

// Bearer chooses the SASL mechanism for a token, of those that a server has,
// and returns the response and what a refusal's reason is answered with.
func (cr Credential) Bearer(has func(mechanism string) bool, host string, port int) (mechanism, response, last string, err error) {
	switch {
	case strings.ContainsAny(cr.User+cr.Token, "\x00\x01\r\n"):
		return "", "", "", errors.New("name or token hold a character that separates them")
	case has("OAUTHBEARER"): // RFC 7628, 3.1 and 3.2.3
		return "OAUTHBEARER", fmt.Sprintf("n,a=%s,\x01host=%s\x01port=%d\x01auth=Bearer %s\x01\x01", saslName(cr.User), host, port, cr.Token), "\x01", nil
	case has("XOAUTH2"):
		return "XOAUTH2", fmt.Sprintf("user=%s\x01auth=Bearer %s\x01\x01", cr.User, cr.Token), "", nil
	}
	return "", "", "", errors.New("the server takes no OAuth 2 token (neither OAUTHBEARER nor XOAUTH2)")
}

// token signs in with a token. A server that does not take it says why in JSON,
// waits for an answer to that, and then refuses (RFC 7628, 3.2.3).
func (c *Client) token(cr Credential) error {
	mechanism, first, last, err := cr.Bearer(func(m string) bool { return c.Has("AUTH=" + m) }, c.o.Host, c.o.Port)
	if err != nil {
		return err
	}
	why, told := "", false
	err = c.exchange(mechanism, first, func(challenge string) (string, error) {
		if told {
			return "", fmt.Errorf("%w: the server asks again in %s", ErrProtocol, mechanism)
		}
		told, why = true, challenge
		return last, nil
	})
	if err == nil && told {
		return c.die("AUTHENTICATE "+mechanism, fmt.Errorf("%w: the server refuses the token and takes it", ErrProtocol))
	}
	return RefusedToken(err, why)
}

// RefusedToken makes a TokenError of a server's refusal; why is the JSON that it
// gave as the reason, or "".
func RefusedToken(err error, why string) error {
	if !errors.Is(err, ErrRefused) {
		return err
	}
	var reason struct {
		Status string `json:"status"`
	}
	json.Unmarshal([]byte(why), &reason) // without it there is still the refusal
	return &TokenError{clip(reason.Status), err}
}

// exchange runs a SASL mechanism; next answers a challenge.
func (c *Client) exchange(mechanism, first string, next func(challenge string) (string, error)) error {
	name := "AUTHENTICATE " + mechanism
	if c.dead != nil {
		return c.dead
	}
	tag := c.nextTag()
	head := tag + " " + name
	sent := false
	if c.Has("SASL-IR") && mechanism != "LOGIN" { // RFC 4959
		initial := base64.StdEncoding.EncodeToString([]byte(first))
		if initial == "" {
			initial = "="
		}
		head += " " + initial
		sent = true
	}
	if err := c.send(head + "\r\n"); err != nil {
		return c.die(name, err)
	}
	for range 10 {
		p, err := c.answer(tag, nil)
		if err != nil {
			return c.die(name, err)
		}
		if p.tag != "+" {
			_, err := c.conclude(name, p)
			return err
		}
		reply := first
		if sent {
			challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(p.text))
			if err == nil {
				reply, err = next(string(challenge))
			}
			if err != nil {
				c.send("*\r\n")
				return c.die(name, err)
			}
		}
		sent = true
		if err := c.send(base64.StdEncoding.EncodeToString([]byte(reply)) + "\r\n"); err != nil {
			return c.die(name, err)
		}
	}
	return c.die(name, fmt.Errorf("%w: sign-in does not end", ErrProtocol))
}

// authenticateLogin is the LOGIN mechanism: the server asks for the name, then
// for the password.
func (c *Client) authenticateLogin(cr Credential) error {
	asked := 0
	return c.exchange("LOGIN", cr.User, func(string) (string, error) {
		if asked++; asked > 1 {
			return "", fmt.Errorf("%w: the server asks again in LOGIN", ErrProtocol)
		}
		return cr.Password, nil
	})
}

// Rounds of SCRAM: fewer make a stolen proof cheap to try, more are an attack
// on us.
const (
	minIterations = 4096
	maxIterations = 2_000_000
)

// binding ties sign-in to the TLS connection, so that nobody between can pass
// it on (RFC 9266; RFC 5929 for TLS 1.2).
func binding(s *tls.ConnectionState) (scram.ChannelBinding, error) {
	if s.Version >= tls.VersionTLS13 {
		return scram.NewTLSExporterBinding(s)
	}
	return scram.NewTLSServerEndpointBinding(s)
}

// misbinds tells whether the server offers a binding that it cannot do. Cyrus
// knows tls-unique alone, which has no meaning with TLS 1.3 (RFC 9266, 1), and
// refuses a right password over it. It is asked for its name (RFC 2971): to try
// first would be a failed sign-in at each connection. Whoever lies here must
// have shown a certificate that was verified; where none was, the binding is all
// there is.
func (c *Client) misbinds() (cyrus bool) {
	if c.o.Trust.Unverified || !c.Has("ID") || !c.Has("AUTH=SCRAM-SHA-256") {
		return false
	}
	err := c.command("ID", "ID NIL", func(p *response) error {
		if len(p.values) < 2 || !p.values[0].is("ID") {
			return nil
		}
		for i, l := 0, p.values[1].list; i+1 < len(l); i += 2 {
			cyrus = cyrus || strings.EqualFold(l[i].str(), "name") && strings.HasPrefix(l[i+1].str(), "Cyrus")
		}
		return nil
	})
	return err == nil && cyrus
}

// Exchange runs a SASL mechanism with a first response; next answers challenges.
type Exchange func(mechanism, first string, next func(challenge string) (string, error)) error

// Binding says whether a server binds a sign-in to the TLS connection.
type Binding int

// The bindings.
const (
	Unoffered Binding = iota // the server is told that it would have been done
	Offered
	Wrong // offered, and not done rightly: as if nobody knew of it
)

// scram signs in without showing the password (RFC 7677).
func (c *Client) scram(cr Credential) error {
	b := Unoffered
	if c.Has("AUTH=SCRAM-SHA-256-PLUS") {
		if b = Offered; c.misbinds() {
			b = Wrong
		}
	}
	err := SCRAM(cr, c.c, b, c.exchange)
	if errors.Is(err, errNotShown) {
		return c.die("AUTHENTICATE SCRAM-SHA-256", err)
	}
	return err
}

var errNotShown = fmt.Errorf("%w: the server did not show that it knows the password", ErrUnsafe)

// SCRAM signs in with SCRAM-SHA-256 over a connection of any protocol. The server
// must show that it knows the password too; if not, the connection is not to be
// used.
func SCRAM(cr Credential, conn net.Conn, b Binding, exchange Exchange) error {
	client, err := scram.SHA256.NewClient(cr.User, cr.Password, cr.authorization())
	if err != nil {
		return fmt.Errorf("name or password cannot be used with SCRAM: %w", err)
	}
	client.WithMinIterations(minIterations)
	mechanism := "SCRAM-SHA-256"
	talk := client.NewConversation()
	if t, ok := conn.(*tls.Conn); ok {
		state := t.ConnectionState()
		// The flag "y" tells a server with PLUS that somebody hid it.
		talk = client.NewConversationAdvertisingChannelBinding()
		switch b {
		case Wrong:
			talk = client.NewConversation()
		case Offered:
			binding, err := binding(&state)
			if err != nil {
				return err
			}
			talk, mechanism = client.NewConversationWithChannelBinding(binding), "SCRAM-SHA-256-PLUS"
		}
	}
	first, err := talk.Step("")
	if err != nil {
		return err
	}
	if err := exchange(mechanism, first, func(challenge string) (string, error) {
		if _, n, ok := strings.Cut(challenge, ",i="); ok {
			if i, err := strconv.Atoi(n); err != nil || i > maxIterations {
				return "", fmt.Errorf("%w: it asks for %.20q rounds of SCRAM", ErrProtocol, n)
			}
		}
		return talk.Step(challenge)
	}); err != nil {
		return err
	}
	if !talk.Valid() {
		return errNotShown
	}
	return nil
}
