// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"redoubt.dev/proxy/config"
)

// streamKey is one stream of requests and responses, or one watched file. typ
// counts where the source is not aggregated.
type streamKey struct {
	source
	typ resourceType
}

// event is what happens to a core.
type event interface{ event() }

type (
	// evConnected: a stream is open; nothing was said on it yet.
	evConnected struct{ streamKey }
	// evLost: a stream is gone.
	evLost struct {
		streamKey
		err error
	}
	// evResponse: a server, or a file, said something.
	evResponse struct {
		streamKey
		response
	}
	// evFile: a watched file could not be read.
	evFile struct {
		streamKey
		err error
	}
	// evTick: time went by.
	evTick struct{}
)

func (evConnected) event() {}
func (evLost) event()      {}
func (evResponse) event()  {}
func (evFile) event()      {}
func (evTick) event()      {}

// response is a DiscoveryResponse or a DeltaDiscoveryResponse.
type response struct {
	url     string
	version string // plain: of all; Delta: for people
	nonce   string
	items   []item
	removed []string // Delta
}

// effect is what the shell must do for a core.
type effect interface{ effect() }

type (
	efOpen  struct{ streamKey } // open a stream, or watch a file, until efClose
	efClose struct{ streamKey }
	efSend  struct {
		streamKey
		request
	}
)

func (efOpen) effect()  {}
func (efClose) effect() {}
func (efSend) effect()  {}

// request is a DiscoveryRequest or a DeltaDiscoveryRequest.
type request struct {
	typ         resourceType
	node        bool
	version     string   // plain: what was accepted last
	nonce       string   // of the response that is answered; "" for none
	nack        string   // why it is refused
	names       []string // plain: all that are wanted; nil for everything
	subscribe   []string // Delta
	unsubscribe []string
	initial     map[string]string // Delta, first request: versions that are held
}

// subscription is what is asked for of one type on one stream.
type subscription struct {
	names    map[string]bool   // as the server knows them; unused for a wildcard
	version  string            // plain: accepted last
	versions map[string]string // Delta: by name
	raws     map[string]raw
	started  bool   // the first request of this connection is out
	nonce    string // of the last response of this connection
	answered bool   // there was a response, ever: absence means something
}

// core is the state of a client, folded over events. It does no I/O.
type core struct {
	boot    *Bootstrap
	st      *store
	snaps   *snapshots
	streams map[streamKey]*stream
	waits   map[need]time.Time // until when a need holds something back; zero: without end
	roots   map[resourceType]time.Time
	dirty   bool // the next composition may differ
	open    bool // the first snapshot was given away
	status  Status
}

type stream struct {
	connected bool
	nodeSent  bool
	subs      map[resourceType]*subscription
}

func newCore(b *Bootstrap, now time.Time) (*core, []effect) {
	c := &core{boot: b, st: newStore(b), snaps: newSnapshots(b), streams: map[streamKey]*stream{}, waits: map[need]time.Time{}, roots: map[resourceType]time.Time{}, dirty: true}
	for t, r := range map[resourceType]*ref{typeCDS: b.cds, typeLDS: b.lds} {
		if r != nil {
			c.roots[t] = deadline(now, r.wait)
		}
	}
	return c, c.settle(now)
}

func deadline(now time.Time, wait time.Duration) time.Time {
	if wait == 0 {
		return time.Time{}
	}
	return now.Add(wait)
}

// step folds one event and gives what must be done.
func (c *core) step(now time.Time, e event) []effect {
	var out []effect
	switch e := e.(type) {
	case evConnected:
		if s := c.streams[e.streamKey]; s != nil {
			s.connected, s.nodeSent = true, false
			for _, sub := range s.subs {
				sub.started, sub.nonce = false, ""
			}
		}
	case evLost:
		if s := c.streams[e.streamKey]; s != nil {
			s.connected = false
			c.status.Reconnects++
			c.fail(e.err)
		}
	case evFile:
		c.fail(e.err)
	case evResponse:
		out = c.respond(e)
	}
	c.expire(now)
	return append(out, c.settle(now)...)
}

func (c *core) fail(err error) {
	if err != nil {
		c.status.LastError = err.Error()
	}
}

// maxNack bounds the text that a server is told, in bytes: gRPC carries it in
// one message.
const maxNack = 64 << 10

