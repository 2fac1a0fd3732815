// SPDX-License-Identifier: Apache-2.0

package filter_test

import (
	"strings"
	"testing"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// step notes what it is asked, and answers as told.
type step struct {
	name string
	slot int
	log  *[]string
	says []filter.Verdict
}

func (s *step) Request(c *filter.Context) filter.Verdict {
	said := s.name
	if o, ok := c.Override(s.slot).(string); ok {
		said += "=" + o
	}
	*s.log = append(*s.log, said)
	v := s.says[0]
	if len(s.says) > 1 {
		s.says = s.says[1:]
	}
	return v
}

func (s *step) Response(*filter.Context) { *s.log = append(*s.log, "-"+s.name) }
func (s *step) End(*filter.Context)      { *s.log = append(*s.log, "."+s.name) }

func (s *step) Scope(levels []any) (any, error) { return *levels[len(levels)-1].(*string), nil }

func steps(t *testing.T, says ...[]filter.Verdict) (*filter.Chain, *[]string) {
	t.Helper()
	log := &[]string{}
	var es []filter.Entry
	for i, s := range says {
		n := string(rune('a' + i))
		es = append(es, filter.Entry{Name: n, Filter: &step{n, i, log, s}})
	}
	ch, err := filter.NewChain(es)
	if err != nil {
		t.Fatal(err)
	}
	return ch, log
}

type vs = []filter.Verdict

func TestChainOrder(t *testing.T) {
	ch, log := steps(t, vs{filter.Next}, vs{filter.NeedBody, filter.Hold}, vs{filter.Reply}, vs{filter.Next})
	c := &filter.Context{Slots: make([]any, ch.Len())}
	if v := ch.Request(c, 0); v != filter.NeedBody || c.At != 1 {
		t.Fatal(v, c.At)
	}
	if v := ch.Request(c, c.At); v != filter.Hold || c.At != 1 {
		t.Fatal(v, c.At)
	}
	if v := ch.Request(c, c.At+1); v != filter.Reply || c.At != 2 {
		t.Fatal(v, c.At)
	}
	ch.Response(c)
	ch.End(c)
	ch.End(c)
	if got := strings.Join(*log, " "); got != "a b b c -d -c -b -a .a .b .c" {
		t.Error(got)
	}
}

func TestOverrides(t *testing.T) {
	text := func(s string) *string { return &s }
	ch, log := steps(t, vs{filter.Next}, vs{filter.Next})
	weighted := config.Forward{Weighted: []config.Weighted{{Cluster: "x", PerFilter: map[string]any{"a": text("share")}}, {Cluster: "y"}}}
	host := &config.VirtualHost{PerFilter: map[string]any{"a": text("host"), "b": nil}}
	plain := &config.Route{Index: 0, VHost: host}
	own := &config.Route{Index: 1, VHost: host, To: &weighted, PerFilter: map[string]any{"a": text("route"), "b": text("on")}}
	host.Routes = []*config.Route{plain, own}
	rc := &config.RouteConfig{PerFilter: map[string]any{"a": text("config")}, Hosts: []*config.VirtualHost{host}}
	o, err := ch.Scope(rc, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		route    *config.Route
		weighted *config.Weighted
		want     string
	}{
		{nil, nil, "a b"}, {plain, nil, "a=host"}, {own, nil, "a=route b=on"}, {own, &weighted.Weighted[0], "a=share b=on"}, {own, &weighted.Weighted[1], "a=route b=on"},
	} {
		*log = nil
		ch.Request(&filter.Context{Slots: make([]any, 2), Overrides: o, Route: tt.route, Weighted: tt.weighted}, 0)
		if got := strings.Join(*log, " "); got != tt.want {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
}

// upper and twice are two transforms whose order shows.
type upper struct{ closed *int }

func (u upper) Append(dst, p []byte, _ bool, _ *message.Head) ([]byte, error) {
	return append(dst, strings.ToUpper(string(p))...), nil
}
func (u upper) Close() { *u.closed++ }

type mark struct{ closed *int }

func (m mark) Append(dst, p []byte, end bool, _ *message.Head) ([]byte, error) {
	dst = append(append(dst, 'x'), p...)
	if end {
		dst = append(dst, 'z')
	}
	return dst, nil
}
func (m mark) Close() { *m.closed++ }

func TestThen(t *testing.T) {
	closed := 0
	tr := filter.Then(filter.Then(nil, mark{&closed}), upper{&closed})
	out, err := tr.Append(nil, []byte("a"), false, nil)
	if err == nil {
		out, err = tr.Append(out, []byte("b"), true, nil)
	}
	tr.Close()
	if string(out) != "XAXBZ" || err != nil || closed != 2 {
		t.Errorf("%s %v %d", out, err, closed)
	}
}
