// Package upload takes files that an administrator sends to the server, in
// pieces or as one stream, and has them imported once they are complete.
//
// The files of an upload are one string of bytes, in their order, and its offset
// is how many of them the server has. They lie in a spool (package spool): they
// are sealed under a key that exists only in memory, and gone with the process.
// Sending gives no right to read: nothing of them comes back, only counts.
//
// An upload belongs to the account that began it; for others it does not exist.
// Whoever begins the same files again goes on with them, and takes them over
// from another window.
package upload

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/source"
	"github.com/letterhold/letterhold/internal/spool"
)

const (
	// MaxSize bounds one upload in bytes. It is on the disk twice while it is
	// imported; what is larger is imported from the server's own disk.
	MaxSize = 64_000_000_000
	// MaxFiles bounds the files of one upload: their list is in memory, and a
	// ZIP holds any number.
	MaxFiles = 1000
	// MaxOpen is how many uploads an account has at a time: each holds disk.
	MaxOpen = 4
	// Idle is how long an upload waits for its next piece: who goes home in the
	// evening goes on in the morning.
	Idle = 16 * time.Hour
	// lowDisk is what an upload leaves free for the databases and for mail that
	// arrives by itself, in bytes.
	lowDisk = 1 << 30
	// lookAgain is after how many bytes the disk is looked at again.
	lookAgain = 64 << 20
	// maxFileName bounds the name of a file in bytes; it is the file systems' own.
	maxFileName = 255
)

// Errors of uploads, each for a sentence of its own.
var (
	// ErrGone: there is no such upload, or it is somebody else's.
	ErrGone = errors.New("there is no such upload")
	// ErrTaken: another window goes on with the upload.
	ErrTaken = errors.New("another window goes on with this upload")
	// ErrTooLarge: an upload is larger than MaxSize.
	ErrTooLarge = errors.New("the upload is too large")
	// ErrTooMany: an account has MaxOpen uploads.
	ErrTooMany = errors.New("too many uploads at a time")
	// ErrNoFiles: an upload has no file, or more than MaxFiles.
	ErrNoFiles = errors.New("an upload has no file, or too many")
	// ErrDisk: the disk is nearly full.
	ErrDisk = errors.New("the disk is nearly full")
	// ErrMailbox and ErrFolder: a name is not allowed.
	ErrMailbox = errors.New("the mailbox's name is not allowed")
	ErrFolder  = errors.New("the folder's name is not allowed")
	// ErrBroken: a piece ended before its end. What came of it stays.
	ErrBroken = errors.New("the connection broke")
)

// OffsetError is a piece that does not follow what the server has.
type OffsetError struct{ Offset int64 }

func (e *OffsetError) Error() string {
	return fmt.Sprintf("the piece does not follow byte %d", e.Offset)
}

// Options of uploads. Zero values are the constants.
type Options struct {
	Archive *archive.Archive
	Dir     string                // of the spool
	Free    func() (int64, error) // bytes that the disk still takes
	MaxSize int64
	Idle    time.Duration
}

// Uploads are those of a process.
type Uploads struct {
	o    Options
	life context.Context
	end  context.CancelFunc
	work sync.WaitGroup // imports

	mu  sync.Mutex
	all map[string]*Upload // by id
}

