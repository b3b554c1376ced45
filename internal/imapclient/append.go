package imapclient

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/tlsconf"
)

// Literals that are sent without waiting for the server's leave. With LITERAL-
// they have 4096 bytes at most (RFC 7888, 5). With LITERAL+ any size is
// allowed, but a server that refuses a large message should say so before it
// has come.
const (
	maxMinus = 4096
	maxPlus  = 64 << 10
)

// sendRun is how many bytes of a literal are sent under one deadline.
const sendRun = 64 << 10

// TooLargeForServerError: the server takes no message of that size (RFC 7889).
type TooLargeForServerError struct{ Size, Limit int64 }

func (e *TooLargeForServerError) Error() string {
	return fmt.Sprintf("the message has %d bytes; the server takes %d at most", e.Size, e.Limit)
}

func (e *TooLargeForServerError) Unwrap() error { return ErrRefused }

// BinaryError: a message with a NUL, which is not sent in a literal (RFC 9051,
// 4.3).
type BinaryError struct{}

func (BinaryError) Error() string { return "the message holds a NUL, which IMAP does not carry" }

func (BinaryError) Unwrap() error { return ErrRefused }

// Append adds a message to a folder with flags and a date (RFC 9051, 6.3.12).
// The message's lines must end with CRLF. Its bytes are sent as they are.
func (c *Client) Append(f *Folder, flags []string, at time.Time, raw []byte) error {
	return tlsconf.At(tlsconf.StepMessage, c.append(f, flags, at, raw))
}

func (c *Client) append(f *Folder, flags []string, at time.Time, raw []byte) error {
	for _, flag := range flags {
		if !ValidFlag(flag) {
			return fmt.Errorf("flag %q: it is no flag of IMAP", flag)
		}
	}
	if slices.Contains(raw, 0) {
		return BinaryError{}
	}
	if limit := c.appendLimit(f); limit > 0 && int64(len(raw)) > limit {
		return &TooLargeForServerError{int64(len(raw)), limit}
	}
	pieces := line("APPEND", c.name(f))
	last := &pieces[len(pieces)-1]
	if len(flags) > 0 {
		*last += " (" + strings.Join(flags, " ") + ")"
	}
	if !at.IsZero() {
		*last += at.Format(` "_2-Jan-2006 15:04:05 -0700"`)
	}
	atOnce := len(raw) <= maxPlus && c.Has("LITERAL+") || len(raw) <= maxMinus && c.Has("LITERAL-")
	if atOnce {
		*last += fmt.Sprintf(" {%d+}", len(raw))
	} else {
		*last += fmt.Sprintf(" {%d}", len(raw))
	}
	return c.upload("APPEND", pieces, raw, atOnce)
}

// upload sends a command in pieces whose last ends with the head of a literal,
// then the literal, with or without waiting for the server's "+".
func (c *Client) upload(name string, pieces []string, raw []byte, atOnce bool) error {
	if c.dead != nil {
		return c.dead
	}
	tag := c.nextTag()
	pieces[0] = tag + " " + pieces[0]
	for i, piece := range pieces {
		if err := c.send(piece + "\r\n"); err != nil {
			return c.die(name, err)
		}
		if i == len(pieces)-1 && atOnce {
			break
		}
		p, err := c.answer(tag, nil)
		if err != nil {
			return c.die(name, err)
		}
		if p.tag != "+" {
			// Not a byte of the message was taken: this is no success.
			if _, err := c.conclude(name, p); err != nil {
				return err
			}
			return c.die(name, fmt.Errorf("%w: it says OK before it has the message", ErrProtocol))
		}
	}
	if err := c.stream(raw); err != nil {
		return c.die(name, err)
	}
	p, err := c.answer(tag, nil)
	if err == nil && p.tag == "+" {
		err = fmt.Errorf("%w: it waits for more than the command has", ErrProtocol)
	}
	if err != nil {
		return c.die(name, err)
	}
	_, err = c.conclude(name, p)
	return err
}

// stream sends a literal and the command's end. A server that takes it slowly
// has time for each run of bytes, not for the whole.
func (c *Client) stream(raw []byte) error {
	for b := range slices.Chunk(raw, sendRun) {
		c.c.SetDeadline(time.Now().Add(commandTimeout))
		if _, err := c.w.Write(b); err != nil {
			return err
		}
	}
	return c.send("\r\n")
}

