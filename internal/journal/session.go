package journal

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"strconv"
	"time"
)

// state of a session.
type state uint8

const (
	silent    state = 1 << iota // nobody said EHLO since the beginning, or since TLS
	ready                       // between messages
	sending                     // MAIL was taken
	addressed                   // so was a recipient

	anytime = silent | ready | sending | addressed
)

// need is what must hold for a command, in the order in which it is asked.
type need uint8

const (
	alone     need = 1 << iota // last of a pipelined group (RFC 2920, 3.1): nothing came behind it
	secure                     // TLS, or none needed
	bare                       // no argument
	permitted                  // the peer may send
)

// verb is what a command needs and does. do replies; its error ends the
// connection.
type verb struct {
	in   state
	need need
	do   func(*conn, string) error
}

// verbs is the state machine: which command is taken in which state. What
// changes the state is in the functions: hello and reset to ready, mail to
// sending, rcpt to addressed, the end of a message to ready, TLS to silent.
var verbs = map[string]verb{
	"EHLO":     {anytime, alone, (*conn).ehlo},
	"HELO":     {anytime, alone, (*conn).helo},
	"LHLO":     {anytime, alone, (*conn).lhlo},
	"STARTTLS": {ready, alone | bare, (*conn).startTLS},
	"AUTH":     {ready, alone | secure, (*conn).auth},
	"MAIL":     {ready, secure | permitted, (*conn).mail},
	"RCPT":     {sending | addressed, secure | permitted, (*conn).rcpt},
	"DATA":     {addressed, alone | secure | bare | permitted, (*conn).data},
	"RSET":     {anytime, bare, (*conn).rset},
	"NOOP":     {anytime, 0, (*conn).noop},
	"QUIT":     {anytime, bare, (*conn).quit},
	"HELP":     {anytime, 0, (*conn).help},
	// Whether an address exists is nobody's business (RFC 5321, 7.3).
	"VRFY": {anytime, secure, (*conn).vrfy},
	"EXPN": {anytime, secure, (*conn).notHere},
	"BDAT": {anytime, 0, (*conn).bdat},
	"TURN": {anytime, 0, (*conn).notHere},
	"ETRN": {anytime, 0, (*conn).notHere},
}

// session is what was said. All of it is dropped when TLS begins (RFC 3207,
// 4.2).
type session struct {
	state state
	name  string // in its hello
	user  string // who signed in
	from  string
	to    []string
	utf8  bool
	begun time.Time // of the transaction
}

// run does a command if what it needs holds.
func (c *conn) run(cmd command) error {
	v, ok := verbs[cmd.verb]
	if cmd.verb != "RCPT" {
		c.commands++
	}
	switch {
	case c.commands > maxCommands:
		return c.end(421, "4.7.0", "Too many commands without a message")
	case !ok:
		return c.fail(500, "5.5.1", "Unknown command")
	case v.need&alone != 0 && c.in.Buffered() > 0:
		// After STARTTLS this is what an attacker puts before TLS (RFC 3207, 6);
		// after DATA, commands hidden in a message, if DATA should fail.
		return c.end(554, "5.5.0", "Something follows "+cmd.verb+" before the reply to it")
	case v.need&secure != 0 && !c.encrypted():
		return c.fail(530, "5.7.0", "Must issue STARTTLS first")
	case v.need&bare != 0 && cmd.arg != "":
		return c.fail(501, "5.5.4", cmd.verb+" has no parameters")
	case v.need&permitted != 0 && !c.may():
		return c.fail(530, "5.7.0", c.howToMay())
	case v.in&c.state == 0:
		return c.fail(503, "5.5.1", c.whatIsMissing())
	}
	return v.do(c, cmd.arg)
}

func (c *conn) howToMay() string {
	switch {
	case c.r.o.Auth == nil:
		return "A client certificate is required"
	case c.r.o.Clients.Roots == nil:
		return "Authentication required"
	}
	return "Authentication or a client certificate is required"
}

