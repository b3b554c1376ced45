// Package server starts and stops what an archive needs: the archive itself,
// its index, its searcher, the local socket, and the doors.
package server

import (
	"cmp"
	"context"
	"errors"

	"github.com/letterhold/letterhold/internal/archive"
	"github.com/letterhold/letterhold/internal/auth"
	"github.com/letterhold/letterhold/internal/catalog"
	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/index"
	"github.com/letterhold/letterhold/internal/ingest"
	"github.com/letterhold/letterhold/internal/posture"
	"github.com/letterhold/letterhold/internal/seal"
	"github.com/letterhold/letterhold/internal/search"
	"github.com/letterhold/letterhold/internal/target"
	"github.com/letterhold/letterhold/internal/upload"
)

// Credential is the name of the systemd credential that holds a key file.
const Credential = "letterhold.key"

// Opened is an archive that this process owns, with what follows it.
type Opened struct {
	Dir     string
	Archive *archive.Archive
	Index   *index.Index
	Search  *search.Searcher
	Runner  *ingest.Runner
	Targets *target.Runner

	// Link makes a one-time link that makes an account; nil without a server.
	Link func(mailbox int64) (string, error)

	life    context.Context // ends when a server stops
	keyFile string          // that a server knows
	oldTLS  bool            // of the journal listener
	uploads *upload.Uploads // nil without a server
	folder  *durable.Folder
	unlock  func() error
}

// OpenArchive takes the archive in dir for this process and opens it with the
// secret.
func OpenArchive(dir string, secret func() (seal.Secret, error), o archive.Options) (_ *Opened, err error) {
	if err := archive.Look(dir); err != nil {
		return nil, err
	}
	x := &Opened{Dir: dir}
	if x.unlock, err = archive.Lock(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			x.Close()
		}
	}()
	if x.folder, err = durable.OpenFolder(dir); err != nil {
		return nil, err
	}
	s, err := secret()
	if err != nil {
		return nil, err
	}
	ring, _, err := archive.Unlock(x.folder, s)
	if err != nil {
		return nil, err
	}
	if x.Archive, err = archive.Open(x.folder, ring, o); err != nil {
		return nil, err
	}
	if x.Index, err = index.Open(x.Archive); err != nil {
		return nil, err
	}
	x.Search = search.New(x.Archive, x.Index)
	x.Runner = ingest.NewRunner(x.Archive)
	x.Targets = target.NewRunner(x.Archive, x.find)
	x.Targets.Token = x.Runner.Token
	return x, nil
}

// find walks the hits of a target's query among all mail.
func (x *Opened) find(ctx context.Context, query string, fn func(catalog.Hit) error) error {
	if err := x.Index.Wait(ctx); err != nil {
		return err
	}
	return x.Search.Each(ctx, search.Request{Query: query, Scope: catalog.Scope{All: true}}, fn)
}

// Posture looks for what is weaker than it should be. keyFile is "" if only the
// server may know it.
func (x *Opened) Posture(ctx context.Context, keyFile string) (*posture.Report, error) {
	keyFile = cmp.Or(keyFile, x.keyFile)
	around := posture.Around{Dir: x.Dir, KeyFile: keyFile, SameDisk: keyFile != "" && sameDevice(x.Dir, keyFile)}
	// A short command ends before anything is swapped.
	around.Swappable = x.life != nil && Swappable()
	around.OldTLS = x.oldTLS
	if err := x.Archive.State().View(ctx, func(v catalog.View) (err error) {
		around.Passwords, err = v.WithRole(auth.RoleAdministrator)
		return err
	}); err != nil {
		return nil, err
	}
	return posture.Look(ctx, x.Archive, x.Index, around)
}

// Lifetime is the context of what goes on when a command line has ended.
func (x *Opened) Lifetime() context.Context {
	if x.life == nil {
		return context.Background()
	}
	return x.life
}

// RebuildIndex removes the index and makes it again under a fresh key.
func (x *Opened) RebuildIndex(who string) error {
	if err := x.Index.Close(); err != nil {
		return err
	}
	if err := x.Archive.RenewIndex(who); err != nil {
		return err
	}
	var err error
	if x.Index, err = index.Open(x.Archive); err != nil {
		return err
	}
	x.Search = search.New(x.Archive, x.Index)
	return nil
}

// Close closes everything in the right order.
func (x *Opened) Close() (err error) {
	if x.uploads != nil {
		x.uploads.Close()
	}
	if x.Runner != nil {
		x.Runner.Close()
	}
	if x.Targets != nil {
		x.Targets.Close()
	}
	if x.Index != nil {
		err = x.Index.Close()
	}
	if x.Archive != nil {
		err = errors.Join(err, x.Archive.Close())
	}
	if x.folder != nil {
		err = errors.Join(err, x.folder.Close())
	}
	if x.unlock != nil {
		err = errors.Join(err, x.unlock())
	}
	return err
}
