package journal

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/delivery"
)

// Keeper archives what a Receiver takes in: its methods Journal, Auth and
// Deliver are those of Config. What came is accounted for in a run for each day.
type Keeper struct {
	// Archive is the archive; nil while it is locked, when everything is
	// refused for the time being.
	Archive func() *archive.Archive
	// Free is how many bytes the disk still takes.
	Free func() (int64, error)
	Log  *slog.Logger

	mu      sync.Mutex
	run     *catalog.Run // of today; nil: none yet
	day     string
	fails   []catalog.Failure // since the run was stored
	changed bool
	tries   map[netip.Addr]try
}

const (
	// lowDisk is when no message is taken: what is there is left for the
	// databases and for what is under way, in bytes.
	lowDisk = 256 << 20
	// inMemory bounds the messages that are being archived, in bytes: one of the
	// largest is alone.
	inMemory = 64 << 20
	// storeEvery is how often the day's run is stored.
	storeEvery = 5 * time.Second
)

var (
	errLocked = &Refusal{451, "4.3.0", "The archive is locked, come again"}
	errLow    = &Refusal{452, "4.3.1", "The disk of the archive is nearly full, come again"}
)

// room is shared by all receivers of the process.
var room = semaphore.NewWeighted(inMemory)

// split takes a journal address apart from the recipient that a copy for one
// carries behind a plus sign, as user=domain.
func split(address string) (journal, recipient string) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return strings.ToLower(address), ""
	}
	local, carried, _ := strings.Cut(address[:at], "+")
	if i := strings.LastIndexByte(carried, '='); i > 0 {
		recipient = carried[:i] + "@" + carried[i+1:]
	}
	return strings.ToLower(local + address[at:]), recipient
}

