package tlsconf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// maxHTTPHeader is how long the header of an answer may be.
const maxHTTPHeader = 64 << 10

// ErrLong: an answer is longer than it may be.
var ErrLong = errors.New("the answer is too long")

// HTTP returns a client for HTTPS to what d may reach. It follows no redirect,
// knows neither proxies nor cookies, and keeps no connection. A request takes
// no longer than timeout with its whole answer, which has limit bytes at most;
// beyond that, reading it ends with ErrLong.
func (d *Dialer) HTTP(trust Trust, now func() time.Time, timeout time.Duration, limit int64) *http.Client {
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &bounded{limit, &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				return nil, fmt.Errorf("%w: HTTP without TLS", ErrForbidden)
			},
			DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				host, port, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				n, err := strconv.Atoi(port)
				if err != nil {
					return nil, err
				}
				c, err := d.Dial(ctx, host, n)
				if err != nil {
					return nil, err
				}
				s, _, err := trust.Handshake(ctx, c, host, now)
				if err != nil {
					c.Close()
					return nil, err
				}
				return s, nil
			},
			DisableKeepAlives: true, DisableCompression: true,
			MaxResponseHeaderBytes: maxHTTPHeader,
		}},
	}
}

// bounded bounds the bodies of answers.
type bounded struct {
	limit int64
	next  http.RoundTripper
}

func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = &boundedBody{resp.Body, b.limit}
	}
	return resp, err
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, ErrLong
	}
	return n, err
}
