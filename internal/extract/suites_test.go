package extract

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/mailtest/corpus"
	"github.com/letterhold/letterhold/internal/mbox"
	"github.com/letterhold/letterhold/internal/message"
)

// The suites ship what their own parsers made of their samples. These tests
// compare, field by field. A disagreement is not always our mistake; each has
// a reason in suites_reasons_test.go, and one without a reason fails.
//
// Real people wrote some of the samples: a failure names the file and the
// field. LETTERHOLD_SUITES_SHOW=1 shows the two values too.

// mimeSuite returns the folder of a suite.
func mimeSuite(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(corpus.Dir(t), "mime", name)
	if _, err := os.Stat(dir); err != nil {
		corpus.Lacking(t, err)
	}
	return dir
}

// tally counts in how many samples a field agrees.
type tally struct{ agree, of int }

// suite compares the samples of one suite.
type suite struct {
	t       *testing.T
	name    string
	fields  map[string]*tally
	order   []string
	reasons []reason
	used    []int
}

// reason explains disagreements: of the samples and fields that it names, or
// where because says so.
type reason struct {
	suite   string
	samples string // base names with spaces between; "" is every sample
	fields  string // fields with spaces between
	when    func(ours, theirs string) bool
	why     string
}

func (r *reason) covers(suite, sample, field, ours, theirs string) bool {
	return r.suite == suite && (r.samples == "" || slices.Contains(strings.Fields(r.samples), sample)) &&
		slices.Contains(strings.Fields(r.fields), field) && (r.when == nil || r.when(ours, theirs))
}

func newSuite(t *testing.T, name string) *suite {
	return &suite{t: t, name: name, fields: map[string]*tally{}, reasons: reasons, used: make([]int, len(reasons))}
}

// compare compares one field of a sample. That both find nothing is no
// agreement, except where theirs is always empty.
func (s *suite) compare(sample, field, ours, theirs string) {
	if ours == "" && theirs == "" && field != "words" {
		return
	}
	c := s.fields[field]
	if c == nil {
		c = &tally{}
		s.fields[field] = c
		s.order = append(s.order, field)
	}
	c.of++
	if ours == theirs {
		c.agree++
		return
	}
	for i := range s.reasons {
		if s.reasons[i].covers(s.name, sample, field, ours, theirs) {
			s.used[i]++
			return
		}
	}
	s.t.Errorf("%s %s: %s disagrees, and no reason is known", s.name, sample, field)
	if os.Getenv("LETTERHOLD_SUITES_SHOW") != "" {
		s.t.Logf("ours   %.3000q\ntheirs %.3000q", ours, theirs)
	}
}

// report logs the agreement and holds it against what was reached before.
func (s *suite) report(least map[string][2]int) {
	s.t.Helper()
	for _, f := range s.order {
		c := s.fields[f]
		s.t.Logf("%s, %s: agree %d of %d", s.name, f, c.agree, c.of)
		if want := least[f]; c.agree < want[0] || c.of != want[1] {
			s.t.Errorf("%s, %s: agree %d of %d, it was %d of %d", s.name, f, c.agree, c.of, want[0], want[1])
		}
	}
	for f := range least {
		if s.fields[f] == nil {
			s.t.Errorf("%s, %s: never compared", s.name, f)
		}
	}
	for i, n := range s.used {
		if s.reasons[i].suite == s.name && n == 0 {
			s.t.Errorf("%s: the reason %q explains nothing any more", s.name, s.reasons[i].why)
		}
	}
}

// files lists the files of a suite with one of the endings, in order.
func files(t *testing.T, dir string, match func(name string) bool) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && match(d.Name()) {
			out = append(out, p)
		}
		return err
	})
	if err != nil || len(out) == 0 {
		t.Fatalf("%s: %d samples, %v", filepath.Base(dir), len(out), err)
	}
	return out
}

