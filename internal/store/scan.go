package store

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
)

// Frames calls fn for each frame after the position from, in order, up to the
// commit upTo. A frame that cannot be read ends the walk with an error.
func (s *Store) Frames(from Position, upTo uint64, fn func(*pack.Frame, Place) error) error {
	for pos := from; pos.Commit < upTo; {
		f, err := s.openAt(&pos)
		if err != nil {
			return err
		}
		err = func() error {
			defer f.close()
			size, err := f.keys.Size()
			if err != nil {
				return err
			}
			for pos.Commit < upTo && pos.Keys < size {
				fr, err := f.next(&pos)
				if err != nil {
					return err
				}
				if err := fn(fr.Frame, Place{pos.Pack, fr.at}); err != nil {
					return err
				}
			}
			return nil
		}()
		if err != nil {
			return err
		}
		pos = Position{Commit: pos.Commit, Pack: pos.Pack + 1}
	}
	return nil
}

type placedFrame struct {
	*pack.Frame
	at int64
}

// openAt opens the pack of a position and steps over its head.
func (s *Store) openAt(pos *Position) (*packFile, error) {
	if pos.Pack == 0 {
		pos.Pack = 1
	}
	f, err := openPack(s.fs, s.archive, pos.Pack, s.keyring(), os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	f.owner = s
	pos.Keys = max(pos.Keys, headSize)
	return f, nil
}

// next reads the frame at pos and moves pos behind it.
func (f *packFile) next(pos *Position) (fr placedFrame, err error) {
	plain, err := f.frame(pos.Keys)
	if err != nil {
		return fr, err
	}
	fr.at = pos.Keys
	if fr.Frame, err = pack.DecodeFrame(plain); err != nil {
		return fr, fmt.Errorf("%s: frame at %d: %w: %v", f.name, pos.Keys, ErrDamaged, err)
	}
	if fr.Number != pos.Commit+1 {
		return fr, fmt.Errorf("%s: frame at %d is commit %d where commit %d belongs: %w", f.name, pos.Keys, fr.Number, pos.Commit+1, ErrDamaged)
	}
	size, err := f.frameSize(pos.Keys)
	if err != nil {
		return fr, err
	}
	pos.Commit++
	pos.Keys += size
	for i := range fr.Entries {
		pos.Data = max(pos.Data, fr.Entries[i].Offset+fr.Entries[i].Sealed)
	}
	return fr, nil
}

// Tail is what lies beyond the last commit that is vouched for.
type Tail struct {
	Frames []*pack.Frame // whole commits, in order
	Places []Place
	End    Position // behind them
	Cut    int64    // bytes behind End that are no whole commit
}

// ReadTail reads what lies beyond pos. Whole commits whose objects are there
// are returned; what follows them is counted as cut. Nothing is changed.
func (s *Store) ReadTail(pos Position) (Tail, error) {
	t := Tail{End: pos}
	numbers, _, err := s.packs()
	if err != nil {
		return t, err
	}
	if pos.Pack > 0 && !slices.Contains(numbers, pos.Pack) {
		return t, fmt.Errorf("%s is missing: %w", keysName(pos.Pack), ErrDamaged)
	}
	broken := false
	for _, n := range numbers {
		if n < pos.Pack {
			continue
		}
		if broken || n > t.End.Pack+1 {
			t.Cut += s.bytesOf(n)
			continue
		}
		next := t.End
		if n > next.Pack {
			next = Position{Commit: next.Commit, Pack: n}
		}
		f, err := s.openAt(&next)
		if err != nil {
			if n == pos.Pack {
				return t, err
			}
			broken = true
			t.Cut += s.bytesOf(n)
			continue
		}
		keys, err := f.keys.Size()
		have := f.dataSize()
		if n == pos.Pack && (keys < pos.Keys || have < pos.Data) {
			f.close()
			return t, fmt.Errorf("%s or its pack is shorter than the last checkpoint says: %w", f.name, ErrDamaged)
		}
		for err == nil && next.Keys < keys {
			var fr placedFrame
			at := next
			if fr, err = f.next(&at); err != nil || at.Data > have {
				broken = true
				break
			}
			t.Frames = append(t.Frames, fr.Frame)
			t.Places = append(t.Places, Place{n, fr.at})
			next, t.End = at, at
		}
		f.close()
		if n == t.End.Pack {
			t.Cut += max(0, keys-t.End.Keys) + max(0, have-t.End.Data)
		} else {
			t.Cut += keys + have
		}
	}
	return t, nil
}

func (s *Store) bytesOf(n uint32) (size int64) {
	h, err := s.readHead(n)
	if err != nil {
		h = head{pack: n}
	}
	for _, name := range []string{keysName(n), h.dataName()} {
		if fi, err := s.fs.Stat(name); err == nil {
			size += fi.Size()
		}
	}
	return size
}

// Adopt makes the end of a tail the end of the store: what follows is cut, and
// what an interrupted commit or rewriting left is removed. Anything else is left
// alone: it may be all that there is of something.
func (s *Store) Adopt(t Tail) error {
	numbers, others, err := s.packs()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if n > t.End.Pack {
			if err := s.removePack(n); err != nil {
				return err
			}
		}
	}
	for _, name := range others {
		if !s.leftover(name, t.End.Pack) {
			continue
		}
		if err := s.fs.Remove(name); err != nil {
			return err
		}
	}
	if err := s.CutBack(t.End, t.End.Pack); err != nil {
		return err
	}
	s.pos = t.End
	return nil
}

