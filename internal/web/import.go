package web

import (
	"context"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/letterhold/letterhold/internal/auth"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/source"
	"github.com/letterhold/letterhold/internal/upload"
)

// importView is the form, and what of one's own is unfinished or past.
type importView struct {
	Problem         string
	Mailbox, Folder string
	Mailboxes       []string
	Limit           string
	MaxFiles        int
	Hours           int // that an upload waits
	Dropped         bool
	Waiting         []waitingView
	Past            []pastView
}

type waitingView struct {
	ID, Files, Into string
	Have, All       string
}

type pastView struct {
	Run     int64
	Files   string
	State   string
	Started time.Time
}

// pastImports is how many imports the page lists, shownFiles how many files of
// each it names, and shownReasons how many failures and skips a report has; the
// command line has all.
const (
	pastImports  = 5
	shownFiles   = 3
	shownReasons = 100
)

func (w *Web) importPage(r *request) error {
	return w.showImport(r, http.StatusOK, importView{Dropped: r.URL.Query().Has("dropped")})
}

func (w *Web) showImport(r *request, status int, v importView) error {
	v.Limit, v.MaxFiles, v.Hours = size(w.uploads.Limit()), upload.MaxFiles, int(upload.Idle.Hours())
	err := w.archive.State().View(r.Context(), func(c catalog.View) error {
		ms, err := c.Mailboxes()
		if err != nil {
			return err
		}
		for _, m := range ms {
			v.Mailboxes = append(v.Mailboxes, m.Name)
		}
		rs, err := c.Uploads(r.who.Name, pastImports)
		for _, x := range rs {
			files, _ := sentOf(x.What)
			v.Past = append(v.Past, pastView{x.ID, r.few(files), x.State, x.Started})
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, s := range w.uploads.Waiting(r.who.ID) {
		var files []string
		for _, f := range s.Files {
			files = append(files, f.Name)
		}
		if v.Mailbox == "" { // most probably the one that is gone on with
			v.Mailbox, v.Folder = s.Mailbox, s.Folder
		}
		v.Waiting = append(v.Waiting, waitingView{s.ID, r.few(files), into(s.Mailbox, s.Folder), size(s.Offset), size(s.Total)})
	}
	return w.show(r, status, "import", v)
}

// few names some of many files.
func (r *request) few(files []string) string {
	if n := len(files) - shownFiles; n > 0 {
		return strings.Join(files[:shownFiles], ", ") + " " + r.lang.T("import.more", "Count", n)
	}
	return strings.Join(files, ", ")
}

func into(mailbox, folder string) string { return strings.TrimSuffix(mailbox+"/"+folder, "/") }

// sentOf takes the name of an import apart into files and where they went.
func sentOf(what string) (files []string, to string) {
	names, to, _ := strings.Cut(what, "\n> ")
	for _, n := range strings.Split(names, "\n") {
		files = append(files, strings.TrimPrefix(n, source.UploadPlace))
	}
	return files, strings.TrimSuffix(to, "/")
}

// importForm takes files as one stream, from browsers without scripts.
func (w *Web) importForm(r *request) error {
	v := importView{}
	run, err := w.receive(r, &v)
	if err != nil {
		what, status := w.uploadProblem(r, err)
		if what == "" {
			return err
		}
		v.Problem = what
		return w.showImport(r, status, v)
	}
	http.Redirect(r.w, r.Request, reportURL(run), http.StatusSeeOther)
	return nil
}

func reportURL(run int64) string { return "/admin/import/" + strconv.FormatInt(run, 10) }

// maxField bounds a field of the form that is no file, and maxParts what the
// form adds around the files, in bytes.
const (
	maxField = 4 << 10
	maxParts = 2 << 20
)

// errSignedOut: the session ended while something was sent.
var errSignedOut = errors.New("signed out meanwhile")

// receive spools the files of a form, part by part, and starts their import.
func (w *Web) receive(r *request, v *importView) (int64, error) {
	u, err := w.uploads.Stream(r.who.ID, r.who.Name, r.ContentLength-maxParts)
	if err != nil {
		return 0, err
	}
	defer u.Drop() // unless its import has begun
	r.Body = http.MaxBytesReader(r.w, w.live(r), w.uploads.Limit()+maxParts)
	parts, err := r.MultipartReader()
	if err != nil {
		return 0, upload.ErrNoFiles
	}
	for {
		p, err := parts.NextPart()
		if err == io.EOF {
			return u.Finish(v.Mailbox, v.Folder)
		}
		if err != nil {
			return 0, received(err)
		}
		switch p.FormName() {
		case "mailbox":
			v.Mailbox, err = field(p)
		case "folder":
			v.Folder, err = field(p)
		case "files":
			if p.FileName() == "" {
				continue // nothing was chosen
			}
			// Names that are not allowed are told before the files have come.
			if err = (&upload.Plan{Mailbox: v.Mailbox, Folder: v.Folder}).Check(); err == nil {
				err = u.Append(p.FileName(), p, r.hangUp())
			}
		}
		if err != nil {
			return 0, received(err)
		}
	}
}

func field(p *multipart.Part) (string, error) {
	b, err := io.ReadAll(io.LimitReader(p, maxField))
	return strings.ToValidUTF8(string(b), "\uFFFD"), err
}

// received says what ended a stream.
func received(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return upload.ErrTooLarge
	}
	for _, known := range []error{errSignedOut, upload.ErrMailbox, upload.ErrFolder, upload.ErrNoFiles, upload.ErrDisk, upload.ErrTooLarge, upload.ErrGone} {
		if errors.Is(err, known) {
			return known
		}
	}
	return err
}

// patience is how long a stream may rest, and lookAfter how often it is looked
// whether who sends it is still signed in.
const (
	patience  = time.Minute
	lookAfter = time.Minute
)

// live is the body of a request that takes as long as it takes, while bytes come
// and who sends them is signed in. That keeps the session from resting.
func (w *Web) live(r *request) io.ReadCloser {
	return &living{w: w, r: r, looked: time.Now()}
}

type living struct {
	w                *Web
	r                *request
	extended, looked time.Time
}

func (l *living) Read(b []byte) (int, error) {
	now := time.Now()
	if now.Sub(l.extended) > patience/10 {
		l.extended = now
		http.NewResponseController(l.r.w).SetReadDeadline(now.Add(patience)) // a recorder of tests has none
	}
	if now.Sub(l.looked) > lookAfter {
		l.looked = now
		if !l.w.stillIn(l.r) {
			return 0, errSignedOut
		}
	}
	return l.r.stream.Read(b)
}

func (l *living) Close() error { return l.r.stream.Close() }

// stillIn tells whether the session of a request is still good.
func (w *Web) stillIn(r *request) bool {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return false
	}
	_, err = w.auth.Session(context.WithoutCancel(r.Context()), c.Value)
	return !errors.Is(err, auth.ErrSession)
}

// hangUp returns what ends the reading of a request's body at once.
func (r *request) hangUp() func() {
	c := http.NewResponseController(r.w)
	return func() { c.SetReadDeadline(time.Unix(1, 0)) }
}

// uploadProblem puts an error of an upload into words; "" for those that are
// faults.
func (w *Web) uploadProblem(r *request, err error) (string, int) {
	var offset *upload.OffsetError
	switch {
	case errors.As(err, &offset):
		return r.lang.T("import.problem.offset", "Offset", offset.Offset), http.StatusConflict
	case errors.Is(err, errSignedOut):
		return r.lang.T("import.signedout"), http.StatusForbidden
	case errors.Is(err, upload.ErrGone):
		return r.lang.T("import.problem.gone", "Hours", int(upload.Idle.Hours())), http.StatusNotFound
	case errors.Is(err, upload.ErrTaken):
		return r.lang.T("import.problem.taken"), http.StatusLocked
	case errors.Is(err, upload.ErrTooLarge):
		return r.lang.T("import.problem.size", "Limit", size(w.uploads.Limit())), http.StatusRequestEntityTooLarge
	case errors.Is(err, upload.ErrTooMany):
		return r.lang.T("import.problem.open", "Max", upload.MaxOpen), http.StatusTooManyRequests
	case errors.Is(err, upload.ErrNoFiles):
		return r.lang.T("import.problem.files", "Max", upload.MaxFiles), http.StatusBadRequest
	case errors.Is(err, upload.ErrDisk):
		return r.lang.T("import.problem.disk"), http.StatusInsufficientStorage
	case errors.Is(err, upload.ErrMailbox):
		return r.lang.T("import.problem.mailbox", "Max", catalog.MaxName), http.StatusBadRequest
	case errors.Is(err, upload.ErrFolder):
		return r.lang.T("import.problem.folder", "Max", catalog.MaxName), http.StatusBadRequest
	case errors.Is(err, upload.ErrBroken), errors.Is(err, context.Canceled):
		return r.lang.T("import.problem.broken"), http.StatusServiceUnavailable
	}
	return "", http.StatusInternalServerError
}

// reportView is what became of an import, or has up to now. Nothing of the
// contents is in it: only names of files and places in them, and reasons.
type reportView struct {
	Run            int64
	State          string
	Files, Into    string
	Started, Ended time.Time
	Counts         catalog.Counts
	Rate           string
	Running        bool
	Stopping       bool
	Gone           bool   // the server was stopped meanwhile
	Stopped        string // why it has failed as a whole
	Failures       []reasonView
	Skips          []reasonView
	MoreFailures   int64
	MoreSkips      int64
}

type reasonView struct{ Where, Reason string }

// report finds an import of who asks.
func (w *Web) report(r *request) (*catalog.Run, error) {
	id, err := strconv.ParseInt(r.PathValue("run"), 10, 64)
	if err != nil {
		return nil, errNotFound
	}
	var run *catalog.Run
	err = w.archive.State().View(r.Context(), func(v catalog.View) (err error) {
		run, err = v.Run(id)
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) || err == nil && (run.Profile != 0 || run.Who != r.who.Name || !strings.HasPrefix(run.What, source.UploadPlace)) {
		return nil, errNotFound
	}
	return run, err
}

func (w *Web) importReport(r *request) error {
	// Asked first: an import that ends in between is read as ended.
	id, _ := strconv.ParseInt(r.PathValue("run"), 10, 64)
	live, running := w.uploads.Running(r.who.ID, id)
	run, err := w.report(r)
	if err != nil {
		return err
	}
	files, to := sentOf(run.What)
	v := reportView{Run: run.ID, State: run.State, Files: r.few(files), Into: to, Started: run.Started, Ended: run.Ended, Counts: run.Counts, Stopping: r.URL.Query().Has("cancelled")}
	if running && run.State == catalog.RunRunning {
		v.Running, v.Counts = true, live.Counts
		if spent := w.archive.Now().Sub(live.Begun).Seconds(); spent >= 1 {
			v.Rate = size(int64(float64(live.Bytes)/spent)) + "/s"
		}
	}
	failures := run.Failures
	if n := len(failures); n > 0 && run.State == catalog.RunFailed && failures[n-1].Where == ingest.WholeImport {
		if v.Stopped, failures = failures[n-1].Reason, failures[:n-1]; v.Stopped == ingest.UploadGone {
			v.Stopped, v.Gone = "", true
		}
	}
	v.Failures, v.MoreFailures = r.reasons(failures, v.Counts.Failed)
	v.Skips, v.MoreSkips = r.reasons(run.Skips, v.Counts.Skipped)
	return w.show(r, http.StatusOK, "report", v)
}

// reasons are the first of a list, and how many of all are not shown.
func (r *request) reasons(fs []catalog.Failure, all int64) (out []reasonView, more int64) {
	for _, f := range fs[:min(len(fs), shownReasons)] {
		out = append(out, reasonView{strings.TrimPrefix(f.Where, source.UploadPlace), r.reason(f.Reason)})
	}
	return out, max(0, all-int64(len(out)))
}

// reason says in the reader's language why a file was not read, where that is
// a rule of ours; what a decoder or a system says stays as it is.
func (r *request) reason(s string) string {
	switch {
	case s == source.NotMail:
		return r.lang.T("import.reason.notmail")
	case s == source.OfSystem:
		return r.lang.T("import.reason.system")
	case s == source.Outlook:
		return r.lang.T("import.reason.outlook")
	case s == source.OutlookPST:
		return r.lang.T("import.reason.pst")
	case s == source.Empty:
		return r.lang.T("import.reason.empty")
	case strings.HasPrefix(s, source.CutZip):
		return r.lang.T("import.reason.zip")
	}
	return s
}

func (w *Web) cancelImport(r *request) error {
	run, err := w.report(r)
	if err != nil {
		return err
	}
	w.uploads.Cancel(r.who.ID, run.ID)
	http.Redirect(r.w, r.Request, reportURL(run.ID)+"?cancelled", http.StatusSeeOther)
	return nil
}
