package web

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/extract"
	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/safehtml"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/search"
)

// messageView is a message in the reading pane or on its own page.
type messageView struct {
	ID, Subject       string
	From, To, Cc, Bcc string
	Date              string
	When, Archived    time.Time
	Leaf              int64
	Rule              string
	Folders           []string
	HTML              bool // it has an HTML part, shown in the frame
	Remote            int  // pictures that were left out
	Images            bool // the reader asked for them
	FrameURL          string
	ImagesURL         string
	Up                string // the list that it was chosen from
	Text              []piece
	Attachments       []attachmentView
	Partial, Unread   bool
	Size              int64
}

type attachmentView struct {
	Name, URL, Type string
	Size            int64
}

// load returns a message that the asker may see, with its bytes.
func (w *Web) load(r *request, id string) (*catalog.Hit, []byte, error) {
	mid, err := seal.ParseID(id)
	if err != nil {
		return nil, nil, errNotFound
	}
	e, err := w.archive.Catalog().Message(r.Context(), mid)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, nil, errNotFound
	}
	if err != nil {
		return nil, nil, err
	}
	hits, err := w.archive.Catalog().Visible(r.Context(), r.who.Scope(), []catalog.Row{e.Row})
	if err != nil {
		return nil, nil, err
	}
	if len(hits) == 0 {
		return nil, nil, errNotFound
	}
	if err := w.makeRoom(r, e.Size); err != nil {
		return nil, nil, err
	}
	raw, err := w.archive.Raw(&hits[0].Entry)
	return &hits[0], raw, err
}

// Memory for whole messages that are being shown, in bytes: a message takes
// about three times its size until its page is sent.
const (
	showRoom  = 320 << 20
	showTimes = 3
)

// makeRoom waits until there is memory for a message; it is given back when the
// request ends.
func (w *Web) makeRoom(r *request, size int64) error {
	n := min(size*showTimes, showRoom) - r.held
	if n <= 0 {
		return nil
	}
	err := w.room.Acquire(r.Context(), n)
	if err == nil {
		r.held += n
	}
	return err
}

func (w *Web) message(r *request, id, query string) (*messageView, error) {
	h, raw, err := w.load(r, id)
	if err != nil {
		return nil, err
	}
	m := message.Parse(raw)
	d := extract.Of(m)
	v := &messageView{
		ID: id, Subject: d.Subject, From: d.From, To: d.To, Cc: d.Cc, Bcc: d.Bcc, When: h.Row.Time(), Archived: h.Arrived, Leaf: h.Leaf, Rule: h.Rule.String(),
		Date: day(r.lang, h.Row.Time().In(r.zone())) + h.Row.Time().In(r.zone()).Format(" 15:04 (MST)"), Partial: h.Partial, Unread: h.Unread, Size: h.Size, Images: r.URL.Query().Get("images") == "1",
	}
	if v.Subject == "" {
		v.Subject = r.lang.T("message.nosubject")
	}
	for _, o := range h.Occurrences {
		v.Folders = append(v.Folders, o.Name)
	}
	marks := matcher(query)
	if p := htmlPart(m); p != nil {
		if res, ok := rewrite(m, p, v.Images, nil); ok {
			v.HTML, v.Remote = true, res.Remote
			v.FrameURL = fmt.Sprintf("/m/%s/html?q=%s", id, escape(query))
			if v.Images {
				v.FrameURL += "&images=1"
			}
			v.ImagesURL = with(r.URL, "images", "1")
			if q := r.URL.Query(); q.Get("m") != "" {
				v.ImagesURL += "&m=" + id
			}
		}
	}
	if !v.HTML {
		v.Text = pieces(d.Body, marks.Find(d.Body, 500))
	}
	m.Leaves(func(p *message.Part) {
		if extract.IsAttachment(p) || p.Name != "" && p.Type != "text/plain" && p.Type != "text/html" {
			v.Attachments = append(v.Attachments, attachmentView{attachmentName(p), fmt.Sprintf("/m/%s/part/%s", id, p.Path), p.Type, int64(len(m.Decode(p)))})
		}
	})
	return v, nil
}

func attachmentName(p *message.Part) string {
	if p.Name != "" {
		return p.Name
	}
	ext, ok := extensions[p.Type]
	switch {
	case p.Embedded():
		ext = ".eml"
	case !ok:
		ext = ".bin"
	}
	return "part-" + p.Path + ext
}

// extensions are for parts without a name. What the machine knows of types
// differs from one to the next.
var extensions = map[string]string{
	"text/plain": ".txt", "text/html": ".html", "text/calendar": ".ics", "text/csv": ".csv", "text/x-patch": ".patch", "text/x-diff": ".diff", "text/vcard": ".vcf",
	"image/jpeg": ".jpg", "image/png": ".png", "image/gif": ".gif", "image/webp": ".webp", "image/svg+xml": ".svg", "image/tiff": ".tiff",
	"application/pdf": ".pdf", "application/zip": ".zip", "application/pgp-signature": ".asc", "application/pkcs7-signature": ".p7s", "application/pkcs7-mime": ".p7m", "application/pgp-encrypted": ".asc",
	"application/json": ".json", "application/xml": ".xml", "application/rtf": ".rtf", "audio/mpeg": ".mp3", "video/mp4": ".mp4", "message/delivery-status": ".txt",
}

func matcher(query string) *search.Matcher {
	e, _, err := search.Parse(query)
	if err != nil {
		e = &search.Expr{Op: search.OpAnd}
	}
	return search.NewMatcher(e)
}

