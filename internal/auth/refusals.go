package auth

import (
	"fmt"
	"slices"
	"time"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/catalog"
)

// refusalWindow is how long refusals of one account are gathered. The first is
// in the ledger at once, those that follow are one act when the window ends:
// whoever cannot sign in must not be able to fill the ledger.
const refusalWindow = time.Hour

const actRefused = "sign-in refused"

// refusals are those of one account within a window.
type refusals struct {
	who   string
	began time.Time
	last  time.Time
	more  int // beside the first
}

// refuse writes or counts the refusal of an account.
func (x *Auth) refuse(u *catalog.User) error {
	now := x.a.Now()
	if err := x.Settle(); err != nil {
		return err
	}
	x.mu.Lock()
	r, open := x.refused[u.ID]
	if open {
		r.more++
		r.last = now
	} else {
		r = refusals{who: u.Name, began: now}
	}
	x.refused[u.ID] = r
	x.mu.Unlock()
	if open {
		return nil
	}
	return x.a.Record(archive.Act{What: actRefused, Who: u.Name})
}

// Settle writes what was counted in windows that have ended. The server calls
// it now and then.
func (x *Auth) Settle() error {
	now := x.a.Now()
	return x.settle(func(_ int64, r refusals) bool { return now.Sub(r.began) >= refusalWindow })
}

// SettleAll writes everything that was counted, before the archive is closed.
func (x *Auth) SettleAll() error {
	return x.settle(func(int64, refusals) bool { return true })
}

func (x *Auth) settle(due func(id int64, r refusals) bool) error {
	x.mu.Lock()
	var rs []refusals
	for id, r := range x.refused {
		if due(id, r) {
			rs = append(rs, r)
			delete(x.refused, id)
		}
	}
	x.mu.Unlock()
	slices.SortFunc(rs, func(a, b refusals) int { return a.began.Compare(b.began) })
	for _, r := range rs {
		if r.more == 0 {
			continue
		}
		more := fmt.Sprintf("%d more until %s", r.more, r.last.UTC().Format(time.RFC3339))
		if err := x.a.Record(archive.Act{What: actRefused, Who: r.who, More: []string{more}}); err != nil {
			return err
		}
	}
	return nil
}
