package mailtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Postfix is a mail server that takes mail for example.test on 127.0.0.1.
type Postfix struct {
	Dir  string
	SMTP int
}

// StartPostfix starts a Postfix. more is added to its main.cf; files are
// written beside it first, and %s in more is their folder.
func StartPostfix(t testing.TB, files map[string]string, more string) *Postfix {
	t.Helper()
	program := Program(t, "postfix", "postfix")
	if os.Getuid() != 0 {
		Missing(t, "Postfix is started by root only")
	}
	dir, err := os.MkdirTemp("/tmp", "pf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &Postfix{Dir: dir, SMTP: Port(t)}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"etc", "queue", "data", "mail"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	chown := func(name, owner string) {
		uid, gid := lookup(t, owner)
		if err := os.Chown(filepath.Join(dir, name), uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	chown("data", "postfix")
	chown("mail", "mail")
	uid, _ := lookup(t, "mail")
	for name, text := range files {
		Write(t, filepath.Join(dir, "etc", name), []byte(text))
	}
	Write(t, filepath.Join(dir, "etc", "main.cf"), fmt.Appendf(nil, `
compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mta.example.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
maillog_file = %[1]s/maillog
maillog_file_prefixes = %[1]s
virtual_mailbox_domains = example.test
virtual_mailbox_base = %[1]s/mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:%[2]d
virtual_gid_maps = static:%[2]d
virtual_minimum_uid = 1
default_transport = error:no outside mail here
disable_dns_lookups = yes
smtp_host_lookup = native
minimal_backoff_time = 2s
maximal_backoff_time = 4s
queue_run_delay = 2s
smtpd_recipient_restrictions = permit_mynetworks, reject
`+more, dir, uid, filepath.Join(dir, "etc")))
	Write(t, filepath.Join(dir, "etc", "master.cf"), fmt.Appendf(nil, `
127.0.0.1:%d inet n - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
lmtp unix - - n - - lmtp
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
`, p.SMTP))
	if out, err := exec.Command(program, "-c", filepath.Join(dir, "etc"), "start").CombinedOutput(); err != nil {
		t.Fatalf("postfix: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "maillog"))
			t.Logf("Postfix's log:\n%s", log)
		}
		exec.Command(program, "-c", filepath.Join(dir, "etc"), "stop").Run()
	})
	Await(t, p.SMTP)
	return p
}