// appendLimit is the largest message that a folder takes, in bytes; 0 if the
// server does not say. The capability has it for all folders, or announces that
// each folder's STATUS has it (RFC 7889, 3).
func (c *Client) appendLimit(f *Folder) (limit int64) {
	for name := range c.caps {
		if n, ok := strings.CutPrefix(name, "APPENDLIMIT="); ok {
			limit, _ = strconv.ParseInt(n, 10, 64)
			return max(limit, 0)
		}
	}
	if !c.Has("APPENDLIMIT") {
		return 0
	}
	if limit, ok := c.limits[c.name(f)]; ok {
		return limit
	}
	pieces := line("STATUS", c.name(f))
	pieces[len(pieces)-1] += " (APPENDLIMIT)"
	c.run("STATUS", pieces, func(p *response) error {
		if len(p.values) < 3 || !p.values[0].is("STATUS") {
			return nil
		}
		if l := p.values[2].list; len(l) == 2 && l[0].is("APPENDLIMIT") && l[1].kind != nothing {
			n, err := l[1].number()
			limit = int64(min(n, 1<<62))
			return err
		}
		return nil
	})
	if c.limits == nil {
		c.limits = map[string]int64{}
	}
	c.limits[c.name(f)] = limit
	return limit
}

// ValidFlag tells whether a word can be given to a message: a keyword, or a
// system flag other than \Recent, which is the server's (RFC 9051, 2.3.2 and 9:
// flag).
func ValidFlag(flag string) bool {
	if flag == "" || strings.EqualFold(flag, `\Recent`) {
		return false
	}
	for i, r := range flag {
		if r <= ' ' || r >= 127 || strings.ContainsRune(`(){%*"]`, r) || r == '\\' && i > 0 {
			return false
		}
	}
	return flag != `\`
}

// Personal returns where the account's own folders lie: the prefix of their
// names and the delimiter of levels (RFC 2342, or the answer to an empty LIST).
func (c *Client) Personal() (prefix, delim string, err error) {
	prefix, delim, err = c.personal()
	return prefix, delim, tlsconf.At(tlsconf.StepFolders, err)
}

func (c *Client) personal() (prefix, delim string, err error) {
	found := false
	if c.Has("NAMESPACE") || c.Has("IMAP4REV2") {
		err = c.command("NAMESPACE", "NAMESPACE", func(p *response) error {
			if len(p.values) < 2 || !p.values[0].is("NAMESPACE") || len(p.values[1].list) == 0 {
				return nil
			}
			if ns := p.values[1].list[0].list; len(ns) >= 2 {
				prefix, delim, found = ns[0].str(), delimiter(ns[1]), true
			}
			return nil
		})
		if err != nil && !errors.Is(err, ErrRefused) {
			return "", "", err
		}
	}
	if found {
		if !c.utf8 {
			prefix = decodeUTF7(prefix)
		}
		return prefix, delim, nil
	}
	err = c.command("LIST", `LIST "" ""`, func(p *response) error {
		if len(p.values) >= 4 && p.values[0].is("LIST") {
			delim = delimiter(p.values[2])
		}
		return nil
	})
	return "", delim, err
}

// delimiter is one sign of ASCII's punctuation; anything else is none.
func delimiter(v value) string {
	if s := v.str(); v.kind == text && len(s) == 1 && strings.Contains("!\"#$&'()+,-./:;<=>?@[\\]^_`{|}~", s) {
		return s
	}
	return ""
}

// At is the folder that a path with "/" between levels stands for, the reverse
// of Folder.Path, in the account's own namespace. What a level must not have on
// this server is replaced.
func At(path, prefix, delim string) *Folder {
	var levels []string
	instead := '_'
	if delim == "_" {
		instead = '-'
	}
	for l := range strings.SplitSeq(path, "/") {
		l = strings.Map(func(r rune) rune {
			switch {
			case r < ' ' || r == 127 || r == '*' || r == '%' || delim != "" && strings.ContainsRune(delim, r):
				return instead
			case r == '∕' && delim != "/": // as Path wrote it
				return '/'
			}
			return r
		}, strings.ToValidUTF8(l, "\uFFFD"))
		if l != "" {
			levels = append(levels, l)
		}
	}
	if len(levels) == 0 {
		levels = []string{"INBOX"}
	}
	join := delim
	if join == "" {
		join = "_"
	}
	if strings.EqualFold(levels[0], "INBOX") {
		levels[0] = "INBOX"
	}
	name := strings.Join(levels, join)
	if levels[0] != "INBOX" && !strings.HasPrefix(name, prefix) {
		name = prefix + name
	}
	return &Folder{Name: name, Delim: delim}
}

