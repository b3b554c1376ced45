package mailtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
)

// Password of every account that mailtest makes; the master user's is
// MasterPassword.
const (
	Password       = "secret-of-a-test"
	MasterPassword = "secret-of-the-master"
)

// Dovecot is a Dovecot with the accounts alice, bob and bench.
type Dovecot struct {
	Dir                      string
	IMAP, IMAPS, POP3, POP3S int
	LMTP                     int
	CA                       *Authority
	uid, gid                 int
}

// StartDovecot starts a Dovecot. more is added to its configuration.
func StartDovecot(t testing.TB, more string) *Dovecot {
	t.Helper()
	program := Program(t, "dovecot", "dovecot-imapd")
	// Sockets have short paths, and root's temporary folders are closed.
	dir, err := os.MkdirTemp("/tmp", "dc")
	if err != nil {
		t.Fatal(err)
	}
	d := &Dovecot{Dir: dir, IMAP: Port(t), IMAPS: Port(t), POP3: Port(t), POP3S: Port(t), LMTP: Port(t), CA: NewAuthority(t), uid: os.Getuid(), gid: os.Getgid()}
	t.Cleanup(func() { os.RemoveAll(dir) })
	internal, login, owner := username(t, d.uid), username(t, d.uid), username(t, d.uid)
	if d.uid == 0 {
		internal, login, owner = "dovecot", "dovenull", "mail"
		d.uid, d.gid = lookup(t, "mail")
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"run", "state", "mail"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d.own(t, filepath.Join(dir, "mail"))
	cert, key := d.CA.Files(t, dir)
	Write(t, filepath.Join(dir, "users"), fmt.Appendf(nil, "alice:{PLAIN}%s::::::\nbob:{PLAIN}%[1]s::::::\nbench:{PLAIN}%[1]s::::::\n", Password))
	Write(t, filepath.Join(dir, "masters"), fmt.Appendf(nil, "master:{PLAIN}%s\n", MasterPassword))
	conf := fmt.Sprintf(`
base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
protocols = imap pop3 lmtp
listen = 127.0.0.1
default_internal_user = %[2]s
default_internal_group = %[2]s
default_login_user = %[3]s
mail_uid = %[4]s
mail_gid = %[4]s
first_valid_uid = 1
first_valid_gid = 0
mail_home = %[1]s/mail/%%u
mail_location = maildir:%%h/Maildir
ssl = required
ssl_cert = <%[5]s
ssl_key = <%[6]s
ssl_min_protocol = TLSv1.2
auth_mechanisms = plain login scram-sha-256
auth_master_user_separator = *
mail_max_userip_connections = 100
passdb {
  driver = passwd-file
  args = %[1]s/users
}
passdb {
  driver = passwd-file
  args = %[1]s/masters
  master = yes
  result_success = continue
}
userdb {
  driver = static
  args = uid=%[4]s gid=%[4]s home=%[1]s/mail/%%u
}
namespace inbox {
  inbox = yes
  separator = /
  mailbox Trash {
    special_use = \Trash
    auto = create
  }
}
service anvil {
  chroot =
}
service stats {
  chroot =
}
service imap-login {
  chroot =
  inet_listener imap {
    port = %[7]d
  }
  inet_listener imaps {
    port = %[8]d
    ssl = yes
  }
}
service pop3-login {
  chroot =
  inet_listener pop3 {
    port = %[9]d
  }
  inet_listener pop3s {
    port = %[10]d
    ssl = yes
  }
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = %[11]d
  }
}
`, dir, internal, login, owner, cert, key, d.IMAP, d.IMAPS, d.POP3, d.POP3S, d.LMTP) + more
	Write(t, filepath.Join(dir, "dovecot.conf"), []byte(conf))
	c := exec.Command(program, "-F", "-c", filepath.Join(dir, "dovecot.conf"))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Signal(os.Interrupt)
		c.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("Dovecot's log:\n%s", log)
		}
	})
	for _, p := range []int{d.IMAP, d.IMAPS, d.POP3, d.POP3S} {
		Await(t, p)
	}
	return d
}

// Tokens says which OAuth 2 tokens a Dovecot takes: JWT whose "sub" is the
// account.
type Tokens struct {
	Mechanisms string // of SASL, for tokens
	Issuer     string
	KeyID      string
	Key        []byte // public, in PEM; of RS256
}

// StartTokenDovecot starts a Dovecot that takes tokens too. It checks them by
// itself.
func StartTokenDovecot(t testing.TB, o Tokens) *Dovecot {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "dk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	keys := filepath.Join(dir, "keys", "default", "RS256")
	if err := errors.Join(os.MkdirAll(keys, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	Write(t, filepath.Join(keys, o.KeyID), o.Key)
	conf := filepath.Join(dir, "oauth2.conf")
	Write(t, conf, fmt.Appendf(nil, "introspection_mode = local\nlocal_validation_key_dict = fs:posix:prefix=%s/keys/\nusername_attribute = sub\nissuers = %s\n", dir, o.Issuer))
	return StartDovecot(t, fmt.Sprintf(`
auth_mechanisms = plain scram-sha-256 %[1]s
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
passdb {
  driver = oauth2
  mechanisms = %[1]s
  args = %[2]s
}
`, o.Mechanisms, conf))
}

func username(t testing.TB, uid int) string {
	t.Helper()
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

func lookup(t testing.TB, name string) (uid, gid int) {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return uid, gid
}

func (d *Dovecot) own(t testing.TB, name string) {
	t.Helper()
	if os.Getuid() == 0 {
		if err := os.Chown(name, d.uid, d.gid); err != nil {
			t.Fatal(err)
		}
	}
}

// Put puts a message into a folder ("" is INBOX) as a file of the Maildir.
func (d *Dovecot) Put(t testing.TB, account, folder, name string, raw []byte) {
	t.Helper()
	dir := d.Maildir(t, account, folder)
	full := filepath.Join(dir, "cur", name)
	Write(t, full, raw)
	d.own(t, full)
}

// Maildir returns the folder's directory and makes it if it is missing.
func (d *Dovecot) Maildir(t testing.TB, account, folder string) string {
	t.Helper()
	dir := filepath.Join(d.Dir, "mail", account, "Maildir")
	if folder != "" {
		dir = filepath.Join(dir, "."+folder)
	}
	for p := d.Dir + "/mail"; ; {
		rel, _ := filepath.Rel(p, dir)
		if rel == "." {
			break
		}
		p = filepath.Join(p, firstLevel(rel))
		if os.Mkdir(p, 0o755) == nil {
			d.own(t, p)
		}
	}
	for _, sub := range []string{"cur", "new", "tmp"} {
		if os.Mkdir(filepath.Join(dir, sub), 0o755) == nil {
			d.own(t, filepath.Join(dir, sub))
		}
	}
	return dir
}

// Folder makes a folder below Dir that Dovecot may write in.
func (d *Dovecot) Folder(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(d.Dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d.own(t, dir)
	return dir
}

func firstLevel(rel string) string {
	for filepath.Dir(rel) != "." {
		rel = filepath.Dir(rel)
	}
	return rel
}
