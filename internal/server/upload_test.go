package server_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/upload"
)

// mails is an mbox of n messages of about a size each, with a canary.
func mails(n, size int) []byte {
	var b bytes.Buffer
	noise := make([]byte, size*3/4)
	for i := range n {
		rand.Read(noise)
		fmt.Fprintf(&b, "From a@example.org Thu Mar 12 09:14:00 2026\nFrom: a@example.org\nSubject: canarysubject %d\n\ncanarybody ", i)
		for text := base64.StdEncoding.EncodeToString(noise); text != ""; {
			k := min(76, len(text))
			b.WriteString("\n" + text[:k])
			text = text[k:]
		}
		b.WriteString("\n\n")
	}
	return b.Bytes()
}

// zipOf is a ZIP of files that are not compressed.
func zipOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range files {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var ctx = context.Background()

type sent struct {
	name string
	b    []byte
}

// form sends files as a browser without scripts does.
func (s *site) form(t testing.TB, mailbox, folder string, files ...sent) (*http.Response, string) {
	t.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	m.WriteField("mailbox", mailbox)
	m.WriteField("folder", folder)
	for _, f := range files {
		w, err := m.CreateFormFile("files", f.name)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(f.b)
	}
	m.Close()
	resp, err := s.client.Post(s.url+"/admin/import", m.FormDataContentType(), &b)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp, string(body)
}

// ended waits for the end of an import and returns its run and its report.
func (s *site) ended(t testing.TB, at string) (catalog.Run, string) {
	t.Helper()
	for range 400 {
		resp, body := s.get(t, at)
		if resp.StatusCode != 200 {
			t.Fatalf("%s: %d %.300s", at, resp.StatusCode, body)
		}
		if !strings.Contains(body, "hx-trigger") {
			rs, err := s.runs()
			if err != nil || len(rs) == 0 {
				t.Fatal(rs, err)
			}
			return rs[0], body
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatal("the import does not end")
	panic("unreachable")
}

func (s *site) runs() (rs []catalog.Run, err error) {
	err = s.opened.Archive.State().View(ctx, func(v catalog.View) error {
		rs, err = v.Runs(10)
		return err
	})
	return rs, err
}

// plaintext looks for canaries in every file of the archive, those included
// that have no name any more.
func (s *site) plaintext(t testing.TB) (read int) {
	t.Helper()
	look := func(name string) {
		f, err := os.Open(name)
		if err != nil {
			return // removed in between
		}
		defer f.Close()
		b, _ := io.ReadAll(f)
		read++
		if i := bytes.Index(b, []byte("canary")); i >= 0 {
			t.Errorf("%s holds %.60q", name, b[i:])
		}
	}
	filepath.WalkDir(s.opened.Dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			look(name)
		}
		return nil
	})
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, filepath.Join(s.opened.Dir, "spool")) {
			look(fd)
		}
	}
	return read
}

// spools is how many files the spool has.
func (s *site) spools() (n int) {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, filepath.Join(s.opened.Dir, "spool")) {
			n++
		}
	}
	return n
}

func TestUploadForm(t *testing.T) {
	s := start(t)
	s.signUp(t)
	box := mails(40, 20<<10)
	files := zipOf(t, map[string]string{"Alt/a.eml": "From: a@example.org\nSubject: canarysubject a\n\ncanarybody\n", "notes.txt": "canary notes"})
	resp, _ := s.form(t, "canarymailbox", "Old", sent{"sales.mbox", box}, sent{"all.zip", files}, sent{"cut.zip", files[:len(files)-20]}, sent{"nothing.eml", nil}, sent{"a.exe", []byte("MZ\x00\x01")})
	if !strings.HasPrefix(resp.Request.URL.Path, "/admin/import/") {
		t.Fatal("the form leads to", resp.Request.URL)
	}
	run, body := s.ended(t, resp.Request.URL.Path)
	want := catalog.Counts{Seen: 45, Archived: 41, Skipped: 3, Failed: 1}
	run.Bytes = 0
	if run.Counts != want || run.State != catalog.RunPartial || run.Who != "ada" {
		t.Errorf("%+v by %s, %s", run.Counts, run.Who, run.State)
	}
	for _, w := range []string{"sales.mbox, all.zip, cut.zip and 2 more", "canarymailbox/Old", "a ZIP that was cut off", ">nothing.eml</bdi>: <span class=\"muted\">an empty file", ">all.zip!notes.txt</bdi>: <span class=\"muted\">not mail", ">45<", ">41<"} {
		if !strings.Contains(body, w) {
			t.Errorf("the report lacks %s", w)
		}
	}
	if strings.Contains(body, "canarysubject") || strings.Contains(body, "canarybody") {
		t.Error("the report shows contents")
	}
	// It gives no right to read.
	if err := s.opened.Index.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, body := s.get(t, "/search?q=canarybody"); strings.Contains(body, "canarysubject") {
		t.Error("who sent mail to somebody else's mailbox reads it")
	}
	if n := s.plaintext(t); n < 5 {
		t.Errorf("only %d files were looked at", n)
	}
	// The same again is there already.
	resp, _ = s.form(t, "canarymailbox", "Old", sent{"sales.mbox", box})
	if run, _ := s.ended(t, resp.Request.URL.Path); run.Present != 40 || run.Archived != 0 || run.State != catalog.RunDone {
		t.Errorf("the same again: %+v", run.Counts)
	}
	if runtime.GOOS == "linux" && s.spools() != 0 {
		t.Error("the spool has files left")
	}
}

