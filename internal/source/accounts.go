package source

import (
	"context"
	"errors"
	"strings"

	"github.com/letterhold/letterhold/internal/imapclient"
	"github.com/letterhold/letterhold/internal/tlsconf"
)

// Accounts are several accounts of one server, read one after the other. Marks
// and places begin with the account's name. One that fails is an item of its own
// that failed; the others are read all the same.
type Accounts []Account

// Account is one of them.
type Account struct {
	Name   string
	Source Source
}

// maxUnreached is how many accounts in a row may fail before anybody signs in:
// then it is the server that is not there.
const maxUnreached = 3

// Walk implements Source.
func (as Accounts) Walk(ctx context.Context, marks Marks, yield func(Item) bool) error {
	var later error
	unreached := 0
	for _, a := range as {
		err := a.walk(ctx, marks, yield)
		switch {
		case err == nil:
			unreached = 0
			continue
		case errors.Is(err, errStop):
			return nil
		case ctx.Err() != nil:
			return err
		case errors.Is(err, imapclient.ErrLater):
			later = err // the limit is the account's
			continue
		}
		if !beforeSignIn(err) {
			unreached = 0
		} else if unreached++; unreached >= min(maxUnreached, len(as)) {
			return err
		}
		if !yield(Item{Account: a.Name, Where: a.Name, Err: err}) {
			return nil
		}
	}
	return later
}

func (a *Account) walk(ctx context.Context, marks Marks, yield func(Item) bool) error {
	prefix := a.prefix()
	own := Marks{}
	for key, value := range marks {
		if k, ok := strings.CutPrefix(key, prefix); ok {
			own[k] = value
		}
	}
	stopped := false
	err := a.Source.Walk(ctx, own, func(i Item) bool {
		i.Account, i.Where = a.Name, a.Where(i.Where)
		if i.Mark.Key != "" {
			i.Mark.Key = prefix + i.Mark.Key
		}
		stopped = !yield(i)
		return !stopped
	})
	if stopped {
		return errStop
	}
	return err
}

// prefix of the keys of marks; names hold no line ends.
func (a *Account) prefix() string { return a.Name + "\n" }

// Where is a place of the account among those of all; with "" it is what they
// begin with.
func (a *Account) Where(where string) string { return a.Name + ": " + where }

// beforeSignIn tells an error of the server, not of the account.
func beforeSignIn(err error) bool {
	var step *tlsconf.StepError
	return errors.As(err, &step) && (step.Step == tlsconf.StepDNS || step.Step == tlsconf.StepTCP || step.Step == tlsconf.StepTLS)
}