// leftover tells whether a file that belongs to no pack is what an interruption
// left: a file that was to be renamed, data of a pack beyond the last, or of
// another generation of a pack whose own data is there.
func (s *Store) leftover(name string, last uint32) bool {
	base := path.Base(name)
	if strings.HasSuffix(base, ".tmp") {
		return true
	}
	digits, ok := strings.CutSuffix(base, ".pack")
	digits, _, _ = strings.Cut(digits, "-")
	n, err := strconv.ParseUint(digits, 16, 32)
	if !ok || err != nil || path.Dir(keysName(uint32(n))) != path.Dir(name) {
		return false
	}
	if uint32(n) > last {
		return true
	}
	h, err := s.readHead(uint32(n))
	if err != nil {
		return false
	}
	own, err := durable.Exists(s.fs, h.dataName())
	return err == nil && own && h.dataName() != name
}

// Problem is one thing that is not as it was written.
type Problem struct {
	File   string `json:"file"`
	Object string `json:"object,omitempty"`
	What   string `json:"what"`
}

// Checked is what a check gives of each object that is sound.
type Checked struct {
	Entry *pack.Entry
	Data  []byte
}

// CheckPack reads every byte of one pack: its frames up to the commit of upTo,
// and all their objects. frame is called for each frame with the contents of
// its sound objects; the contents are valid during the call only. It returns
// the position behind the pack's last frame. clean says that nothing may lie
// beyond upTo. Of commits up to skip only the frames are read.
func (s *Store) CheckPack(from, upTo Position, skip uint64, clean bool, problem func(Problem), frame func(*pack.Frame, Place, map[seal.ID][]byte) error) (Position, error) {
	pos := from
	f, err := s.openAt(&pos)
	if err != nil {
		return pos, err
	}
	defer f.close()
	keys, err := f.keys.Size()
	if err != nil {
		return pos, err
	}
	var extents []extent
	for pos.Keys < keys && pos.Commit < upTo.Commit {
		fr, err := f.next(&pos)
		if err != nil {
			return pos, err
		}
		data := map[seal.ID][]byte{}
		for i := range fr.Entries {
			e := &fr.Entries[i]
			extents = append(extents, extent{e.Offset, e.Offset + e.Sealed})
			if e.Erased() || fr.Number <= skip {
				continue
			}
			b, err := s.read(e, f)
			if err != nil {
				problem(Problem{f.dataName, e.ID.String(), err.Error()})
				continue
			}
			data[e.ID] = b
		}
		if err := frame(fr.Frame, Place{pos.Pack, fr.at}, data); err != nil {
			return pos, err
		}
	}
	if beyond := keys - pos.Keys; beyond > 0 && (clean || pos.Pack != upTo.Pack) {
		problem(Problem{File: f.name, What: fmt.Sprintf("%d bytes behind the last commit", beyond)})
	}
	f.checkExtents(extents, clean || pos.Pack != upTo.Pack, problem)
	return pos, nil
}

type extent struct{ from, to int64 }

// checkExtents reports bytes of a pack that belong to no object. An erased
// object keeps its place until the pack is compacted.
func (f *packFile) checkExtents(es []extent, clean bool, problem func(Problem)) {
	slices.SortFunc(es, func(a, b extent) int { return int(min(max(a.from-b.from, -1), 1)) })
	end := int64(0)
	for _, e := range es {
		if e.from != end {
			problem(Problem{File: f.dataName, What: fmt.Sprintf("the bytes at %d belong to no object or to two", min(end, e.from))})
		}
		end = max(end, e.to)
	}
	if beyond := f.dataSize() - end; beyond > 0 && clean {
		problem(Problem{File: f.dataName, What: fmt.Sprintf("%d bytes behind the last object", beyond)})
	}
}

// Strays lists files in store/ that belong to no pack up to the given one.
func (s *Store) Strays(last uint32) ([]string, error) {
	numbers, others, err := s.packs()
	for _, n := range numbers {
		if n > last {
			others = append(others, keysName(n))
		}
	}
	return others, err
}

