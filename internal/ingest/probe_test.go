package ingest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/ingest"
)

// The best way to a server is found, and none without verified encryption.
func TestProbe(t *testing.T) {
	w := newWorld(t)
	good := ingest.Connection{CA: string(w.d.CA.PEM), AllowNet: []string{"127.0.0.0/8"}}
	for port, scheme := range map[int]string{w.d.IMAPS: "imaps", w.d.IMAP: "imap", w.d.POP3S: "pop3s", w.d.POP3: "pop3"} {
		url, err := ingest.Probe(ctx, fmt.Sprintf("ann@example.org@localhost:%d", port), good, time.Now)
		if want := fmt.Sprintf("%s://ann%%40example.org@localhost:%d", scheme, port); err != nil || url != want {
			t.Errorf("%q, %v; want %q", url, err, want)
		}
	}
	// A server that nobody vouches for is not asked in a weaker way.
	_, err := ingest.Probe(ctx, fmt.Sprintf("ann@localhost:%d", w.d.IMAPS), ingest.Connection{AllowNet: good.AllowNet}, time.Now)
	var x *ingest.CertificateError
	if !errors.As(err, &x) || len(x.Chain) == 0 || x.Chain[0].Pin == "" || strings.Contains(err.Error(), "pop3") {
		t.Errorf("an unknown authority: %v", err)
	}
	_, err = ingest.Probe(ctx, fmt.Sprintf("ann@localhost:%d", w.d.IMAPS), ingest.Connection{CA: good.CA}, time.Now)
	if err == nil || !strings.Contains(err.Error(), "imaps on port") {
		t.Errorf("a network that is not allowed: %v", err)
	}
	for _, bad := range []string{"", "localhost", "@localhost", "ann@"} {
		if _, err := ingest.Probe(ctx, bad, good, time.Now); err == nil {
			t.Errorf("%q is probed", bad)
		}
	}
}