// New returns a place for uploads.
func New(o Options) *Uploads {
	if o.MaxSize == 0 {
		o.MaxSize = MaxSize
	}
	if o.Idle == 0 {
		o.Idle = Idle
	}
	s := &Uploads{o: o, all: map[string]*Upload{}}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Limit is how large an upload may be in bytes.
func (s *Uploads) Limit() int64 { return s.o.MaxSize }

// Plan is what somebody wants to send, and where it goes.
type Plan struct {
	Account int64
	Who     string
	Mailbox string
	Folder  string
	Files   []File
}

// File is a file to be sent.
type File struct {
	Name     string `json:"name"`
	Size     int64  `json:"size"`
	Modified int64  `json:"modified"` // milliseconds since 1970; 0 if it is not known
}

// Upload is what of a plan has arrived. Its fields are guarded by Uploads.mu.
type Upload struct {
	ID string

	s      *Uploads
	plan   Plan
	total  int64 // -1: not known before the end
	offset int64
	spool  *spool.Spool // nil: imported or dropped
	timer  *time.Timer
	claim  string        // of the window that goes on
	stop   func()        // ends the reading that is under way; nil: none is
	turn   chan struct{} // holds a token while somebody writes or starts the import

	run    int64 // of the import; 0: not begun
	counts catalog.Counts
	begun  time.Time
	cancel context.CancelCauseFunc // nil: the import is not under way
}

// Check tells whether an upload may go to a mailbox and a folder.
func (p *Plan) Check() error {
	p.Mailbox, p.Folder = strings.TrimSpace(p.Mailbox), strings.TrimSpace(p.Folder)
	if catalog.CheckName(p.Mailbox) != nil {
		return ErrMailbox
	}
	if p.Folder != "" && catalog.CheckName(p.Folder) != nil {
		return ErrFolder
	}
	return nil
}

// fileName is the last part of what a browser calls a file.
func fileName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 127 || r == 0xFFFD {
			return '_'
		}
		return r
	}, name)
	if name = path.Base("/" + strings.ReplaceAll(name, `\`, "/")); name == "/" {
		name = "_"
	}
	if len(name) > maxFileName {
		name = strings.ToValidUTF8(name[:maxFileName], "")
	}
	return name
}

// Begin finds the upload of the same files, or makes one. The claim goes with
// each piece; an earlier one is worth nothing any more.
func (s *Uploads) Begin(p Plan) (u *Upload, claim string, err error) {
	if err := p.Check(); err != nil {
		return nil, "", err
	}
	if len(p.Files) == 0 || len(p.Files) > MaxFiles {
		return nil, "", ErrNoFiles
	}
	total := int64(0)
	for i, f := range p.Files {
		if f.Size < 0 || f.Size > s.o.MaxSize-total {
			return nil, "", ErrTooLarge
		}
		total += f.Size
		p.Files[i].Name = fileName(f.Name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.all {
		if u.plan.Account == p.Account && u.spool != nil && u.run == 0 && u.total == total && slices.Equal(u.plan.Files, p.Files) {
			u.plan, u.claim = p, rand.Text()
			u.interrupt()
			u.timer.Reset(s.o.Idle)
			return u, u.claim, nil
		}
	}
	if u, err = s.add(p, total); err != nil {
		return nil, "", err
	}
	return u, u.claim, nil
}

// Stream makes an upload whose size is not known; size is a guess from above.
func (s *Uploads) Stream(account int64, who string, size int64) (*Upload, error) {
	if size > s.o.MaxSize {
		return nil, ErrTooLarge
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.room(size); err != nil {
		return nil, err
	}
	return s.add(Plan{Account: account, Who: who}, -1)
}

// add makes an upload; the caller holds mu.
func (s *Uploads) add(p Plan, total int64) (*Upload, error) {
	open := 0
	for _, u := range s.all {
		if u.plan.Account == p.Account && u.spool != nil {
			open++
		}
	}
	if open >= MaxOpen {
		return nil, ErrTooMany
	}
	if err := s.room(total); err != nil {
		return nil, err
	}
	if s.life.Err() != nil {
		return nil, s.life.Err()
	}
	u := &Upload{ID: rand.Text(), s: s, plan: p, total: total, spool: spool.New(s.o.Dir, "upload"), claim: rand.Text(), turn: make(chan struct{}, 1)}
	u.timer = time.AfterFunc(s.o.Idle, u.expire)
	s.all[u.ID] = u
	return u, nil
}

// room tells whether the disk takes size more bytes beside what is promised to
// others; the caller holds mu.
func (s *Uploads) room(size int64) error {
	free, err := s.o.Free()
	if err != nil {
		return err
	}
	free -= lowDisk + max(size, 0)
	for _, u := range s.all {
		if u.spool != nil && u.total > u.offset {
			free -= u.total - u.offset
		}
	}
	if free < 0 {
		return ErrDisk
	}
	return nil
}

// Find returns an upload of an account.
func (s *Uploads) Find(account int64, id string) (*Upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.all[id]
	if u == nil || u.plan.Account != account {
		return nil, ErrGone
	}
	return u, nil
}

// State is how far an upload has come.
type State struct {
	ID      string
	Files   []File
	Mailbox string
	Folder  string
	Offset  int64
	Total   int64
	Run     int64 // of its import; 0: not begun
}

// State returns how far the upload has come.
func (u *Upload) State() State {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	return u.state()
}

func (u *Upload) state() State {
	return State{ID: u.ID, Files: u.plan.Files, Mailbox: u.plan.Mailbox, Folder: u.plan.Folder, Offset: u.offset, Total: u.total, Run: u.run}
}

// Waiting returns the uploads of an account that are not complete and can be
// gone on with.
func (s *Uploads) Waiting(account int64) (out []State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.all {
		if u.plan.Account == account && u.spool != nil && u.run == 0 && u.total >= 0 {
			out = append(out, u.state())
		}
	}
	slices.SortFunc(out, func(a, b State) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// interrupt ends the reading that is under way; the caller holds mu.
func (u *Upload) interrupt() {
	if u.stop != nil {
		u.stop()
	}
}

// Write takes a piece that begins at an offset, and starts the import once all
// is there. A piece of a connection that was lost without notice is ended by
// the next one: stop ends what reads r. What has arrived of a piece stays.
func (u *Upload) Write(claim string, offset int64, r io.Reader, stop func()) (State, error) {
	s := u.s
	s.mu.Lock()
	if u.claim != claim {
		s.mu.Unlock()
		return State{}, ErrTaken
	}
	u.interrupt()
	s.mu.Unlock()
	u.turn <- struct{}{}
	defer func() { <-u.turn }()
	s.mu.Lock()
	switch {
	case u.run != 0: // complete, and the answer that said so was lost
		defer s.mu.Unlock()
		return u.state(), nil
	case u.spool == nil:
		defer s.mu.Unlock()
		return State{}, ErrGone
	case u.claim != claim:
		defer s.mu.Unlock()
		return State{}, ErrTaken
	case u.offset != offset:
		defer s.mu.Unlock()
		return u.state(), &OffsetError{u.offset}
	}
	u.stop = stop
	s.mu.Unlock()
	err := u.take(r, u.total)
	s.mu.Lock()
	u.stop = nil
	complete := u.offset == u.total
	s.mu.Unlock()
	if err == nil && complete {
		err = u.start()
	}
	return u.State(), err
}

// take spools what r gives, up to an offset; the caller has the turn.
func (u *Upload) take(r io.Reader, limit int64) error {
	s := u.s
	looked := int64(0)
	b := make([]byte, 64<<10)
	for {
		n, err := r.Read(b)
		s.mu.Lock()
		into, room := u.spool, limit-u.offset
		s.mu.Unlock()
		switch {
		case into == nil:
			return ErrGone
		case int64(n) > room:
			return ErrTooLarge
		}
		k, werr := into.Write(b[:n])
		s.mu.Lock()
		u.offset += int64(k)
		u.timer.Reset(s.o.Idle)
		if looked -= int64(k); looked < 0 && werr == nil {
			looked = lookAgain
			if free, ferr := s.o.Free(); ferr != nil || free < lowDisk {
				werr = errors.Join(ErrDisk, ferr)
			}
		}
		s.mu.Unlock()
		if werr != nil {
			return werr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrBroken, err)
		}
	}
}

// Append takes a file of an upload whose size was not known.
func (u *Upload) Append(name string, r io.Reader, stop func()) error {
	u.turn <- struct{}{}
	defer func() { <-u.turn }()
	s := u.s
	s.mu.Lock()
	before := u.offset
	if len(u.plan.Files) == MaxFiles {
		defer s.mu.Unlock()
		return ErrNoFiles
	}
	u.stop = stop
	s.mu.Unlock()
	err := u.take(r, s.o.MaxSize)
	s.mu.Lock()
	defer s.mu.Unlock()
	u.stop = nil
	u.plan.Files = append(u.plan.Files, File{Name: fileName(name), Size: u.offset - before})
	return err
}

// Finish starts the import of what was appended, and returns its run.
func (u *Upload) Finish(mailbox, folder string) (int64, error) {
	u.turn <- struct{}{}
	defer func() { <-u.turn }()
	s := u.s
	s.mu.Lock()
	u.plan.Mailbox, u.plan.Folder = mailbox, folder
	err := u.plan.Check()
	if err == nil && len(u.plan.Files) == 0 {
		err = ErrNoFiles
	}
	s.mu.Unlock()
	if err == nil {
		err = u.start()
	}
	return u.State().Run, err
}

// start imports what has arrived, and returns once the import has a number; the
// caller has the turn.
func (u *Upload) start() error {
	s := u.s
	s.mu.Lock()
	if u.spool == nil {
		s.mu.Unlock()
		return ErrGone
	}
	if s.life.Err() != nil {
		s.mu.Unlock()
		return s.life.Err()
	}
	var files []source.Sent
	at := int64(0)
	for _, f := range u.plan.Files {
		sent := source.Sent{Name: f.Name, Size: f.Size, Content: io.NewSectionReader(u.spool, at, f.Size)}
		if f.Modified != 0 {
			sent.Modified = time.UnixMilli(f.Modified)
		}
		files, at = append(files, sent), at+f.Size
	}
	ctx, cancel := context.WithCancelCause(s.life)
	u.cancel = cancel
	im := ingest.Import{Mailbox: u.plan.Mailbox, Folder: u.plan.Folder, Who: u.plan.Who, Progress: func(c catalog.Counts) {
		s.mu.Lock()
		defer s.mu.Unlock()
		u.counts = c
	}}
	s.work.Add(1)
	s.mu.Unlock()
	result := make(chan error, 2)
	go func() {
		defer s.work.Done()
		_, err := ingest.Upload(ctx, s.o.Archive, im, files, func(run int64) {
			s.mu.Lock()
			u.run, u.begun = run, s.o.Archive.Now()
			s.mu.Unlock()
			result <- nil
		})
		cancel(nil)
		u.ended(err)
		result <- err // nobody reads it if the run has begun
	}()
	return <-result
}

// ended lets go of what was imported. An import that could not even begin is
// tried again with the next piece.
func (u *Upload) ended(err error) {
	s := u.s
	s.mu.Lock()
	defer s.mu.Unlock()
	u.cancel = nil
	if u.run == 0 {
		return
	}
	if err != nil && !errors.Is(err, ingest.ErrCancelled) && s.life.Err() == nil {
		s.o.Archive.Log().Error("import of an upload", "run", u.run, "err", err)
	}
	u.close()
}

// close gives the spool up; the caller holds mu.
func (u *Upload) close() {
	if u.spool == nil {
		return
	}
	if err := u.spool.Close(); err != nil {
		u.s.o.Archive.Log().Warn("the spool of an upload", "err", err)
	}
	u.spool = nil
}

// Drop gives an upload up that has not been imported.
func (u *Upload) Drop() {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	u.drop()
}

func (u *Upload) drop() {
	if u.run != 0 || u.cancel != nil {
		return
	}
	u.interrupt()
	u.close()
	u.timer.Stop()
	delete(u.s.all, u.ID)
}

// expire ends an upload to which nothing came for a while, and forgets one that
// was imported.
func (u *Upload) expire() {
	s := u.s
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case u.cancel != nil:
		u.timer.Reset(s.o.Idle)
	case u.run != 0:
		delete(s.all, u.ID)
	default:
		u.drop()
	}
}

// Progress is an import that is under way.
type Progress struct {
	catalog.Counts
	Begun time.Time
}

// Running returns the progress of an import of an account, if it is under way.
func (s *Uploads) Running(account, run int64) (Progress, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.all {
		if u.run == run && u.plan.Account == account && u.cancel != nil {
			return Progress{u.counts, u.begun}, true
		}
	}
	return Progress{}, false
}

// Cancel ends an import of an account. What it has archived stays.
func (s *Uploads) Cancel(account, run int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.all {
		if u.run == run && u.plan.Account == account && u.cancel != nil {
			u.cancel(ingest.ErrCancelled)
		}
	}
}

// Stop ends what is being received; nothing new is taken.
func (s *Uploads) Stop() {
	s.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.all {
		u.interrupt()
	}
}

// Close stops everything, waits for the imports, and leaves nothing behind.
func (s *Uploads) Close() {
	s.Stop()
	s.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.all {
		u.timer.Stop()
		u.close()
	}
	clear(s.all)
}