func slurp(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func lf(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }

func crlf(b []byte) []byte { return bytes.ReplaceAll(lf(b), []byte("\n"), []byte("\r\n")) }

// node is a part with the message it belongs to; a message that was encoded
// has been taken apart like one that was not.
type node struct {
	m        *message.Message
	p        *message.Part
	children []node
	base     int // of m in the sample, bytes; -1 in what was encoded
}

func nodeOf(m *message.Message, p *message.Part, base int) node {
	n := node{m: m, p: p, base: base}
	for _, c := range p.Children {
		n.children = append(n.children, nodeOf(m, c, base))
	}
	if p.Embedded() && len(p.Children) == 0 {
		if b := m.Decode(p); message.LooksLikeMail(b) {
			in := message.Parse(b)
			n.children = []node{nodeOf(in, in.Root, -1)}
		}
	}
	return n
}

// shape writes the tree of types.
func (n node) shape() string {
	if len(n.children) == 0 {
		return n.p.Type
	}
	var cs []string
	for _, c := range n.children {
		cs = append(cs, c.shape())
	}
	return n.p.Type + "(" + strings.Join(cs, " ") + ")"
}

func (n node) walk(fn func(node)) {
	fn(n)
	for _, c := range n.children {
		c.walk(fn)
	}
}

// text is the decoded text of a leaf, before HTML is reduced to its words.
func (n node) text() string {
	charset := n.p.Params["charset"]
	b := n.m.Decode(n.p)
	if charset == "" && n.p.Type == "text/html" {
		charset = MetaCharset(b)
	}
	s, _ := message.DecodeCharset(b, charset)
	return s
}

// What follows is stalwart's JSON.

type stalwartMessage struct {
	Parts []stalwartPart `json:"parts"`
}

type stalwartPart struct {
	Headers []struct {
		Name  json.RawMessage `json:"name"`
		Value json.RawMessage `json:"value"`
	} `json:"headers"`
	Body         stalwartBody `json:"body"`
	OffsetHeader int          `json:"offset_header"`
	OffsetBody   int          `json:"offset_body"`
	OffsetEnd    int          `json:"offset_end"`
}

type stalwartBody struct {
	Text, HTML           *string
	Binary, InlineBinary []int
	Multipart            []int
	Message              *stalwartMessage
}

type stalwartAddress struct{ Name, Address string }

type stalwartContent struct {
	Type       string `json:"c_type"`
	Subtype    string `json:"c_subtype"`
	Attributes []struct{ Name, Value string }
}

// field decodes the value of a header field, which is tagged with its kind.
func (p *stalwartPart) field(name, kind string, into any) bool {
	for _, h := range slices.Backward(p.Headers) { // theirs: the last one counts
		var n string
		var v map[string]json.RawMessage
		if json.Unmarshal(h.Name, &n) == nil && n == name && json.Unmarshal(h.Value, &v) == nil && v[kind] != nil {
			return json.Unmarshal(v[kind], into) == nil
		}
	}
	return false
}

func (p *stalwartPart) addresses(name string) string {
	var v struct {
		List  []stalwartAddress
		Group []struct{ Addresses []stalwartAddress }
	}
	p.field(name, "Address", &v)
	for _, g := range v.Group {
		v.List = append(v.List, g.Addresses...)
	}
	var out []string
	for _, a := range v.List {
		out = append(out, message.Address{Name: a.Name, Addr: a.Address}.String())
	}
	return strings.Join(out, "|")
}

func (p *stalwartPart) fileName() string {
	for _, f := range [][2]string{{"content_disposition", "filename"}, {"content_type", "name"}} {
		var c stalwartContent
		p.field(f[0], "ContentType", &c)
		for _, a := range c.Attributes {
			if a.Name == f[1] {
				return a.Value
			}
		}
	}
	return ""
}

func (m *stalwartMessage) shape(i int, fallback string) string {
	p := &m.Parts[i]
	typ := fallback
	var c stalwartContent
	if p.field("content_type", "ContentType", &c) && c.Subtype != "" {
		typ = strings.ToLower(c.Type + "/" + c.Subtype)
	}
	switch {
	case p.Body.Message != nil:
		return typ + "(" + p.Body.Message.shape(0, "text/plain") + ")"
	case len(p.Body.Multipart) > 0:
		fallback := "text/plain"
		if typ == "multipart/digest" {
			fallback = "message/rfc822"
		}
		var cs []string
		for _, k := range p.Body.Multipart {
			cs = append(cs, m.shape(k, fallback))
		}
		return typ + "(" + strings.Join(cs, " ") + ")"
	}
	return typ
}

func (m *stalwartMessage) walk(i int, fn func(*stalwartPart)) {
	p := &m.Parts[i]
	fn(p)
	for _, k := range p.Body.Multipart {
		m.walk(k, fn)
	}
	if p.Body.Message != nil {
		p.Body.Message.walk(0, fn)
	}
}

// missing returns the words of the plain texts that the document does not have.
func missing(d *Document, m *stalwartMessage) string {
	have := map[string]bool{}
	for w := range strings.FieldsFuncSeq(d.Body, separator) {
		have[w] = true
	}
	var out []string
	m.walk(0, func(p *stalwartPart) {
		if p.Body.Text != nil {
			for w := range strings.FieldsFuncSeq(*p.Body.Text, separator) {
				if !have[w] {
					out = append(out, w)
				}
			}
		}
	})
	return strings.Join(out, " ")
}

func TestSuiteStalwart(t *testing.T) {
	dir := mimeSuite(t, "stalwart-mail-parser")
	s := newSuite(t, "stalwart-mail-parser")
	for _, f := range files(t, dir, func(n string) bool { return strings.HasSuffix(n, ".eml") }) {
		base := filepath.Base(filepath.Dir(f)) + "/" + strings.TrimSuffix(filepath.Base(f), ".eml")
		raw := slurp(t, f)
		s.stalwart(base, lf(raw), slurp(t, strings.TrimSuffix(f, ".eml")+".json"))
		s.stalwart(base+".crlf", crlf(raw), slurp(t, strings.TrimSuffix(f, ".eml")+".crlf.json"))
	}
	s.report(map[string][2]int{
		"subject": {116, 126}, "message-id": {110, 110}, "from": {124, 124}, "to": {112, 124}, "date": {118, 118}, "words": {118, 128}, "parts": {128, 128}, "file-name": {124, 140}, "begin": {464, 464}, "end": {327, 328}, "binary": {124, 134}, "text": {149, 156}, "html": {38, 38},
	})
}

func (s *suite) stalwart(sample string, raw, golden []byte) {
	var want stalwartMessage
	if err := json.Unmarshal(golden, &want); err != nil {
		s.t.Fatalf("%s: %v", sample, err)
	}
	m := message.Parse(raw)
	h, root := m.Root.Header, &want.Parts[0]
	var subject, id string
	root.field("subject", "Text", &subject)
	root.field("message_id", "Text", &id)
	s.compare(sample, "subject", message.DecodeWords(h.Get("Subject")), subject)
	s.compare(sample, "message-id", MessageID(h), id)
	for _, f := range []string{"from", "to", "cc"} {
		var as []string
		for _, a := range message.Addresses(h.Get(f)) {
			as = append(as, a.String())
		}
		s.compare(sample, f, strings.Join(as, "|"), root.addresses(f))
	}
	var d struct {
		Year, Month, Day, Hour, Minute, Second int
		West                                   bool `json:"tz_before_gmt"`
		ZoneHour                               int  `json:"tz_hour"`
		ZoneMinute                             int  `json:"tz_minute"`
	}
	date := ""
	if root.field("date", "DateTime", &d) {
		zone := d.ZoneHour*3600 + d.ZoneMinute*60
		if d.West {
			zone = -zone
		}
		date = time.Date(d.Year, time.Month(d.Month), d.Day, d.Hour, d.Minute, d.Second, 0, time.FixedZone("", zone)).UTC().Format(time.RFC3339)
	}
	ours := ""
	if t, ok := message.ParseDate(h.Get("Date")); ok {
		ours = t.UTC().Format(time.RFC3339)
	}
	s.compare(sample, "date", ours, date)

	s.compare(sample, "words", missing(Of(m), &want), "")

	tree := nodeOf(m, m.Root, 0)
	s.compare(sample, "parts", tree.shape(), want.shape(0, "text/plain"))
	var nodes []node
	var parts []*stalwartPart
	tree.walk(func(n node) { nodes = append(nodes, n) })
	want.walk(0, func(p *stalwartPart) { parts = append(parts, p) })
	if len(nodes) != len(parts) {
		return // the trees differ, and that was said
	}
	for i, n := range nodes {
		p := parts[i]
		s.compare(sample, "file-name", n.p.Name, p.fileName())
		if n.base == 0 {
			s.compare(sample, "begin", fmt.Sprint(n.p.Start, n.p.Body), fmt.Sprint(p.OffsetHeader, p.OffsetBody))
		}
		if len(n.children) > 0 {
			continue
		}
		if n.base == 0 {
			s.compare(sample, "end", fmt.Sprint(n.p.End), fmt.Sprint(p.OffsetEnd))
		}
		switch {
		case p.Body.Text != nil:
			s.compare(sample, "text", n.text(), *p.Body.Text)
		case p.Body.HTML != nil:
			s.compare(sample, "html", n.text(), *p.Body.HTML)
		default:
			var b []byte
			for _, c := range append(p.Body.Binary, p.Body.InlineBinary...) {
				b = append(b, byte(c))
			}
			s.compare(sample, "binary", string(n.m.Decode(n.p)), string(b))
		}
	}
}

// What follows is mimekit's JSON. Offsets are of the mbox file.

type mimekitMessage struct {
	Marker     int64         `json:"mboxMarkerOffset"`
	Begin      int64         `json:"beginOffset"`
	HeadersEnd int64         `json:"headersEndOffset"`
	End        int64         `json:"endOffset"`
	Body       mimekitEntity `json:"body"`
}

type mimekitEntity struct {
	Type       string          `json:"mimeType"`
	Begin      int64           `json:"beginOffset"`
	HeadersEnd int64           `json:"headersEndOffset"`
	End        int64           `json:"endOffset"`
	Children   []mimekitEntity `json:"children"`
	Message    *mimekitMessage `json:"message"`
}

func (e *mimekitEntity) shape() string {
	var cs []string
	for i := range e.Children {
		cs = append(cs, e.Children[i].shape())
	}
	if e.Message != nil {
		cs = append(cs, e.Message.Body.shape())
	}
	typ := strings.ToLower(e.Type) // RFC 2045, 5.1
	if len(cs) == 0 {
		return typ
	}
	return typ + "(" + strings.Join(cs, " ") + ")"
}

func (e *mimekitEntity) walk(fn func(*mimekitEntity)) {
	fn(e)
	for i := range e.Children {
		e.Children[i].walk(fn)
	}
	if e.Message != nil {
		e.Message.Body.walk(fn)
	}
}

func TestSuiteMimekitMbox(t *testing.T) {
	dir := mimeSuite(t, "mimekit")
	s := newSuite(t, "mimekit")
	for _, name := range []string{"content-length", "issue1189"} {
		raw := slurp(t, filepath.Join(dir, "mbox", name+".mbox.txt"))
		s.mimekitMbox(name+".unix", lf(raw), slurp(t, filepath.Join(dir, "mbox", name+".unix-offsets.json")))
		s.mimekitMbox(name+".dos", crlf(raw), slurp(t, filepath.Join(dir, "mbox", name+".dos-offsets.json")))
		s.mimekitSummary(name, raw, string(slurp(t, filepath.Join(dir, "mbox", name+"-summary.txt"))))
	}
	for _, c := range [][3]string{{"photo.b64", "base64", "photo.jpg"}, {"photo.uu", "x-uuencode", "photo.jpg"}, {"wikipedia.qp", "quoted-printable", "wikipedia.txt"}} {
		got := message.DecodeTransfer(slurp(t, filepath.Join(dir, "encoders", c[0])), c[1])
		s.compare(c[0], "decoded", string(lf(got)), string(lf(slurp(t, filepath.Join(dir, "encoders", c[2])))))
	}
	s.report(map[string][2]int{
		"separators": {4, 4}, "end": {53, 66}, "parts": {66, 66}, "part-begin": {236, 238}, "part-end": {146, 152}, "from": {32, 33}, "to": {31, 32}, "subject": {33, 33}, "date": {32, 33}, "decoded": {3, 3},
	})
}

func (s *suite) mbox(sample string, raw []byte) (out []*mbox.Message) {
	r := mbox.NewReader(bytes.NewReader(raw), mbox.Auto, 64<<20)
	for {
		m, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			s.t.Fatalf("%s: %v", sample, err)
		}
		out = append(out, m)
	}
}

