package ingest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/mailtest"
)

// several is a profile of several accounts of the world's Dovecot.
func (w *world) several(port int, accounts ...string) *ingest.Profile {
	p := &ingest.Profile{Name: "several", Enabled: true, From: fmt.Sprintf("imaps://localhost:%d", port), Mailbox: "mail of {user}", CA: string(w.d.CA.PEM), AllowNet: []string{"127.0.0.0/8"}}
	for _, a := range accounts {
		p.Accounts = append(p.Accounts, ingest.Account{Account: a})
	}
	return p
}

func (w *world) save(t *testing.T, p *ingest.Profile, s ingest.Secrets) *ingest.Profile {
	t.Helper()
	if err := ingest.SaveWith(w.a, p, s, "test"); err != nil {
		t.Fatal(err)
	}
	return p
}

// mailboxes returns the numbers of messages in mailboxes.
func (w *world) mailboxes(t *testing.T) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	var ms []catalog.Mailbox
	if err := w.a.State().View(ctx, func(v catalog.View) (err error) {
		ms, err = v.Mailboxes()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, m := range ms {
		n, err := w.a.Catalog().MailboxCount(ctx, m.ID)
		if err != nil {
			t.Fatal(err)
		}
		out[m.Name] = n
	}
	return out
}

// A master user opens the accounts of others, each into its mailbox.
func TestMasterUser(t *testing.T) {
	for _, form := range []string{ingest.LoginMaster, ingest.LoginAuthz} {
		for _, mechanisms := range []string{"plain", "plain scram-sha-256"} {
			t.Run(form+" by "+mechanisms, func(t *testing.T) {
				w := newWorldWith(t, "auth_mechanisms = "+mechanisms+"\n")
				for i := range 5 {
					w.d.Put(t, "alice", "", fmt.Sprintf("%d.m:2,", i), mail(i))
					w.d.Put(t, "bob", "", fmt.Sprintf("%d.m:2,", i), mail(i+3))
				}
				p := w.several(w.d.IMAPS, "alice", "bob")
				p.LoginAs, p.Admin, p.Target = form, "master", "{account}/{folder}"
				w.save(t, p, ingest.Secrets{Password: []byte(mailtest.MasterPassword)})
				w.want(t, w.run(t, p), catalog.RunDone, 8, 2, 0)
				if got := w.mailboxes(t); got["mail of alice"] != 5 || got["mail of bob"] != 5 || len(got) != 2 {
					t.Errorf("mailboxes %v", got)
				}
				if got := w.folders(t); got["alice/INBOX"] != 5 || got["bob/INBOX"] != 5 {
					t.Errorf("folders %v", got)
				}
				w.want(t, w.run(t, p), catalog.RunDone, 0, 0, 0)
				w.d.Put(t, "bob", "", "new.m:2,", mail(50))
				w.want(t, w.run(t, p), catalog.RunDone, 1, 0, 0)
				// One account alone.
				one := w.profile(t, w.d.IMAPS, func(p *ingest.Profile) {
					p.Name, p.LoginAs, p.Admin, p.Mailbox = "one", form, "master", "{account} alone"
				})
				w.save(t, one, ingest.Secrets{Password: []byte(mailtest.MasterPassword)})
				w.want(t, w.run(t, one), catalog.RunDone, 0, 5, 0)
				if got := w.mailboxes(t); got["alice alone"] != 5 {
					t.Errorf("mailboxes %v", got)
				}
			})
		}
	}
}

// Accounts of a file are opened with their own passwords. One that is wrong is
// named, and blocks no other.
func TestAccountsOfAFile(t *testing.T) {
	w := newWorldWith(t, "auth_failure_delay = 0\nservice anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}\n")
	for i := range 4 {
		w.d.Put(t, "alice", "", fmt.Sprintf("%d.m:2,", i), mail(i))
		w.d.Put(t, "bench", "", fmt.Sprintf("%d.m:2,", i), mail(10+i))
		w.d.Put(t, "bob", "", fmt.Sprintf("%d.m:2,", i), mail(20+i))
	}
	const wrong = "wrong-and-never-shown"
	as, passwords, err := ingest.ReadAccounts(strings.NewReader(fmt.Sprintf("account,mailbox,password\nalice,,%s\nbob,,%s\nbench,the bench,\n", mailtest.Password, wrong)))
	if err != nil {
		t.Fatal(err)
	}
	p := w.several(w.d.IMAPS)
	p.Accounts = as
	w.save(t, p, ingest.Secrets{Password: []byte(mailtest.Password), Accounts: passwords})
	out := w.run(t, p)
	w.want(t, out, catalog.RunPartial, 8, 0, 1)
	if len(out.Failures) != 1 || out.Failures[0].Where != "bob" || !strings.Contains(out.Failures[0].Reason, "refused") {
		t.Errorf("failures %v", out.Failures)
	}
	if got := w.mailboxes(t); got["mail of alice"] != 4 || got["the bench"] != 4 || got["mail of bob"] != 0 {
		t.Errorf("mailboxes %v", got)
	}
	test, err := w.r.Test(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"sign-in true alice: as alice", "sign-in false bob: ", "sign-in true bench: as bench", "tcp true"} {
		found := false
		for _, s := range test.Steps {
			found = found || strings.HasPrefix(fmt.Sprint(s.Step, " ", s.OK, " ", s.Detail), want)
		}
		if !found {
			t.Errorf("the test does not say %q: %+v", want, test.Steps)
		}
	}
	// No password is where somebody could see it.
	var c *catalog.Profile
	var names []string
	if err := w.a.State().View(ctx, func(v catalog.View) (err error) {
		if c, err = v.Profile(catalog.KindSource, p.Name); err == nil {
			names, err = v.Secrets()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if all := fmt.Sprint(string(c.Spec), out, test, ingest.Secrets{Password: []byte(wrong), Accounts: passwords}); strings.Contains(all, wrong) || strings.Contains(all, mailtest.Password) {
		t.Errorf("a password is shown: %s", all)
	}
	if len(names) != 2 {
		t.Errorf("secrets %v", names)
	}

	// With the right one, what is missing comes, and nothing else again.
	passwords["bob"] = mailtest.Password
	w.save(t, p, ingest.Secrets{Accounts: passwords})
	w.want(t, w.run(t, p), catalog.RunDone, 4, 0, 0)
	w.want(t, w.run(t, p), catalog.RunDone, 0, 0, 0)

	if err := ingest.Remove(w.a, p, "test"); err != nil {
		t.Fatal(err)
	}
	if err := w.a.State().View(ctx, func(v catalog.View) (err error) {
		names, err = v.Secrets()
		return err
	}); err != nil || len(names) != 0 {
		t.Errorf("the profile is gone, its secrets are not: %v %v", names, err)
	}
}

// A message of one account that cannot be had is tried again there.
func TestMissedOfAnAccount(t *testing.T) {
	w := newWorld(t)
	w.d.Put(t, "alice", "", "1.m:2,", mail(1))
	w.d.Put(t, "bob", "", "1.m:2,", mail(2))
	bad := filepath.Join(w.d.Maildir(t, "bob", ""), "cur", "2.m:2,")
	if err := os.Mkdir(bad, 0o700); err != nil { // Dovecot lists it and cannot read it
		t.Fatal(err)
	}
	p := w.save(t, w.several(w.d.IMAPS, "alice", "bob"), ingest.Secrets{Password: []byte(mailtest.Password)})
	out := w.run(t, p)
	w.want(t, out, catalog.RunPartial, 2, 0, 1)
	if len(out.Failures) != 1 || !strings.HasPrefix(out.Failures[0].Where, "bob: INBOX;") {
		t.Errorf("failures %v", out.Failures)
	}
	w.want(t, w.run(t, p), catalog.RunPartial, 0, 0, 1)
	os.Remove(bad)
	w.d.Put(t, "bob", "", "2.m:2,", mail(3))
	w.want(t, w.run(t, p), catalog.RunDone, 1, 0, 0)
	w.want(t, w.run(t, p), catalog.RunDone, 0, 0, 0)
}

// A server that is not there fails the run, not each account one by one.
func TestAccountsWithoutAServer(t *testing.T) {
	w := newWorld(t)
	p := w.save(t, w.several(mailtest.Port(t), "alice", "bob", "bench", "a", "b", "c"), ingest.Secrets{Password: []byte(mailtest.Password)})
	out := w.run(t, p)
	if out.State != catalog.RunFailed || out.Failed > 2 || !strings.HasPrefix(out.Error, "tcp: ") {
		t.Errorf("%+v", out)
	}
}

func TestReadAccounts(t *testing.T) {
	for name, tc := range map[string]struct{ in, want, passwords, err string }{
		"all":            {"account,mailbox,password\na@x.org,box,pw\nb@x.org,,\n", "[{a@x.org box} {b@x.org }]", "map[a@x.org:pw]", ""},
		"names alone":    {"account\na\n b \n", "[{a } {b }]", "map[]", ""},
		"other order":    {"\xef\xbb\xbfPassword;Account\r\n\"p;w\";a\r\n", "[{a }]", "map[a:p;w]", ""},
		"spaces stay":    {"account,password\na, pw \n", "[{a }]", "map[a: pw ]", ""},
		"no head":        {"a,b,secret-of-a\n", "", "", "first line names the columns"},
		"unknown column": {"account,secret\na,b\n", "", "", "first line names the columns"},
		"empty":          {"", "", "", "empty"},
		"none":           {"account\n", "", "", "there are none"},
		"ragged":         {"account,password\na,secret-of-a,x\n", "", "", "line 2"},
		"two lines":      {"account,password\na,\"secret-of-a\nx\"\n", "", "", "not one line"},
		"quotes":         {"account,password\na,\"secret-of-a\n", "", "", "line"},
	} {
		as, passwords, err := ingest.ReadAccounts(strings.NewReader(tc.in))
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "secret-of-a") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || fmt.Sprint(as) != tc.want || fmt.Sprint(passwords) != tc.passwords {
			t.Errorf("%s: %v %v %v", name, as, passwords, err)
		}
	}
}

func TestCheckAccounts(t *testing.T) {
	one := []ingest.Account{{Account: "a"}}
	for _, tc := range []struct {
		p    ingest.Profile
		want string
	}{
		{ingest.Profile{From: "imaps://h.example", Mailbox: "{account}", Accounts: one}, ""},
		{ingest.Profile{From: "imaps://h.example", Accounts: []ingest.Account{{"a", "box"}}}, ""},
		{ingest.Profile{From: "imaps://h.example", Accounts: one}, "mailbox of account"},
		{ingest.Profile{From: "imaps://h.example", Mailbox: "{acount}", Accounts: one}, "may hold {account}"},
		{ingest.Profile{From: "imaps://h.example", Mailbox: "m", Accounts: append(one, one...)}, "twice"},
		{ingest.Profile{From: "imaps://h.example", Mailbox: "m", Accounts: []ingest.Account{{Account: "a: b"}}}, "no name"},
		{ingest.Profile{From: "imaps://h.example", Mailbox: "m", Accounts: []ingest.Account{{}}}, "no name"},
		{ingest.Profile{From: "imaps://a@h.example", Mailbox: "m", Accounts: one}, "several accounts"},
		{ingest.Profile{From: "imaps://h.example", Mailbox: "m", Accounts: one, Idle: true}, "idle"},
		{ingest.Profile{From: "imaps://h.example", Mailbox: "m", Accounts: one, DeleteAfter: 30}, "delete after"},
		{ingest.Profile{From: "imaps://h.example", Mailbox: "m", Accounts: one, Multidrop: true}, "multidrop"},
		{ingest.Profile{From: "imaps://a@h.example", Mailbox: "m", LoginAs: "master", Admin: "root", Token: "x"}, "a token opens"},
		{ingest.Profile{From: "folder:/mail", Mailbox: "m", Accounts: one}, "drop folder"},
		{ingest.Profile{From: "imaps://a@h.example", Mailbox: "m", Admin: "root"}, "go together"},
		{ingest.Profile{From: "imaps://a@h.example", Mailbox: "m", LoginAs: "master"}, "go together"},
		{ingest.Profile{From: "imaps://a@h.example", Mailbox: "m", LoginAs: "x", Admin: "root"}, "login as"},
		{ingest.Profile{From: "pop3s://a@h.example", Mailbox: "m", LoginAs: "master", Admin: "root"}, "only IMAP"},
		{ingest.Profile{From: "imaps://a@h.example", Mailbox: "{user} at {domain}", LoginAs: "proxyauth", Admin: "root"}, ""},
		{ingest.Profile{From: "imaps://a@h.example", Mailbox: "m", LoginAs: "master", Admin: "root", Exception: &ingest.Exception{Kind: ingest.Unverified, Owner: "ann", Reason: "x", Until: time.Now().Add(time.Hour)}}, "no exception"},
		{ingest.Profile{From: "pop3s://a@h.example", Mailbox: "m", Idle: true}, "only IMAP does"},
		{ingest.Profile{From: "imaps://a@h.example", Mailbox: "m", Idle: true, Include: []string{"a", "b"}}, "left out"},
		{ingest.Profile{From: "imaps://a@h.example", Mailbox: "m", Idle: true, Include: []string{"a"}}, ""},
	} {
		tc.p.Name = "p"
		err := tc.p.Check(time.Now())
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v, want %q", tc.p, err, tc.want)
		}
	}
	w := &world{a: mailtest.Archive(t, nil)}
	p := &ingest.Profile{Name: "p", From: "imaps://h.example", Mailbox: "m", Accounts: one, LoginAs: "master", Admin: "root"}
	if err := ingest.SaveWith(w.a, p, ingest.Secrets{Accounts: map[string]string{"a": "b"}}, "test"); err == nil {
		t.Error("passwords that would not be used are taken")
	}
}
