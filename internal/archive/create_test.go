package archive

import (
	"errors"
	"testing"

	"github.com/letterhold/letterhold/internal/durable"
	"github.com/letterhold/letterhold/internal/durable/crashfs"
	"github.com/letterhold/letterhold/internal/seal"
)

// An archive whose making is stopped anywhere, by a kill or a power cut, is made
// by the next try; it is never taken for an archive before.
func TestCreateAfterAStop(t *testing.T) {
	secret := seal.NewKeyFile()
	build := func(d *crashfs.FS) error {
		_, err := Create(d, testOptions(), func(k *seal.KeyFile, r *seal.Ring) error {
			s, err := seal.ParseKeyFile(seal.KindKeyFile, secret)
			if err == nil {
				_, err = k.AddSlot(r, s, "", seal.Cost{}, testOptions().Now())
			}
			return err
		})
		return err
	}
	everyStop(t, 1, build, crashfs.New(), func(k int) error {
		for _, cut := range []bool{false, true} {
			d := crashfs.New()
			d.StopAt(k)
			if build(d) == nil {
				continue
			}
			after := d.Copy()
			if cut {
				after = d.Crash(uint64(k))
			}
			if there, err := durable.Exists(after, aboutName); err != nil || there {
				s, _ := seal.ParseKeyFile(seal.KindKeyFile, secret)
				ring, _, err2 := Unlock(after, s)
				if err := errors.Join(err, err2); err != nil {
					return err
				}
				if err := clean(after, ring); err != nil {
					return err
				}
				continue
			}
			if err := build(after); err != nil {
				return err
			}
		}
		return nil
	})
}

// A folder with anything of somebody else in it is refused, also beside what is
// left of an interrupted creation.
func TestVacant(t *testing.T) {
	put := func(names ...string) *crashfs.FS {
		d := crashfs.New()
		for _, n := range names {
			if err := durable.WriteNew(d, n, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		return d
	}
	for _, ok := range [][]string{{}, {"lock"}, {makingName, "state.db", "state.db-wal", "keys.json.tmp", "lock"}} {
		if err := Vacant(put(ok...)); err != nil {
			t.Errorf("%v: %v", ok, err)
		}
	}
	for _, no := range [][]string{{"mail.mbox"}, {"state.db"}, {"keys.json"}, {makingName, "mail.mbox"}, {makingName, aboutName}, {aboutName}} {
		if err := Vacant(put(no...)); !errors.Is(err, ErrExists) {
			t.Errorf("%v: %v", no, err)
		}
	}
}
