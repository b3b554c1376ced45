// Package ledger is an append-only Merkle log (RFC 6962, 2.1) in files: tiles
// of 256 hashes in the layout of C2SP tlog-tiles, entry bundles, and a signed
// checkpoint (C2SP tlog-checkpoint).
//
// A leaf counts once a checkpoint covers it. Tiles beyond the checkpoint are
// an unfinished append and are written anew. The ledger knows nothing of what
// its leaves mean; whoever appends keeps their content and can append it again.
package ledger

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/seal"
)

// ErrDamaged is wrapped by every error that says: the ledger is not what was
// written.
var ErrDamaged = errors.New("ledger damaged")

const (
	dir            = "ledger"
	checkpointName = dir + "/checkpoint"
	// width is the number of hashes in a full tile (tlog-tiles: height 8).
	width = 256
	// maxCheckpoint bounds what is read of a checkpoint, in bytes.
	maxCheckpoint = 64 << 10
)

// Checkpoint is a signed statement: this many leaves have this root hash. The
// extension says what else held at that moment.
type Checkpoint struct {
	Origin    string
	Size      int64
	Root      tlog.Hash
	Extension []string // lines without line end
}

func (c Checkpoint) text() string {
	s := c.Origin + "\n" + strconv.FormatInt(c.Size, 10) + "\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
	for _, l := range c.Extension {
		s += l + "\n"
	}
	return s
}

// Signer signs and checks checkpoints of one archive.
type Signer struct {
	origin string
	signer note.Signer
	// Verifier is the public key in note's form, for whoever keeps checkpoints.
	Verifier string
	check    note.Verifier
}

// NewSigner makes the signer from the ledger's key, the seed of an Ed25519 key.
func NewSigner(origin string, seed seal.Key) (*Signer, error) {
	pub := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
	verifier, err := note.NewEd25519VerifierKey(origin, pub)
	if err != nil {
		return nil, err
	}
	hash := strings.Split(verifier, "+")[1]
	secret := append([]byte{1}, seed[:]...) // algorithm 1 is Ed25519
	signer, err := note.NewSigner("PRIVATE+KEY+" + origin + "+" + hash + "+" + base64.StdEncoding.EncodeToString(secret))
	if err != nil {
		return nil, errors.New("the ledger's key is not usable") // the error would show the key
	}
	check, err := note.NewVerifier(verifier)
	if err != nil {
		return nil, err
	}
	return &Signer{origin, signer, verifier, check}, nil
}

// Sign returns the signed note of a checkpoint.
func (s *Signer) Sign(c Checkpoint) ([]byte, error) {
	c.Origin = s.origin
	return note.Sign(&note.Note{Text: c.text()}, s.signer)
}

// Open checks the signature of a checkpoint and reads it. Only the very bytes
// that Sign writes are accepted: Ed25519 is deterministic.
func (s *Signer) Open(b []byte) (Checkpoint, error) {
	n, err := note.Open(b, note.VerifierList(s.check))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w: %v", ErrDamaged, err)
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return c, err
	}
	if again, err := s.Sign(c); err != nil || c.Origin != s.origin || !bytes.Equal(again, b) {
		return c, fmt.Errorf("checkpoint: %w: not as it was signed", ErrDamaged)
	}
	return c, nil
}

