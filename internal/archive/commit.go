package archive

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/store"
)

// draft is a commit in the making.
type draft struct {
	frame     *pack.Frame
	objects   []store.Sealed
	have      map[seal.ID]bool // parts that this commit brings
	messages  map[seal.ID]catalog.Row
	rows      map[catalog.Row]bool
	occurs    map[catalog.Row]map[int64]bool
	summaries map[seal.ID]catalog.Summary
	state     uint64
	keys      uint64
}

func (a *Archive) newDraft() *draft {
	state, keys := a.generations()
	return &draft{
		frame: &pack.Frame{Time: a.opts.Now().UTC().Truncate(time.Millisecond), FirstLeaf: a.ledger.Size()},
		have:  map[seal.ID]bool{}, messages: map[seal.ID]catalog.Row{}, rows: map[catalog.Row]bool{},
		occurs: map[catalog.Row]map[int64]bool{}, summaries: map[seal.ID]catalog.Summary{}, state: state, keys: keys,
	}
}

// commitGroup commits a group of messages and tells each what became of it.
func (a *Archive) commitGroup(group []*prepared) {
	results := make([]Result, len(group))
	errs := make([]error, len(group))
	err := func() error {
		a.w.Lock()
		defer a.w.Unlock()
		if err := a.ready(); err != nil {
			return err
		}
		d := a.newDraft()
		for i, p := range group {
			results[i], errs[i] = a.place(d, p)
			if errs[i] == nil && results[i].Outcome == Archived {
				a.recent.put(results[i].Row, p.doc)
			}
		}
		err := a.commit(d)
		if err != nil {
			for row := range d.rows {
				a.recent.take(row)
			}
		}
		return err
	}()
	a.recent.wait()
	for i, p := range group {
		switch {
		case err != nil:
			p.done(Result{}, err)
		case errs[i] != nil:
			p.done(Result{}, errs[i])
		default:
			p.done(results[i], nil)
		}
	}
}

// ready brings the archive to the end of its last whole commit if the one
// before stopped half-way. The caller holds w.
func (a *Archive) ready() error {
	if !a.dirty {
		return nil
	}
	if err := a.rollForward(); err != nil {
		return fmt.Errorf("an earlier commit stopped half-way and cannot be finished: %w", err)
	}
	if err := a.catchUp(); err != nil {
		return err
	}
	a.dirty = false
	return nil
}

// place gives a message its place in a draft.
func (a *Archive) place(d *draft, p *prepared) (Result, error) {
	w := a.catalog.Writer()
	r := Result{ID: p.id, Outcome: Present}
	row, ok := d.messages[p.id]
	if !ok {
		var err error
		if row, ok, err = w.Row(p.id); err != nil {
			return r, err
		}
	}
	if !ok {
		if p.skeleton == nil {
			return r, fmt.Errorf("%w: it was erased while it was being archived again; try once more", ErrMessage)
		}
		var err error
		if row, err = a.newMessage(d, p); err != nil {
			return r, err
		}
		r.Outcome = Archived
	}
	r.Row = row
	for _, spot := range p.from.spots() {
		fresh, err := a.occur(d, p, row, spot, r.Outcome)
		if err != nil {
			return r, err
		}
		r.NewOccurrence = r.NewOccurrence || fresh
	}
	return r, a.envelope(d, p, row)
}

// envelope adds what a mail server said of the delivery, unless it is there.
func (a *Archive) envelope(d *draft, p *prepared, row catalog.Row) error {
	if p.from.Envelope == nil {
		return nil
	}
	x := *p.from.Envelope
	same := func(y pack.Envelope) bool { return y.Row == int64(row) && y.Key == x.Key }
	if slices.ContainsFunc(d.frame.Envelopes, same) {
		return nil
	}
	if there, err := a.catalog.Writer().HasEnvelope(row, x.Key); err != nil || there {
		return err
	}
	x.Row, x.Source = int64(row), a.source(d, p.from.Source)
	d.frame.Envelopes = append(d.frame.Envelopes, x)
	return nil
}

