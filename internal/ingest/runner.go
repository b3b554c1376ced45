package ingest

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/pop3client"
	"github.com/letterhold/letterhold/internal/source"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// Runner runs profiles of an archive, one run of each at a time.
type Runner struct {
	// Patience is how long is waited before connecting again; 0 is a second.
	Patience time.Duration
	// Tick is how often the schedule is looked at; 0 is 15 seconds.
	Tick time.Duration

	a    *archive.Archive
	jobs Jobs[*live]

	mu      sync.Mutex
	imports map[string]*intake // under way, by what is imported into where
	tokens  tokens
}

// live is a run under way.
type live struct {
	intake *intake
	step   string // what it does, for people; guarded by Runner.mu
}

// NewRunner returns the runner of an archive.
func NewRunner(a *archive.Archive) *Runner {
	return &Runner{a: a, imports: map[string]*intake{}}
}

// Serve runs profiles when they are due or told of new mail, and goes on with
// runs that a stop interrupted, until ctx ends.
func (r *Runner) Serve(ctx context.Context) {
	w := &watchers{r: r, each: map[int64]*watcher{}}
	defer w.close()
	for ctx.Err() == nil {
		if err := r.startDue(ctx); err != nil && ctx.Err() == nil {
			r.a.Log().Error("the schedule of profiles", "err", err)
		}
		if err := w.update(ctx); err != nil && ctx.Err() == nil {
			r.a.Log().Error("waiting for new mail", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(cmp.Or(r.Tick, 15*time.Second)):
		}
	}
}

func (r *Runner) startDue(ctx context.Context) error {
	ps, err := Profiles(ctx, r.a)
	if err != nil {
		return err
	}
	for _, p := range ps {
		due, err := r.due(ctx, p)
		if err != nil {
			return err
		}
		if !due {
			continue
		}
		if _, err := r.Start(ctx, p, scheduled); err != nil && !errors.Is(err, ErrRunning) {
			return err
		}
	}
	return nil
}

// scheduled is who starts a run that nobody started.
const scheduled = "schedule"

func (r *Runner) due(ctx context.Context, p *Profile) (bool, error) {
	return Standing{Profile: p.ID, Enabled: p.Enabled, Created: p.Created, Exception: p.Exception, Timing: p.timing()}.Due(ctx, r.a)
}

// Import imports files. The same import is not run twice at a time: the second
// would take the first for one that was interrupted.
func (r *Runner) Import(ctx context.Context, im Import) (*Report, error) {
	in := newIntake(r.a)
	if im.DryRun {
		return in.importFiles(ctx, im)
	}
	what := im.what()
	r.mu.Lock()
	busy := r.imports[what] != nil
	if !busy {
		r.imports[what] = in
	}
	r.mu.Unlock()
	if busy {
		return &Report{Failures: []catalog.Failure{}}, ErrImporting
	}
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.imports, what)
	}()
	return in.importFiles(ctx, im)
}

// Errors of runs.
var (
	// ErrImporting: the same import is under way.
	ErrImporting = errors.New("the same import is under way")
	// ErrRunning: a run of the profile is under way.
	ErrRunning = errors.New("a run is under way")
	// ErrIdle: no run of the profile is under way.
	ErrIdle = errors.New("no run is under way")
)

// Outcome is what became of a run.
type Outcome struct {
	Run     int64  `json:"run"`
	Profile string `json:"profile"`
	State   string `json:"state"`
	Report
	Error    string    `json:"error,omitempty"`
	Causes   []Cause   `json:"causes,omitempty"`
	Deletion *Deletion `json:"deletion,omitempty"` // nil: nothing was to be deleted
}

// Start begins a run, or goes on with the one that was interrupted or paused.
// The returned function waits for its end.
func (r *Runner) Start(ctx context.Context, p *Profile, who string) (func() (*Outcome, error), error) {
	l := &live{intake: newIntake(r.a)}
	wait, err := r.jobs.Start(ctx, p.ID, l, func(ctx context.Context) (*Outcome, error) { return r.run(ctx, l, p, who) })
	return wait, p.about(err)
}