func TestUploadFormRefused(t *testing.T) {
	s := start(t)
	if resp, _ := s.form(t, "m", "", sent{"a.eml", []byte("From: a\n\nb")}); resp.Request.URL.Path != "/signin" {
		t.Error("without sign-in it leads to", resp.Request.URL)
	}
	s.signUp(t)
	one := sent{"a.eml", []byte("From: a@example.org\nSubject: x\n\ny\n")}
	for name, c := range map[string]struct {
		mailbox, folder string
		files           []sent
		en, de          string
	}{
		"no mailbox": {" ", "", []sent{one}, "mailbox&#39;s name is not allowed", "Name des Postfachs ist nicht erlaubt"},
		"long":       {strings.Repeat("x", 300), "", []sent{one}, "mailbox&#39;s name is not allowed", "Name des Postfachs ist nicht erlaubt"},
		"folder":     {"m", "a\x01b", []sent{one}, "folder&#39;s name is not allowed", "Name des Ordners ist nicht erlaubt"},
		"no files":   {"m", "", nil, "No file was chosen", "keine Datei ausgewählt"},
		"none":       {"m", "", []sent{{"", nil}}, "No file was chosen", "keine Datei ausgewählt"},
	} {
		for code, want := range map[string]string{"en": c.en, "de": c.de} {
			s.post(t, "/language", url.Values{"language": {code}})
			if resp, body := s.form(t, c.mailbox, c.folder, c.files...); resp.StatusCode != 400 || !strings.Contains(body, want) {
				t.Errorf("%s in %s: %d, without %q", name, code, resp.StatusCode, want)
			}
		}
	}
	s.post(t, "/language", url.Values{"language": {"en"}})
	// What is too large is told before it has come.
	req, _ := http.NewRequest("POST", s.url+"/admin/import", io.MultiReader(strings.NewReader("--x\r\n"), neverEnds{}))
	req.ContentLength = upload.MaxSize + 100<<20
	req.Header.Set("Content-Type", "multipart/form-data; boundary=x")
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge || !bytes.Contains(body, []byte("larger than 64.0 GB")) {
		t.Errorf("too large: %d %.300s", resp.StatusCode, body)
	}
	// From another site.
	req, _ = http.NewRequest("POST", s.url+"/admin/import", strings.NewReader("x"))
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	if resp, err := s.client.Do(req); err != nil || resp.StatusCode != http.StatusForbidden {
		t.Error("a form of another site is taken", resp, err)
	}
	if rs, err := s.runs(); len(rs) != 0 || err != nil {
		t.Error("something was imported:", rs, err)
	}
}

type neverEnds struct{}

func (neverEnds) Read(b []byte) (int, error) { time.Sleep(time.Millisecond); return len(b), nil }

// answer is what the protocol answers with.
type answer struct {
	ID, Claim, Report, Problem string
	Offset, Total              int64
}

// ask does a step of the protocol.
func (s *site) ask(t testing.TB, method, path string, body io.Reader) (int, answer) {
	t.Helper()
	req, err := http.NewRequest(method, s.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a answer
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode, a
}

func (s *site) begin(t testing.TB, mailbox string, files ...upload.File) (int, answer) {
	t.Helper()
	b, _ := json.Marshal(map[string]any{"mailbox": mailbox, "folder": "", "files": files})
	return s.ask(t, "POST", "/admin/import/upload", bytes.NewReader(b))
}

func (a answer) at(offset int64) string {
	return fmt.Sprintf("/admin/import/upload/%s?claim=%s&offset=%d", a.ID, a.Claim, offset)
}

// another is the site for another administrator.
func (s *site) another(t testing.TB, name string) *site {
	t.Helper()
	link, err := s.opened.Link(s.me)
	if err != nil {
		t.Fatal(err)
	}
	o := *s
	jar, _ := cookiejar.New(nil)
	o.client = &http.Client{Jar: jar, Transport: s.client.Transport}
	u, _ := url.Parse(link)
	if resp, body := o.post(t, "/welcome", url.Values{"t": {u.Query().Get("t")}, "name": {name}, "password": {password}, "again": {password}}); resp.Request.URL.Path != "/search" {
		t.Fatalf("welcome: %d %.300s", resp.StatusCode, body)
	}
	return &o
}

// breaks gives some bytes and then an error.
type breaks struct{ r io.Reader }

func (b breaks) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		time.Sleep(100 * time.Millisecond) // what came has arrived
		err = errors.New("cut")
	}
	return n, err
}

