package extract

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// reasons explain where we disagree with the results that the suites ship.
var reasons = []reason{
	{"stalwart-mail-parser", "", "subject to", replaced,
		"raw 8-bit bytes in a header: theirs become U+FFFD, ours are read as Windows-1252, so that they can be found"},
	{"stalwart-mail-parser", "", "text", replaced,
		"8-bit text without a charset, or with a wrong one: theirs becomes U+FFFD, ours is read as Windows-1252"},
	{"stalwart-mail-parser", "", "file-name", replaced,
		"raw 8-bit bytes in a file name: as in a subject"},
	{"stalwart-mail-parser", "legacy/035 legacy/035.crlf legacy/039 legacy/039.crlf", "file-name", lastOf,
		"a Windows path with its backslashes taken for quoted pairs (RFC 822): a file name here is a name, never a path"},
	{"stalwart-mail-parser", "rfc/001 rfc/001.crlf", "file-name", lastOf,
		"a Unix path: a file name here is a name, never a path"},
	{"stalwart-mail-parser", "legacy/017 legacy/017.crlf legacy/048 legacy/048.crlf", "binary", uuencoded,
		"x-uuencode: theirs is left encoded, ours is decoded"},
	{"stalwart-mail-parser", "legacy/026 legacy/026.crlf", "text", uuencoded,
		"x-uuencode: theirs is left encoded, ours is decoded"},
	{"stalwart-mail-parser", "legacy/026 legacy/026.crlf legacy/049 legacy/049.crlf", "words", hasWord("begin"),
		"the lines of a uuencoded file are no words; its name is among the names"},
	{"stalwart-mail-parser", "legacy/033 legacy/033.crlf legacy/052 legacy/052.crlf", "words", hasRune,
		"8-bit text without a charset, or with a wrong one: theirs becomes U+FFFD, ours is read as Windows-1252"},
	{"stalwart-mail-parser", "rfc/000 rfc/000.crlf", "words", nil,
		"words that stand for base64 in a sound and a picture: theirs makes them text, ours does not look there"},
	{"stalwart-mail-parser", "legacy/049", "text end", nil,
		"the file ends in a bare CR: theirs ends the part before it, ours has every byte"},
	{"mimekit", "content-length.unix content-length.dos", "end part-end", nil,
		"no empty line stands before the next separator: theirs takes the line end from the message, ours leaves it there"},
	{"mimekit", "content-length", "from", nil,
		"two @ in an address: theirs ends at the second, ours is as written"},
	{"mimekit", "content-length", "to", nil,
		"a phrase without an address: theirs drops it, ours keeps it as a name"},
	{"mimekit", "content-length", "date", nil,
		"the zone \"cst\" in lower case: theirs takes it for UTC, ours knows it (RFC 5322, 4.3)"},
	{"mimekit", "issue1189.unix issue1189.dos", "part-begin part-end", nil,
		"an empty body: the one empty line ends the header and belongs to the delimiter; theirs counts it for the one, ours for the other"},
	{"mime4j", "frag", "body", nil,
		"a fragment ends inside a quantum of base64: theirs drops the bytes that are there, ours keeps them"},
	{"mime4j", "multi-frag", "body", nil,
		"a damaged delimiter: theirs takes the text behind it for base64, ours leaves it out"},
	{"mime4j", "malformedHeader-noheader malformedHeaderStartsBody-noheader", "body", nil,
		"text without a header: theirs drops a line or all of it, ours is all body"},
	{"mime4j", "malformedHeaderStartsBody-nocrlfcrlf", "fields body", nil,
		"a line in a header that is no field: here theirs begins the body with it, ours goes on with the header, as theirs does in malformedHeader-nocrlfcrlf"},
	{"mime4j", "obsolete", "fields", nil,
		"an 8-bit byte in the name of a field: theirs drops the field, ours keeps it"},
	{"mime4j", "mbox.rlug", "mbox", trailing,
		"the empty line before a separator: theirs leaves it in the message, ours takes it for the separator's (RFC 4155, A)"},
	{"mimekit, library", "messages/delivery-status.anonymized.eml", "addresses", nil,
		"a comment behind an empty group: theirs drops it, ours keeps it as a name that can be found"},
	{"enmime, library", "testdata/mail/qp-utf8-header.raw", "addresses", undecoded,
		"an encoded word in quotes: forbidden (RFC 2047, 5), written all the same, and decoded by mail programs"},
	{"enmime, library", "testdata/mail/qp-utf8-header-recursed.raw", "addresses", nil,
		"a line end inside an encoded word: theirs has it in the name, ours is a space"},
	{"cpython, library", "Lib/test/test_email/data/msg_14.txt", "parts type", nil,
		"the type \"text\" without a subtype: ours is text/plain (RFC 2045, 5.2)"},
	{"cpython, library", "Lib/test/test_email/data/msg_32.txt Lib/test/test_email/data/msg_33.txt", "parts type", nil,
		"a parameter in the charset \"ansi-x3.4-1968\" (RFC 2231, 4): theirs drops it, ours knows the name of US-ASCII"},
	{"ruby-mail, library", "", "subject addresses", undecoded,
		"encoded words that break a rule (padding, charset, raw bytes beside them): theirs leaves them, ours decodes them"},
	{"ruby-mail, library", "spec/fixtures/emails/error_emails/invalid_subject_characters.eml", "subject", nil,
		"raw 8-bit bytes in a header: theirs leaves them, ours are read as Windows-1252"},
	{"mox, library", "testdata/dmarc-reports/xs4all.eml", "subject", sameWords,
		"white space around a fold: theirs makes it one space, ours keeps it (RFC 5322, 2.2.3)"},
	{"sisimai, library", "maildir/bsd/lhost-domino-02.eml", "subject", sameWords,
		"white space around a fold: as above"},
	{"sisimai, library", "", "subject addresses", undecoded,
		"encoded words with broken padding or in quotes: theirs leaves them, ours decodes them"},
	{"sisimai, library", "maildir/err/make-test-31.eml", "subject", nil,
		"a NUL inside an encoded word: theirs has it, ours drops it"},
	{"spamassassin, library", "", "subject addresses", sameWords,
		"white space around a fold or in quotes: as above"},
	{"spamassassin, library", "", "subject addresses", undecoded,
		"encoded words that break a rule: theirs leaves them, ours decodes them"},
	{"spamassassin, library", "", "subject addresses", rawBytes,
		"raw 8-bit bytes in a header: theirs leaves them, ours are read as Windows-1252"},
	{"spamassassin, library", "", "subject", inControls,
		"a control character: theirs leaves it, ours drops it, or has the letter of Windows-1252 that ISO-8859-1 has not"},
	{"spamassassin, library", "", "addresses", unquoted,
		"quotes: theirs takes them from the local part, which then is another address (RFC 5322, 3.4.1)"},
	{"spamassassin, library", "", "addresses", nameIsAddress,
		"a name that repeats the address, with a space behind it"},
	{"spamassassin, library", "", "addresses", commented,
		"a comment inside a name: theirs drops it, ours keeps it"},
}

