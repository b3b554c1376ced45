package blocklist

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

func TestKnownPasswords(t *testing.T) {
	for _, p := range []string{
		"correct horse battery staple", "CorrectHorseBatteryStaple", "passwordpassword", "qwertyuiopasdfgh", "qwertzuiopasdfghjkl", "1qaz2wsx3edc4rfv", "1q2w3e4r5t6y7u8i9o0p", "123456789qwerty",
		"Th3 Quick Br0wn F0x", "thequickbrownfoxjumps", "Bayern München 2026!", "ich-liebe-dich-über-alles", "Sein oder Nichtsein", "sunshine.princess", "Dragon123456!!", "letmeinplease!", "monkey.football99",
		"mnbvcxzlkjhgfdsapoiuytrewq",
	} {
		if !Has(p) {
			t.Errorf("%q is not known", p)
		}
	}
	for _, p := range []string{"a quiet reading room at dusk", "korrekt Pferd Batterie Heftklammer", "tdt3Kf9qLw2xVbR", "Über den Wolken scheint Licht", "seven lamps beside the harbour", "8471936203847 mike 5520", "xK7#pQ2!vM9$wL4"} {
		if Has(p) {
			t.Errorf("%q is taken for a known one", p)
		}
	}
}

// Passwords that nobody has chosen are refused in one case of thousands.
func TestFalsePositives(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#%&+=?"
	f := New(passwords)
	const n = 50_000
	contained, refused := 0, 0
	for range n {
		var b strings.Builder
		for range 15 {
			b.WriteByte(letters[r.IntN(len(letters))])
		}
		if f.Contains(Fold(b.String())) {
			contained++
		}
		if f.has(b.String()) {
			refused++
		}
	}
	t.Logf("of %d random passwords %d are in the filter, %d are refused", n, contained, refused)
	if contained > 8 || refused > 25 {
		t.Errorf("of %d random passwords %d are in the filter, %d are refused", n, contained, refused)
	}
}

func TestFilterHasWhatItWasBuiltOf(t *testing.T) {
	for _, n := range []int{0, 1, 2, 1000, 20_000} {
		set := map[string]bool{}
		for i := range n {
			set[fmt.Sprint("password ", i*i)] = true
		}
		b, err := Build(set)
		if err != nil {
			t.Fatal(err)
		}
		f := New(b)
		for s := range set {
			if !f.Contains(s) {
				t.Fatalf("%q of %d is missing", s, n)
			}
		}
		again, _ := Build(set)
		if string(again) != string(b) {
			t.Error("the same set gives another filter")
		}
	}
}

func TestSize(t *testing.T) {
	i, err := os.Stat("passwords.xor")
	if err != nil {
		t.Fatal(err)
	}
	if i.Size() > 600_000 {
		t.Errorf("the filter has %d bytes", i.Size())
	}
}

func BenchmarkHas(b *testing.B) {
	for b.Loop() {
		Has("seven lamps beside the harbour")
	}
}
