package tlsconf

import (
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// burst is how much is read at once where the rate is limited, in bytes.
const burst = 32 << 10

// NewLimit returns a limit of so many bytes a second; nil for 0: none.
func NewLimit(bytes int64) *rate.Limiter {
	if bytes <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bytes), burst)
}

// limited is a connection that is read no faster than a limit, which it may
// share with others. Time that is spent waiting for the limit does not count
// towards the deadline: it is we who are silent then.
type limited struct {
	net.Conn
	limit  *rate.Limiter
	closed chan struct{}
	close  sync.Once

	mu       sync.Mutex
	deadline time.Time // of reading
}

func (c *limited) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:min(len(b), burst)])
	if n > 0 {
		c.wait(n)
	}
	return n, err
}

// wait waits until so many bytes may have been read.
func (c *limited) wait(n int) {
	start := time.Now()
	d := c.limit.ReserveN(start, n).DelayFrom(start)
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.closed:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.deadline.IsZero() {
		c.deadline = c.deadline.Add(time.Since(start))
		c.Conn.SetReadDeadline(c.deadline)
	}
}

func (c *limited) SetDeadline(t time.Time) error {
	if err := c.Conn.SetWriteDeadline(t); err != nil {
		return err
	}
	return c.SetReadDeadline(t)
}

func (c *limited) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.Conn.SetReadDeadline(t)
}

func (c *limited) Close() error {
	c.close.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