func (s *suite) mimekitMbox(sample string, raw, golden []byte) {
	var want []mimekitMessage
	if err := json.Unmarshal(golden, &want); err != nil {
		s.t.Fatalf("%s: %v", sample, err)
	}
	var ours, theirs []string
	got := s.mbox(sample, raw)
	for _, m := range got {
		ours = append(ours, fmt.Sprint(m.Offset))
	}
	for _, m := range want {
		theirs = append(theirs, fmt.Sprint(m.Marker))
	}
	s.compare(sample, "separators", strings.Join(ours, " "), strings.Join(theirs, " "))
	if len(got) != len(want) {
		return
	}
	for i, m := range got {
		begin := want[i].Begin
		p := message.Parse(m.Raw)
		s.compare(sample, "end", fmt.Sprint(begin+int64(len(m.Raw))), fmt.Sprint(want[i].End))
		tree := nodeOf(p, p.Root, 0)
		s.compare(sample, "parts", tree.shape(), want[i].Body.shape())
		var nodes []node
		var es []*mimekitEntity
		tree.walk(func(n node) { nodes = append(nodes, n) })
		want[i].Body.walk(func(e *mimekitEntity) { es = append(es, e) })
		if len(nodes) != len(es) {
			continue
		}
		for k, n := range nodes {
			if n.base == 0 {
				s.compare(sample, "part-begin", fmt.Sprint(begin+int64(n.p.Start), begin+int64(n.p.Body)), fmt.Sprint(es[k].Begin, es[k].HeadersEnd))
				if len(n.children) == 0 {
					s.compare(sample, "part-end", fmt.Sprint(begin+int64(n.p.End)), fmt.Sprint(es[k].End))
				}
			}
		}
	}
}