// ParseCheckpoint reads the text of a checkpoint whose signature was checked.
func ParseCheckpoint(text string) (c Checkpoint, err error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) < 3 {
		return c, fmt.Errorf("checkpoint: %w: %d lines", ErrDamaged, len(lines))
	}
	c.Origin = lines[0]
	c.Size, err = strconv.ParseInt(lines[1], 10, 64)
	if err != nil || c.Size < 0 {
		return c, fmt.Errorf("checkpoint: %w: size %q", ErrDamaged, lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != len(c.Root) {
		return c, fmt.Errorf("checkpoint: %w: root %q", ErrDamaged, lines[2])
	}
	c.Root = tlog.Hash(root)
	c.Extension = slices.Clip(lines[3:])
	return c, nil
}

// Ledger is an open ledger. It is for one writer at a time.
type Ledger struct {
	fs     durable.FS
	signer *Signer
	tip    Checkpoint
	// edge[l] holds the hashes of the unfinished tile of level l.
	edge    [][]tlog.Hash
	bundle  []byte // the unfinished entry bundle
	size    int64
	synced  map[string]bool // folders that are known to be durable
	partial []string        // partial tiles that the last checkpoint covers
}

// Create makes an empty ledger with its first checkpoint.
func Create(d durable.FS, s *Signer, extension []string) (*Ledger, error) {
	if err := d.MkdirAll(dir); err != nil {
		return nil, err
	}
	l := &Ledger{fs: d, signer: s, synced: map[string]bool{}}
	return l, l.Sign(extension)
}

// Open reads the checkpoint and the unfinished tiles below it, and compares
// their root with the checkpoint's. What lies beyond is ignored.
func Open(d durable.FS, s *Signer) (*Ledger, error) {
	b, err := durable.ReadFile(d, checkpointName, maxCheckpoint)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	l := &Ledger{fs: d, signer: s, synced: map[string]bool{}}
	if l.tip, err = s.Open(b); err != nil {
		return nil, err
	}
	l.size = l.tip.Size
	n := l.size
	for level := 0; n > 0; level++ {
		if w := int(n % width); w > 0 {
			name := tileName(level, n/width, w)
			t, err := durable.ReadFile(d, name, width*tlog.HashSize)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			hs, err := splitTile(t, w)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			l.setEdge(level, hs)
			l.partial = append(l.partial, name)
		} else {
			l.setEdge(level, nil)
		}
		n /= width
	}
	if w := int(l.size % width); w > 0 {
		name := bundleName(l.size/width, w)
		if l.bundle, err = durable.ReadFile(d, name, 1<<20); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		leaves, err := splitBundle(l.bundle)
		if err != nil || len(leaves) != w {
			return nil, fmt.Errorf("%s: %w", name, ErrDamaged)
		}
		for i, leaf := range leaves {
			if tlog.RecordHash(leaf) != l.edge[0][i] {
				return nil, fmt.Errorf("%s: leaf %d does not match its hash: %w", name, i, ErrDamaged)
			}
		}
		l.partial = append(l.partial, name)
	}
	if root := l.Root(); root != l.tip.Root {
		return nil, fmt.Errorf("%w: the tiles' root hash is %s, the checkpoint says %s", ErrDamaged, root, l.tip.Root)
	}
	return l, nil
}

// Checkpoint is the last signed one.
func (l *Ledger) Checkpoint() Checkpoint { return l.tip }

// Size is the number of leaves, signed or not.
func (l *Ledger) Size() int64 { return l.size }

// Signed returns the bytes of the last checkpoint as signed.
func (l *Ledger) Signed() ([]byte, error) { return l.signer.Sign(l.tip) }

func (l *Ledger) setEdge(level int, hs []tlog.Hash) {
	for len(l.edge) <= level {
		l.edge = append(l.edge, nil)
	}
	l.edge[level] = hs
}

// Root is the Merkle tree hash over all leaves (RFC 6962, 2.1).
func (l *Ledger) Root() tlog.Hash {
	if l.size == 0 {
		h, err := tlog.TreeHash(0, nil)
		if err != nil {
			panic(err) // the hash of nothing
		}
		return h
	}
	var root tlog.Hash
	have := false
	for _, hs := range l.edge {
		// The subtrees of a level are perfect and, from the right, growing.
		for _, h := range slices.Backward(perfect(hs)) {
			if have {
				root = tlog.NodeHash(h, root)
			} else {
				root, have = h, true
			}
		}
	}
	return root
}

// perfect returns the roots of the perfect subtrees that hs falls into, left
// to right.
func perfect(hs []tlog.Hash) []tlog.Hash {
	var roots []tlog.Hash
	for len(hs) > 0 {
		n := 1
		for 2*n <= len(hs) {
			n *= 2
		}
		roots = append(roots, subtree(hs[:n]))
		hs = hs[n:]
	}
	return roots
}

func subtree(hs []tlog.Hash) tlog.Hash {
	if len(hs) == 1 {
		return hs[0]
	}
	return tlog.NodeHash(subtree(hs[:len(hs)/2]), subtree(hs[len(hs)/2:]))
}

// Append adds leaves and makes their tiles durable. They count only after
// Sign. After an error the ledger is as before and may be appended to again.
func (l *Ledger) Append(leaves [][]byte) error {
	edge, bundle, size := cloneEdge(l.edge), slices.Clone(l.bundle), l.size
	files := map[string][]byte{}
	for _, leaf := range leaves {
		if len(leaf) > 1<<16-1 {
			return fmt.Errorf("a leaf of %d bytes", len(leaf))
		}
		l.add(leaf, files)
	}
	l.unfinished(files)
	if err := l.write(files); err != nil {
		l.edge, l.bundle, l.size = edge, bundle, size
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// add appends a leaf in memory and puts the files that it completes in files.
func (l *Ledger) add(leaf []byte, files map[string][]byte) {
	l.bundle = binary.BigEndian.AppendUint16(l.bundle, uint16(len(leaf)))
	l.bundle = append(l.bundle, leaf...)
	l.size++
	if l.size%width == 0 {
		files[bundleName(l.size/width-1, 0)] = l.bundle
		l.bundle = nil
	}
	l.push(0, tlog.RecordHash(leaf), files)
}

// unfinished puts the partial tiles and the partial bundle in files.
func (l *Ledger) unfinished(files map[string][]byte) {
	if len(l.bundle) > 0 {
		files[bundleName(l.size/width, int(l.size%width))] = l.bundle
	}
	n := l.size
	for level := range l.edge {
		if w := len(l.edge[level]); w > 0 {
			files[tileName(level, n/width, w)] = joinTile(l.edge[level])
		}
		n /= width
	}
}

func cloneEdge(e [][]tlog.Hash) [][]tlog.Hash {
	c := make([][]tlog.Hash, len(e))
	for i := range e {
		c[i] = slices.Clone(e[i])
	}
	return c
}

func (l *Ledger) push(level int, h tlog.Hash, files map[string][]byte) {
	if level == len(l.edge) {
		l.edge = append(l.edge, nil)
	}
	l.edge[level] = append(l.edge[level], h)
	if len(l.edge[level]) < width {
		return
	}
	full := l.edge[level]
	l.edge[level] = nil
	n := l.size
	for range level {
		n /= width
	}
	files[tileName(level, n/width-1, 0)] = joinTile(full)
	l.push(level+1, subtree(full), files)
}

func (l *Ledger) write(files map[string][]byte) error {
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	dirs := map[string]bool{}
	for _, n := range names {
		if slices.Contains(l.partial, n) {
			// The checkpoint covers it: the same hashes are there already, and
			// a crash between emptying and writing it would lose them.
			continue
		}
		d := path.Dir(n)
		if !l.synced[d] {
			if err := l.fs.MkdirAll(d); err != nil {
				return err
			}
			for p := path.Dir(d); p != "."; p = path.Dir(p) {
				dirs[p] = true
			}
		}
		dirs[d] = true
		if err := durable.WriteNew(l.fs, n, files[n]); err != nil {
			return err
		}
	}
	for d := range dirs {
		if err := l.fs.SyncDir(d); err != nil {
			return err
		}
	}
	for d := range dirs {
		l.synced[d] = true
	}
	return nil
}

// Sign makes a checkpoint over all leaves durable, then removes the partial
// tiles that it made useless. That one of them cannot be removed is no error.
func (l *Ledger) Sign(extension []string) error {
	c := Checkpoint{Origin: l.signer.origin, Size: l.size, Root: l.Root(), Extension: extension}
	b, err := l.signer.Sign(c)
	if err != nil {
		return err
	}
	if err := durable.Replace(l.fs, checkpointName, b); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	l.tip = c
	now := l.partials()
	keep := slices.Clone(now)
	for _, name := range l.partial {
		if slices.Contains(now, name) {
			continue
		}
		if err := l.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			keep = append(keep, name) // the next checkpoint tries again
			continue
		}
		delete(l.synced, path.Dir(name))
		l.removeEmpty(path.Dir(name))
	}
	l.partial = keep
	return nil
}

// removeEmpty removes the folder of partial tiles once it is empty; that it
// stays is no error.
func (l *Ledger) removeEmpty(d string) {
	if es, err := l.fs.ReadDir(d); err == nil && len(es) == 0 {
		l.fs.Remove(d)
	}
}

// partials names the partial tiles that belong to the present size.
func (l *Ledger) partials() (names []string) {
	n := l.size
	for level := 0; n > 0; level++ {
		if w := int(n % width); w > 0 {
			names = append(names, tileName(level, n/width, w))
		}
		n /= width
	}
	if w := int(l.size % width); w > 0 {
		names = append(names, bundleName(l.size/width, w))
	}
	return names
}

// Rebuild computes the files of a ledger from its leaves, one after the other.
type Rebuild struct {
	l  Ledger
	fn func(name string, data []byte) error
}

// NewRebuild calls fn for each file once it is complete.
func NewRebuild(fn func(name string, data []byte) error) *Rebuild { return &Rebuild{fn: fn} }

// Add adds a leaf.
func (r *Rebuild) Add(leaf []byte) error {
	files := map[string][]byte{}
	r.l.add(leaf, files)
	return r.emit(files)
}

// Finish emits the unfinished tiles and returns the root hash.
func (r *Rebuild) Finish() (tlog.Hash, error) {
	files := map[string][]byte{}
	r.l.unfinished(files)
	return r.l.Root(), r.emit(files)
}

// Size is the number of leaves so far.
func (r *Rebuild) Size() int64 { return r.l.size }

func (r *Rebuild) emit(files map[string][]byte) error {
	for n, b := range files {
		if err := r.fn(n, b); err != nil {
			return err
		}
	}
	return nil
}

// tileName is C2SP tlog-tiles' path of a tile of w hashes (0: full).
func tileName(level int, n int64, w int) string {
	return dir + "/tile/" + strconv.Itoa(level) + "/" + index(n) + suffix(w)
}

func bundleName(n int64, w int) string { return dir + "/tile/entries/" + index(n) + suffix(w) }

func suffix(w int) string {
	if w == 0 {
		return ""
	}
	return ".p/" + strconv.Itoa(w)
}

// index writes n in groups of three digits, all but the last with an "x".
func index(n int64) string {
	s := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		s = fmt.Sprintf("x%03d/%s", n%1000, s)
	}
	return s
}

func joinTile(hs []tlog.Hash) []byte {
	b := make([]byte, 0, len(hs)*tlog.HashSize)
	for _, h := range hs {
		b = append(b, h[:]...)
	}
	return b
}

func splitTile(b []byte, w int) ([]tlog.Hash, error) {
	if len(b) != w*tlog.HashSize {
		return nil, fmt.Errorf("a tile of %d hashes has %d bytes: %w", w, len(b), ErrDamaged)
	}
	hs := make([]tlog.Hash, w)
	for i := range hs {
		hs[i] = tlog.Hash(b[i*tlog.HashSize:])
	}
	return hs, nil
}

func splitBundle(b []byte) ([][]byte, error) {
	var leaves [][]byte
	for len(b) > 0 {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return nil, ErrDamaged
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		leaves = append(leaves, b[2:n])
		b = b[n:]
	}
	return leaves, nil
}

// read loads a whole tile of the present tree.
func (l *Ledger) read(level int, n int64) ([]tlog.Hash, error) {
	size := l.tip.Size
	for range level {
		size /= width
	}
	w := int(min(width, size-n*width))
	name := tileName(level, n, w%width)
	f, err := l.fs.OpenFile(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, w*tlog.HashSize)
	if k, err := f.ReadAt(b, 0); k < len(b) {
		return nil, fmt.Errorf("%s: %w: %v", name, ErrDamaged, err)
	}
	return splitTile(b, w)
}

// ReadHashes implements tlog.HashReader over the tiles of the checkpoint.
func (l *Ledger) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		level, n := tlog.SplitStoredHashIndex(x)
		tile := level / 8
		first := n << (level % 8) // at the tile's own level
		hs, err := l.read(tile, first/width)
		if err != nil {
			return nil, err
		}
		at := first % width
		if end := at + 1<<(level%8); end > int64(len(hs)) {
			return nil, fmt.Errorf("hash %d of level %d is beyond the tree: %w", n, level, ErrDamaged)
		} else {
			out[i] = subtree(hs[at:end])
		}
	}
	return out, nil
}

