package store

// frameCache keeps the plaintext of the frames read last. It is guarded by
// Store.mu.
type frameCache struct {
	size  int
	byAt  map[Place][]byte
	order []Place // oldest first
}

// maxFrameCache bounds the cache in bytes: about 40 full commits.
const maxFrameCache = 8 << 20

func newFrameCache() *frameCache { return &frameCache{byAt: map[Place][]byte{}} }

func (c *frameCache) get(at Place) ([]byte, bool) {
	b, ok := c.byAt[at]
	return b, ok
}

func (c *frameCache) put(at Place, b []byte) {
	for c.size+len(b) > maxFrameCache && len(c.order) > 0 {
		old := c.order[0]
		c.order = c.order[1:]
		c.size -= len(c.byAt[old])
		delete(c.byAt, old)
	}
	if len(b) <= maxFrameCache {
		c.byAt[at] = b
		c.order = append(c.order, at)
		c.size += len(b)
	}
}

func (c *frameCache) clear() { *c = *newFrameCache() }
