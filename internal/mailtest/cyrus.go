package mailtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Cyrus is a Cyrus IMAP with the accounts alice and bob, and cyrus who
// administers it. Folders are named INBOX.x. It offers SCRAM-SHA-256 alone, and
// nothing outside of TLS.
type Cyrus struct {
	Dir         string
	IMAP, IMAPS int
	CA          *Authority
}

// cyrusPrograms are the files of Cyrus that a server needs, below its packages.
var cyrusPrograms = []string{"bin/master", "bin/imapd", "bin/idled", "bin/ctl_cyrusdb", "libcyrus.so.0", "libcyrus_imap.so.0", "libcyrus_min.so.0", "libcyrus_sieve.so.0"}

// StartCyrus starts a Cyrus from the packages that `make need` keeps.
func StartCyrus(t testing.TB) *Cyrus {
	t.Helper()
	setPassword := Program(t, "saslpasswd2", "sasl2-bin")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		Missing(t, "Cyrus is started by root only")
	}
	dir, err := os.MkdirTemp("/tmp", "cy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &Cyrus{Dir: dir, IMAP: Port(t), IMAPS: Port(t), CA: NewAuthority(t)}
	for _, sub := range []string{"bin", "conf", "conf/proc", "conf/log", "conf/log/alice", "spool", "sock"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Cyrus does not run as root, and root's cache is closed to others.
	for _, name := range cyrusPrograms {
		from := filepath.Join(cache, "letterhold", "cyrus", "usr", "lib", "cyrus", name)
		if strings.HasPrefix(name, "lib") {
			found, _ := filepath.Glob(filepath.Join(cache, "letterhold", "cyrus", "usr", "lib", "*", name))
			from = strings.Join(found, "")
		}
		b, err := os.ReadFile(from)
		if err != nil {
			Missing(t, "Cyrus is missing (make need): ", err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, user := range []string{"cyrus", "alice", "bob"} {
		set := exec.Command(setPassword, "-p", "-c", "-f", filepath.Join(dir, "sasldb2"), "-u", "localhost", user)
		set.Stdin = strings.NewReader(Password)
		if out, err := set.CombinedOutput(); err != nil {
			t.Fatalf("saslpasswd2: %v\n%s", err, out)
		}
	}
	cert, key := c.CA.Files(t, dir)
	Write(t, filepath.Join(dir, "imapd.conf"), fmt.Appendf(nil, `
cyrus_user: mail
cyrus_group: mail
configdirectory: %[1]s/conf
proc_path: %[1]s/conf/proc
partition-default: %[1]s/spool
defaultpartition: default
admins: cyrus
servername: localhost
defaultdomain: localhost
virtdomains: no
unixhierarchysep: no
altnamespace: no
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: %[1]s/sasldb2
sasl_mech_list: SCRAM-SHA-256
allowplaintext: no
tls_server_cert: %[2]s
tls_server_key: %[3]s
lmtpsocket: %[1]s/sock/lmtp
idlesocket: %[1]s/sock/idle
notifysocket: %[1]s/sock/notify
popminpoll: 0
autocreate_quota: 0
autocreate_post: 1
`, dir, cert, key))
	Write(t, filepath.Join(dir, "cyrus.conf"), fmt.Appendf(nil, `
START {
  recover cmd="%[1]s/bin/ctl_cyrusdb -C %[1]s/imapd.conf -r"
  idled cmd="%[1]s/bin/idled -C %[1]s/imapd.conf"
}
SERVICES {
  imap cmd="%[1]s/bin/imapd -C %[1]s/imapd.conf" listen="127.0.0.1:%[2]d" prefork=0 maxchild=50
  imaps cmd="%[1]s/bin/imapd -C %[1]s/imapd.conf -s" listen="127.0.0.1:%[3]d" prefork=0 maxchild=50
}
EVENTS {
  checkpoint cmd="%[1]s/bin/ctl_cyrusdb -C %[1]s/imapd.conf -c" period=30
}
`, dir, c.IMAP, c.IMAPS))
	uid, gid := lookup(t, "mail")
	if err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Chown(path, uid, gid)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	master := exec.Command(filepath.Join(dir, "bin", "master"), "-C", filepath.Join(dir, "imapd.conf"), "-M", filepath.Join(dir, "cyrus.conf"), "-p", filepath.Join(dir, "pid"))
	master.Env = append(os.Environ(), "LD_LIBRARY_PATH="+dir)
	master.Stdout, master.Stderr = log, log
	if err := master.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		master.Process.Signal(os.Interrupt)
		master.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("what Cyrus said:\n%s", log)
		}
	})
	Await(t, c.IMAP)
	Await(t, c.IMAPS)
	return c
}

// Protocols is the folder in which Cyrus keeps what alice's sessions say.
func (c *Cyrus) Protocols() string { return filepath.Join(c.Dir, "conf", "log", "alice") }

// Talk signs in at the Cyrus. Whoever signs in first gets an INBOX from it.
func (c *Cyrus) Talk(t testing.TB, account string) *Talk {
	t.Helper()
	k := NewTalk(t, c.CA, c.IMAPS)
	k.Do("LOGIN %s %s", account, Password)
	return k
}
