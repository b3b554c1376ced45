package archive

import (
	"context"
	"sync"
	"time"
)

// Bounds of one commit.
const (
	maxCommit      = 1000            // messages
	maxCommitBytes = 16 << 20        // prepared bytes after which a commit starts
	maxCommitWait  = 1 * time.Second // that a message waits for company
)

// queue gathers prepared messages and commits them in groups. A commit starts
// when somebody waits, when the group is full, or after a second.
type queue struct {
	a      *Archive
	mu     sync.Mutex
	wake   *sync.Cond
	group  []*prepared
	bytes  int
	since  time.Time
	urgent bool
	closed bool
	busy   bool
	ended  chan struct{}
}

func newQueue(a *Archive) *queue {
	q := &queue{a: a, ended: make(chan struct{})}
	q.wake = sync.NewCond(&q.mu)
	go q.run()
	return q
}

// put adds a message; it waits while a full group is waiting already.
func (q *queue) put(ctx context.Context, p *prepared) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { q.mu.Lock(); q.wake.Broadcast(); q.mu.Unlock() })
	defer stop()
	for (len(q.group) >= maxCommit || q.bytes >= maxCommitBytes) && !q.closed && ctx.Err() == nil {
		q.wake.Wait()
	}
	if q.closed {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(q.group) == 0 {
		q.since = time.Now()
		time.AfterFunc(maxCommitWait, func() { q.mu.Lock(); q.wake.Broadcast(); q.mu.Unlock() })
	}
	q.group = append(q.group, p)
	q.bytes += p.footprint()
	q.wake.Broadcast()
	return nil
}

// hurry starts a commit with what is there.
func (q *queue) hurry() {
	q.mu.Lock()
	q.urgent = true
	q.wake.Broadcast()
	q.mu.Unlock()
}

func (q *queue) flush(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { q.mu.Lock(); q.wake.Broadcast(); q.mu.Unlock() })
	defer stop()
	for (len(q.group) > 0 || q.busy) && ctx.Err() == nil {
		q.urgent = true
		q.wake.Broadcast()
		q.wake.Wait()
	}
	return ctx.Err()
}

// close commits what is there and waits for it.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.wake.Broadcast()
	q.mu.Unlock()
	<-q.ended
}

func (q *queue) due() bool {
	return len(q.group) > 0 && (q.urgent || q.closed || len(q.group) >= maxCommit || q.bytes >= maxCommitBytes || time.Since(q.since) >= maxCommitWait)
}

func (q *queue) run() {
	defer close(q.ended)
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for !q.due() {
			if q.closed {
				return
			}
			q.wake.Wait()
		}
		group := q.group
		q.group, q.bytes, q.urgent, q.busy = nil, 0, false, true
		q.wake.Broadcast()
		q.mu.Unlock()
		q.a.commitGroup(group)
		q.mu.Lock()
		q.busy = false
		q.wake.Broadcast()
	}
}