// about names the profile in an error.
func (p *Profile) about(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("profile %q: %w", p.Name, err)
}

// Retry is Start, with all messages that are missed, however often they were
// tried.
func (r *Runner) Retry(ctx context.Context, p *Profile, who string) (func() (*Outcome, error), error) {
	if r.jobs.Done(p.ID) != nil {
		return nil, p.about(ErrRunning)
	}
	if err := r.a.State().Write(func(t catalog.Tx) error { return t.RetryMissed(p.ID) }); err != nil {
		return nil, err
	}
	return r.Start(ctx, p, who)
}

// Pause stops a run so that the next Start goes on with it.
func (r *Runner) Pause(p *Profile) error { return p.about(r.jobs.Stop(p.ID, ErrPaused)) }

// Cancel ends a run. What it has archived stays.
func (r *Runner) Cancel(p *Profile) error { return p.about(r.jobs.Stop(p.ID, ErrCancelled)) }

// Close stops all runs; they go on at the next start.
func (r *Runner) Close() { r.jobs.Close() }

// Progress is a run under way, for people.
type Progress struct {
	Run     int64     `json:"run"`
	Profile int64     `json:"profile"` // 0: an import
	Started time.Time `json:"started"`
	Step    string    `json:"step"`
	catalog.Counts
	Total int64   `json:"total,omitempty"` // that will have been seen, if the source tells
	Rate  float64 `json:"rate"`            // messages a second
	Speed float64 `json:"bytes_per_second"`
	Left  *int64  `json:"left_seconds,omitempty"`
}

// Live returns the runs under way, of profiles and imports.
func (r *Runner) Live() (out []Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.jobs.Each(func(id int64, l *live) {
		p := l.intake.progress()
		p.Profile, p.Step = id, l.step
		out = append(out, p)
	})
	for _, in := range r.imports {
		if p := in.progress(); p.Run != 0 {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b Progress) int { return int(a.Run - b.Run) })
	return out
}

func (r *Runner) run(ctx context.Context, l *live, p *Profile, who string) (*Outcome, error) {
	in := l.intake
	start := time.Now()
	var lines []catalog.Line
	note := func(format string, args ...any) {
		in.mu.Lock()
		defer in.mu.Unlock()
		lines = append(lines, catalog.Line{Time: r.a.Now(), Text: fmt.Sprintf(format, args...)})
	}
	whole := context.WithoutCancel(ctx) // what is stored is stored, however soon the run is stopped
	e, err := p.endpoint()
	if err != nil {
		return nil, err
	}
	mailboxes, err := r.mailboxes(whole, p, e, who)
	if err != nil {
		return nil, err
	}
	in.from = func(i *source.Item) (archive.Provenance, string) {
		if p.Multidrop {
			return r.multidrop(ctx, p, mailboxes[e.user], i), ""
		}
		account := cmp.Or(i.Account, e.user)
		from := archive.Provenance{Mailbox: mailboxes[account], Folder: p.folderOf(e, account, i.Folder), Source: p.Name, Where: i.Where, Flags: i.Flags, Internal: i.Internal}
		for _, label := range i.Labels {
			from.Labels = append(from.Labels, p.folderOf(e, account, label))
		}
		return from, ""
	}
	in.store = func(t catalog.Tx, row *catalog.Run, s *progress) error {
		some := lines
		lines = nil
		return storeRun(t, row, s, some)
	}
	marks, missed, err := r.begin(whole, in, p, who)
	if err != nil {
		return nil, err
	}
	note("run %d of %q begins", in.row.ID, p.Name)
	r.setStep(l, StepCollecting)
	walk := func() error {
		src, err := p.open(r.a, r, missed, note, in.expect)
		if err != nil {
			return err
		}
		if !p.Multidrop {
			r.letKnow(ctx, src, e.user, func(account string) (int64, func(string) string) {
				return mailboxes[account], func(name string) string { return p.folderOf(e, account, name) }
			})
		}
		return in.work(ctx, src, marks)
	}
	if err = walk(); r.refused(ctx, p, err) { // a token may end before its time
		note("the token was refused: once more with a new one")
		err = walk()
	}
	out, err := r.end(ctx, in, p, err, time.Since(start), note)
	if err != nil || p.DeleteAfter == 0 || out.State != catalog.RunDone && out.State != catalog.RunPartial {
		return out, err
	}
	r.setStep(l, StepDeleting)
	out.Deletion = r.clear(ctx, p, &clearing{days: p.DeleteAfter, run: out.Run, who: who}, note)
	in.mu.Lock()
	defer in.mu.Unlock()
	return out, r.a.State().Write(func(t catalog.Tx) error { return t.AddLines(out.Run, lines) })
}

