package catalog

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// Address is an address of a mailbox, or *@domain for what has no mailbox of its
// own there.
type Address struct {
	Address string `json:"address"`
	Mailbox int64  `json:"mailbox"`
}

// MaxAddress is the longest address in bytes (RFC 5321, 4.5.3.1: 64, 1 and 255).
const MaxAddress = 320

// CheckAddress returns an address in the form in which addresses are compared.
func CheckAddress(s string) (string, error) {
	a := strings.ToLower(strings.TrimSpace(s))
	local, domain, ok := cutLast(a, "@")
	switch {
	case !ok || local == "" || domain == "" || len(a) > MaxAddress, strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r == 127 || strings.ContainsRune("<>,;", r) }):
		return "", fmt.Errorf("address %q: write it as ann@example.org, or *@example.org for a whole domain", s)
	case strings.Contains(local, "*") && local != "*", strings.Contains(domain, "*"):
		return "", fmt.Errorf("address %q: * stands for everything before the @, and for nothing else", s)
	}
	return a, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// AddAddress gives a mailbox an address that no other has.
func (t Tx) AddAddress(address string, mailbox int64) error {
	a, err := CheckAddress(address)
	if err != nil {
		return err
	}
	owner, ok, err := t.c.number(`SELECT mailbox FROM addresses WHERE address = ?`, a)
	switch {
	case err != nil || ok && owner == mailbox:
		return err
	case ok:
		return fmt.Errorf("address %s: another mailbox has it", a)
	}
	_, domain, _ := cutLast(a, "@")
	return t.c.run(`INSERT INTO addresses (address, domain, mailbox) VALUES (?,?,?)`, a, domain, mailbox)
}

// RemoveAddress takes an address from a mailbox.
func (t Tx) RemoveAddress(address string, mailbox int64) error {
	a, err := CheckAddress(address)
	if err != nil {
		return err
	}
	if n, ok, err := t.c.number(`SELECT mailbox FROM addresses WHERE address = ?`, a); err != nil || !ok || n != mailbox {
		return errors.Join(err, fmt.Errorf("address %s: the mailbox does not have it: %w", a, ErrNotFound))
	}
	return t.c.run(`DELETE FROM addresses WHERE address = ?`, a)
}

// Addresses returns all addresses of mailboxes.
func (v View) Addresses() (out []Address, err error) {
	err = v.c.query(`SELECT address, mailbox FROM addresses ORDER BY mailbox, address`, func(s *sqlite3.Stmt) error {
		out = append(out, Address{s.ColumnText(0), s.ColumnInt64(1)})
		return nil
	})
	return out, err
}

// Owner returns the mailbox that an address belongs to, 0 for none, and whether
// its domain is one of ours: one in which some mailbox has an address. ann+x@
// belongs to whom ann@ belongs to (RFC 5233).
func (v View) Owner(address string) (mailbox int64, ours bool, err error) {
	a := strings.ToLower(strings.TrimSpace(address))
	local, domain, ok := cutLast(a, "@")
	if !ok || domain == "" {
		return 0, false, nil
	}
	user, _, _ := strings.Cut(local, "+")
	for _, try := range []string{a, user + "@" + domain, "*@" + domain} {
		if mailbox, ok, err = v.c.number(`SELECT mailbox FROM addresses WHERE address = ?`, try); err != nil || ok {
			return mailbox, ok, err
		}
	}
	_, ours, err = v.c.number(`SELECT 1 FROM addresses WHERE domain = ? LIMIT 1`, domain)
	return 0, ours, err
}

// Journal is an address that mail servers send copies to.
type Journal struct {
	Address string    `json:"address"`
	Label   string    `json:"label"`
	Created time.Time `json:"created"`
	Secret  []byte    `json:"-"` // SHA-256 of the password that signs a mail server in; empty: none
}

// AddJournal stores a journal address.
func (t Tx) AddJournal(j Journal) error {
	a, err := CheckAddress(j.Address)
	if err != nil {
		return err
	}
	if err := CheckName(j.Label); err != nil {
		return fmt.Errorf("label: %w", err)
	}
	return t.c.run(`INSERT INTO journals (address, label, created, secret) VALUES (?,?,?,?)`, a, j.Label, j.Created.Unix(), j.Secret)
}

// RemoveJournal removes a journal address.
func (t Tx) RemoveJournal(address string) error {
	return t.c.run(`DELETE FROM journals WHERE address = ?`, address)
}

// Journals returns all journal addresses.
func (v View) Journals() (out []Journal, err error) {
	err = v.c.query(`SELECT address, label, created, secret FROM journals ORDER BY created, address`, func(s *sqlite3.Stmt) error {
		out = append(out, Journal{s.ColumnText(0), s.ColumnText(1), time.Unix(s.ColumnInt64(2), 0).UTC(), s.ColumnBlob(3, nil)})
		return nil
	})
	return out, err
}

// JournalAt returns a journal address.
func (v View) JournalAt(address string) (j Journal, err error) {
	err = ErrNotFound
	e := v.c.query(`SELECT address, label, created, secret FROM journals WHERE address = ?`, func(s *sqlite3.Stmt) error {
		j, err = Journal{s.ColumnText(0), s.ColumnText(1), time.Unix(s.ColumnInt64(2), 0).UTC(), s.ColumnBlob(3, nil)}, nil
		return nil
	}, address)
	return j, errors.Join(e, err)
}