func (c *conn) whatIsMissing() string {
	if c.state == silent {
		return "Say hello first"
	}
	return "Not now"
}

func (c *conn) ehlo(arg string) error {
	if c.r.o.LMTP { // RFC 2033, 4.1
		return c.fail(500, "5.5.1", "This is LMTP: say LHLO")
	}
	return c.hello(arg)
}

func (c *conn) lhlo(arg string) error {
	if !c.r.o.LMTP {
		return c.fail(500, "5.5.1", "This is SMTP: say EHLO")
	}
	return c.hello(arg)
}

func (c *conn) helo(arg string) error {
	if c.r.o.LMTP {
		return c.fail(500, "5.5.1", "This is LMTP: say LHLO")
	}
	if !c.named(arg) {
		return c.fail(501, "5.5.4", "Say who you are")
	}
	fmt.Fprintf(c.out, "250 %s\r\n", c.r.o.Name)
	return nil
}

// named takes the name in a hello, which ends a transaction (RFC 5321, 4.1.4).
func (c *conn) named(arg string) bool {
	if arg == "" || len(arg) > 255 || !ascii(arg) {
		return false
	}
	c.name = arg
	c.reset()
	return true
}

// hello says what is understood. CHUNKING (BDAT) is not, on purpose: a second
// way to say where a message ends is a second way to disagree about it.
func (c *conn) hello(arg string) error {
	if !c.named(arg) {
		return c.fail(501, "5.5.4", "Say who you are")
	}
	fmt.Fprintf(c.out, "250-%s\r\n250-SIZE %d\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-PIPELINING\r\n", c.r.o.Name, c.r.o.MaxSize)
	if c.version == 0 && c.r.tls != nil {
		io.WriteString(c.out, "250-STARTTLS\r\n")
	}
	if c.version != 0 && c.r.o.Auth != nil && c.user == "" {
		io.WriteString(c.out, "250-AUTH PLAIN\r\n")
	}
	io.WriteString(c.out, "250 ENHANCEDSTATUSCODES\r\n")
	return nil
}

// reset ends a transaction, however it went.
func (c *conn) reset() {
	c.state, c.from, c.to, c.utf8 = ready, "", nil, false
	c.setBusy(false)
}

// startTLS begins TLS (RFC 3207). That nothing came behind it was checked;
// what comes from now on is read by the handshake.
func (c *conn) startTLS(string) error {
	switch {
	case c.version != 0:
		return c.fail(503, "5.5.1", "There is TLS already")
	case c.r.tls == nil:
		return c.fail(502, "5.5.1", "There is no TLS here")
	}
	c.say(220, "2.0.0", "Ready for TLS")
	if err := c.out.Flush(); err != nil {
		return err
	}
	c.session = session{state: silent}
	return c.handshake()
}

func (c *conn) handshake() error {
	s := tls.Server(c.raw, c.r.tls)
	until := c.began.Add(strangerTimeout)
	ctx, cancel := context.WithDeadline(c.r.ctx, until)
	defer cancel()
	err := c.readUntil(until)
	if err == nil {
		c.raw.SetWriteDeadline(until)
		err = s.HandshakeContext(ctx)
	}
	if err != nil {
		return fmt.Errorf("handshake: %v", err) // not wrapped: nothing can be said any more
	}
	t := s.ConnectionState()
	c.attach(s)
	c.version = t.Version
	if client, err := c.r.o.Clients.verify(t.PeerCertificates, c.r.o.Now()); err == nil {
		c.client = client
	} else if len(t.PeerCertificates) > 0 {
		c.r.o.Log.Info("a client certificate does not count", "remote", c.remote, "err", err)
	}
	return nil
}

