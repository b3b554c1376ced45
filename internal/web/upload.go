package web

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/letterhold/letterhold/internal/upload"
)

// The protocol of <lh-upload>: POST /admin/import/upload names the files and
// answers with an id, a claim and an offset; PUT .../ID?claim=C&offset=N brings
// bytes from there on; GET .../ID tells the offset after a broken connection.
// Answers are a progress, with a problem in words if something is wrong.

// maxPiece bounds a piece in bytes; scripts send up to 8 MiB, and what is lost
// with a connection is sent again.
const maxPiece = 16 << 20

// maxPlan bounds the list of files that are to be sent, in bytes.
const maxPlan = 1 << 20

// progress is what the server has of an upload.
type progress struct {
	ID      string `json:"id,omitempty"`
	Claim   string `json:"claim,omitempty"`
	Offset  int64  `json:"offset"`
	Total   int64  `json:"total"`
	Report  string `json:"report,omitempty"` // once all is there
	Problem string `json:"problem,omitempty"`
}

// plan is what beginUpload is sent.
type plan struct {
	Mailbox string        `json:"mailbox"`
	Folder  string        `json:"folder"`
	Files   []upload.File `json:"files"`
}

func (r *request) answer(status int, p progress) error {
	r.w.Header().Set("Content-Type", "application/json")
	r.w.WriteHeader(status)
	return json.NewEncoder(r.w).Encode(p)
}

// tell answers with how far an upload is, and what is wrong.
func (w *Web) tell(r *request, s upload.State, claim string, err error) error {
	p := progress{ID: s.ID, Claim: claim, Offset: s.Offset, Total: s.Total}
	if s.Run != 0 {
		p.Report = reportURL(s.Run)
	}
	if err == nil {
		return r.answer(http.StatusOK, p)
	}
	what, status := w.uploadProblem(r, err)
	if what == "" {
		w.log.Error("upload failed", "err", err)
		what = r.lang.T("error.internal")
	}
	p.Problem = what
	return r.answer(status, p)
}

func (w *Web) beginUpload(r *request) error {
	b, err := io.ReadAll(http.MaxBytesReader(r.w, r.stream, maxPlan))
	var p plan
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		return w.tell(r, upload.State{}, "", upload.ErrNoFiles)
	}
	u, claim, err := w.uploads.Begin(upload.Plan{Account: r.who.ID, Who: r.who.Name, Mailbox: p.Mailbox, Folder: p.Folder, Files: p.Files})
	if err != nil {
		return w.tell(r, upload.State{}, "", err)
	}
	return w.tell(r, u.State(), claim, nil)
}

func (w *Web) uploadState(r *request) error {
	u, err := w.uploads.Find(r.who.ID, r.PathValue("id"))
	if err != nil {
		return w.tell(r, upload.State{}, "", err)
	}
	return w.tell(r, u.State(), "", nil)
}

func (w *Web) uploadPiece(r *request) error {
	u, err := w.uploads.Find(r.who.ID, r.PathValue("id"))
	if err != nil {
		return w.tell(r, upload.State{}, "", err)
	}
	offset, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	if err != nil || offset < 0 {
		return w.tell(r, u.State(), "", &upload.OffsetError{Offset: u.State().Offset})
	}
	body := http.MaxBytesReader(r.w, w.live(r), maxPiece)
	s, err := u.Write(r.URL.Query().Get("claim"), offset, body, r.hangUp())
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		err = upload.ErrTooLarge
	}
	return w.tell(r, s, "", err)
}

// dropUpload gives an upload up, before its import.
func (w *Web) dropUpload(r *request) error {
	u, err := w.uploads.Find(r.who.ID, r.PathValue("id"))
	if err != nil {
		return errNotFound
	}
	u.Drop()
	http.Redirect(r.w, r.Request, "/admin/import?dropped", http.StatusSeeOther)
	return nil
}
