package tlsconf

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestAddresses(t *testing.T) {
	local, err := ParseNets([]string{"127.0.0.0/8", "10.1.0.0/16", "fd00:1::/32"})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"93.184.216.34": "", "2606:2800:220:1::1": "", "127.0.0.1": "", "10.1.2.3": "", "fd00:1::5": "",
		"10.2.0.1": "--allow-net", "192.168.1.1": "--allow-net", "172.16.0.1": "--allow-net", "100.64.0.1": "--allow-net", "::1": "--allow-net", "fd00:2::1": "--allow-net", "198.18.0.1": "--allow-net",
		"169.254.169.254": "never", "fe80::1": "never", "fe80::1%eth0": "never", "fd00:ec2::254": "never", "100.100.100.200": "never", "0.0.0.0": "never", "::": "never", "224.0.0.1": "never", "255.255.255.255": "never",
		"64:ff9b::7f00:1": "never", "64:ff9b:1::1": "never", "2002:7f00:1::": "never", "2001:0:1::1": "never", "::127.0.0.1": "never", "::ffff:127.0.0.1": "never", "::ffff:93.184.216.34": "never",
	} {
		d := &Dialer{Allow: local, Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr(addr)}, nil
		}}
		for _, host := range []string{addr, "mail.example.org"} {
			_, err := d.lookup(context.Background(), host)
			if want == "" && err != nil || want != "" && (err == nil || !errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s by %s: %v, want %q", addr, host, err, want)
			}
		}
	}
}

// Only addresses that may be reached are connected to, and no name is looked
// up a second time.
func TestDialChecked(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	asked := 0
	d := &Dialer{Resolve: func(context.Context, string) ([]netip.Addr, error) {
		asked++
		if asked == 1 {
			return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("127.0.0.1")}, nil
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.2")}, nil
	}}
	if _, err := d.Dial(context.Background(), "rebind.example", port); !errors.Is(err, ErrForbidden) {
		t.Errorf("without leave: %v", err)
	}
	asked = 0
	d.Allow = prefixes("127.0.0.1/32")
	c, err := d.Dial(context.Background(), "rebind.example", port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if asked != 1 || c.RemoteAddr().(*net.TCPAddr).IP.String() != "127.0.0.1" {
		t.Errorf("asked %d times, connected to %s", asked, c.RemoteAddr())
	}
}