// mimekitSummary compares addresses, subject and date of each message.
func (s *suite) mimekitSummary(sample string, raw []byte, summary string) {
	got := s.mbox(sample, raw)
	i := -1
	for line := range strings.SplitSeq(strings.ReplaceAll(summary, "\r", ""), "\n") {
		if strings.HasPrefix(line, "From ") {
			i++
			continue
		}
		name, v, ok := strings.Cut(line, ": ")
		if !ok || strings.HasPrefix(line, " ") || i >= len(got) || name == "Content-Type" {
			continue
		}
		h := message.Parse(got[i].Raw).Root.Header
		switch name {
		case "From", "To", "Cc":
			var ours, theirs []string
			for _, a := range message.Addresses(h.Get(name)) {
				ours = append(ours, a.String())
			}
			for _, a := range message.Addresses(v) {
				theirs = append(theirs, a.String())
			}
			s.compare(sample, strings.ToLower(name), strings.Join(ours, "|"), strings.Join(theirs, "|"))
		case "Subject":
			s.compare(sample, "subject", message.DecodeWords(h.Get(name)), v)
		case "Date":
			ours, _ := message.ParseDate(h.Get(name))
			theirs, _ := message.ParseDate(v)
			s.compare(sample, "date", ours.UTC().Format(time.RFC3339), theirs.UTC().Format(time.RFC3339))
		default:
			s.t.Errorf("%s: a summary with %q", sample, name)
		}
	}
}