// Same tells whether two folders of an account are one.
func (f *Folder) Same(g *Folder) bool {
	return f.Name == g.Name || strings.EqualFold(f.Name, "INBOX") && strings.EqualFold(g.Name, "INBOX")
}

// Create makes a folder, with the levels above it, and subscribes to it, so
// that mail programs show it (RFC 9051, 6.3.4 and 6.3.7). One that is there is
// as good.
func (c *Client) Create(f *Folder) error {
	_, err := c.run("CREATE", line("CREATE", c.name(f)), nil)
	var status *StatusError
	if errors.As(err, &status) && strings.EqualFold(status.Code, "ALREADYEXISTS") {
		err = nil
	}
	if err != nil {
		return tlsconf.At(tlsconf.StepFolders, err)
	}
	if _, err := c.run("SUBSCRIBE", line("SUBSCRIBE", c.name(f)), nil); err != nil && !errors.Is(err, ErrRefused) {
		return tlsconf.At(tlsconf.StepFolders, err)
	}
	return nil
}

// Permitted says which flags stay with a folder's messages.
type Permitted struct {
	flags []string
	any   bool // further keywords are made as they come
	told  bool
}

// Keeps tells whether a flag stays.
func (p *Permitted) Keeps(flag string) bool {
	if !p.told {
		return strings.HasPrefix(flag, `\`) // what every server has
	}
	return p.any && !strings.HasPrefix(flag, `\`) || slices.ContainsFunc(p.flags, func(f string) bool { return strings.EqualFold(f, flag) })
}

// parsePermitted reads the code of "OK [PERMANENTFLAGS (...)]".
func parsePermitted(code string) (p Permitted, ok bool) {
	word, rest, _ := strings.Cut(code, " ")
	rest = strings.TrimSpace(rest)
	if !strings.EqualFold(word, "PERMANENTFLAGS") || !strings.HasPrefix(rest, "(") || !strings.HasSuffix(rest, ")") {
		return p, false
	}
	p.told = true
	for _, f := range strings.Fields(rest[1 : len(rest)-1]) {
		if f == `\*` {
			p.any = true
		} else {
			p.flags = append(p.flags, f)
		}
	}
	return p, true
}

// SelectToAdd opens a folder that messages are added to, and says which flags stay
// with them (RFC 9051, 6.3.2).
func (c *Client) SelectToAdd(f *Folder) (p Permitted, err error) {
	_, err = c.run("SELECT", line("SELECT", c.name(f)), func(r *response) error {
		if x, ok := parsePermitted(r.code); ok {
			p = x
		}
		return nil
	})
	return p, tlsconf.At(tlsconf.StepFolders, err)
}

// Search is what Client.Search looks for: by Message-ID or, without one, by
// size and date.
type Search struct {
	MessageID string
	Size      int64
	Date      time.Time // give or take a day: servers keep it in zones of their own
}

func (s *Search) pieces() []string {
	if s.MessageID != "" {
		return line("UID SEARCH HEADER Message-ID", s.MessageID)
	}
	const day = 24 * time.Hour
	return []string{fmt.Sprintf("UID SEARCH LARGER %d SMALLER %d SINCE %s BEFORE %s", max(s.Size-1, 0), s.Size+1, s.Date.Add(-2*day).Format("2-Jan-2006"), s.Date.Add(3*day).Format("2-Jan-2006"))}
}

// Search returns the UIDs of messages in the open folder (RFC 9051, 6.4.4).
func (c *Client) Search(s Search) (uids []uint32, err error) {
	pieces := s.pieces()
	if len(pieces) > 1 { // a literal that is not ASCII
		pieces[0] = strings.Replace(pieces[0], "UID SEARCH ", "UID SEARCH CHARSET UTF-8 ", 1)
	}
	_, err = c.run("UID SEARCH", pieces, func(p *response) error {
		if len(p.values) == 0 || !p.values[0].is("SEARCH") {
			return nil
		}
		for _, v := range p.values[1:] {
			if v.kind == list { // MODSEQ (RFC 7162, 3.1.5)
				continue
			}
			n, err := v.number()
			if err != nil {
				return err
			}
			if n == 0 || n > 1<<32-1 {
				return fmt.Errorf("%w: %d is no UID", ErrProtocol, n)
			}
			uids = append(uids, uint32(n))
		}
		if len(uids) > maxUIDs {
			return fmt.Errorf("%w: it lists more than %d messages", ErrProtocol, maxUIDs)
		}
		return nil
	})
	slices.Sort(uids)
	return slices.Compact(uids), tlsconf.At(tlsconf.StepMessage, err)
}
