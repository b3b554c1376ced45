package search

import (
	"fmt"
	"strings"
)

// Problem is a way in which a query cannot be understood. Doors put it into
// the words of their language; Error has the English ones.
type Problem int

// The problems; those with a fragment name it.
const (
	TooLong      Problem = iota // longer than MaxQuery
	TooManyTerms                // more than maxTerms
	TooDeep                     // parentheses inside parentheses
	NotOpened                   // a closing parenthesis too many
	NotClosed                   // a parenthesis
	QuoteOpen                   // a quote that is not closed
	EmptyOr                     // nothing on one side of OR
	EmptyMinus                  // nothing behind a minus
	EmptyField                  // fragment: the operator with nothing behind it
	BadSize                     // fragment: what should be a size
	BadDate                     // fragment: what should be a date
	BadAge                      // fragment: what should be an age
	BadHas                      // fragment: what has: does not know
	TooWide                     // fragment: a wildcard that stands for more than maxExpansion words
)

// problems are names for translations, and the English text.
var problems = [...]struct{ name, text string }{
	TooLong:      {"long", "it is longer than 4,000 bytes"},
	TooManyTerms: {"terms", "there are more than 200 terms"},
	TooDeep:      {"deep", "parentheses are nested too deeply"},
	NotOpened:    {"unopened", "a closing parenthesis without an opening one"},
	NotClosed:    {"unclosed", "this parenthesis is not closed"},
	QuoteOpen:    {"quote", "this quote is not closed"},
	EmptyOr:      {"or", "OR needs something on both sides"},
	EmptyMinus:   {"minus", "a minus needs something behind it"},
	EmptyField:   {"field", "%s: needs something behind it"},
	BadSize:      {"size", "size %q: write it as 500k, 10M or 1G"},
	BadDate:      {"date", "date %q: write it as 2026-03-12"},
	BadAge:       {"age", "age %q: write it as 7d, 2w, 3m or 1y"},
	BadHas:       {"has", "has:%s is not known; has:attachment is"},
	TooWide:      {"wide", "%s stands for more than 1,000 words; add letters before the wildcard"},
}

// String is the name of a problem.
func (p Problem) String() string { return problems[p].name }

// Problems are all there are.
func Problems() []Problem {
	var all []Problem
	for p := range problems {
		all = append(all, Problem(p))
	}
	return all
}

// SyntaxError says where a query cannot be understood, and why.
type SyntaxError struct {
	Pos      int // in characters
	Problem  Problem
	Fragment string // of the query; "" if the problem has none
}

func (e *SyntaxError) Error() string {
	text := problems[e.Problem].text
	if strings.Contains(text, "%") {
		text = fmt.Sprintf(text, e.Fragment)
	}
	return fmt.Sprintf("query, at character %d: %s", e.Pos+1, text)
}

// Warning is for people: what was taken otherwise than they may have meant it,
// an operator that is none and was searched as text.
type Warning struct{ Operator string }

func (w Warning) String() string { return w.Operator + ": is no operator; it was searched as text" }