// occur adds the occurrence of a message in a folder, unless it is there.
func (a *Archive) occur(d *draft, p *prepared, row catalog.Row, in Spot, o Outcome) (bool, error) {
	folder, err := a.folder(d, in.Mailbox, in.Folder)
	if err != nil || d.occurs[row][folder.ID] {
		return false, err
	}
	if o == Present {
		there, err := a.catalog.Writer().Occurs(row, folder.ID)
		if err != nil || there {
			return false, err
		}
	}
	if d.occurs[row] == nil {
		d.occurs[row] = map[int64]bool{}
	}
	d.occurs[row][folder.ID] = true
	a.modseq++
	d.frame.Occurrences = append(d.frame.Occurrences, pack.Occurrence{
		Row: int64(row), Folder: folder.ID, UID: folder.UIDNext, Source: a.source(d, p.from.Source), Where: p.from.Where,
		Flags: p.from.Flags, Internal: p.from.Internal, ModSeq: a.modseq,
	})
	folder.UIDNext++
	return true, nil
}

func (a *Archive) newMessage(d *draft, p *prepared) (catalog.Row, error) {
	w := a.catalog.Writer()
	for i := range p.sealed {
		id := p.sealed[i].Entry.ID
		stored := d.have[id]
		if !stored {
			var err error
			if stored, err = w.HasObject(id); err != nil {
				return 0, err
			}
		}
		if !stored {
			d.have[id] = true
			d.objects = append(d.objects, p.sealed[i])
		}
	}
	d.objects = append(d.objects, *p.skeleton)
	leaf := d.frame.FirstLeaf + int64(len(d.frame.Leaves))
	row := catalog.RowAt(p.date) | catalog.Row(leaf&0xffffff)
	for {
		taken := d.rows[row]
		if !taken {
			var err error
			if taken, err = w.Taken(row); err != nil {
				return 0, err
			}
		}
		if !taken {
			break
		}
		row = catalog.RowAt(p.date) | (row+1)&0xffffff
	}
	m := pack.Message{
		Leaf: leaf, ID: p.id, Skeleton: p.skeleton.Entry.ID, Parts: p.parts, Size: int64(p.size),
		Row: int64(row), DateRule: p.rule, Arrived: p.arrived, Partial: p.partial,
	}
	rand.Read(m.Salt[:])
	d.frame.Messages = append(d.frame.Messages, m)
	d.frame.Leaves = append(d.frame.Leaves, messageLeaf(&m, p.sum).Encode())
	d.messages[p.id], d.rows[row], d.summaries[p.id] = row, true, p.summary()
	return row, nil
}

func messageLeaf(m *pack.Message, sum [32]byte) pack.Leaf {
	return pack.Leaf{Kind: pack.KindMessage, Time: m.Arrived, Commitment: pack.Commit(pack.KindMessage, m.Salt, sum)}
}

// folder returns a folder of a mailbox and makes it in the draft if need be.
func (a *Archive) folder(d *draft, mailbox int64, name string) (*catalog.Folder, error) {
	if name == "" {
		name = "INBOX"
	}
	key := folderKey{mailbox, name}
	if f := a.folders[key]; f != nil {
		return f, nil
	}
	if mailbox <= 0 {
		return nil, errors.New("a message without a mailbox")
	}
	f := &catalog.Folder{ID: int64(len(a.folders)) + 1, Mailbox: mailbox, Name: name, UIDValidity: uint32(a.opts.Now().Unix()), UIDNext: 1}
	a.folders[key] = f
	d.frame.Folders = append(d.frame.Folders, pack.Folder{ID: f.ID, Mailbox: mailbox, Name: name, UIDValidity: f.UIDValidity})
	return f, nil
}

func (a *Archive) source(d *draft, name string) int64 {
	if id, ok := a.sources[name]; ok {
		return id
	}
	id := int64(len(a.sources)) + 1
	a.sources[name] = id
	d.frame.Sources = append(d.frame.Sources, pack.Source{ID: id, Name: name})
	return id
}