// Inclusion proves that leaf n is in the tree of the checkpoint.
func (l *Ledger) Inclusion(n int64) (tlog.RecordProof, error) {
	return tlog.ProveRecord(l.tip.Size, n, l)
}

// Consistency proves that the tree of old leaves is a prefix of the
// checkpoint's.
func (l *Ledger) Consistency(old int64) (tlog.TreeProof, error) {
	return tlog.ProveTree(l.tip.Size, old, l)
}

// RootAt is the root hash that the first n leaves had.
func (l *Ledger) RootAt(n int64) (tlog.Hash, error) { return tlog.TreeHash(n, l) }

// Clean removes files that belong to no tile of the present tree: what an
// append that never got its checkpoint left behind.
func (l *Ledger) Clean() error {
	strays, err := l.Strays()
	if err != nil {
		return err
	}
	for _, name := range strays {
		if !ours.MatchString(name) {
			continue // somebody else's: verify names it
		}
		if err := l.fs.Remove(name); err != nil {
			return err
		}
		l.removeEmpty(path.Dir(name))
	}
	return nil
}

// ours are the names of tiles, whole and partial, and of what was to be renamed
// to one (C2SP tlog-tiles).
var ours = regexp.MustCompile(`^ledger/(checkpoint|tile/(entries|[0-9]+)(/x?[0-9]{3})+(\.p/[0-9]+)?)(\.tmp)?$`)

// Strays lists files in ledger/ that the checkpoint does not need.
func (l *Ledger) Strays() ([]string, error) {
	var out []string
	now := l.partials()
	err := durable.Files(l.fs, dir, func(name string, _ int64) error {
		if name == checkpointName || slices.Contains(now, name) || l.full(name) {
			return nil
		}
		out = append(out, name)
		return nil
	})
	return out, err
}

// full tells whether name is a full tile or bundle of the present tree.
func (l *Ledger) full(name string) bool {
	rest, ok := strings.CutPrefix(name, dir+"/tile/")
	if !ok || strings.Contains(rest, ".p") {
		return false
	}
	kind, idx, _ := strings.Cut(rest, "/")
	n, err := strconv.ParseInt(strings.NewReplacer("x", "", "/", "").Replace(idx), 10, 64)
	if err != nil || index(n) != idx {
		return false
	}
	size := l.tip.Size
	if kind != "entries" {
		level, err := strconv.Atoi(kind)
		if err != nil || level < 0 || level > 8 {
			return false
		}
		for range level {
			size /= width
		}
	}
	return n < size/width
}
