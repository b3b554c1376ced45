package auth

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestCheckPassword(t *testing.T) {
	for p, want := range map[string]error{
		"a quiet reading room at dusk": nil, "korrekt Pferd Batterie Heftklammer": nil, "tdt3Kf9qLw2xVbR": nil, strings.Repeat("äöü≤", 64)[:0] + "Über den Wolken scheint Licht": nil,
		"short": ErrTooShort, "fourteen chars": ErrTooShort, strings.Repeat("x y ", 80): ErrTooLong,
		"aaaaaaaaaaaaaaaa": ErrCommon, "passwordpassword1": ErrCommon, "Passw0rd!Passw0rd!": ErrCommon, "qwertyuiopasdfghjkl": ErrCommon, "abcabcabcabcabcabc": ErrCommon, "123456789012345678": ErrCommon,
		"correct horse battery staple": ErrKnown, "thequickbrownfoxjumps": ErrKnown, "1q2w3e4r5t6y7u8i9o": ErrKnown, "ACME Widgets acme widgets": ErrNamed,
		"ada.lovelace ada.lovelace": ErrNamed, "letterhold-letterhold": ErrNamed,
	} {
		if err := CheckPassword(p, "ada.lovelace", "acme-widgets"); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", p, err, want)
		}
	}
}

func TestHasher(t *testing.T) {
	h := Hasher{Cost: Cost{1, 64}}
	phc := h.Hash("a quiet reading room")
	if ok, again := h.Check("a quiet reading room", phc); !ok || again {
		t.Error("the right password is refused")
	}
	if ok, _ := h.Check("another", phc); ok {
		t.Error("a wrong password is accepted")
	}
	for _, bad := range []string{"", "x", "$argon2id$v=19$m=64,t=1,p=1$AAAA$", "$argon2id$v=19$m=999999999,t=1,p=1$AAAA$AAAA"} {
		if ok, _ := h.Check("", bad); ok {
			t.Errorf("hash %q accepts", bad)
		}
	}
	h.Cost = Cost{2, 64}
	if ok, again := h.Check("a quiet reading room", phc); !ok || !again {
		t.Error("no rehash when the cost changes")
	}
}

func TestWait(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 0, 4: 0, 5: time.Second, 6: 2 * time.Second, 7: 4 * time.Second, 50: 900 * time.Second, 99: 900 * time.Second} {
		if got := wait(n); got != want {
			t.Errorf("after %d failures: %v, want %v", n, got, want)
		}
	}
}
