package tlsconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/time/rate"
)

// Dialer opens every connection to the outside: sources, targets, identity
// providers. It resolves a name once, and connects to addresses that were
// checked after that, so that no answer of a name server can point it at this
// machine or its neighbours.
type Dialer struct {
	// Allow are loopback and private networks that may be reached.
	Allow []netip.Prefix
	// Resolve looks up a name; default is the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Limit is how fast connections are read, all together; nil: no limit.
	Limit *rate.Limiter
}

// Limits of connections to the outside.
const (
	dnsTimeout  = 10 * time.Second
	dialTimeout = 20 * time.Second
	maxAddrs    = 8 // that are tried of one name
)

// ErrForbidden: an address that must not be reached, or only with leave.
var ErrForbidden = errors.New("not reached without leave")

// Step is where a connection failed.
type Step string

// The steps of a connection, in order.
const (
	StepDNS     Step = "dns"
	StepTCP     Step = "tcp"
	StepTLS     Step = "tls"
	StepSignIn  Step = "sign-in"
	StepFolders Step = "folders"
	StepMessage Step = "message"
)

// StepError is a failure with its step, so that people see what to look at.
type StepError struct {
	Step Step
	Err  error
}

func (e *StepError) Error() string { return fmt.Sprintf("%s: %v", e.Step, e.Err) }
func (e *StepError) Unwrap() error { return e.Err }

// At wraps an error with its step, unless it has one.
func At(s Step, err error) error {
	var have *StepError
	if err == nil || errors.As(err, &have) {
		return err
	}
	return &StepError{s, err}
}

// Dial connects to a port of a host, a name or an address.
func (d *Dialer) Dial(ctx context.Context, host string, port int) (net.Conn, error) {
	addrs, err := d.lookup(ctx, host)
	if err != nil {
		return nil, At(StepDNS, err)
	}
	var errs error
	for _, a := range addrs[:min(len(addrs), maxAddrs)] {
		c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", netip.AddrPortFrom(a, uint16(port)).String())
		if err == nil && d.Limit != nil {
			return &limited{Conn: c, limit: d.Limit, closed: make(chan struct{})}, nil
		}
		if err == nil {
			return c, nil
		}
		errs = errors.Join(errs, err)
	}
	return nil, At(StepTCP, fmt.Errorf("connect to %s: %w", net.JoinHostPort(host, strconv.Itoa(port)), errs))
}

// lookup returns the addresses of a host that may be reached; with none, it says
// why. An address that is never reached refuses the host.
func (d *Dialer) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, d.check(host, a)
	}
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	resolve := d.Resolve
	if resolve == nil {
		resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
			for i := range addrs {
				addrs[i] = addrs[i].Unmap() // Go's form of an A record
			}
			return addrs, err
		}
	}
	addrs, err := resolve(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", host, err)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("look up %s: it has no address", host)
	}
	var may []netip.Addr
	var why error
	for _, a := range addrs {
		switch err := d.check(host, a); {
		case err == nil:
			may = append(may, a)
		case a.Is4In6() || isNever(a):
			return nil, err
		case why == nil:
			why = err
		}
	}
	if len(may) == 0 {
		return nil, why
	}
	return may, nil
}

// Networks that are never reached: link-local with the metadata services of
// clouds, and forms that carry another address inside (RFC 6052, 3056, 4380);
// so are IPv4-mapped addresses (RFC 4291, 2.5.5.2).
var never = prefixes("169.254.0.0/16", "fe80::/10", "fec0::/10", "fd00:ec2::254/128", "100.100.100.200/32", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96",
	"0.0.0.0/8", "224.0.0.0/4", "ff00::/8", "240.0.0.0/4")

// Networks of this machine and its neighbours (RFC 1918, 4193, 6598, 2544).
var private = prefixes("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "100.64.0.0/10", "198.18.0.0/15", "192.0.0.0/24")

func prefixes(ss ...string) (out []netip.Prefix) {
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func within(a netip.Addr, ps []netip.Prefix) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
}

func isNever(a netip.Addr) bool { return within(a.WithZone(""), never) && !a.IsLoopback() }

// PrivateError is ErrForbidden for an address that can be allowed.
type PrivateError struct {
	Host string
	Addr netip.Addr
}

func (e *PrivateError) Error() string {
	return fmt.Sprintf("%s is %s, on this machine or in a private network: %v; if it is yours, allow it with --allow-net %s", e.Host, e.Addr, ErrForbidden, netip.PrefixFrom(e.Addr, e.Addr.BitLen()))
}

func (e *PrivateError) Unwrap() error { return ErrForbidden }

func (d *Dialer) check(host string, a netip.Addr) error {
	mapped := a.Is4In6()
	a = a.WithZone("").Unmap()
	switch {
	case mapped || isNever(a):
		return fmt.Errorf("%s is %s, an address that is never connected to: %w", host, a, ErrForbidden)
	case within(a, private) && !within(a, d.Allow):
		return &PrivateError{host, a}
	}
	return nil
}

// ParseNets reads networks (CIDR) or single addresses. Those that are never
// reached cannot be allowed.
func ParseNets(ss []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range ss {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return nil, fmt.Errorf("network %q: it is written like 10.1.0.0/16", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
