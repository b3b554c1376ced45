package archive

import (
	"bytes"
	"fmt"

	"github.com/letterhold/letterhold/internal/message"
	"github.com/letterhold/letterhold/internal/pack"
	"github.com/letterhold/letterhold/internal/seal"
)

// partSize is the length in bytes from which a leaf part is an object of its
// own, so that it is stored once however many messages carry it.
const partSize = 8 << 10

// piece is a large part that was taken out of a message.
type piece struct {
	id      seal.ID
	sum     [32]byte
	content []byte
}

// split takes the large parts out of a message. The first text body stays,
// whatever its size: a plain text mail is one object.
func split(m *message.Message, ids seal.IDs) (pack.Skeleton, []piece) {
	var k pack.Skeleton
	var pieces []piece
	at := 0
	text := func(to int) {
		if to > at {
			k = append(k, pack.Segment{Text: m.Raw[at:to]})
		}
		at = to
	}
	first := true
	m.Leaves(func(p *message.Part) {
		body := m.BodyOf(p)
		if first && (p.Type == "text/plain" || p.Type == "text/html") {
			first = false
			if p.Encoding != "base64" {
				return
			}
		} else if len(body) < partSize && p.Encoding != "base64" {
			return
		}
		seg := pack.Segment{Text: body}
		if p.Encoding == "base64" {
			if plain, form, ok := pack.DecodeBase64(body); ok {
				seg.Text, seg.Base64 = plain, form
			}
		}
		if len(body) < partSize && seg.Base64 == nil || len(body) == 0 {
			return
		}
		text(p.Body)
		at = p.End
		if len(body) >= partSize {
			pc := piece{sum: seal.Sum(seg.Text), content: seg.Text}
			pc.id = ids.Of(seal.TypePart, pc.sum)
			pieces = append(pieces, pc)
			seg = pack.Segment{Object: pc.id, Size: int64(len(pc.content)), Base64: seg.Base64}
		}
		k = append(k, seg)
	})
	text(len(m.Raw))
	return k, pieces
}

// rebuilds tells whether the encoded skeleton and the pieces give raw again.
// Base64 bodies were compared when they were decoded (pack.DecodeBase64).
func rebuilds(encoded []byte, pieces []piece, raw []byte) error {
	k, err := pack.DecodeSkeleton(encoded)
	if err != nil {
		return err
	}
	for i := range k {
		content := k[i].Text
		if k[i].Size > 0 {
			if len(pieces) == 0 || pieces[0].id != k[i].Object {
				return fmt.Errorf("part %d is not where it belongs", i)
			}
			content, pieces = pieces[0].content, pieces[1:]
		}
		n := len(content)
		if f := k[i].Base64; f != nil {
			n = f.EncodedLen(len(content))
		} else if n > len(raw) || !bytes.Equal(content, raw[:n]) {
			return fmt.Errorf("segment %d does not rebuild", i)
		}
		if n > len(raw) {
			return fmt.Errorf("segment %d is too long", i)
		}
		raw = raw[n:]
	}
	if len(raw) > 0 {
		return fmt.Errorf("%d bytes are missing at the end", len(raw))
	}
	return nil
}

// join rebuilds a message of size bytes from its skeleton.
func join(k pack.Skeleton, size int64, load func(seal.ID) ([]byte, error)) ([]byte, error) {
	if size > MaxMessage {
		return nil, fmt.Errorf("message of %d bytes: %w", size, ErrDamaged)
	}
	raw := make([]byte, 0, size)
	for i := range k {
		content := k[i].Text
		if k[i].Size > 0 {
			var err error
			if content, err = load(k[i].Object); err != nil {
				return nil, err
			}
		}
		if k[i].Base64 != nil {
			raw = pack.AppendBase64(raw, content, k[i].Base64)
		} else {
			raw = append(raw, content...)
		}
	}
	return raw, nil
}
