// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
)

// column is one figure of a table.
type column struct {
	name  string
	more  bool // larger is better
	ratio bool // compared with the rivals
}

// sheet gathers, per contestant and column, one figure a round.
type sheet struct {
	title   string
	columns []column
	names   []string // in order of appearance
	cells   map[string][][]float64
	absent  []string // contestants that could not take part, with the reason
}

func newSheet(title string, columns ...column) *sheet {
	return &sheet{title: title, columns: slices.Clone(columns), cells: map[string][][]float64{}}
}

// add takes one round's figures, in the columns' order.
func (s *sheet) add(name string, figures ...float64) {
	if s.cells[name] == nil {
		s.names = append(s.names, name)
	}
	s.cells[name] = append(s.cells[name], figures)
}

// drop takes a contestant out of the table and says why.
func (s *sheet) drop(name string, why error) {
	delete(s.cells, name)
	s.names = slices.DeleteFunc(s.names, func(n string) bool { return n == name })
	s.absent = append(s.absent, fmt.Sprintf("%s: %s", name, strings.Join(strings.Fields(why.Error()), " ")))
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func (s *sheet) median(name string, col int) float64 {
	var v []float64
	for _, round := range s.cells[name] {
		v = append(v, round[col])
	}
	return median(v)
}

// variants are rivals that an expert has tuned for one kind of work; their
// names have a "+".
func (s *sheet) variants() bool {
	return slices.ContainsFunc(s.names, func(n string) bool { return isRival(n) && strings.Contains(n, "+") })
}

func isRival(name string) bool {
	return strings.HasPrefix(name, "nginx") || strings.HasPrefix(name, "haproxy")
}

// ratio compares a column with the better of nginx and haproxy in the same
// round, with their variants or without, and takes the median over rounds: the
// machine's moods cancel.
func (s *sheet) ratio(name string, col int, variants bool) float64 {
	var v []float64
	for i, round := range s.cells[name] {
		best := math.NaN()
		for other, cells := range s.cells {
			if !isRival(other) || !variants && strings.Contains(other, "+") || i >= len(cells) {
				continue
			}
			if r := cells[i][col]; math.IsNaN(best) || s.columns[col].more == (r > best) {
				best = r
			}
		}
		v = append(v, round[col]/best)
	}
	return median(v)
}

// show prints the table.
func (s *sheet) show() {
	var t strings.Builder
	fmt.Fprintf(&t, "\n### %s\n\n| |", s.title)
	rule := "\n|---|"
	for _, c := range s.columns {
		fmt.Fprintf(&t, " %s |", c.name)
		rule += "---|"
		if c.ratio {
			t.WriteString(" ratio |")
			rule += "---|"
			if s.variants() {
				t.WriteString(" to the best variant |")
				rule += "---|"
			}
		}
	}
	t.WriteString(rule + "\n")
	for _, name := range s.names {
		fmt.Fprintf(&t, "| %s |", name)
		for i, c := range s.columns {
			fmt.Fprintf(&t, " %s |", figure(s.median(name, i)))
			if c.ratio {
				fmt.Fprintf(&t, " %s |", figure(s.ratio(name, i, false)))
				if s.variants() {
					fmt.Fprintf(&t, " %s |", figure(s.ratio(name, i, true)))
				}
			}
		}
		t.WriteString("\n")
	}
	if len(s.absent) > 0 {
		t.WriteString("\n")
	}
	for _, a := range s.absent {
		fmt.Fprintf(&t, "* absent: %s\n", a)
	}
	emit(t.String())
}

// emit prints, and appends to the file of -table. Log would show ten lines.
func emit(text string) {
	fmt.Print(text)
	if *tableOut == "" {
		return
	}
	f, err := os.OpenFile(*tableOut, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString(text)
		f.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// figure has three digits that count.
func figure(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case a >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