// Rewrite replaces the .keys of one pack by rename: every frame is passed
// through change (nil: kept), sealed under the newest entry key, and keeps its
// place. With compact, the pack itself is rewritten without the bytes that no
// entry covers; it must not be the pack that the next commit goes to. It
// returns how many bytes the pack shrank.
func (s *Store) Rewrite(n uint32, compact bool, change func(*pack.Frame)) (int64, error) {
	if compact && n == s.pos.Pack {
		return 0, fmt.Errorf("compact pack %08x: it is being written", n)
	}
	f, err := openPack(s.fs, s.archive, n, s.keyring(), os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.close()
	g := &packFile{head: f.head}
	g.epoch = s.keyring().Current(seal.PurposeEntry).Epoch
	if g.key, err = s.keyring().Epoch(seal.PurposeEntry, g.epoch); err != nil {
		return 0, err
	}
	keys, err := f.keys.Size()
	if err != nil {
		return 0, err
	}
	var out durable.File
	if compact {
		g.generation++
		if out, err = s.fs.OpenFile(g.head.dataName(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC); err != nil {
			return 0, err
		}
		defer out.Close()
	}
	b := g.head.encode()
	end := int64(0)
	for at := headSize; at < keys; {
		plain, err := f.padded(at)
		if err != nil {
			return 0, err
		}
		size, err := f.frameSize(at)
		if err != nil {
			return 0, err
		}
		frame, err := unpad(plain)
		if err != nil {
			return 0, fmt.Errorf("%s: frame at %d: %w", f.name, at, err)
		}
		if change != nil || compact {
			fr, err := pack.DecodeFrame(frame)
			if err != nil {
				return 0, fmt.Errorf("%s: frame at %d: %w", f.name, at, err)
			}
			if change != nil {
				change(fr)
			}
			if compact {
				if err := copyObjects(f, out, fr, &end); err != nil {
					return 0, err
				}
			}
			frame = fr.Encode()
		}
		if len(frame) > len(plain)-4 {
			return 0, fmt.Errorf("%s: frame at %d would grow", f.name, at)
		}
		b = append(b, g.sealFrame(at, frame, len(plain)-4)...)
		at += size
	}
	if compact {
		if err := errors.Join(out.Sync(), s.fs.SyncDir(path.Dir(f.name))); err != nil {
			return 0, err
		}
	}
	if err := durable.Replace(s.fs, f.name, b); err != nil {
		return 0, err
	}
	before := f.dataSize()
	s.mu.Lock()
	s.forget(n)
	s.frames.clear()
	s.mu.Unlock()
	if !compact {
		return 0, nil
	}
	if err := s.fs.Remove(f.dataName); err != nil {
		return 0, err
	}
	return before - end, s.fs.SyncDir(path.Dir(f.name))
}

func copyObjects(f *packFile, out durable.File, fr *pack.Frame, end *int64) error {
	fr.Entries = slices.DeleteFunc(fr.Entries, func(e pack.Entry) bool { return e.Erased() })
	for i := range fr.Entries {
		e := &fr.Entries[i]
		b := make([]byte, e.Sealed)
		if n, err := f.data.ReadAt(b, e.Offset); n < len(b) {
			return fmt.Errorf("%s: object %s: %w", f.dataName, e.ID, err)
		}
		if _, err := out.WriteAt(b, *end); err != nil {
			return err
		}
		e.Offset = *end
		*end += e.Sealed
	}
	return nil
}

// Garbage returns how many bytes of a pack belong to erased objects, of all.
func (s *Store) Garbage(n uint32) (garbage, size int64, err error) {
	f, err := openPack(s.fs, s.archive, n, s.keyring(), os.O_RDONLY)
	if err != nil {
		return 0, 0, err
	}
	defer f.close()
	keys, err := f.keys.Size()
	if err != nil {
		return 0, 0, err
	}
	for at := headSize; at < keys; {
		plain, err := f.frame(at)
		if err != nil {
			return 0, 0, err
		}
		fr, err := pack.DecodeFrame(plain)
		if err != nil {
			return 0, 0, err
		}
		for i := range fr.Entries {
			if fr.Entries[i].Erased() {
				garbage += fr.Entries[i].Sealed
			}
		}
		n, err := f.frameSize(at)
		if err != nil {
			return 0, 0, err
		}
		at += n
	}
	return garbage, f.dataSize(), nil
}

// Roll makes the next commit begin a new pack.
func (s *Store) Roll() { s.roll = true }

// SetRing gives the store a ring with other epochs.
func (s *Store) SetRing(r *seal.Ring) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ring = r
}
