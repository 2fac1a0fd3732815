// SPDX-License-Identifier: Apache-2.0

package balance_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
)

func TestRefuses(t *testing.T) {
	for _, c := range []struct {
		field string
		c     config.Cluster
	}{
		{"maglev_lb_config.table_size", config.Cluster{Maglev: 65536}},
		{"maglev_lb_config.table_size", config.Cluster{Maglev: 5000077}},
		{"ring_hash_lb_config", config.Cluster{Ring: config.RingOptions{Min: 10, Max: 5}}},
		{"ring_hash_lb_config", config.Cluster{Ring: config.RingOptions{Max: 9 << 20}}},
		{"least_request_lb_config.active_request_bias", config.Cluster{LeastBias: -1}},
		{"outlier_detection.max_ejection_time", config.Cluster{Outlier: &config.Outlier{MaxEjection: time.Second}}},
		{"endpoints.priority", config.Cluster{Endpoints: &config.Endpoints{Localities: []*config.Locality{{Priority: 129}}}}},
	} {
		_, err := balance.New(&c.c, balance.Options{}, nil)
		var e *errs.Error
		if !errors.As(err, &e) || e.Kind != errs.Invalid || e.Field != c.field {
			t.Errorf("want %s refused, got %v", c.field, err)
		}
	}
}

func TestReasons(t *testing.T) {
	w := open(t, &config.Cluster{})
	p := w.s.Picker(1)
	pick := func(a *balance.Ask) balance.Reason { _, r := p.Pick(a); return r }
	if r := pick(&balance.Ask{}); r != balance.NoHost {
		t.Errorf("no endpoints: %v", r)
	}
	e := hosts(1, 1)
	for _, ep := range e.Localities[0].Hosts {
		ep.Health = config.Draining
	}
	w.s.Update(e)
	if r := pick(&balance.Ask{}); r != balance.Found {
		t.Errorf("panic: %v", r)
	}
	w = open(t, &config.Cluster{PanicThreshold: -1, Endpoints: e})
	p = w.s.Picker(1)
	if r := pick(&balance.Ask{}); r != balance.NoHealthy || r.Error() != "no healthy upstream" {
		t.Errorf("no panic: %v", r)
	}
	drop := hosts(1)
	drop.DropPerCent = 30
	w.s.Update(drop)
	n := 0
	for range 10000 {
		if pick(&balance.Ask{}) == balance.DropLoad {
			n++
		}
	}
	w.chi([]int{n, 10000 - n}, []float64{30, 70})
}

// TestHostsStay: a host is the same over updates and over changes of the
// cluster, and so is what is known of it.
func TestHostsStay(t *testing.T) {
	w := open(t, &config.Cluster{Endpoints: hosts(1, 1, 1, 1)})
	old := slices.Clone(w.s.Hosts())
	old[1].Begin()
	w.s.Admit(balance.Requests, false)
	e := hosts(1, 9, 1, 1)
	hs := e.Localities[0].Hosts
	e.Localities[0].Hosts = []*config.Endpoint{hs[3], hs[1], {Host: "unresolved", Port: 80}, {Addr: netip.MustParseAddrPort("10.9.9.9:1")}, hs[3]}
	w.s.Update(e)
	now := w.s.Hosts()
	if len(now) != 3 || now[0] != old[3] || now[1] != old[1] || now[1].Active.Load() != 1 {
		t.Fatalf("hosts after the update: %v", now)
	}
	if now[1].Endpoint().Weight != 9 {
		t.Error("the new weight is not there")
	}
	if !old[0].Removed() || !old[2].Removed() || old[3].Removed() {
		t.Error("the wrong hosts are gone")
	}
	s2, err := balance.New(&config.Cluster{LB: config.Maglev, Endpoints: e}, w.options(), w.s)
	if err != nil {
		t.Fatal(err)
	}
	if got := s2.Hosts(); len(got) != 3 || got[0] != now[0] || got[1] != now[1] || got[2] != now[2] {
		t.Error("hosts did not stay over a change of the cluster")
	}
	s2.Release(balance.Requests, false)
	if n, _, _ := w.s.Used(balance.Requests, false); n != 0 {
		t.Errorf("%d requests in use, want 0: breakers are shared with the set before", n)
	}
	w.s.Update(hosts(1)) // the old set is out of office
	if got := s2.Hosts(); len(got) != 3 {
		t.Error("an old set changed the hosts of a new one")
	}
	// A name that is yet to be resolved does not empty the cluster.
	s3, err := balance.New(&config.Cluster{Discovery: config.StrictDNS, Endpoints: &config.Endpoints{Localities: []*config.Locality{{Hosts: []*config.Endpoint{{Host: "bank", Port: 80}}}}}}, w.options(), s2)
	if err != nil || len(s3.Hosts()) != 3 {
		t.Errorf("before the names are resolved: %d hosts, %v", len(s3.Hosts()), err)
	}
	s2 = s3
	// Another identity is another host: its connections prove somebody else.
	other := hosts(1, 9, 1, 1)
	other.Localities[0].Hosts[3].Identity = "spiffe://bank/other"
	s2.Update(other)
	if got := s2.Hosts(); got[3] == old[3] || !old[3].Removed() {
		t.Error("a host stayed under another identity")
	}
}

