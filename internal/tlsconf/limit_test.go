package tlsconf

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// Read takes the time that the limit gives, on all connections together, and
// that time does not count towards the deadline.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := NewLimit(100 << 10)
		start := time.Now()
		done := make(chan error)
		for range 2 {
			here, there := net.Pipe()
			c := &limited{Conn: here, limit: limit, closed: make(chan struct{})}
			go func() {
				there.Write(make([]byte, 500<<10))
				there.Close()
			}()
			go func() {
				c.SetDeadline(time.Now().Add(time.Second))
				n, err := io.Copy(io.Discard, c)
				if err == nil && n != 500<<10 {
					err = errors.New("bytes are missing")
				}
				c.Close()
				done <- err
			}()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if d := time.Since(start); d < 9*time.Second || d > 11*time.Second {
			t.Errorf("a megabyte at 100 kB/s took %s", d)
		}
	})
}

// Who is silent is still given up, and a closed connection waits for nothing.
func TestLimitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		c := &limited{Conn: here, limit: NewLimit(1), closed: make(chan struct{})}
		c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
		start := time.Now()
		c.SetDeadline(time.Time{})
		go there.Write(make([]byte, burst))
		go there.Write(make([]byte, burst))
		go func() {
			time.Sleep(time.Minute)
			c.Close()
		}()
		io.Copy(io.Discard, c)
		if d := time.Since(start); d != time.Minute {
			t.Errorf("closing took %s", d)
		}
		there.Close()
	})
}