// rawBytes: theirs is no valid text.
func rawBytes(ours, theirs string) bool {
	return utf8.ValidString(ours) && !utf8.ValidString(theirs)
}

// inControls: theirs has control characters.
func inControls(_, theirs string) bool {
	return strings.ContainsFunc(theirs, unicode.IsControl)
}

// unquoted: only quotes differ.
func unquoted(ours, theirs string) bool { return strings.ReplaceAll(ours, `"`, "") == theirs }

// nameIsAddress: theirs has the address, or white space, as a name besides.
func nameIsAddress(ours, theirs string) bool {
	name, addr, ok := strings.Cut(strings.TrimSuffix(theirs, ">"), "<")
	name = strings.TrimSpace(name)
	return ok && addr == ours && (name == "" || name == ours)
}

// commented: ours has a comment that theirs has not.
func commented(ours, theirs string) bool {
	return strings.Contains(ours, " (") && !strings.Contains(theirs, " (")
}

// undecoded: theirs still has encoded words.
func undecoded(ours, theirs string) bool {
	return strings.Contains(theirs, "=?") && !strings.Contains(ours, "=?")
}

// sameWords: only white space differs.
func sameWords(ours, theirs string) bool {
	return slices.Equal(strings.Fields(ours), strings.Fields(theirs))
}

// trailing: theirs has one more line end.
func trailing(ours, theirs string) bool { return ours+"\n" == theirs }

// hasWord: one of the words that are missing.
func hasWord(w string) func(ours, theirs string) bool {
	return func(ours, _ string) bool { return slices.Contains(strings.Fields(ours), w) }
}

// hasRune: the missing words are those with replacement characters.
func hasRune(ours, _ string) bool {
	return !slices.ContainsFunc(strings.Fields(ours), func(w string) bool { return !strings.ContainsRune(w, 0xFFFD) })
}

// replaced: theirs has replacement characters where ours has letters.
func replaced(ours, theirs string) bool {
	return strings.ContainsRune(theirs, 0xFFFD) && !strings.ContainsRune(ours, 0xFFFD) && len([]rune(ours)) == len([]rune(theirs))
}

// lastOf: ours is the last element of the path that theirs is.
func lastOf(ours, theirs string) bool { return ours != "" && strings.HasSuffix(theirs, ours) }

// uuencoded: theirs is still encoded.
func uuencoded(ours, theirs string) bool {
	return strings.Contains(theirs, "begin 6") && !strings.Contains(ours, "begin 6")
}