// Journal tells whether mail to an address is taken.
func (k *Keeper) Journal(ctx context.Context, address string) (bool, error) {
	a := k.Archive()
	if a == nil {
		return false, errLocked
	}
	if free, err := k.Free(); err != nil || free < lowDisk {
		return false, errors.Join(errLow, err)
	}
	_, err := k.find(ctx, a, address)
	if errors.Is(err, catalog.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (k *Keeper) find(ctx context.Context, a *archive.Archive, address string) (j catalog.Journal, err error) {
	name, _ := split(address)
	err = a.State().View(ctx, func(v catalog.View) (err error) {
		j, err = v.JournalAt(name)
		return err
	})
	return j, err
}

// Deliver archives a message and returns once it is durable.
func (k *Keeper) Deliver(ctx context.Context, e Envelope, r io.Reader) error {
	a := k.Archive()
	if a == nil {
		return errLocked
	}
	// A message is there twice while it is taken apart.
	weight := min(max(2*e.Size, 1), inMemory)
	if err := room.Acquire(ctx, weight); err != nil {
		return err
	}
	defer room.Release(weight)
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	res, err := k.archive(ctx, a, e, raw)
	k.count(a, e, int64(len(raw)), res, err)
	if errors.Is(err, archive.ErrMessage) {
		return &Refusal{554, "5.6.0", "The message cannot be archived; the archive's administrator finds it in the report of the day"}
	}
	return err
}

func (k *Keeper) archive(ctx context.Context, a *archive.Archive, e Envelope, raw []byte) (archive.Result, error) {
	told := delivery.Told{Sender: e.From, Time: e.Received}
	label := ""
	for _, to := range e.To {
		j, err := k.find(ctx, a, to)
		if err != nil {
			return archive.Result{}, fmt.Errorf("journal address: %w", err)
		}
		label = j.Label
		_, carried := split(to)
		if carried != "" {
			told.Recipients = append(told.Recipients, carried)
		}
		told.Own = append(told.Own, to, j.Address)
	}
	unassigned, err := a.Mailbox(ctx, delivery.Unassigned, "journal")
	if err != nil {
		return archive.Result{}, err
	}
	d := delivery.Of(raw, told)
	var spots []archive.Spot
	if err := a.State().View(ctx, func(v catalog.View) (err error) {
		spots, err = delivery.Spots(v, &d.Envelope, unassigned)
		return err
	}); err != nil {
		return archive.Result{}, err
	}
	where := d.Envelope.Where
	if where == "" {
		where = fmt.Sprintf("from %s at %s", e.Remote, e.Received.UTC().Format(time.RFC3339))
	}
	return a.Add(ctx, d.Raw, archive.Provenance{Mailbox: spots[0].Mailbox, Folder: spots[0].Folder, Also: spots[1:], Source: "journal " + label, Where: where, Internal: e.Received, Envelope: &d.Envelope})
}

// count accounts for a message in the run of its day. A temporary error is
// none: the sender comes again.
func (k *Keeper) count(a *archive.Archive, e Envelope, size int64, r archive.Result, err error) {
	if err != nil && !errors.Is(err, archive.ErrMessage) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.today(a); err != nil {
		k.Log.Warn("the run of the day was not stored", "err", err)
	}
	k.changed = true
	c := &k.run.Counts
	c.Seen++
	c.Bytes += size
	switch {
	case err != nil:
		c.Failed++
		k.fails = append(k.fails, catalog.Failure{Where: fmt.Sprintf("from %s at %s", e.Remote, e.Received.UTC().Format(time.RFC3339)), Reason: err.Error()})
	case r.Outcome == archive.Archived:
		c.Archived++
	default:
		c.Present++
	}
}

// today makes sure that the run of the day is there; the caller holds mu.
func (k *Keeper) today(a *archive.Archive) error {
	day := a.Now().UTC().Format(time.DateOnly)
	if k.run != nil && k.day == day {
		return nil
	}
	var failed error
	if k.run != nil {
		failed = k.store(a, true)
	}
	what := "journal of " + day
	k.day, k.run = day, nil
	err := a.State().View(context.Background(), func(v catalog.View) (err error) {
		k.run, err = v.Unfinished(what)
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) {
		k.run = &catalog.Run{What: what, Who: "journal", Started: a.Now()}
		err = a.State().Write(func(t catalog.Tx) error { return t.StartRun(k.run) })
	}
	if k.run == nil {
		k.run = &catalog.Run{What: what, Who: "journal", Started: a.Now()}
	}
	return errors.Join(failed, err)
}

// store stores the run; the caller holds mu.
func (k *Keeper) store(a *archive.Archive, ended bool) error {
	k.run.State = catalog.RunRunning
	if ended {
		k.run.State, k.run.Ended = catalog.RunDone, a.Now()
		if k.run.Failed > 0 {
			k.run.State = catalog.RunPartial
		}
	}
	err := a.State().Write(func(t catalog.Tx) error { return t.SaveRun(k.run, k.fails, nil) })
	if err == nil {
		k.fails, k.changed = nil, false
	}
	return err
}

// Run stores the run of the day now and then, until ctx ends, and ends it when
// the day is over.
func (k *Keeper) Run(ctx context.Context) {
	for done := false; !done; {
		select {
		case <-ctx.Done():
			done = true
		case <-time.After(storeEvery):
		}
		a := k.Archive()
		if a == nil {
			continue
		}
		k.mu.Lock()
		var err error
		switch over := k.run != nil && k.day != a.Now().UTC().Format(time.DateOnly); {
		case over:
			err = k.store(a, true)
			k.run = nil
		case k.changed:
			err = k.store(a, false)
		}
		k.mu.Unlock()
		if err != nil {
			k.Log.Warn("the run of the day was not stored", "err", err)
		}
	}
}

// try is a mail server's failed sign-ins.
type try struct {
	n    int
	last time.Time
}

// Failed sign-ins of one address wait, because a generated password is never
// mistyped; the table is bounded, and an address that is forgotten begins anew.
const (
	freeTries = 5
	waitTries = time.Minute
	maxTries  = 10_000
)

// Auth signs in a mail server with a journal address and the password that was
// made for it.
func (k *Keeper) Auth(ctx context.Context, remote netip.Addr, user, password string) (bool, error) {
	a := k.Archive()
	if a == nil {
		return false, errLocked
	}
	k.mu.Lock()
	t := k.tries[remote]
	k.mu.Unlock()
	if t.n >= freeTries && time.Since(t.last) < waitTries {
		return false, &Refusal{454, "4.7.0", "Too many failed sign-ins, wait a minute"}
	}
	j, err := k.find(ctx, a, user)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return false, err
	}
	sum := sha256.Sum256([]byte(password))
	ok := len(j.Secret) == len(sum) && subtle.ConstantTimeCompare(j.Secret, sum[:]) == 1
	k.mu.Lock()
	defer k.mu.Unlock()
	if ok {
		delete(k.tries, remote)
		return true, nil
	}
	if k.tries == nil || len(k.tries) >= maxTries {
		k.tries = map[netip.Addr]try{}
	}
	k.tries[remote] = try{t.n + 1, time.Now()}
	return false, nil
}