func TestUploadProtocol(t *testing.T) {
	s := start(t)
	s.signUp(t)
	box := mails(60, 20<<10)
	half := int64(len(box) / 2)
	file := upload.File{Name: `C:\mail\sales.mbox`, Size: int64(len(box)), Modified: 1_700_000_000_000}
	status, a := s.begin(t, "canarymailbox", file)
	if status != 200 || a.ID == "" || a.Claim == "" || a.Offset != 0 || a.Total != int64(len(box)) {
		t.Fatalf("%d %+v", status, a)
	}
	if status, b := s.ask(t, "PUT", a.at(half), bytes.NewReader(box[half:])); status != http.StatusConflict || b.Offset != 0 || !strings.Contains(b.Problem, "first 0 bytes") {
		t.Errorf("wrong offset: %d %+v", status, b)
	}
	if status, b := s.ask(t, "PUT", a.at(0), bytes.NewReader(box[:half])); status != 200 || b.Offset != half || b.Report != "" {
		t.Errorf("first piece: %d %+v", status, b)
	}
	if status, b := s.ask(t, "PUT", a.at(0), bytes.NewReader(box[:half])); status != http.StatusConflict || b.Offset != half {
		t.Errorf("the same piece again: %d %+v", status, b)
	}
	_, short := s.begin(t, "canarymailbox", upload.File{Name: "short", Size: 10})
	if status, b := s.ask(t, "PUT", short.at(0), strings.NewReader("more than ten")); status != http.StatusRequestEntityTooLarge || b.Problem == "" {
		t.Errorf("more than was said: %d %+v", status, b)
	}
	if runtime.GOOS == "linux" {
		if s.plaintext(t); s.spools() != 1 {
			t.Errorf("the spool has %d files", s.spools())
		}
	}

	// A connection that breaks: what came of it stays.
	_, before := s.ask(t, "GET", "/admin/import/upload/"+a.ID, nil)
	req, _ := http.NewRequest("PUT", s.url+a.at(before.Offset), breaks{bytes.NewReader(box[before.Offset : before.Offset+100_000])})
	if resp, err := s.client.Do(req); err == nil {
		t.Error("a connection that breaks is answered:", resp.Status)
	}
	var now answer
	for range 100 {
		if _, now = s.ask(t, "GET", "/admin/import/upload/"+a.ID, nil); now.Offset == before.Offset+100_000 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if now.Offset != before.Offset+100_000 {
		t.Errorf("after a broken connection the server has %d bytes, before %d", now.Offset, before.Offset)
	}

	// Others do not reach it, whatever they do.
	bob := s.another(t, "bob")
	for _, step := range [][2]string{{"GET", "/admin/import/upload/" + a.ID}, {"PUT", a.at(now.Offset)}, {"POST", "/admin/import/upload/" + a.ID + "/drop"}} {
		if status, b := bob.ask(t, step[0], step[1], strings.NewReader("x")); status != http.StatusNotFound || b.Offset != 0 {
			t.Errorf("somebody else's %s: %d %+v", step[0], status, b)
		}
	}
	if _, body := bob.get(t, "/admin/import"); strings.Contains(body, "sales.mbox") {
		t.Error("somebody else's upload is listed")
	}
	if _, b := bob.begin(t, "canarymailbox", file); b.ID == a.ID || b.Offset != 0 {
		t.Errorf("somebody else goes on with it: %+v", b)
	}

	// The same file in another window goes on, and the first is told.
	if _, body := s.get(t, "/admin/import"); !strings.Contains(body, "sales.mbox") || strings.Contains(body, `C:\mail`) {
		t.Error("the unfinished upload is not listed")
	}
	_, second := s.begin(t, "canarymailbox", file)
	if second.ID != a.ID || second.Offset != now.Offset || second.Claim == a.Claim {
		t.Errorf("the same file again: %+v", second)
	}
	if status, b := s.ask(t, "PUT", a.at(now.Offset), strings.NewReader("x")); status != http.StatusLocked || !strings.Contains(b.Problem, "another window") {
		t.Errorf("the first window: %d %+v", status, b)
	}
	changed := file
	changed.Modified++
	if _, b := s.begin(t, "canarymailbox", changed); b.ID == a.ID {
		t.Error("a file that was changed goes on with the old one")
	}

	status, b := s.ask(t, "PUT", second.at(now.Offset), bytes.NewReader(box[now.Offset:]))
	if status != 200 || !strings.HasPrefix(b.Report, "/admin/import/") {
		t.Fatalf("last piece: %d %+v", status, b)
	}
	if status, again := s.ask(t, "PUT", second.at(now.Offset), bytes.NewReader(box[now.Offset:])); status != 200 || again.Report != b.Report {
		t.Errorf("last piece again, as after a lost answer: %d %+v", status, again)
	}
	run, _ := s.ended(t, b.Report)
	if run.Archived != 60 || run.Seen != 60 || !strings.HasPrefix(run.What, "upload sales.mbox\n> canarymailbox") {
		t.Errorf("%+v %q", run.Counts, run.What)
	}
	if resp, _ := bob.get(t, b.Report); resp.StatusCode != http.StatusNotFound {
		t.Error("somebody else reads the report:", resp.StatusCode)
	}
	s.plaintext(t)

	// Signed out in the middle.
	s.post(t, "/signout", nil)
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if status, _ := s.ask(t, "PUT", second.at(0), strings.NewReader("x")); status != http.StatusSeeOther {
		t.Error("without sign-in:", status)
	}
}

func TestUploadRefused(t *testing.T) {
	s := start(t)
	s.signUp(t)
	for name, c := range map[string]struct {
		mailbox string
		files   []upload.File
		status  int
		en, de  string
	}{
		"mailbox":  {"a\x02", []upload.File{{Name: "a", Size: 1}}, 400, "mailbox's name is not allowed", "Name des Postfachs"},
		"large":    {"m", []upload.File{{Name: "a", Size: upload.MaxSize / 2}, {Name: "b", Size: upload.MaxSize/2 + 1}}, 413, "larger than 64.0 GB", "größer als 64.0 GB"},
		"negative": {"m", []upload.File{{Name: "a", Size: -1}}, 413, "larger than", "größer als"},
		"none":     {"m", nil, 400, "No file was chosen", "keine Datei"},
		"many":     {"m", make([]upload.File, upload.MaxFiles+1), 400, "more than 1000", "mehr als 1000"},
	} {
		for code, want := range map[string]string{"en": c.en, "de": c.de} {
			s.post(t, "/language", url.Values{"language": {code}})
			if status, a := s.begin(t, c.mailbox, c.files...); status != c.status || !strings.Contains(a.Problem, want) {
				t.Errorf("%s in %s: %d %q", name, code, status, a.Problem)
			}
		}
	}
	s.post(t, "/language", url.Values{"language": {"en"}})
	for i := range upload.MaxOpen {
		if status, a := s.begin(t, "m", upload.File{Name: fmt.Sprint(i), Size: 10}); status != 200 {
			t.Errorf("upload %d: %d %+v", i, status, a)
		}
	}
	status, a := s.begin(t, "m", upload.File{Name: "one more", Size: 10})
	if status != http.StatusTooManyRequests || !strings.Contains(a.Problem, "4 uploads of yours") {
		t.Errorf("one more: %d %+v", status, a)
	}
	if resp, body := s.form(t, "m", "", sent{"a.eml", []byte("From: a\n\nb")}); resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("one more, by form: %d %.200s", resp.StatusCode, body)
	}
	_, body := s.get(t, "/admin/import")
	drops := regexp.MustCompile(`/admin/import/upload/\w+/drop`).FindAllString(body, -1)
	if len(drops) != upload.MaxOpen {
		t.Fatalf("%d uploads are listed", len(drops))
	}
	if _, body := s.post(t, drops[0], nil); !strings.Contains(body, "is discarded") {
		t.Error("nothing says that it is discarded")
	}
	if status, a := s.begin(t, "m", upload.File{Name: "one more", Size: 0}); status != 200 {
		t.Errorf("after one was discarded: %d %+v", status, a)
	} else if status, a := s.ask(t, "PUT", a.at(0), nil); status != 200 || a.Report == "" { // an empty file
		t.Errorf("an empty file: %d %+v", status, a)
	} else if run, body := s.ended(t, a.Report); run.Skipped != 1 || run.Seen != 1 || !strings.Contains(body, "an empty file") {
		t.Errorf("an empty file: %+v", run)
	}
	if status, a := s.ask(t, "GET", "/admin/import/upload/NOTHING", nil); status != 404 || !strings.Contains(a.Problem, "does not have this upload any more") {
		t.Errorf("none: %d %+v", status, a)
	}
}