// auth signs a user in by SASL PLAIN (RFC 4954).
func (c *conn) auth(arg string) error {
	x := parseCommand(arg) // mechanism and response
	switch {
	case c.r.o.Auth == nil:
		return c.fail(502, "5.5.1", "There is no AUTH here")
	case c.version == 0:
		return c.fail(538, "5.7.11", "Encryption required")
	case c.user != "":
		return c.fail(503, "5.5.1", "Signed in already")
	case x.verb != "PLAIN":
		return c.fail(504, "5.5.4", "Only PLAIN is understood")
	}
	response := x.arg
	if response == "" {
		io.WriteString(c.out, "334 \r\n")
		var err error
		if response, err = c.line(); err != nil {
			return err
		}
		if response == "*" {
			return c.fail(501, "5.7.0", "Given up")
		}
	}
	user, password, err := parsePlain(response)
	if err != nil {
		return c.refuse(err, "")
	}
	ok, err := c.r.o.Auth(c.r.ctx, c.remote, user, password)
	switch {
	case err != nil:
		return c.fail(454, "4.7.0", "Signing in does not work now, try later")
	case !ok:
		if c.signIns++; c.signIns >= maxSignIns {
			return c.end(421, "4.7.0", "Too many failed sign-ins")
		}
		return c.fail(535, "5.7.8", "User or password is wrong")
	}
	c.user = user
	c.say(235, "2.7.0", "Welcome")
	return nil
}

func (c *conn) mail(arg string) error {
	if c.messages >= maxMessages {
		return c.end(421, "4.7.0", "Enough messages for one connection")
	}
	from, params, err := parsePath(arg, "FROM:")
	if err != nil {
		return c.refuse(err, "")
	}
	p, err := parseMailParams(params)
	switch {
	case err != nil:
		return c.refuse(err, "")
	case p.size > c.r.o.MaxSize: // RFC 1870, 6.1
		return c.fail(552, "5.3.4", "Larger than "+strconv.FormatInt(c.r.o.MaxSize, 10)+" bytes")
	case !p.utf8 && !ascii(from):
		return c.refuse(errUTF8, "")
	}
	c.setBusy(true)
	if c.r.stopping.Load() {
		c.setBusy(false)
		return errStopping
	}
	c.state, c.from, c.utf8, c.begun = sending, from, p.utf8, time.Now()
	c.say(250, "2.1.0", "OK")
	return nil
}

func (c *conn) rcpt(arg string) error {
	to, params, err := parsePath(arg, "TO:")
	switch {
	case err != nil:
		return c.refuse(err, "")
	case to == "":
		return c.refuse(errPath, "")
	case len(params) > 0:
		return c.fail(555, "5.5.4", "A parameter that was not offered")
	case !c.utf8 && !ascii(to):
		return c.refuse(errUTF8, "")
	case len(c.to) >= maxRcpt:
		c.say(452, "4.5.3", "Too many recipients")
		return nil
	}
	ok, err := c.r.o.Journal(c.r.ctx, to)
	switch {
	case err != nil:
		return c.refuse(err, "It cannot be told now, try later")
	case !ok:
		return c.fail(550, "5.1.1", "No journal address")
	}
	c.state, c.to = addressed, append(c.to, to)
	c.say(250, "2.1.5", "OK")
	return nil
}

func (c *conn) rset(string) error {
	if c.state != silent {
		c.reset()
	}
	c.say(250, "2.0.0", "OK")
	return nil
}

func (c *conn) noop(string) error {
	c.say(250, "2.0.0", "OK")
	return nil
}

func (c *conn) help(string) error {
	c.say(214, "2.0.0", "See RFC 5321; mail for journal addresses only")
	return nil
}

func (c *conn) vrfy(string) error {
	c.say(252, "2.0.0", "Not told; send to it")
	return nil
}

func (c *conn) notHere(string) error { return c.fail(502, "5.5.1", "Not here") }

// bdat ends the connection: it was not offered, and the bytes of the chunk
// that follow would be read as commands.
func (c *conn) bdat(string) error { return c.end(502, "5.5.1", "BDAT was not offered") }

func (c *conn) quit(string) error { return c.end(221, "2.0.0", "Bye") }