// What follows is mime4j's XML: an outline with the raw fields, and one with
// the decoded bodies in files.

type mime4jEntity struct {
	XMLName xml.Name
	Fields  []string      `xml:"header>field"`
	Body    string        `xml:"body"`
	Text    *mime4jFile   `xml:"text-body"`
	Binary  *mime4jFile   `xml:"binary-body"`
	Message *mime4jEntity `xml:"message"`
	Multi   *struct {
		Parts []mime4jEntity `xml:"body-part"`
	} `xml:"multipart"`
}

type mime4jFile struct {
	Name string `xml:"name,attr"`
}

func (e *mime4jEntity) shape() string {
	switch {
	case e.Message != nil:
		return "message(" + e.Message.shape() + ")"
	case e.Multi != nil:
		var cs []string
		for i := range e.Multi.Parts {
			cs = append(cs, e.Multi.Parts[i].shape())
		}
		return "multipart(" + strings.Join(cs, " ") + ")"
	}
	return "leaf"
}

func (e *mime4jEntity) walk(fn func(*mime4jEntity)) {
	fn(e)
	if e.Message != nil {
		e.Message.walk(fn)
	}
	if e.Multi != nil {
		for i := range e.Multi.Parts {
			e.Multi.Parts[i].walk(fn)
		}
	}
}