// respond takes what is understood of a response and answers it.
func (c *core) respond(e evResponse) []effect {
	s := c.streams[e.streamKey]
	if s == nil {
		return nil // closed meanwhile
	}
	t, ok := typeOf(e.url)
	sub := s.subs[t]
	if !ok || sub == nil {
		// Nothing of this type was asked for: there is no request to answer by.
		c.fail(fmt.Errorf("a response of type %q that was not asked for", cut(e.url)))
		return nil
	}
	var wrong []error
	seen, unknown := map[string]bool{}, false
	for _, it := range e.items {
		name, err := c.st.take(t, e.source, it, sub)
		if err != nil {
			wrong = append(wrong, err)
			unknown = unknown || name == ""
		}
		if name == "" {
			continue
		}
		if seen[name] {
			wrong = append(wrong, fmt.Errorf("%s resource %s: it is there twice", t, name))
		}
		seen[name] = true
		if err == nil && e.delta {
			sub.versions[name] = it.version
		}
		if err == nil {
			delete(c.waits, need{t, key{e.source, name}})
			delete(c.st.late, need{t, key{e.source, name}})
		}
	}
	c.absent(t, sub, e, seen, unknown)
	sub.nonce, sub.answered = e.nonce, true
	delete(c.roots, t)
	c.dirty = true
	if err := errors.Join(wrong...); err != nil {
		c.status.Nacked++
		c.fail(err)
		text := err.Error()
		return c.answer(e.streamKey, s, t, text[:min(len(text), maxNack)])
	}
	c.status.Acked++
	sub.version = e.version
	return c.answer(e.streamKey, s, t, "")
}

// absent removes what a response says is gone.
func (c *core) absent(t resourceType, sub *subscription, e evResponse, seen map[string]bool, unknown bool) {
	gone := e.removed
	if !e.delta && t.wildcard() && !unknown {
		// A plain response is the whole: what it does not name is gone. A
		// resource whose name could not be read might be any of them.
		for name := range sub.raws {
			if !seen[name] {
				gone = append(gone, name)
			}
		}
	}
	for _, name := range gone {
		delete(sub.versions, name)
		if t.wildcard() {
			c.st.remove(t, name)
			delete(sub.raws, name)
		}
	}
}

// answer acknowledges or refuses the last response of a type.
func (c *core) answer(k streamKey, s *stream, t resourceType, nack string) []effect {
	if k.kind == fromPath {
		return nil
	}
	sub := s.subs[t]
	r := request{typ: t, nonce: sub.nonce, nack: nack, node: c.withNode(k, s)}
	if !k.delta {
		r.version, r.names = sub.version, sortedNames(sub)
	}
	return []effect{efSend{k, r}}
}

func (c *core) withNode(k streamKey, s *stream) bool {
	first := !s.nodeSent
	s.nodeSent = true
	return first || !k.nodeOne && !k.delta
}

func sortedNames(s *subscription) []string { return slices.Sorted(maps.Keys(s.names)) }

// expire lets go of what waited too long.
func (c *core) expire(now time.Time) {
	for n, t := range c.waits {
		if !t.IsZero() && !now.Before(t) {
			delete(c.waits, n)
			c.st.late[n] = true
			c.dirty = true
			c.status.LastError = fmt.Sprintf("%s resource %s did not come in time", n.typ, n.name)
		}
	}
	for t, at := range c.roots {
		if !at.IsZero() && !now.Before(at) {
			delete(c.roots, t)
			c.dirty = true
			c.status.LastError = fmt.Sprintf("no %s response came in time", t)
		}
	}
}

// next is when expire has something to do; zero for never.
func (c *core) next() (at time.Time) {
	earlier := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for _, t := range c.waits {
		earlier(t)
	}
	for _, t := range c.roots {
		earlier(t)
	}
	return at
}

// needs are all resources that are referred to, by what came last and by what
// is in force still, with how long to wait for each.
func (c *core) needs() map[need]time.Duration {
	out := map[need]time.Duration{}
	add := func(t resourceType, r ref) {
		if r.kind != fromStatic {
			out[need{t, r.key()}] = r.wait
		}
	}
	cluster := func(v *clusterValue) {
		if v.eds != nil {
			add(typeEDS, *v.eds)
		}
		for _, t := range v.tls {
			for _, r := range t.all() {
				add(typeSDS, r)
			}
		}
	}
	listener := func(v *listenerValue) {
		for _, r := range v.routes {
			add(typeRDS, r)
		}
		for _, t := range v.tls {
			for _, r := range t.all() {
				add(typeSDS, r)
			}
		}
	}
	each(c.boot.clusters, c.st.clusters, func(v *clusterValue) string { return "" }, func(_ string, v *clusterValue) { cluster(v) })
	each(c.boot.listeners, c.st.listeners, func(v *listenerValue) string { return "" }, func(_ string, v *listenerValue) { listener(v) })
	for _, m := range c.snaps.clusters {
		cluster(m.from)
	}
	for _, m := range c.snaps.listeners {
		listener(m.from)
	}
	return out
}

