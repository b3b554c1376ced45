package index

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/seal"
)

// Messages that are indexed again, many in one transaction, leave a shard that
// closes whole and opens again.
func TestReindexInBulk(t *testing.T) {
	d := crashfs.New()
	if err := d.MkdirAll("index"); err != nil {
		t.Fatal(err)
	}
	x := &Index{fs: d, key: seal.Key{1}, shards: map[int]*shard{}}
	r := rand.New(rand.NewPCG(1, 1))
	rounds := 4
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		s, err := x.openWriter(2021)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := s.writer.Exec(`BEGIN IMMEDIATE`); err != nil {
			t.Fatal(err)
		}
		for i := range 1200 {
			if round > 0 {
				if err := s.writer.Exec(fmt.Sprintf(`DELETE FROM f WHERE rowid = %d`, i+1)); err != nil {
					t.Fatal(err)
				}
			}
			var b strings.Builder
			for range 600 {
				fmt.Fprintf(&b, "word%d ", r.IntN(60_000))
			}
			s.insert.BindInt64(1, int64(i+1))
			for c := range 9 {
				s.insert.BindText(c+2, b.String()[:c*b.Len()/9])
			}
			if err := s.insert.Exec(); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.writer.Exec(`COMMIT`); err != nil {
			t.Fatal(err)
		}
		if err := s.closeWriter(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := s.vault.Check(true, func(p string) { t.Errorf("round %d: %s", round, p) }); err != nil {
			t.Fatal(err)
		}
	}
}

// Chinese, Japanese and Korean come in pairs, whatever the width and
// composition, and each token knows the stretch of text that it stands for.
func TestPairs(t *testing.T) {
	for text, want := range map[string]string{
		"東京都":                      "東京=東京 京都=京都 都=都",
		"データ":                      "デー=デー ータ=ータ タ=タ",
		"ﾃﾞｰﾀ":                     "デー=ﾃﾞｰ ータ=ｰﾀ タ=ﾀ",
		"テ\u3099":                  "デ=テ\u3099",
		"\u1100\u1161\u1102\u1161": "가나=\u1100\u1161\u1102\u1161 나=\u1102\u1161",
		"都":                        "都=都",
		"x東y":                      "x=x 東=東 y=y",
	} {
		var got []string
		Tokens(text, false, func(token string, start, end int, _ bool) error {
			got = append(got, token+"="+text[start:end])
			return nil
		})
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%q: %s, want %s", text, g, want)
		}
	}
}
