package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/letterhold/letterhold/internal/mailtest"
)

// The systemd unit says nothing that systemd does not understand.
func TestUnit(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		mailtest.Missing(t, "systemd-analyze is missing")
	}
	b, err := os.ReadFile("../../contrib/letterhold.service")
	if err != nil {
		t.Fatal(err)
	}
	const installed = "/usr/local/bin/letterhold"
	if !strings.Contains(string(b), "ExecStart="+installed+" ") {
		t.Fatal("the unit does not start ", installed)
	}
	verify := func(unit string) string {
		// The program need not be installed here: this test stands in for it.
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "letterhold.service")
		if err := os.WriteFile(name, []byte(strings.ReplaceAll(unit, installed, self)), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", name).CombinedOutput()
		if err != nil {
			return string(out) + err.Error()
		}
		return string(out)
	}
	if out := verify(string(b)); out != "" {
		t.Error(out)
	}
	if out := verify(strings.Replace(string(b), "UMask=", "UMsk=", 1)); !strings.Contains(out, "UMsk") {
		t.Errorf("a mistake goes unnoticed: %q", out)
	}
}