// commit makes a draft durable, step by step. The caller holds w.
func (a *Archive) commit(d *draft) error {
	f := d.frame
	if len(f.Leaves) == 0 && len(f.Occurrences) == 0 && len(f.Envelopes) == 0 {
		return nil
	}
	at, err := a.store.Commit(d.objects, f)
	if err != nil {
		return errors.Join(fmt.Errorf("commit: %w", err), a.reload())
	}
	// The frame is durable: whatever fails from here on is rolled forward.
	a.dirty = true
	if err := a.ledger.Append(f.Leaves); err != nil {
		return fmt.Errorf("commit %d: %w", f.Number, err)
	}
	end := a.store.Position()
	if err := a.ledger.Sign(extension(end, d.state, d.keys)); err != nil {
		return fmt.Errorf("commit %d: %w", f.Number, err)
	}
	if err := a.catalog.Apply(catalog.Change{Frame: f, Place: at, End: end, Summaries: d.summaries}); err != nil {
		return err
	}
	a.dirty = false
	return nil
}

// reload reads again what is kept in memory of the catalog.
func (a *Archive) reload() error {
	w := a.catalog.Writer()
	fs, err := w.Folders()
	if err != nil {
		return err
	}
	a.folders = make(map[folderKey]*catalog.Folder, len(fs))
	for i := range fs {
		a.folders[folderKey{fs[i].Mailbox, fs[i].Name}] = &fs[i]
	}
	if a.sources, err = w.Sources(); err != nil {
		return err
	}
	a.modseq, err = w.ModSeq()
	return err
}

// Act is an administrative act: what was done, by whom, to what.
type Act struct {
	What string   `json:"act"`
	Who  string   `json:"who"`
	Of   string   `json:"of,omitempty"`
	Why  string   `json:"why,omitempty"`
	Rows []int64  `json:"rows,omitempty"`
	Leaf []int64  `json:"leaves,omitempty"`
	More []string `json:"more,omitempty"`
}

// Record writes an act to the ledger.
func (a *Archive) Record(act Act) error {
	a.w.Lock()
	defer a.w.Unlock()
	return a.record(act, 0, 0)
}

// record writes an act as a commit of its own. A state or keys other than 0
// announces that generation. The caller holds w.
func (a *Archive) record(act Act, state, keys uint64) error {
	if err := a.ready(); err != nil {
		return err
	}
	detail, err := json.Marshal(act)
	if err != nil {
		return err
	}
	d := a.newDraft()
	x := pack.Act{Leaf: d.frame.FirstLeaf, State: state, Detail: detail}
	rand.Read(x.Salt[:])
	if state > 0 {
		d.state = state
	}
	if keys > 0 {
		d.keys = keys
	}
	d.frame.Acts = []pack.Act{x}
	d.frame.Leaves = [][]byte{actLeaf(&x, d.frame.Time).Encode()}
	return a.commit(d)
}

func actLeaf(x *pack.Act, t time.Time) pack.Leaf {
	return pack.Leaf{Kind: pack.KindAct, Time: t, Commitment: pack.Commit(pack.KindAct, x.Salt, sha256.Sum256(x.Detail))}
}

// Change makes a change of state that matters for security: first the act in
// the ledger with the generation it leads to, then the change.
func (a *Archive) Change(act Act, fn func(catalog.Tx) error) error {
	a.w.Lock()
	defer a.w.Unlock()
	now, err := a.state.Generation()
	if err != nil {
		return err
	}
	if err := a.record(act, now+1, 0); err != nil {
		return err
	}
	if err := a.state.Change(now+1, fn); err != nil {
		// The act says what was intended; the ledger must not expect it.
		return errors.Join(err, a.resign(now, 0))
	}
	return nil
}

// resign replaces the checkpoint by one with other generations. The caller
// holds w.
func (a *Archive) resign(state, keys uint64) error {
	s, k := a.generations()
	if state == 0 {
		state = s
	}
	if keys == 0 {
		keys = k
	}
	return a.ledger.Sign(extension(a.store.Position(), state, keys))
}

// ContentActs are the acts of a key owner who read mail at the machine.
var ContentActs = []string{"searched as key owner", "message read as key owner", "exported as key owner"}
