// Package target brings messages out of the archive to where they are wanted:
// back into a mailbox on an IMAP server, into a folder of files, or to a mail
// server by SMTP. A restore (restore.go) does it once; a Runner (runner.go) runs
// profiles again and again, each time with what is new.
//
// The bytes are those that were archived. Protocols of mail end lines with
// CRLF: a message that was archived with other line ends gets these, and nothing
// else is changed; no field is added. The archive is only read.
//
// Not here: deciding who may take mail out, which its doors do, and files of an
// export by hand (package export).
package target

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/smtpclient"
	"github.com/letterhold/letterhold/internal/source"
)

// Place is where messages go to.
type Place struct {
	To     string `json:"to"`               // URL without a password
	Folder string `json:"folder,omitempty"` // pattern of folders on an IMAP server; default {folder}
	From   string `json:"from,omitempty"`   // sender of SMTP's envelope
	Rcpt   string `json:"rcpt,omitempty"`   // its recipient
	Token  string `json:"token,omitempty"`  // source of tokens, instead of a password

	ingest.Connection
}

// Kinds of places.
const (
	kindFolder = "folder"
	kindIMAP   = "imap"
	kindSMTP   = "smtp"
)

// address is what a place's URL says.
type address struct {
	kind     string
	user     string
	host     string
	port     int
	path     string // of a folder
	security imapclient.Security
}

// schemes with their ports. Without the "s", STARTTLS is mandatory.
var schemes = map[string]struct {
	kind     string
	port     int
	security imapclient.Security
}{
	"imaps": {kindIMAP, 993, imapclient.ImplicitTLS}, "imap": {kindIMAP, 143, imapclient.StartTLS},
	"smtps": {kindSMTP, 465, imapclient.ImplicitTLS}, "smtp": {kindSMTP, 587, imapclient.StartTLS},
}

func (p *Place) address() (a address, err error) {
	if path, ok := strings.CutPrefix(p.To, "folder:"); ok {
		if !strings.HasPrefix(path, "/") {
			return a, fmt.Errorf("target %q: a folder is written folder:/path", p.To)
		}
		a = address{kind: kindFolder, path: path}
		return a, p.envelope(a)
	}
	u, err := url.Parse(p.To)
	if err != nil {
		return a, errors.New("target: it is written like imaps://user@host:993")
	}
	s, ok := schemes[u.Scheme]
	switch {
	case !ok:
		return a, fmt.Errorf("target %q: it begins with imaps://, imap://, smtps://, smtp:// or folder:/", u.Scheme)
	case u.Hostname() == "":
		return a, fmt.Errorf("target: the host is missing; it is written like %s://user@host:%d", u.Scheme, s.port)
	case s.kind == kindIMAP && u.User.Username() == "":
		return a, fmt.Errorf("target: the account is missing; it is written like %s://user@host:%d", u.Scheme, s.port)
	case strings.Trim(u.Path, "/") != "":
		return a, errors.New("target: nothing follows the host in the address; the folder is named with --folder")
	}
	if _, set := u.User.Password(); set {
		return a, errors.New("target: the password does not belong into the address, where logs would show it; use --password-file")
	}
	a = address{kind: s.kind, user: u.User.Username(), host: u.Hostname(), security: s.security}
	if a.port, err = source.ParsePort(u.Port(), s.port); err != nil {
		return a, err
	}
	if x := p.Exception; x != nil && x.Kind == ingest.Cleartext {
		if strings.HasSuffix(u.Scheme, "s") {
			return a, fmt.Errorf("target: %s:// is encrypted; an exception for %s is for %s://", u.Scheme, ingest.Cleartext, strings.TrimSuffix(u.Scheme, "s"))
		}
		if a.kind == kindSMTP && a.user != "" {
			return a, errors.New("target: by SMTP nobody signs in without encryption; leave the account out of the address")
		}
		a.security = imapclient.Cleartext
	}
	return a, p.envelope(a)
}

// envelope checks the addresses that SMTP needs, and nothing else has.
func (p *Place) envelope(a address) error {
	switch {
	case a.kind != kindSMTP && p.From+p.Rcpt != "":
		return errors.New("--from and --rcpt are for smtps:// and smtp://")
	case a.kind != kindSMTP:
		return nil
	case p.Folder != "":
		return errors.New("by SMTP the recipient's server picks the folder; --folder is for IMAP")
	case !smtpclient.ValidAddress(p.From) || !smtpclient.ValidAddress(p.Rcpt):
		return errors.New("SMTP needs --from ADDRESS and --rcpt ADDRESS, written like user@example.org")
	}
	return nil
}

// Credential opens the account of a place; it is asked for at each connection.
type Credential func(context.Context) (imapclient.Credential, error)

// Account is the name that the place's address signs in with; "" if none.
func (p *Place) Account() string {
	a, _ := p.address()
	return a.user
}

// IsFolder tells whether the place is a folder of files.
func (p *Place) IsFolder() bool {
	a, err := p.address()
	return err == nil && a.kind == kindFolder
}

// sink takes messages to a place, one by one.
type sink interface {
	// put takes a message there; of an occurrence it takes folder, date and
	// flags. It returns false for one that is there already. After an error that
	// concerns this message alone, others may follow.
	put(ctx context.Context, m *message) (bool, error)
	// flush makes durable what was put and tells whether it is; else close does.
	flush() (bool, error)
	// close ends it. What was put is there if it returns no error.
	close() error
}

// message is a message on its way out.
type message struct {
	*catalog.Hit
	at  *catalog.Occurrence // the one that was meant; nil if it has none
	raw []byte
	// maybe: it may be there from before.
	maybe bool
	// met: it is not new, and was met again in another folder since the last run.
	met bool
}

// meant picks the occurrence that the query asks for, the first of several.
func meant(names func(mailbox, folder string) bool, mailboxes map[int64]string, h *catalog.Hit) *catalog.Occurrence {
	for i := range h.Occurrences {
		if o := &h.Occurrences[i]; names == nil || names(mailboxes[o.Mailbox], o.Name) {
			return o
		}
	}
	if len(h.Occurrences) > 0 {
		return &h.Occurrences[0]
	}
	return nil
}

// crlf returns a message with the line ends of protocols. One that has them is
// returned as it is.
func crlf(raw []byte) []byte {
	bare := 0
	for i, c := range raw {
		if c == '\n' && (i == 0 || raw[i-1] != '\r') {
			bare++
		}
	}
	if bare == 0 {
		return raw
	}
	out := make([]byte, 0, len(raw)+bare)
	for i, c := range raw {
		if c == '\n' && (i == 0 || raw[i-1] != '\r') {
			out = append(out, '\r')
		}
		out = append(out, c)
	}
	return out
}
