package search

import "strings"

// Names tells whether a place is one that the expression asks for: every
// condition on folders and mailboxes that all its hits meet holds for it. Of
// places of a hit, those are the ones that somebody meant.
func (e *Expr) Names(mailbox, folder string) bool {
	switch {
	case e.Op == OpTerm && e.Term.Field == "in":
		return e.Term.inFolder(folder)
	case e.Op == OpTerm && e.Term.Field == "mailbox":
		return e.Term.inMailbox(mailbox)
	case e.Op == OpAnd:
		for _, k := range e.Kids {
			if !k.Names(mailbox, folder) {
				return false
			}
		}
	case e.Op == OpNot && e.Kids[0].Op == OpTerm && (e.Kids[0].Term.Field == "in" || e.Kids[0].Term.Field == "mailbox"):
		return !e.Kids[0].Names(mailbox, folder)
	}
	return true
}

// inFolder is in:NAME: a folder of that name, or below it, in any case.
func (t *Term) inFolder(name string) bool {
	want, name := strings.ToLower(strings.Trim(t.Text, "/")), strings.ToLower(name)
	if name == want || strings.HasPrefix(name, want+"/") || strings.HasSuffix(name, "/"+want) || strings.Contains(name, "/"+want+"/") {
		return true
	}
	return t.Prefix && (strings.HasPrefix(name, want) || strings.Contains(name, "/"+want))
}

func (t *Term) inMailbox(name string) bool {
	want, name := strings.ToLower(t.Text), strings.ToLower(name)
	return name == want || t.Prefix && strings.HasPrefix(name, want)
}