// settle makes streams and subscriptions fit what is needed.
func (c *core) settle(now time.Time) []effect {
	want := map[streamKey]map[resourceType]map[string]bool{}
	ask := func(t resourceType, s source, name string) {
		k := streamKey{s, 0}
		if s.kind != fromADS {
			k.typ = t
		}
		if want[k] == nil {
			want[k] = map[resourceType]map[string]bool{}
		}
		if want[k][t] == nil {
			want[k][t] = map[string]bool{}
		}
		if name != "" {
			want[k][t][name] = true
		}
	}
	if c.boot.cds != nil {
		ask(typeCDS, c.boot.cds.source, "")
	}
	if c.boot.lds != nil {
		ask(typeLDS, c.boot.lds.source, "")
	}
	needs := c.needs()
	for n, wait := range needs {
		ask(n.typ, n.source, n.name)
		if _, waiting := c.waits[n]; !waiting && !c.st.has(n) && !c.st.late[n] {
			c.waits[n] = deadline(now, wait)
		}
	}
	for n := range c.waits {
		if _, ok := needs[n]; !ok {
			delete(c.waits, n)
		}
	}
	return c.subscribe(want, needs)
}

func (c *core) subscribe(want map[streamKey]map[resourceType]map[string]bool, needs map[need]time.Duration) (out []effect) {
	for _, k := range sortedStreams(want) {
		s := c.streams[k]
		if s == nil {
			s = &stream{subs: map[resourceType]*subscription{}}
			c.streams[k] = s
			out = append(out, efOpen{k})
		}
		for t := range typeCount {
			names, wanted := want[k][t]
			if !wanted && s.subs[t] == nil {
				continue
			}
			out = append(out, c.ask(k, s, t, names, needs)...)
		}
	}
	for _, k := range sortedStreams(c.streams) {
		if want[k] == nil {
			c.drop(k)
			out = append(out, efClose{k})
		}
	}
	return out
}

// drop forgets a stream that nothing asks for any more.
func (c *core) drop(k streamKey) {
	for t, sub := range c.streams[k].subs {
		for name := range sub.raws {
			c.st.forget(need{t, key{k.source, name}})
		}
	}
	delete(c.streams, k)
}

func sortedStreams[V any](m map[streamKey]V) []streamKey {
	return slices.SortedFunc(maps.Keys(m), func(a, b streamKey) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.where, b.where), cmp.Compare(a.typ, b.typ))
	})
}

// ask makes a subscription want names, and says so to the server.
func (c *core) ask(k streamKey, s *stream, t resourceType, names map[string]bool, needs map[need]time.Duration) []effect {
	sub := s.subs[t]
	if sub == nil {
		sub = &subscription{names: map[string]bool{}, versions: map[string]string{}, raws: map[string]raw{}}
		s.subs[t] = sub
	}
	var add, del []string
	for n := range names {
		if !sub.names[n] {
			add = append(add, n)
		}
	}
	for n := range sub.names {
		if !names[n] {
			del = append(del, n)
			delete(sub.versions, n)
			delete(sub.raws, n)
			c.st.forget(need{t, key{k.source, n}})
		}
	}
	if names == nil {
		names = map[string]bool{}
	}
	sub.names = names
	slices.Sort(add)
	slices.Sort(del)
	if k.kind == fromPath {
		again := sub.started && len(add) > 0
		sub.started = true
		if again { // what it holds of the new names was passed over
			return []effect{efSend{streamKey: k}}
		}
		return nil
	}
	if !s.connected || sub.started && len(add)+len(del) == 0 || !sub.started && len(names) == 0 && !t.wildcard() {
		return nil
	}
	r := request{typ: t, node: c.withNode(k, s)}
	switch {
	case !k.delta:
		r.version, r.nonce, r.names = sub.version, sub.nonce, sortedNames(sub)
	case sub.started:
		r.subscribe, r.unsubscribe = add, del
	default:
		r.subscribe, r.initial = sortedNames(sub), maps.Clone(sub.versions)
	}
	sub.started = true
	return []effect{efSend{k, r}}
}

// snapshot composes what may be put in force; nil before the first one is
// complete, and when nothing changed.
func (c *core) snapshot() *config.Config {
	if !c.dirty {
		return nil
	}
	c.dirty = false
	was := c.snaps.last
	got := c.snaps.compose(c.st)
	c.status.Warming = slices.Clone(c.snaps.warming)
	if !c.open && (len(c.roots) > 0 || c.held()) {
		// Listeners of the file must not answer for clusters still to come.
		c.snaps.last = nil
		return nil
	}
	if c.open && got == was {
		return nil
	}
	c.open = true
	return got
}

// held tells that something is waited for that may still come in time.
func (c *core) held() bool { return len(c.snaps.warming) > 0 && len(c.waits) > 0 }
