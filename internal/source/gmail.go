package source

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/letterhold/letterhold/internal/imapclient"
)

// Gmail shows a message in a folder for each of its labels, and once more in
// that of all mail. It is read there alone, with its labels as occurrences:
// read in each folder, it would be fetched as often, and count against a limit
// of bytes a day (Gmail's X-GM-EXT-1).

// allMail narrows the folders to that of all mail, if the server is such a one
// and the folder is collected.
func (w *imapWalk) allMail(folders []imapclient.Folder) []imapclient.Folder {
	if w.c == nil || !w.c.Has("X-GM-EXT-1") {
		return folders
	}
	for i := range folders {
		f := &folders[i]
		if f.Has(`\All`) && w.Filter.Why(f.Path(), f.Attrs, f.Shared) == "" {
			w.note("folder %q has the messages of all others: their labels are kept", f.Path())
			w.all = f.Name
			return folders[i : i+1]
		}
	}
	return folders
}

// labels returns the folders that a message's labels stand for, or why it is
// left out. What is excluded is a label, and the message once no other is left.
func (w *imapWalk) labels(f *imapclient.Folder, labels []string) (folders []string, why string) {
	rule := Filter{Exclude: w.Filter.Exclude}
	named, kept := 0, 0
	var marks []string // what no folder stands for
	for _, l := range labels {
		var uses []string
		switch strings.ToLower(l) {
		case `\inbox`:
			l = "INBOX"
		case `\draft`, `\drafts`:
			return nil, `its use is \Drafts`
		case `\trash`, `\junk`, `\spam`:
			uses = []string{`\Trash`}
		case `\important`, `\starred`:
			if l = strings.TrimPrefix(l, `\`); rule.Why(l, nil, false) == "" {
				marks = append(marks, l)
			}
			continue
		}
		lf := imapclient.Folder{Name: strings.TrimPrefix(l, `\`), Delim: "/"}
		named++
		if reason := rule.Why(lf.Path(), uses, false); reason != "" {
			why = fmt.Sprintf("label %q: %s", lf.Path(), reason)
			continue
		}
		kept++
		folders = append(folders, lf.Path())
	}
	if named > 0 && kept == 0 {
		return nil, why
	}
	if folders = append(folders, marks...); len(folders) == 0 {
		folders = []string{f.Path()}
	}
	slices.Sort(folders)
	return slices.Compact(folders), ""
}

// relabel yields again the messages, up to the mark, that have labels now which
// the archive does not know. That something changed is told by MODSEQ
// (RFC 7162, 3.1.4.1); flags that changed cost a line each.
func (w *imapWalk) relabel(f *imapclient.Folder, p place, st imapclient.Status) error {
	if w.all != f.Name || w.Known == nil || p.last == 0 || st.ModSeq <= p.modseq || st.Exists == 0 {
		return nil
	}
	var uids []uint32
	err := w.c.Changed(p.last, max(p.modseq, 1), func(m *imapclient.Message) error {
		folders, why := w.labels(f, m.Labels)
		if why == "" && !w.done[w.strike(m.UID)] && !w.Known(m.Header, m.Size, folders) {
			uids = append(uids, m.UID)
		}
		return nil
	})
	if errors.Is(err, imapclient.ErrRefused) {
		w.note("folder %q: changed labels are not told: %v", f.Path(), err)
		return nil
	}
	if err != nil {
		return err
	}
	slices.Sort(uids)
	return w.fetch(f, p, slices.Compact(uids), true)
}