func (n node) kinds() string {
	switch {
	case n.p.Embedded() && len(n.children) == 1:
		return "message(" + n.children[0].kinds() + ")"
	case strings.HasPrefix(n.p.Type, "multipart/") && n.p.Params["boundary"] != "":
		var cs []string
		for _, c := range n.children {
			cs = append(cs, c.kinds())
		}
		return "multipart(" + strings.Join(cs, " ") + ")"
	}
	return "leaf"
}

func TestSuiteMime4j(t *testing.T) {
	dir := mimeSuite(t, "mime4j")
	s := newSuite(t, "mime4j")
	for _, f := range files(t, dir, func(n string) bool { return strings.HasSuffix(n, "_decoded.xml") }) {
		f = strings.TrimSuffix(f, "_decoded.xml")
		s.mime4j(f)
	}
	all := s.mbox("mbox.rlug", slurp(t, filepath.Join(dir, "mbox/src/test/resources/test-1/mbox.rlug")))
	for i, m := range all {
		want := slurp(t, filepath.Join(dir, fmt.Sprintf("mbox/src/test/resources/test-1/mbox.rlug-%d", i)))
		s.compare("mbox.rlug", "mbox", string(m.Raw), string(want))
	}
	s.report(map[string][2]int{
		"parts": {80, 80}, "written-again": {80, 80}, "fields": {228, 230}, "body": {143, 148}, "mbox": {0, 5},
	})
}

func (s *suite) mime4j(f string) {
	sample := filepath.Base(f)
	var want mime4jEntity
	d := xml.NewDecoder(bytes.NewReader(slurp(s.t, f+"_decoded.xml")))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) {
		b, err := io.ReadAll(r)
		t, _ := message.DecodeCharset(b, "iso-8859-1")
		return strings.NewReader(t), err
	}
	if err := d.Decode(&want); err != nil {
		s.t.Fatalf("%s: %v", sample, err)
	}
	m := message.Parse(slurp(s.t, f+".msg"))
	tree := nodeOf(m, m.Root, 0)
	s.compare(sample, "parts", tree.kinds(), want.shape())
	// What mime4j wrote again from what it had read has the same parts.
	again := message.Parse(slurp(s.t, f+".out"))
	s.compare(sample, "written-again", nodeOf(again, again.Root, 0).shape(), tree.shape())
	var nodes []node
	var es []*mime4jEntity
	tree.walk(func(n node) { nodes = append(nodes, n) })
	want.walk(func(e *mime4jEntity) { es = append(es, e) })
	if len(nodes) != len(es) {
		return
	}
	for i, n := range nodes {
		e := es[i]
		var ours, theirs []string
		for _, f := range n.p.Header {
			ours = append(ours, f.Name+": "+message.DecodeWords(message.Unfold(f.Value)))
		}
		for _, f := range e.Fields {
			name, v, _ := strings.Cut(strings.Trim(f, "\n"), ":")
			theirs = append(theirs, strings.TrimSpace(name)+": "+message.DecodeWords(message.Unfold([]byte(v))))
		}
		s.compare(sample, "fields", strings.Join(ours, "\n"), strings.Join(theirs, "\n"))
		for _, file := range []*mime4jFile{e.Text, e.Binary} {
			if file != nil {
				b := slurp(s.t, filepath.Join(filepath.Dir(f), file.Name))
				s.compare(sample, "body", string(lf(n.m.Decode(n.p))), string(lf(b)))
			}
		}
	}
}