func TestAvoid(t *testing.T) {
	for lb := config.RoundRobin; lb <= config.PeakEWMA; lb++ {
		w := open(t, &config.Cluster{LB: lb, Endpoints: hosts(equal(8)...)})
		p := w.s.Picker(1)
		same := 0
		for i := range 1000 {
			a := *hashed(i)
			first, _ := p.Pick(&a)
			a.Avoid, a.Tries = []*balance.Host{first}, 5
			if again, _ := p.Pick(&a); again == first {
				same++
			}
		}
		if same > 2 {
			t.Errorf("policy %d: %d of 1000 retries went to the same host", lb, same)
		}
		w = open(t, &config.Cluster{LB: lb, Endpoints: hosts(1)})
		if h, r := w.s.Picker(1).Pick(&balance.Ask{Avoid: w.s.Hosts()}); h == nil {
			t.Errorf("policy %d: the only host is avoided: %v", lb, r)
		}
	}
}

// TestSubsets holds the table of Envoy's page on subsets.
func TestSubsets(t *testing.T) {
	e := hosts(equal(4)...)
	for i, m := range []map[string]string{{"v": "1.0", "stage": "prod"}, {"v": "1.0", "stage": "prod"}, {"v": "1.1", "stage": "canary"}, {"v": "1.2-pre", "stage": "dev"}} {
		e.Localities[0].Hosts[i].Metadata = m
	}
	subsets := &config.Subsets{Keys: [][]string{{"stage", "v"}, {"stage"}}, Fallback: "DEFAULT_SUBSET", Default: map[string]string{"stage": "prod"}}
	none, any := *subsets, *subsets
	none.Fallback, any.Fallback = "NO_FALLBACK", "ANY_ENDPOINT"
	for _, c := range []struct {
		s    *config.Subsets
		want map[string]string
		at   []int
	}{
		{subsets, map[string]string{"stage": "canary"}, []int{2}},
		{subsets, map[string]string{"v": "1.2-pre", "stage": "dev"}, []int{3}},
		{subsets, map[string]string{"v": "1.0"}, []int{0, 1}},
		{subsets, map[string]string{"other": "x"}, []int{0, 1}},
		{subsets, nil, []int{0, 1}},
		{&none, map[string]string{"stage": "test"}, nil},
		{&none, nil, nil},
		{&any, map[string]string{"stage": "test"}, []int{0, 1, 2, 3}},
		{&any, map[string]string{"stage": "prod"}, []int{0, 1}},
		{nil, map[string]string{"stage": "prod"}, []int{0, 1, 2, 3}}, // a cluster without subsets
	} {
		w := open(t, &config.Cluster{Subsets: c.s, Endpoints: e})
		p := w.s.Picker(1)
		got := map[int]bool{}
		for range 100 {
			if h, r := p.Pick(&balance.Ask{Subset: balance.Match(c.want)}); h != nil {
				got[slices.Index(w.s.Hosts(), h)] = true
			} else if r != balance.NoSubset {
				t.Error(r)
			}
		}
		if len(got) != len(c.at) {
			t.Errorf("%v with %v: hosts %v, want %v", c.want, c.s, got, c.at)
		}
		for _, i := range c.at {
			if !got[i] {
				t.Errorf("%v with %v: hosts %v, want %v", c.want, c.s, got, c.at)
			}
		}
	}
	// Metadata that changes moves the host; nothing else is forgotten.
	w := open(t, &config.Cluster{Subsets: &none, Endpoints: e})
	h := w.s.Hosts()[3]
	next := &config.Endpoints{Localities: []*config.Locality{{Zone: "a", Hosts: slices.Clone(e.Localities[0].Hosts)}}}
	moved := *next.Localities[0].Hosts[3]
	moved.Metadata = map[string]string{"stage": "canary", "v": "1.1"}
	next.Localities[0].Hosts[3] = &moved
	w.s.Update(next)
	w.chi(w.counts(1000, func(int) *balance.Ask {
		return &balance.Ask{Subset: balance.Match(map[string]string{"stage": "canary"})}
	}), []float64{0, 0, 1, 1})
	if w.s.Hosts()[3] != h {
		t.Error("the host did not stay")
	}
}

