package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/mailtest"
)

// Whoever cannot sign in cannot fill the ledger: refusals of an account are two
// leaves an hour, and the numbers in them are exact.
func TestRefusalsAreFewLeaves(t *testing.T) {
	ctx := context.Background()
	now := time.Date(2026, 3, 12, 9, 0, 0, 0, time.UTC)
	a := mailtest.Archive(t, func() time.Time { return now })
	x := New(a)
	x.Hasher = Hasher{Cost: Cost{1, 64}}
	const password = "a quiet reading room at dusk"
	for _, name := range []string{"ada", "ben"} {
		if err := a.Change(archive.Act{What: "account made", Who: "test"}, func(t catalog.Tx) error {
			_, err := t.AddUser(catalog.User{Name: name, Password: x.Hasher.Hash(password)}, now)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	leaves := func() (n, counted int) {
		t.Helper()
		acts, err := a.Catalog().Acts(ctx, 1000, actRefused)
		if err != nil {
			t.Fatal(err)
		}
		for _, act := range acts {
			var more int
			var detail archive.Act
			if err := json.Unmarshal([]byte(act.Detail), &detail); err != nil {
				t.Fatal(err)
			}
			if len(detail.More) == 0 {
				more = 1
			} else if _, err := fmt.Sscanf(detail.More[0], "%d more until ", &more); err != nil {
				t.Fatal(err, detail.More)
			}
			counted += more
		}
		return len(acts), counted
	}
	try := func(name, pass string, i int) error {
		_, err := x.SignIn(ctx, name, pass, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), "")
		return err
	}

	refused := 0
	for i := range 60 { // every address is another one; each waits as long as it is told
		err := try("ada", "wrong", i)
		for wait := (ThrottleError{}); errors.As(err, &wait); err = try("ada", "wrong", i) {
			now = now.Add(wait.Wait)
		}
		if !errors.Is(err, ErrSignIn) {
			t.Fatal(err)
		}
		refused++
	}
	hours := int(now.Sub(a.About().Created).Hours()) + 1
	if n, _ := leaves(); n > 2*hours {
		t.Errorf("%d leaves for %d refusals within %d hours", n, refused, hours)
	}
	for i := range 1000 { // unknown accounts leave nothing
		if err := try(fmt.Sprint("nobody", i), "wrong", 1000+i); !errors.Is(err, ErrSignIn) {
			t.Fatal(err)
		}
	}
	if err := try("ben", "wrong", 5000); !errors.Is(err, ErrSignIn) {
		t.Fatal(err)
	}
	refused++
	if err := x.SettleAll(); err != nil {
		t.Fatal(err)
	}
	if n, counted := leaves(); counted != refused || n > 2*hours+1 {
		t.Errorf("%d leaves speak of %d refusals, there were %d", n, counted, refused)
	}

	// What was counted stands before the sign-in that follows.
	before, _ := leaves()
	for i := range 3 {
		if err := try("ben", "wrong", 6000+i); !errors.Is(err, ErrSignIn) {
			t.Fatal(err)
		}
	}
	if err := try("ben", password, 6010); err != nil {
		t.Fatal(err)
	}
	if n, counted := leaves(); n != before+2 || counted != refused+3 {
		t.Errorf("%d leaves of %d refusals, %d of %d before", n, counted, before, refused)
	}
}
