package index

import (
	"unicode"
	"unicode/utf8"
	"unsafe"

	"golang.org/x/text/unicode/norm"
)

// rules is the number of what Tokens does. A shard that was made by other rules
// is made again.
const rules = 2

// maxToken is the longest token in bytes. Longer words (hex dumps, keys) are
// cut, in documents and queries alike.
const maxToken = 64

// keyMark begins a key: a token that no text contains, because text has no
// control characters.
const keyMark = '\x01'

// Tokens calls fn for each token of text with its place in bytes. same marks a
// second form of the token before it. token is valid during the call only.
//
// Letters are folded: case, accents, and German umlauts in both spellings
// (ü is "u" and "ue", ß is "ss"). Chinese, Japanese and Korean text comes as
// pairs of characters, so that any substring can be found as a phrase; a
// document's last character of a run comes alone as well.
func Tokens(text string, query bool, fn func(token string, start, end int, same bool) error) error {
	var buf [2 * maxToken]byte
	if len(text) > 0 && text[0] == keyMark {
		return keys(text, fn)
	}
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf && !alnum[c] {
			i++
			continue
		}
		j, lower := i, true
		for j < len(text) && alnum[text[j]] {
			if d := text[j]; d-'A' < 26 {
				lower = false
				if j-i < maxToken {
					buf[j-i] = d + 'a' - 'A'
				}
			} else if j-i < maxToken {
				buf[j-i] = d
			}
			j++
		}
		if j == len(text) || text[j] < utf8.RuneSelf {
			n := min(j-i, maxToken)
			token := text[i : i+n]
			if !lower {
				token = unsafe.String(&buf[0], n) // the callee copies it
			}
			if err := fn(token, i, j, false); err != nil {
				return err
			}
			i = j
			continue
		}
		var err error
		if i, err = wide(text, i, query, fn); err != nil {
			return err
		}
	}
	return nil
}

var alnum = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	}
	return t
}()

func keys(text string, fn func(string, int, int, bool) error) error {
	for i := 0; i < len(text); {
		j := i
		for j < len(text) && text[j] != ' ' {
			j++
		}
		if j > i {
			if err := fn(text[i:j], i, j, false); err != nil {
				return err
			}
		}
		i = j + 1
	}
	return nil
}

// isCJK tells whether a character belongs to a run that is taken in pairs. The
// marks that lengthen a Japanese vowel or voice a sound are of no script.
func isCJK(r rune) bool {
	switch r {
	case '\u3099', '\u309A', 'ー', 'ｰ', 'ﾞ', 'ﾟ':
		return true
	}
	return r >= 0x1100 && unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul)
}

// IsWord tells whether a character is part of a word.
func IsWord(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.Is(unicode.Mn, r) || unicode.Is(unicode.Mc, r)
}

// wide handles a word or a run with characters beyond ASCII, from i on, and
// returns where it ends.
func wide(text string, i int, query bool, fn func(string, int, int, bool) error) (int, error) {
	r, n := utf8.DecodeRuneInString(text[i:])
	if isCJK(r) {
		return pairs(text, i, query, fn)
	}
	if !IsWord(r) {
		return i + n, nil
	}
	j := i
	for j < len(text) {
		r, n := utf8.DecodeRuneInString(text[j:])
		if !IsWord(r) || isCJK(r) {
			break
		}
		j += n
	}
	plain, second := Fold(text[i:j])
	if plain == "" {
		return j, nil
	}
	if err := fn(cut(plain), i, j, false); err != nil {
		return j, err
	}
	if second != "" {
		return j, fn(cut(second), i, j, true)
	}
	return j, nil
}

func cut(s string) string { return s[:min(len(s), maxToken)] }

// pairs handles a run of Chinese, Japanese or Korean from i on. Where it is not
// in its composed and full width, its tokens are.
func pairs(text string, i int, query bool, fn func(string, int, int, bool) error) (int, error) {
	end := i
	for end < len(text) {
		r, n := utf8.DecodeRuneInString(text[end:])
		if !isCJK(r) {
			break
		}
		end += n
	}
	run, step := text[i:end], oneRune
	if norm.NFKC.QuickSpanString(run) < len(run) {
		run, step = composed(run)
	}
	prev, alone := "", true
	from := i
	for rest := run; rest != ""; {
		_, n := utf8.DecodeRuneInString(rest)
		to := i + step(len(run)-len(rest)+n)
		if prev != "" {
			at := len(run) - len(rest)
			if err := fn(run[at-len(prev):at+n], from, to, false); err != nil {
				return end, err
			}
			from, alone = i+step(at), false
		}
		prev, rest = rest[:n], rest[n:]
	}
	if prev != "" && (alone || !query) {
		return end, fn(prev, from, end, false)
	}
	return end, nil
}

// oneRune is the place in a run of a place in itself.
func oneRune(at int) int { return at }

// composed returns a run in its composed and full width, and the place in the
// run of each place in what it returns.
func composed(run string) (string, func(int) int) {
	var out []byte
	var places []int
	for i := 0; i < len(run); {
		n := norm.NFKC.NextBoundaryInString(run[i:], true)
		was := len(out)
		out = norm.NFKC.AppendString(out, run[i:i+n])
		for range len(out) - was {
			places = append(places, i)
		}
		i += n
	}
	places = append(places, len(run))
	return string(out), func(at int) int { return places[at] }
}

// Fold returns a word without case and accents, and its second form where
// German writes an umlaut as two letters ("" if there is none).
func Fold(word string) (plain, second string) {
	var a, b []byte
	umlaut := false
	for _, r := range norm.NFC.String(word) {
		switch r = unicode.ToLower(r); r {
		case 'ä', 'ö', 'ü':
			umlaut = true
			c := map[rune]byte{'ä': 'a', 'ö': 'o', 'ü': 'u'}[r]
			a, b = append(a, c), append(b, c, 'e')
			continue
		}
		var s string
		switch r {
		case 'ß', 'ẞ':
			s = "ss"
		case 'æ':
			s = "ae"
		case 'œ':
			s = "oe"
		case 'ø':
			s = "o"
		case 'ł':
			s = "l"
		case 'đ', 'ð':
			s = "d"
		case 'ı':
			s = "i"
		default:
			s = bare(r)
		}
		a, b = append(a, s...), append(b, s...)
	}
	if umlaut {
		second = string(b)
	}
	return string(a), second
}

// bare removes the accents of one character.
func bare(r rune) string {
	if r < utf8.RuneSelf {
		return string(r)
	}
	var out []rune
	for _, d := range norm.NFKD.String(string(r)) {
		if !unicode.Is(unicode.Mn, d) {
			out = append(out, unicode.ToLower(d))
		}
	}
	return string(out)
}