// TestPriorities picks through the spill-over: half of P0 fails.
func TestPriorities(t *testing.T) {
	e := &config.Endpoints{Localities: []*config.Locality{locality(0, 0, equal(4)...), locality(1, 1, equal(2)...)}}
	for lb := config.RoundRobin; lb <= config.PeakEWMA; lb++ {
		w := open(t, &config.Cluster{LB: lb, Health: []*config.HealthCheck{{}}, Endpoints: e, Ring: config.RingOptions{Min: 200000}})
		for i, h := range w.s.Hosts() {
			w.s.Checked(h, i > 1, false, "")
		}
		got := w.counts(20000, hashed)
		if got[0]+got[1] != 0 {
			t.Fatalf("policy %d: hosts that fail get requests: %v", lb, got)
		}
		w.chi([]int{got[2] + got[3], got[4] + got[5]}, []float64{70, 30})
	}
}

func TestDegraded(t *testing.T) {
	e := hosts(equal(4)...)
	for _, ep := range e.Localities[0].Hosts[1:] {
		ep.Health = config.Degraded
	}
	w := open(t, &config.Cluster{Endpoints: e})
	w.chi(w.counts(20000, nil), []float64{35, 65. / 3, 65. / 3, 65. / 3})
}

func TestLocalityWeighted(t *testing.T) {
	a, b := locality(0, 0, equal(2)...), locality(1, 0, equal(4)...)
	a.Weight, b.Weight = 1, 2
	a.Hosts[0].Health = config.Unhealthy
	for _, lb := range []config.LBPolicy{config.RoundRobin, config.Maglev} {
		w := open(t, &config.Cluster{LB: lb, LocalityWeighted: true, Endpoints: &config.Endpoints{Localities: []*config.Locality{a, b}}})
		// Half of a counts as 70 %: 0.7 to 2.
		w.chi(w.counts(27000, hashed), []float64{0, 0.7, 0.5, 0.5, 0.5, 0.5})
	}
}

