package ingest

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/letterhold/letterhold/internal/catalog"
)

// Cause is what several failures of a run have in common, and what helps.
type Cause struct {
	Kind    string          `json:"kind"`
	Reason  string          `json:"reason"`
	Count   int             `json:"count"`
	Example catalog.Failure `json:"example"`
	Fix     string          `json:"fix,omitempty"`
}

// Kinds of causes.
const (
	CauseAddress    = "address"
	CauseBreaks     = "breaks"
	CauseConnection = "connection"
	CauseDamaged    = "damaged"
	CauseException  = "exception"
	CauseFolder     = "folder"
	CauseLarge      = "large"
	CauseLeave      = "leave"
	CauseOther      = "other"
	CausePermission = "permission"
	CauseReach      = "reach"
	CauseRefused    = "refused"
	CauseSignIn     = "sign-in"
	CauseSpace      = "space"
	CauseTLS        = "tls"
	CauseVanished   = "vanished"
	CauseWithheld   = "withheld"
)

// causes are told by words of their reasons; the first that fits counts.
var causes = []struct {
	kind   string
	words  []string // one of them is in the reason
	reason string
	fix    string
}{
	{CauseException, []string{"the exception has ended"}, "the exception has ended", "use a verified connection (profile edit --allow-insecure \"\"), or grant the exception anew"},
	{CauseSpace, []string{"no space left", "disk quota"}, "the archive's disk is full", "make room on the disk of the archive; the run goes on where it was"},
	{CauseLeave, []string{"not reached without leave"}, "an address of this machine or a private network", "if the server is yours, allow it with profile edit --allow-net"},
	{CauseSignIn, []string{"sign-in: ", "has no password"}, "the server does not let the account in", "check account and password (profile edit --password-file), and whether the provider wants a password for applications"},
	{CauseAddress, []string{"dns: "}, "the server's name is not found", "check the address (profile edit --from) and the name servers of this machine"},
	{CauseReach, []string{"tcp: "}, "the server does not answer", "check host and port (profile edit --from), firewalls, and whether the server runs"},
	{CauseTLS, []string{"tls: ", "certificate", "not safe to go on"}, "no verified encryption", "profile test shows what the server showed; name its authority with --ca or its key with --pin"},
	{CauseLarge, []string{"larger than the limit", "are the most that is taken"}, "larger than what is archived", "save it at the source by other means, or make it smaller there"},
	{CauseBreaks, []string{"the server ends the connection over this message"}, "the server breaks off over the message", "open it in a mail program; it may be damaged at the server. profile retry tries it again"},
	{CauseWithheld, []string{"lists it and does not send it"}, "the server does not send the message", "open it in a mail program; the server may have to rebuild the folder's index. profile retry tries it again"},
	{CauseFolder, []string{"refused EXAMINE", "refused SELECT", "refused STATUS", "refused LIST"}, "the server does not open the folder", "check the account's rights, or leave it out with profile edit --exclude"},
	{CauseRefused, []string{"the server refused"}, "the server refuses the message", "open it in a mail program; ask the server's administrator. profile retry tries it again"},
	{CauseConnection, []string{"connections)", "the server ended the connection", "connection reset", "broken pipe", "i/o timeout", "bytes arrived", "does not follow IMAP"}, "the connection breaks again and again", "the next run goes on where it was; with fewer --connections or less --bandwidth the server may hold out"},
	{CausePermission, []string{"permission denied", "operation not permitted"}, "no right to read it", "let the archive's user read it; the systemd unit keeps it away from most of the disk"},
	{CauseVanished, []string{"no such file"}, "it is not there any more", "check the path"},
	{CauseDamaged, []string{"ZIP", "zip: ", "tar: ", "gzip: ", "flate: ", "unexpected EOF", "corrupt", "checksum"}, "the file is damaged or cut off", "fetch it again, or repair it with the program it is from"},
}

// varying is what differs between reasons that are the same.
var varying = regexp.MustCompile(`"[^"]*"|[0-9]+`)

// Causes groups failures by cause, the most frequent first.
func Causes(fs []catalog.Failure) []Cause {
	var out []Cause
	at := map[string]int{}
	for _, f := range fs {
		c := cause(f)
		key := c.Kind + " " + c.Reason
		if i, ok := at[key]; ok {
			out[i].Count++
			continue
		}
		at[key] = len(out)
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b Cause) int { return cmp.Compare(b.Count, a.Count) })
	return out
}

func cause(f catalog.Failure) Cause {
	for _, c := range causes {
		if slices.ContainsFunc(c.words, func(w string) bool { return strings.Contains(f.Reason, w) }) {
			return Cause{c.kind, c.reason, 1, f, c.fix}
		}
	}
	return Cause{CauseOther, varying.ReplaceAllString(f.Reason, "…"), 1, f, ""}
}
