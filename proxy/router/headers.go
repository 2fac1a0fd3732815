// SPDX-License-Identifier: Apache-2.0

package router

import (
	"strings"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/logfmt"
	"redoubt.dev/proxy/message"
)

// headers is config.HeaderOps, compiled.
type headers struct{ request, response Ops }

// Ops changes the fields of a head. It is immutable; the zero Ops does
// nothing.
type Ops struct {
	remove []string
	add    []addition
}

type addition struct {
	name   string
	value  *logfmt.Format
	action config.AddAction
	empty  bool // add also when there is no value
}

func compileHeaders(h *config.HeaderOps) (*headers, error) {
	if len(h.RequestAdd)+len(h.RequestRemove)+len(h.ResponseAdd)+len(h.ResponseRemove) == 0 {
		return nil, nil
	}
	out := &headers{}
	var err error
	if out.request, err = CompileOps(h.RequestAdd, h.RequestRemove); err == nil {
		out.response, err = CompileOps(h.ResponseAdd, h.ResponseRemove)
	}
	return out, err
}

// CompileOps compiles what is added to and removed from heads. Names that
// frame a message or name its host are refused: they are not fields here.
func CompileOps(add []config.HeaderAdd, remove []string) (Ops, error) {
	o := Ops{remove: make([]string, len(remove)), add: make([]addition, len(add))}
	for i, name := range remove {
		if o.remove[i] = strings.ToLower(name); !Changeable(o.remove[i]) {
			return o, unchangeable(name)
		}
	}
	for i, a := range add {
		name := strings.ToLower(a.Name)
		if !Changeable(name) {
			return o, unchangeable(a.Name)
		}
		if a.Action > config.OverwriteIfExists {
			return o, &errs.Error{Kind: errs.Unsupported, Subject: "header " + a.Name, Field: "append_action"}
		}
		f, err := logfmt.CompileValue(a.Value)
		if err != nil {
			return o, subject(err, "header "+a.Name)
		}
		o.add[i] = addition{name, f, a.Action, a.KeepEmpty}
	}
	return o, nil
}

// Changeable tells whether a configuration may add or remove fields of that
// name.
func Changeable(name string) bool {
	return message.ValidName(name) && !message.Lookup([]byte(name)).Hop()
}

func unchangeable(name string) error {
	return &errs.Error{Kind: errs.Invalid, Subject: "header " + name, Field: "name", Expected: "a field that neither frames the message nor names the host", Fix: "host_rewrite and prefix_rewrite change the host and the path"}
}

// Apply changes h. Values are evaluated on the head as it was after removals,
// before any addition.
func (o *Ops) Apply(h *message.Head, c *filter.Context) {
	for _, name := range o.remove {
		h.Remove(name)
	}
	first := len(h.Fields)
	for i := range o.add {
		a := &o.add[i]
		n := h.PutString(a.name)
		from := len(h.Buf)
		h.Buf = a.value.Append(h.Buf, c)
		v := trim(h.Buf, from)
		// Dropped for now: neither the other values nor the checks below see it.
		h.Fields = append(h.Fields, message.Field{Name: n, Value: v, Known: message.Lookup(h.In(n)), Drop: true})
	}
	for i := range o.add {
		a, f := &o.add[i], first+i
		if a.action != config.OverwriteOrAdd && a.action != config.OverwriteIfExists || h.Fields[f].Value.Len() == 0 && !a.empty {
			continue
		}
		if a.action == config.OverwriteIfExists && h.Index(a.name, 0) < 0 {
			continue
		}
		h.Remove(a.name)
		h.Fields[f].Drop = false
	}
	for i := range o.add {
		a, f := &o.add[i], first+i
		switch {
		case h.Fields[f].Value.Len() == 0 && !a.empty:
		case a.action == config.AppendOrAdd, a.action == config.AddIfAbsent && h.Index(a.name, 0) < 0:
			h.Fields[f].Drop = false
		}
	}
}

// trim cuts white space off a value's ends: a field value has none, and
// operators may give some.
func trim(b []byte, from int) message.Span {
	to := len(b)
	for from < to && (b[from] == ' ' || b[from] == '\t') {
		from++
	}
	for to > from && (b[to-1] == ' ' || b[to-1] == '\t') {
		to--
	}
	return message.Span{From: int32(from), To: int32(to)}
}

// levels gives the operations in the order in which they run: the most
// specific first, so that the most general has the last word, or the reverse
// (most_specific_header_mutations_wins).
func (t *Table) levels(c *filter.Context) (l [4]*headers) {
	a := t.of(c.Route)
	l = [4]*headers{nil, a.own, a.vhost, t.global}
	if c.Weighted != nil {
		if s := t.shares[c.Weighted]; s != nil {
			l[0] = s.own
		}
	}
	if t.rc.MostSpecificHeaderMutationsWins {
		l[0], l[1], l[2], l[3] = l[3], l[2], l[1], l[0]
	}
	return l
}

// RequestHeaders changes the request's fields as c.Route and its surroundings
// say; nothing without a route.
func (t *Table) RequestHeaders(c *filter.Context) {
	if c.Route == nil {
		return
	}
	for _, l := range t.levels(c) {
		if l != nil {
			l.request.Apply(&c.Req.Head, c)
		}
	}
}

// ResponseHeaders changes the fields of the final response.
func (t *Table) ResponseHeaders(c *filter.Context) {
	if c.Route == nil || c.Resp == nil {
		return
	}
	for _, l := range t.levels(c) {
		if l != nil {
			l.response.Apply(&c.Resp.Head, c)
		}
	}
}
