// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"bytes"
	"fmt"
	"iter"
	"unicode/utf8"

	"redoubt.dev/api/errs"
)

// Document is one document of a text. Root is nil when it could not be read;
// Problems may be there beside a Root.
type Document struct {
	Number   int // from 1; empty documents are counted and left out
	Root     *Node
	Problems []Problem
}

// Documents gives the documents of b in order. asJSON reads JSON values one
// after another instead of YAML; a text that begins with "{" is taken as JSON
// too, as kubectl does.
func Documents(b []byte, asJSON bool, lim Limits) iter.Seq[Document] {
	return func(yield func(Document) bool) {
		r := &reader{lim: lim}
		b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
		if !utf8.Valid(b) {
			yield(Document{Number: 1, Problems: []Problem{{Kind: errs.Invalid, Line: badLine(b), Expected: "UTF-8 text"}}})
			return
		}
		next := r.yamls(b)
		if t := bytes.TrimLeft(b, " \t\r\n"); asJSON || len(t) > 0 && t[0] == '{' {
			next = r.jsons(b)
		}
		n := 0
		for root := range next {
			if n++; n > lim.Documents {
				yield(Document{Number: n, Problems: []Problem{{Kind: errs.TooLarge, Expected: fmt.Sprintf("at most %d documents", lim.Documents), Fix: "split the file"}}})
				return
			}
			d := Document{Number: n, Root: root, Problems: r.problems}
			r.problems = nil
			if (d.Root != nil || d.Problems != nil) && !yield(d) || r.nodes > lim.Nodes {
				return
			}
		}
	}
}

func badLine(b []byte) int {
	line := 1
	for len(b) > 0 {
		c, n := utf8.DecodeRune(b)
		if c == utf8.RuneError && n == 1 {
			return line
		}
		if c == '\n' {
			line++
		}
		b = b[n:]
	}
	return line
}