// htmlPart is the first HTML part that is not an attachment.
func htmlPart(m *message.Message) (found *message.Part) {
	m.Leaves(func(p *message.Part) {
		if found == nil && p.Type == "text/html" && p.Disposition != "attachment" {
			found = p
		}
	})
	return found
}

// maxInline is the largest picture that is put into the page, in bytes.
const maxInline = 2 << 20

func rewrite(m *message.Message, p *message.Part, images bool, marks *search.Matcher) (safehtml.Result, bool) {
	o := safehtml.Options{Remote: images, Image: func(id string) string { return inline(m, id) }}
	if marks != nil && !marks.Empty() {
		o.Mark = func(text string) (out [][2]int) {
			for _, s := range marks.Find(text, 200) {
				out = append(out, [2]int{s.Start, s.End})
			}
			return out
		}
	}
	b := m.Decode(p)
	charset := p.Params["charset"]
	if charset == "" {
		charset = extract.MetaCharset(b)
	}
	doc, _ := message.DecodeCharset(b, charset)
	return safehtml.Rewrite(doc, o)
}

// inline returns a picture of the message itself as a data: URI.
func inline(m *message.Message, id string) (uri string) {
	m.Leaves(func(p *message.Part) {
		if uri != "" || !strings.HasPrefix(p.Type, "image/") || strings.Trim(p.Header.Get("Content-ID"), "<> ") != id {
			return
		}
		b := m.Decode(p)
		if len(b) > maxInline {
			return
		}
		// What the bytes are, not what the sender says.
		switch t := http.DetectContentType(b); t {
		case "image/png", "image/jpeg", "image/gif", "image/webp":
			uri = "data:" + t + ";base64," + base64.StdEncoding.EncodeToString(b)
		}
	})
	return uri
}

func (w *Web) messagePage(r *request) error {
	v, err := w.message(r, r.PathValue("id"), r.URL.Query().Get("q"))
	if err != nil {
		return err
	}
	return w.show(r, http.StatusOK, "message", v)
}

const frameHead = `<!doctype html><html><head><meta charset="utf-8"><title>TITLE</title><style>html{color-scheme:light}body{margin:0;padding:16px;background:#fff;color:#222;font:15px/1.45 system-ui,sans-serif;overflow-wrap:break-word}img{max-width:100%;height:auto}mark{background:#ffe9a8;color:inherit}.lh-host{color:#a3262a;font-size:13px}table{max-width:100%}pre{white-space:pre-wrap}</style></head><body>`

// messageHTML is the document of the sandboxed frame.
func (w *Web) messageHTML(r *request) error {
	_, raw, err := w.load(r, r.PathValue("id"))
	if err != nil {
		return err
	}
	m := message.Parse(raw)
	p := htmlPart(m)
	if p == nil {
		return errNotFound
	}
	images := r.URL.Query().Get("images") == "1"
	res, ok := rewrite(m, p, images, matcher(r.URL.Query().Get("q")))
	if !ok {
		return errNotFound
	}
	frameHeaders(r.w.Header(), images)
	_, err = io.WriteString(r.w, strings.Replace(frameHead, "TITLE", html.EscapeString(r.lang.T("message.label")), 1)+res.HTML+"</body></html>")
	return err
}

type sourceView struct {
	ID, Title string
	Text      string
	Fields    []fieldView
}

type fieldView struct{ Name, Value string }

// maxSource is how much of a message's source is shown; the file has it all.
const maxSource = 1 << 20

func (w *Web) messageSource(r *request) error {
	_, raw, err := w.load(r, r.PathValue("id"))
	if err != nil {
		return err
	}
	text, _ := message.DecodeCharset(raw[:min(len(raw), maxSource)], "")
	return w.show(r, http.StatusOK, "source", sourceView{ID: r.PathValue("id"), Title: r.lang.T("message.source"), Text: text})
}

func (w *Web) messageHeaders(r *request) error {
	_, raw, err := w.load(r, r.PathValue("id"))
	if err != nil {
		return err
	}
	v := sourceView{ID: r.PathValue("id"), Title: r.lang.T("message.headers")}
	for _, f := range message.Parse(raw).Root.Header {
		v.Fields = append(v.Fields, fieldView{strings.ToValidUTF8(f.Name, "?"), message.DecodeWords(message.Unfold(f.Value))})
	}
	return w.show(r, http.StatusOK, "source", v)
}

// download answers with a file that no browser shows or runs.
func download(r *request, name string, size int, b []byte) error {
	h := r.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name})) // RFC 6266
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("Content-Length", fmt.Sprint(size))
	_, err := io.Copy(r.w, bytes.NewReader(b))
	return err
}

func (w *Web) messageFile(r *request) error {
	h, raw, err := w.load(r, r.PathValue("id"))
	if err != nil {
		return err
	}
	return download(r, h.Row.Time().Format("2006-01-02")+"-"+h.ID.String()[:8]+".eml", len(raw), raw)
}

func (w *Web) messagePart(r *request) error {
	_, raw, err := w.load(r, r.PathValue("id"))
	if err != nil {
		return err
	}
	m := message.Parse(raw)
	p := m.Find(r.PathValue("path"))
	if p == nil || len(p.Children) > 0 && !p.Embedded() {
		return errNotFound
	}
	b := m.Decode(p)
	return download(r, attachmentName(p), len(b), b)
}
