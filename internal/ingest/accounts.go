package ingest

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/source"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// Account is one of several accounts of a server that a profile collects. Its
// password, if it has one of its own, is in the profile's secret.
type Account struct {
	Account string `json:"account"`
	Mailbox string `json:"mailbox,omitempty"` // "": by the profile's pattern
}

// How accounts are opened with the password of an administrator.
const (
	LoginMaster = "master"    // sign in as account*admin (Dovecot's master user)
	LoginAuthz  = "authzid"   // sign in as admin for the account (RFC 4616: the authorization identity)
	LoginProxy  = "proxyauth" // sign in as admin, then PROXYAUTH (Oracle, formerly Sun)
)

// Secrets are what a profile signs in with. What is nil stays as it is. They
// print as [redacted].
type Secrets struct {
	Password []byte
	Accounts map[string]string // by account; those without one are opened with Password
}

// String implements fmt.Stringer.
func (Secrets) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (Secrets) GoString() string { return "[redacted]" }

// maxAccounts bounds a profile.
const maxAccounts = 10_000

func (p *Profile) checkAccounts(e endpoint) error {
	switch {
	case p.LoginAs == "" && p.Admin != "", p.LoginAs != "" && p.Admin == "":
		return errors.New("an administrator (--admin) and how accounts are opened with his password (--login-as) go together")
	case p.LoginAs != "" && !slices.Contains([]string{LoginMaster, LoginAuthz, LoginProxy}, p.LoginAs):
		return fmt.Errorf("login as %q: it is %s, %s or %s", p.LoginAs, LoginMaster, LoginAuthz, LoginProxy)
	case p.LoginAs != "" && !strings.HasPrefix(e.scheme, "imap"):
		return fmt.Errorf("login as %s: only IMAP accounts are opened so", p.LoginAs)
	case p.LoginAs != "" && p.Exception != nil:
		return errors.New("no exception is made for the password of an administrator: whoever stands in between could open all accounts with it")
	case len(p.Accounts) > 0 && e.scheme == "folder":
		return errors.New("a drop folder has no accounts")
	case p.LoginAs != "" && p.Token != "":
		return errors.New("login as: a token opens the account that it is for; no administrator is named beside it")
	case len(p.Accounts) > 0 && p.Multidrop:
		return errors.New("multidrop: everybody's mail is in one account, not in several")
	case len(p.Accounts) > 0 && p.DeleteAfter > 0:
		return errors.New("delete after: nothing is deleted at the source of several accounts; it would with a profile for each")
	case len(p.Accounts) > maxAccounts:
		return fmt.Errorf("%d accounts: %d are the most for one profile", len(p.Accounts), maxAccounts)
	}
	seen := map[string]bool{}
	for _, name := range p.accounts(e) {
		if name == "" && e.scheme != "folder" || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 127 }) || strings.Contains(name, ": ") || len(name) > 320 {
			return fmt.Errorf("account %.40q: that is no name of an account", name)
		}
		if seen[name] {
			return fmt.Errorf("account %q is there twice", name)
		}
		seen[name] = true
		if err := catalog.CheckName(p.mailboxOf(e, name)); err != nil {
			return fmt.Errorf("mailbox of account %q: %w", name, err)
		}
		if m := p.mailboxOf(e, name); strings.ContainsAny(m, "{}") {
			return fmt.Errorf("mailbox %q: it may hold {account}, {user} and {domain}", m)
		}
	}
	return nil
}

// accounts are the names of the accounts that are collected.
func (p *Profile) accounts(e endpoint) (names []string) {
	if len(p.Accounts) == 0 {
		return []string{e.user}
	}
	for _, a := range p.Accounts {
		names = append(names, a.Account)
	}
	return names
}

// fill replaces {account}, {user} and {domain} in a pattern, and what else is
// given.
func fill(pattern string, e endpoint, account string, more ...string) string {
	user, domain, _ := strings.Cut(account, "@")
	if domain == "" {
		domain = e.host
	}
	return strings.NewReplacer(append(more, "{account}", account, "{user}", user, "{domain}", domain)...).Replace(pattern)
}

// mailboxOf is the name of the mailbox of an account.
func (p *Profile) mailboxOf(e endpoint, account string) string {
	pattern := p.Mailbox
	for _, a := range p.Accounts {
		if a.Account == account && a.Mailbox != "" {
			pattern = a.Mailbox
		}
	}
	return fill(pattern, e, account)
}

// folderOf is where a message of an account goes in the archive.
func (p *Profile) folderOf(e endpoint, account, name string) string {
	if p.Target == "" {
		return name
	}
	return strings.Trim(fill(p.Target, e, account, "{folder}", name, "{mailbox}", p.mailboxOf(e, account)), "/")
}

// mailboxes returns the mailboxes of the accounts, and makes those that are
// missing.
func (r *Runner) mailboxes(ctx context.Context, p *Profile, e endpoint, who string) (map[string]int64, error) {
	out := map[string]int64{}
	for _, name := range p.accounts(e) {
		id, err := r.a.Mailbox(ctx, p.mailboxOf(e, name), who)
		if err != nil {
			return nil, err
		}
		out[name] = id
	}
	return out, nil
}

// openAccounts makes one source of those of the accounts. open opens one, with
// what was missed of it.
func openAccounts(names []string, missed []catalog.Missed, open func(name string, missed []catalog.Missed) source.Source) source.Accounts {
	var as source.Accounts
	for _, name := range names {
		a := source.Account{Name: name}
		var own []catalog.Missed
		for _, m := range missed {
			if strings.HasPrefix(m.Where, a.Where("")) {
				own = append(own, m)
			}
		}
		a.Source = open(name, own)
		as = append(as, a)
	}
	return as
}