// What a run does.
const (
	StepCollecting = "collecting"
	StepDeleting   = "deleting" // at the source, when all is accounted for
)

func (r *Runner) setStep(l *live, step string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.step = step
}

// begin finds the run that was interrupted or paused, or starts one.
func (r *Runner) begin(ctx context.Context, in *intake, p *Profile, who string) (marks source.Marks, missed []catalog.Missed, err error) {
	err = r.a.State().View(ctx, func(v catalog.View) error {
		m, err := v.Marks(p.ID)
		if err != nil {
			return err
		}
		marks = m
		if missed, err = v.Missed(p.ID, maxListed); err != nil {
			return err
		}
		rs, err := v.RunsOf(p.ID, 1)
		if err == nil && len(rs) == 1 && unfinished(&rs[0]) {
			in.mu.Lock()
			defer in.mu.Unlock()
			in.resume(&rs[0])
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	in.mu.Lock() // people look already
	defer in.mu.Unlock()
	return marks, missed, r.a.State().Write(func(t catalog.Tx) error {
		if in.row.ID == 0 {
			in.row = catalog.Run{Profile: p.ID, What: p.Name, Who: who, Started: r.a.Now()}
			return t.StartRun(&in.row)
		}
		in.row.State, in.row.Ended = catalog.RunRunning, time.Time{}
		return t.SaveRun(&in.row, nil, nil)
	})
}

// storeRun keeps the place of a profile's run.
func storeRun(t catalog.Tx, row *catalog.Run, s *progress, lines []catalog.Line) error {
	for key, value := range s.marks {
		if err := t.SetMark(row.Profile, key, value); err != nil {
			return err
		}
	}
	for _, where := range s.cured {
		if err := t.RemoveMissed(row.Profile, where); err != nil {
			return err
		}
	}
	for _, m := range s.missed {
		if err := t.AddMissed(row.Profile, m); err != nil {
			return err
		}
	}
	if err := t.AddLines(row.ID, lines); err != nil {
		return err
	}
	return t.SaveRun(row, s.failures, s.skips)
}

// end stores what became of a run.
func (r *Runner) end(ctx context.Context, in *intake, p *Profile, cause error, took time.Duration, note func(string, ...any)) (*Outcome, error) {
	out := &Outcome{Run: in.row.ID, Profile: p.Name}
	why := context.Cause(ctx)
	switch {
	case cause == nil:
	case errors.Is(why, ErrPaused):
		note("paused")
	case errors.Is(why, ErrCancelled):
		note("cancelled")
	case ctx.Err() != nil:
		in.interrupted() // the run stays "running": it goes on at the next start
		out.State, out.Report, out.Error = catalog.RunRunning, in.report, "interrupted"
		return out, ctx.Err()
	case wantsLater(cause):
		note("the run waits, and goes on after %s: %v", r.a.Now().Add(laterAfter).Format("15:04"), cause)
	default:
		note("stopped: %v", cause)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	sum := in.conclude()
	switch {
	case cause != nil && errors.Is(why, ErrPaused):
		in.row.State, in.row.Ended = catalog.RunPaused, time.Time{}
	case cause != nil && errors.Is(why, ErrCancelled):
		in.row.State = catalog.RunCancelled
	case wantsLater(cause):
		in.row.State, out.Error = catalog.RunWaiting, cause.Error()
	case cause != nil:
		in.row.State = catalog.RunFailed
		out.Error = cause.Error()
		f := catalog.Failure{Where: p.Name, Reason: cause.Error()}
		in.report.Failures = append(in.report.Failures, f)
		in.since.failures = append(in.since.failures, f)
	}
	in.report.Seconds = took.Seconds()
	err := r.a.State().Write(func(t catalog.Tx) error { return in.store(t, &in.row, &in.since) })
	out.State, out.Report, out.Causes = in.row.State, in.report, Causes(in.report.Failures)
	return out, errors.Join(sum, err)
}

// credential returns what opens the account of a profile.
func (r *Runner) credential(p *Profile, account string) func(context.Context) (imapclient.Credential, error) {
	if p.Token != "" {
		return func(ctx context.Context) (imapclient.Credential, error) {
			t, err := r.Token(ctx, p.Token, account)
			return imapclient.Credential{User: account, Token: t.Access}, err
		}
	}
	return func(ctx context.Context) (imapclient.Credential, error) {
		if own, ok, err := r.ownPassword(ctx, p, account); ok || err != nil {
			return p.signIn(account, own), err
		}
		password, err := Password(ctx, r.a, p.ID)
		if errors.Is(err, ErrNoPassword) {
			err = fmt.Errorf("%w: letterhold profile edit %q --password-file F", p.about(err), p.Name)
		}
		return p.signIn(account, password), err
	}
}

// Check is one step of a connection test.
type Check struct {
	Step   tlsconf.Step `json:"step"`
	OK     bool         `json:"ok"`
	Detail string       `json:"detail"`
}

// Tested is what a connection test found.
type Tested struct {
	Steps   []Check        `json:"steps"`
	Folders []TestedFolder `json:"folders"`
	Chain   []Shown        `json:"chain,omitempty"`
	Private netip.Addr     `json:"private,omitzero"` // address that is not reached without leave
}

// TestedFolder is a folder of the account, and why it is left out.
type TestedFolder struct {
	Name     string `json:"name"`
	Messages uint32 `json:"messages"`
	LeftOut  string `json:"left_out,omitempty"`
}

// Shown is a certificate that the server showed.
type Shown struct {
	Subject string    `json:"subject"`
	Issuer  string    `json:"issuer"`
	Until   time.Time `json:"until"`
	Pin     string    `json:"pin"`
}

// Test connects step by step, and archives nothing.
func (r *Runner) Test(ctx context.Context, p *Profile) (*Tested, error) {
	t := &Tested{Steps: []Check{}, Folders: []TestedFolder{}}
	e, err := p.endpoint()
	if err != nil {
		return nil, err
	}
	src, err := p.open(r.a, r, nil, func(string, ...any) {}, nil)
	if err != nil {
		return nil, err
	}
	switch s := src.(type) {
	case *source.IMAP:
		return t, testIMAP(ctx, t, e, s)
	case *source.POP3:
		return t, testPOP3(ctx, t, e, s)
	case source.Accounts:
		return t, testAccounts(ctx, t, e, s)
	}
	return t, testFolder(t, e)
}

func testFolder(t *Tested, e endpoint) error {
	es, err := os.ReadDir(e.path)
	if err != nil {
		t.Steps = append(t.Steps, Check{tlsconf.StepFolders, false, err.Error()})
		return nil
	}
	t.Steps = append(t.Steps, Check{tlsconf.StepFolders, true, fmt.Sprintf("%d files and folders", len(es))})
	return nil
}

func testPOP3(ctx context.Context, t *Tested, e endpoint, s *source.POP3) error {
	c, err := pop3client.Dial(ctx, s.Options)
	if c != nil {
		t.show(c.Chain)
	}
	if err != nil {
		return t.fails(err)
	}
	defer c.Close()
	t.connected(e, c.Protocol)
	cr, err := s.Credential(ctx)
	if err == nil {
		err = c.SignIn(cr)
	}
	if err != nil {
		return t.fails(tlsconf.At(tlsconf.StepSignIn, err))
	}
	t.Steps = append(t.Steps, Check{tlsconf.StepSignIn, true, "as " + cr.User})
	ms, err := c.List()
	if err != nil {
		return t.fails(err)
	}
	t.Folders = append(t.Folders, TestedFolder{Name: "INBOX", Messages: uint32(len(ms))})
	t.Steps = append(t.Steps, Check{tlsconf.StepFolders, true, fmt.Sprintf("%d messages", len(ms))})
	return nil
}

func (t *Tested) show(chain []*x509.Certificate) {
	for _, x := range chain {
		t.Chain = append(t.Chain, Shown{x.Subject.String(), x.Issuer.String(), x.NotAfter, tlsconf.PinOf(x)})
	}
}

func (t *Tested) connected(e endpoint, protocol string) {
	t.Steps = append(t.Steps, Check{tlsconf.StepDNS, true, e.host}, Check{tlsconf.StepTCP, true, fmt.Sprintf("port %d", e.port)}, Check{tlsconf.StepTLS, true, protocol})
}

// steps of a connection, in order.
var steps = []tlsconf.Step{tlsconf.StepDNS, tlsconf.StepTCP, tlsconf.StepTLS, tlsconf.StepSignIn, tlsconf.StepFolders}

// fails notes the step at which a test failed; what lies before it went well.
func (t *Tested) fails(err error) error {
	var at *tlsconf.StepError
	if !errors.As(err, &at) {
		return err
	}
	if private := (*tlsconf.PrivateError)(nil); errors.As(err, &private) {
		t.Private = private.Addr
	}
	for _, s := range steps {
		if s == at.Step {
			t.Steps = append(t.Steps, Check{s, false, at.Err.Error()})
			break
		}
		if !slices.ContainsFunc(t.Steps, func(c Check) bool { return c.Step == s }) {
			t.Steps = append(t.Steps, Check{s, true, ""})
		}
	}
	return nil
}

func testIMAP(ctx context.Context, t *Tested, e endpoint, s *source.IMAP) error {
	c, err := imapclient.Dial(ctx, s.Options)
	if c != nil {
		t.show(c.Chain)
	}
	if err != nil {
		return t.fails(err)
	}
	defer c.Close()
	t.connected(e, c.Protocol)
	cr, err := s.Credential(ctx)
	if err == nil {
		err = c.SignIn(cr)
	}
	if err != nil {
		return t.fails(tlsconf.At(tlsconf.StepSignIn, err))
	}
	t.Steps = append(t.Steps, Check{tlsconf.StepSignIn, true, "as " + cr.User})
	fs, err := c.Folders()
	if err != nil {
		return t.fails(err)
	}
	for i := range fs {
		f := TestedFolder{Name: fs[i].Path(), LeftOut: s.Filter.Why(fs[i].Path(), fs[i].Attrs, fs[i].Shared)}
		if st, err := c.Status(&fs[i]); err == nil {
			f.Messages = st.Exists
		} else if !errors.Is(err, imapclient.ErrRefused) {
			return t.fails(err)
		}
		t.Folders = append(t.Folders, f)
	}
	t.Steps = append(t.Steps, Check{tlsconf.StepFolders, true, fmt.Sprintf("%d folders", len(fs))})
	return nil
}