func TestZoneAware(t *testing.T) {
	c := &config.Cluster{ZoneAware: true, Endpoints: &config.Endpoints{Localities: []*config.Locality{locality(0, 0, equal(5)...), locality(1, 0, equal(5)...)}}}
	local, err := balance.New(&config.Cluster{Endpoints: &config.Endpoints{Localities: []*config.Locality{locality(0, 0, equal(3)...), locality(1, 0, equal(1)...)}}}, balance.Options{Now: func() int64 { return 1 }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, now: 1}
	o := w.options()
	o.Local, o.Here = local, balance.Place{Zone: "a"}
	if w.s, err = balance.New(c, o, nil); err != nil {
		t.Fatal(err)
	}
	sum := func() []int {
		got, out := w.counts(12000, nil), []int{0, 0}
		for i, n := range got {
			out[i/5] += n
		}
		return out
	}
	w.chi(sum(), []float64{2, 1}) // 75 % of requests meet 50 % of hosts
	// When our own kind is spread as the hosts are, all requests stay.
	local.Update(&config.Endpoints{Localities: []*config.Locality{locality(0, 0, 1), locality(1, 0, 1)}})
	w.s.Sweep(w.now)
	w.chi(sum(), []float64{1, 0})
	// Too few hosts to be clever.
	small := *c
	small.MinZoneAware = 11
	if w.s, err = balance.New(&small, o, w.s); err != nil {
		t.Fatal(err)
	}
	w.chi(sum(), []float64{1, 1})
}

func TestSlowStart(t *testing.T) {
	w := open(t, &config.Cluster{SlowStart: &config.SlowStart{Window: 100 * time.Second, Aggression: 1}, Endpoints: hosts(equal(3)...)})
	w.now += int64(200 * time.Second)
	for w.s.Sweep(w.now) < math.MaxInt64 {
		w.now += int64(time.Second)
	}
	w.s.Update(hosts(equal(4)...))
	for _, c := range []struct {
		age  time.Duration
		want float64
	}{{0, 0.1}, {5 * time.Second, 0.1}, {20 * time.Second, 0.2}, {50 * time.Second, 0.5}, {99 * time.Second, 0.99}, {100 * time.Second, 1}} {
		at := w.now
		w.now += int64(c.age)
		w.s.Sweep(w.now)
		got := w.counts(30000, nil)
		w.chi(got, []float64{1, 1, 1, c.want})
		w.now = at
	}
	w.now += int64(101 * time.Second)
	if next := w.s.Sweep(w.now); next != math.MaxInt64 || w.s.Weights() != nil {
		t.Errorf("after the window the sweep wants to come at %d, weights %v", next, w.s.Weights())
	}
}

// TestChecks: a host with active checks is left out, and counts for nothing,
// until the first result.
func TestChecks(t *testing.T) {
	w := open(t, &config.Cluster{Health: []*config.HealthCheck{{}}, PanicThreshold: -1, Endpoints: hosts(equal(3)...)})
	p := w.s.Picker(1)
	if _, r := p.Pick(&balance.Ask{}); r != balance.NoHealthy {
		t.Errorf("before the first check: %v", r)
	}
	h := w.s.Hosts()
	w.s.Checked(h[0], true, false, "first")
	w.s.Checked(h[1], false, false, "refused")
	w.chi(w.counts(100, nil), []float64{1, 0, 0})
	w.s.Checked(h[1], true, false, "back")
	w.s.Checked(h[1], true, false, "again")
	w.s.Checked(h[2], true, true, "worn")
	w.chi(w.counts(2000, nil), []float64{93. / 2, 93. / 2, 7}) // 2 of 3 healthy: 93, the rest to the degraded
	want := []string{"health 10.0.0.0:80 true first", "health 10.0.0.1:80 false refused", "health 10.0.0.1:80 true back", "health 10.0.0.2:80 true worn"}
	if !reflect.DeepEqual(w.log, want) {
		t.Errorf("events %q, want %q", w.log, want)
	}
	// Discovery forgets a host that is well: it stays until a check fails.
	w.s.Update(hosts(1))
	if got := w.s.Hosts(); len(got) != 3 || h[1].Removed() || h[1].Health() != "pending_dynamic_removal" {
		t.Fatalf("hosts %d, %s", len(got), h[1].Health())
	}
	w.s.Checked(h[1], false, false, "refused")
	if got := w.s.Hosts(); len(got) != 2 || !h[1].Removed() {
		t.Error("a host that discovery and checks gave up is still there")
	}
	w.s.Update(hosts(equal(3)...))
	if got := w.s.Hosts(); len(got) != 3 || got[1] == h[1] || got[2] != h[2] || got[1].Health() != "pending_active_hc" {
		t.Error("a host that came back is not new, or one that stayed is")
	}
}

func TestOriginalDestination(t *testing.T) {
	w := open(t, &config.Cluster{Discovery: config.OrigDst, LB: config.ClusterProvided})
	p := w.s.Picker(1)
	if _, r := p.Pick(&balance.Ask{}); r != balance.NoDest {
		t.Error(r)
	}
	to := netip.MustParseAddrPort("192.0.2.1:443")
	h, _ := p.Pick(&balance.Ask{Dest: to})
	if h == nil || h.Addr != to {
		t.Fatal("no host for the destination")
	}
	if again, _ := w.s.Picker(2).Pick(&balance.Ask{Dest: to}); again != h {
		t.Error("another loop made another host")
	}
	h.Begin()
	sweep := func() { w.now += int64(5 * time.Second); w.s.Sweep(w.now) }
	for range 3 {
		sweep()
	}
	if h.Removed() {
		t.Error("a host in use was forgotten")
	}
	h.End(200, 0, w.now)
	sweep()
	if again, _ := p.Pick(&balance.Ask{Dest: to}); !h.Removed() || again == h {
		t.Error("an unused host was kept")
	}
	full := 0
	for i := range 70000 {
		a := netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})
		if _, r := p.Pick(&balance.Ask{Dest: netip.AddrPortFrom(a, uint16(1+i>>16))}); r == balance.TooMany {
			full++
		}
	}
	if full != 70000-65535 {
		t.Errorf("%d of 70,000 destinations refused", full)
	}
}

