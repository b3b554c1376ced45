package archive

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/letterhold/letterhold/internal/ledger"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
)

// Check tells whether the proof holds for raw: raw and salt give the
// commitment in the leaf, the leaf is in the tree of the checkpoint, and the
// checkpoint is signed by the key it names. Whoever has that key from
// elsewhere needs nothing of the archive.
func (p *Proof) Check(raw []byte) error {
	l, err := pack.DecodeLeaf(p.Record)
	if err != nil {
		return err
	}
	if l.Commitment != pack.Commit(l.Kind, p.Salt, seal.Sum(raw)) {
		return errors.New("the proof is of another message")
	}
	v, err := note.NewVerifier(p.Verifier)
	if err != nil {
		return err
	}
	n, err := note.Open(p.Checkpoint, note.VerifierList(v))
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	c, err := ledger.ParseCheckpoint(n.Text)
	if err != nil {
		return err
	}
	var hs tlog.RecordProof
	for _, h := range p.Inclusion {
		hs = append(hs, h)
	}
	return tlog.CheckRecord(hs, c.Size, c.Root, p.Leaf, tlog.RecordHash(p.Record))
}