// signIn is how an account is opened with a password.
func (p *Profile) signIn(account, password string) imapclient.Credential {
	switch p.LoginAs {
	case LoginMaster:
		return imapclient.Credential{User: account + "*" + p.Admin, Password: password, Plain: true}
	case LoginAuthz:
		return imapclient.Credential{User: p.Admin, Password: password, As: account, Plain: true}
	case LoginProxy:
		return imapclient.Credential{User: p.Admin, Password: password, As: account, Proxy: true}
	}
	return imapclient.Credential{User: account, Password: password}
}

// ownPassword returns the password that an account has of its own; ok is false
// if it has none.
func (r *Runner) ownPassword(ctx context.Context, p *Profile, account string) (password string, ok bool, err error) {
	if len(p.Accounts) == 0 || p.LoginAs != "" {
		return "", false, nil
	}
	name := catalog.AccountsSecret(p.ID)
	var box []byte
	err = r.a.State().View(ctx, func(v catalog.View) (err error) {
		box, err = v.Secret(name)
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	b, err := seal.OpenBox(r.a.Key(seal.PurposeSecret).Key, []byte(name), box)
	if err != nil {
		return "", false, err
	}
	passwords := map[string]string{}
	if err := json.Unmarshal(b, &passwords); err != nil {
		return "", false, errors.New("the passwords of accounts cannot be read")
	}
	password, ok = passwords[account]
	return password, ok, nil
}

// store seals secrets.
func (s Secrets) store(t catalog.Tx, key seal.Key, profile int64) error {
	set := func(name string, secret []byte) error {
		return t.SetSecret(name, seal.SealBox(key, []byte(name), secret))
	}
	if s.Password != nil {
		if err := set(catalog.ProfileSecret(profile), s.Password); err != nil {
			return err
		}
	}
	if s.Accounts == nil {
		return nil
	}
	b, err := json.Marshal(s.Accounts)
	if err != nil {
		return err
	}
	return set(catalog.AccountsSecret(profile), b)
}

// ReadAccounts reads accounts from CSV whose first line names the columns:
// account, mailbox, password; the last two may be missing or empty.
func ReadAccounts(r io.Reader) (as []Account, passwords map[string]string, err error) {
	b := bufio.NewReader(r)
	head, _ := b.Peek(200)
	if bom := "\xef\xbb\xbf"; strings.HasPrefix(string(head), bom) {
		b.Discard(len(bom))
	}
	c := csv.NewReader(b)
	if first, _, _ := strings.Cut(string(head), "\n"); strings.Contains(first, ";") && !strings.Contains(first, ",") {
		c.Comma = ';'
	}
	names, err := c.Read()
	if err != nil {
		return nil, nil, accountsError(err)
	}
	column := map[string]int{}
	for i, name := range names {
		name = strings.ToLower(strings.TrimSpace(name))
		if _, twice := column[name]; twice || !slices.Contains([]string{"account", "mailbox", "password"}, name) {
			return nil, nil, errors.New("accounts: the first line names the columns: account,mailbox,password")
		}
		column[name] = i
	}
	if _, ok := column["account"]; !ok {
		return nil, nil, errors.New("accounts: the first line names the columns: account,mailbox,password")
	}
	passwords = map[string]string{}
	for {
		row, err := c.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, nil, accountsError(err)
		}
		cell := func(name string) string {
			if i, ok := column[name]; ok {
				return row[i]
			}
			return ""
		}
		a := Account{strings.TrimSpace(cell("account")), strings.TrimSpace(cell("mailbox"))}
		if len(as) >= maxAccounts {
			return nil, nil, fmt.Errorf("accounts: %d are the most for one profile", maxAccounts)
		}
		as = append(as, a)
		if p := cell("password"); strings.ContainsAny(p, "\x00\r\n") {
			return nil, nil, fmt.Errorf("accounts: the password of %.40q is not one line", a.Account)
		} else if p != "" {
			passwords[a.Account] = p
		}
	}
	if len(as) == 0 {
		return nil, nil, errors.New("accounts: there are none in the file")
	}
	return as, passwords, nil
}

// accountsError says where the CSV is wrong, and nothing of what is there.
func accountsError(err error) error {
	var p *csv.ParseError
	switch {
	case errors.As(err, &p):
		return fmt.Errorf("accounts: line %d: %w", p.Line, p.Err)
	case errors.Is(err, io.EOF):
		return errors.New("accounts: the file is empty")
	}
	return fmt.Errorf("accounts: %w", err)
}

// testAccounts tests the first account whole, and of the others that they can
// be opened.
func testAccounts(ctx context.Context, t *Tested, e endpoint, as source.Accounts) error {
	for n, a := range as {
		one := &Tested{}
		var err error
		switch s := a.Source.(type) {
		case *source.IMAP:
			err = testIMAP(ctx, one, e, s)
		case *source.POP3:
			err = testPOP3(ctx, one, e, s)
		}
		if err != nil {
			return fmt.Errorf("account %q: %w", a.Name, err)
		}
		if n == 0 {
			t.Chain, t.Folders = one.Chain, append(t.Folders, one.Folders...)
		}
		for _, s := range one.Steps {
			atServer := s.Step == tlsconf.StepDNS || s.Step == tlsconf.StepTCP || s.Step == tlsconf.StepTLS
			if n > 0 && atServer && s.OK {
				continue
			}
			if !atServer {
				s.Detail = a.Name + ": " + s.Detail
			}
			t.Steps = append(t.Steps, s)
			if atServer && !s.OK {
				return nil // it is the same for all
			}
		}
	}
	return nil
}