func TestBreakers(t *testing.T) {
	w := open(t, &config.Cluster{Breakers: [2]config.Breakers{{MaxConns: 2}, {MaxConns: math.MaxUint32, Budget: &config.RetryBudget{PerCent: 50, Min: 2}}}})
	admit := func(r balance.Resource, high, want bool) {
		t.Helper()
		if got := w.s.Admit(r, high); got != want {
			t.Errorf("resource %d, high %v: %v, want %v", r, high, got, want)
		}
	}
	admit(balance.Connections, false, true)
	admit(balance.Connections, false, true)
	admit(balance.Connections, false, false)
	w.s.Release(balance.Connections, false)
	admit(balance.Connections, false, true)
	for range 5000 {
		admit(balance.Connections, true, true)
	}
	for range 3 {
		admit(balance.Retries, false, true)
	}
	admit(balance.Retries, false, false)
	// The budget: two always, else half of what is under way.
	admit(balance.Retries, true, true)
	admit(balance.Retries, true, true)
	admit(balance.Retries, true, false)
	for range 6 {
		admit(balance.Requests, true, true)
	}
	admit(balance.Retries, true, true)
	admit(balance.Retries, true, false)
	if n, limit, refused := w.s.Used(balance.Retries, true); n != 3 || limit != 3 || refused != 2 {
		t.Errorf("%d of %d in use, %d refused", n, limit, refused)
	}
}

// TestCoalescing: when making a snapshot takes time, changes that come faster
// wait for the sweep, but a host that fails is left at once.
func TestCoalescing(t *testing.T) {
	w := &world{T: t, now: 1}
	o := w.options()
	woken := 0
	o.Now = func() int64 { w.now += int64(time.Millisecond); return w.now }
	o.Wake = func() { woken++ }
	s, err := balance.New(&config.Cluster{LB: config.Maglev, Endpoints: hosts(equal(20)...)}, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.s = s
	before := s.Snapshots()
	s.Update(hosts(equal(19)...))
	s.Update(hosts(equal(18)...))
	if n := s.Snapshots() - before; n != 0 || woken != 1 {
		t.Errorf("%d snapshots and %d wakes for two quick changes", n, woken)
	}
	p := s.Picker(1)
	for i := range 5000 {
		if h, _ := p.Pick(hashed(i)); h.Removed() {
			t.Fatal("picked a host that has gone")
		}
	}
	next := s.Sweep(w.now)
	if next == math.MaxInt64 {
		t.Fatal("the sweep does not know of work to come")
	}
	w.now = next
	s.Sweep(w.now)
	if n := s.Snapshots() - before; n != 1 {
		t.Errorf("%d snapshots after the pause, want 1", n)
	}
}

// TestRackFails: neighbours that fail at once, before the next snapshot, cost
// no request.
func TestRackFails(t *testing.T) {
	for lb := config.RoundRobin; lb <= config.PeakEWMA; lb++ {
		w := open(t, &config.Cluster{LB: lb, Health: []*config.HealthCheck{{}}, PanicThreshold: -1, Endpoints: hosts(equal(200)...)})
		for _, h := range w.s.Hosts()[1:] {
			h.ForceHealthy()
		}
		w.s.Checked(w.s.Hosts()[0], true, false, "")
		for _, h := range w.s.Hosts()[50:150] {
			h.ForceFailed()
		}
		p := w.s.Picker(1)
		for i := range 1000 {
			if h, why := p.Pick(hashed(i)); h == nil || !h.Healthy() {
				t.Fatalf("policy %d: %v", lb, why)
			}
		}
	}
}

// TestRun: without anybody calling Sweep, an ejection is told and ends.
func TestRun(t *testing.T) {
	said := make(chan string, 10)
	s, err := balance.New(&config.Cluster{Outlier: &config.Outlier{MaxPercent: 100, Interval: time.Millisecond, BaseEjection: time.Millisecond, MaxEjection: time.Millisecond}, Endpoints: hosts(1, 1)},
		balance.Options{Events: heard(said)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	for range 5 {
		s.Hosts()[0].Report(500, time.Millisecond, 1)
	}
	for _, want := range []string{"ejected", "returned"} {
		select {
		case got := <-said:
			if got != want {
				t.Errorf("heard %s, want %s", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("nobody told of %s", want)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if total, healthy, _, _, out := s.Counts(); total != 2 || healthy != 2 || out != 0 {
		t.Errorf("%d of %d healthy, %d ejected", healthy, total, out)
	}
}

type heard chan string

func (h heard) Ejected(*balance.Host, balance.Cause, bool) { h <- "ejected" }
func (h heard) Returned(*balance.Host)                     { h <- "returned" }
func (h heard) Health(*balance.Host, bool, string)         {}

// FuzzUpdate holds the incremental update to a plain one: whatever lists come
// one after the other, the set has each named host once, in order, and hosts
// that stayed are the same. Unchanged endpoints are often the same pointers.
func FuzzUpdate(f *testing.F) {
	f.Add([]byte{1, 2, 3, 255, 1, 3, 255, 3, 1, 2, 2, 255, 255, 5})
	f.Add([]byte{1, 2, 3, 4, 5, 254, 6, 7, 255, 1, 3, 254, 2, 4, 5, 6, 7, 255, 254, 1, 7})
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := balance.New(&config.Cluster{LB: config.RingHash, Ring: config.RingOptions{Min: 64}}, balance.Options{Now: func() int64 { return 1 }}, nil)
		if err != nil {
			t.Fatal(err)
		}
		was := map[string]*balance.Host{}
		known := map[byte]*config.Endpoint{} // the same pointer again for some
		for _, list := range bytes.Split(in, []byte{255}) {
			e := &config.Endpoints{}
			var want []string
			seen, twice := map[string]bool{}, false
			for z, part := range bytes.SplitN(list, []byte{254}, 3) {
				l := &config.Locality{Zone: string(rune('a' + z))}
				for _, b := range part {
					at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, b}), 80)
					ep := known[b]
					if ep == nil || b%3 == 0 {
						ep = &config.Endpoint{Addr: at, Weight: uint32(b % 4)}
						known[b] = ep
					}
					l.Hosts = append(l.Hosts, ep)
					if seen[at.String()] {
						twice = true // which of the two counts is left open
						continue
					}
					seen[at.String()] = true
					want = append(want, at.String())
				}
				e.Localities = append(e.Localities, l)
			}
			if err := s.Update(e); err != nil {
				t.Fatal(err)
			}
			now := map[string]*balance.Host{}
			var got []string
			for _, h := range s.Hosts() {
				got = append(got, h.Name)
				now[h.Name] = h
				if old := was[h.Name]; old != nil && old != h || h.Removed() {
					t.Fatalf("%s is another host now, or removed", h.Name)
				}
			}
			if twice {
				slices.Sort(got)
				slices.Sort(want)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("hosts %v, want %v", got, want)
			}
			for name, h := range was {
				if now[name] == nil && !h.Removed() {
					t.Fatalf("%s is gone and does not know it", name)
				}
			}
			was = now
			if len(want) > 0 {
				if same, at := s.RingSame(); !same {
					t.Fatalf("the ring is wrong at %d", at)
				}
				if h, why := s.Picker(1).Pick(&balance.Ask{}); h == nil || h.Removed() {
					t.Fatal(why)
				}
			}
		}
	})
}
