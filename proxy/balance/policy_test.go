// SPDX-License-Identifier: Apache-2.0

package balance_test

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
)

// world is one set under a clock of its own.
type world struct {
	*testing.T
	c   *config.Cluster
	s   *balance.Set
	now int64
	log []string
}

func (w *world) Ejected(h *balance.Host, why balance.Cause, enforced bool) {
	w.log = append(w.log, fmt.Sprintf("eject %s %s %v", h.Name, why, enforced))
}
func (w *world) Returned(h *balance.Host) { w.log = append(w.log, "return "+h.Name) }
func (w *world) Health(h *balance.Host, healthy bool, why string) {
	w.log = append(w.log, fmt.Sprintf("health %s %v %s", h.Name, healthy, why))
}

func (w *world) options() balance.Options {
	return balance.Options{Events: w, Now: func() int64 { return w.now }, Rand: func() uint64 { return 0 }}
}

func open(t *testing.T, c *config.Cluster) *world {
	t.Helper()
	w := &world{T: t, c: c, now: int64(time.Hour)}
	s, err := balance.New(c, w.options(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.s = s
	return w
}

// hosts makes one locality of hosts with these weights.
func hosts(weights ...uint32) *config.Endpoints {
	return &config.Endpoints{Localities: []*config.Locality{locality(0, 0, weights...)}}
}

// locality makes hosts 10.z.x.y:80.
func locality(z byte, prio uint32, weights ...uint32) *config.Locality {
	l := &config.Locality{Zone: string('a' + rune(z)), Priority: prio}
	for i, w := range weights {
		l.Hosts = append(l.Hosts, &config.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, z, byte(i >> 8), byte(i)}), 80), Weight: w})
	}
	return l
}

func equal(n int) []uint32 { return make([]uint32, n) }

// counts picks n times and counts by host, in the order of the hosts.
func (w *world) counts(n int, ask func(i int) *balance.Ask) []int {
	w.Helper()
	p := w.s.Picker(7)
	at := map[*balance.Host]int{}
	all := w.s.Hosts()
	for i, h := range all {
		at[h] = i
	}
	out := make([]int, len(all))
	a := &balance.Ask{}
	for i := range n {
		if ask != nil {
			a = ask(i)
		}
		h, why := p.Pick(a)
		if h == nil {
			w.Fatalf("pick %d: %s", i, why)
		}
		out[at[h]]++
	}
	return out
}

// chi fails when counts are less likely than about one in a million to come
// from shares.
func (w *world) chi(counts []int, shares []float64) {
	w.Helper()
	n, sum, x := 0, 0.0, 0.0
	for i, c := range counts {
		n += c
		sum += shares[i]
	}
	df := -1.0
	for i, c := range counts {
		if shares[i] == 0 {
			if c != 0 {
				w.Errorf("host %d has %d requests and no share", i, c)
			}
			continue
		}
		want := float64(n) * shares[i] / sum
		x += (float64(c) - want) * (float64(c) - want) / want
		df++
	}
	// Wilson and Hilferty's approximation of the chi-square quantile, z = 4.75.
	limit := df * math.Pow(1-2/(9*df)+4.75*math.Sqrt(2/(9*df)), 3)
	if x > limit {
		w.Errorf("chi-square %.1f above %.1f: counts %v, shares %v", x, limit, counts, shares)
	}
}

func floats(ws []uint32) (out []float64) {
	for _, w := range ws {
		out = append(out, float64(max(1, w)))
	}
	return
}

func hashed(i int) *balance.Ask {
	// splitmix64: hashes that are as good as a request's
	z := uint64(i+1) * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return &balance.Ask{Hash: z ^ z>>31, HasHash: true}
}

func TestRoundRobinIsExact(t *testing.T) {
	w := open(t, &config.Cluster{Endpoints: hosts(equal(7)...)})
	p := w.s.Picker(1)
	var first []*balance.Host
	for i := range 70 {
		h, _ := p.Pick(&balance.Ask{})
		if i < 7 {
			first = append(first, h)
		} else if h != first[i%7] {
			t.Fatalf("pick %d breaks the rotation", i)
		}
	}
	starts := map[string]bool{}
	for seed := range uint64(50) {
		h, _ := w.s.Picker(seed).Pick(&balance.Ask{})
		starts[h.Name] = true
	}
	if len(starts) < 5 {
		t.Errorf("50 loops begin at %d of 7 hosts", len(starts))
	}
}

// TestWeightedRoundRobinIsEven: in every run of total weight picks each host
// comes by its weight, within one; that is what earliest deadline first
// promises, and chance does not.
func TestWeightedRoundRobinIsEven(t *testing.T) {
	ws := []uint32{5, 1, 1, 3, 10}
	w := open(t, &config.Cluster{Endpoints: hosts(ws...)})
	p := w.s.Picker(3)
	got := map[*balance.Host]int{}
	for i := range 2000 {
		h, _ := p.Pick(&balance.Ask{})
		got[h]++
		for j, h := range w.s.Hosts() {
			if want := float64(i+1) * float64(ws[j]) / 20; math.Abs(float64(got[h])-want) > 2 {
				t.Fatalf("after %d picks host %d has %d, want about %.1f", i+1, j, got[h], want)
			}
		}
	}
}

// TestWeightsHoldInChurn: hosts come and go all the time, and those that stay
// get what their weights say, within one pick or two per change of theirs.
func TestWeightsHoldInChurn(t *testing.T) {
	ws := []uint32{5, 1, 1, 3, 10, 2, 2, 4, 4, 8, 1, 1, 2, 3, 5, 7, 7, 6, 2, 1}
	all := hosts(ws...).Localities[0].Hosts
	w := open(t, &config.Cluster{Endpoints: hosts(ws...)})
	w.s.Update(&config.Endpoints{Localities: []*config.Locality{{Zone: "a", Hosts: all}}})
	kept := w.s.Hosts()
	p := w.s.Picker(9)
	got := map[*balance.Host]int{}
	for round := range 500 {
		e := &config.Endpoints{Localities: []*config.Locality{{Zone: "a"}}}
		for i, ep := range all {
			if i < 16 || (i+round)%3 != 0 {
				e.Localities[0].Hosts = append(e.Localities[0].Hosts, ep)
			}
		}
		w.s.Update(e)
		for range 37 {
			h, _ := p.Pick(&balance.Ask{})
			got[h]++
		}
	}
	sum, weight := 0, 0.0
	for i := range 16 {
		sum += got[kept[i]]
		weight += float64(ws[i])
	}
	for i := range 16 {
		if want := float64(sum) * float64(ws[i]) / weight; math.Abs(float64(got[kept[i]])-want) > 0.05*want+5 {
			t.Errorf("host %d of weight %d has %d, want about %.0f", i, ws[i], got[kept[i]], want)
		}
	}
}

func TestDistributions(t *testing.T) {
	ws := []uint32{1, 2, 3, 4, 10, 1, 7, 2}
	for _, c := range []struct {
		name   string
		lb     config.LBPolicy
		ws     []uint32
		n      int
		shares []float64
	}{
		{"random", config.Random, equal(8), 40000, nil},
		{"random, weighted", config.Random, ws, 40000, nil},
		{"least request", config.LeastRequest, equal(8), 40000, nil},
		{"least request, weighted", config.LeastRequest, ws, 40000, nil},
		{"peak EWMA, idle", config.PeakEWMA, equal(8), 40000, nil},
		{"Maglev", config.Maglev, equal(8), 40000, nil},
		{"Maglev, weighted", config.Maglev, ws, 40000, nil},
		{"round robin, weighted", config.RoundRobin, ws, 40000, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := open(t, &config.Cluster{LB: c.lb, Endpoints: hosts(c.ws...)})
			w.chi(w.counts(c.n, hashed), floats(c.ws))
		})
	}
}

// TestRingShares: a ring of many points comes near the weights; the deviation
// of a host's arc is about its share ÷ √points.
func TestRingShares(t *testing.T) {
	ws := []uint32{1, 2, 3, 4}
	for _, murmur := range []bool{false, true} {
		w := open(t, &config.Cluster{LB: config.RingHash, Ring: config.RingOptions{Min: 100000, Murmur: murmur}, Endpoints: hosts(ws...)})
		got := w.counts(200000, hashed)
		for i, n := range got {
			want := 200000 * float64(ws[i]) / 10
			if dev := math.Abs(float64(n)-want) / want; dev > 0.06 {
				t.Errorf("murmur %v: host %d of weight %d has %d, want about %.0f", murmur, i, ws[i], n, want)
			}
		}
	}
}

// TestDisruption takes one of n hosts away: its keys must move, and few
// others.
func TestDisruption(t *testing.T) {
	const n, keys = 20, 20000
	for _, c := range []struct {
		name  string
		lb    config.LBPolicy
		least uint64
		worst float64 // share of the keys of hosts that stay which may move
	}{
		{"ring hash, as many points each as before", config.RingHash, 16, 0},
		{"ring hash, 527 points each instead of 500", config.RingHash, 10000, 27. / 527 * 1.2},
		{"Maglev", config.Maglev, 0, 0.03}, // section 5.3: a little for so large a table
	} {
		t.Run(c.name, func(t *testing.T) {
			w := open(t, &config.Cluster{LB: c.lb, Ring: config.RingOptions{Min: c.least}, Endpoints: hosts(equal(n)...)})
			before := make([]*balance.Host, keys)
			p := w.s.Picker(1)
			for i := range before {
				before[i], _ = p.Pick(hashed(i))
			}
			less := hosts(equal(n)...)
			less.Localities[0].Hosts = append(less.Localities[0].Hosts[:5:5], less.Localities[0].Hosts[6:]...)
			if err := w.s.Update(less); err != nil {
				t.Fatal(err)
			}
			moved, stayed := 0, 0
			for i, h := range before {
				now, _ := p.Pick(hashed(i))
				switch {
				case h.Removed() && now == h:
					t.Fatal("a key stays with a host that has gone")
				case !h.Removed() && now != h:
					moved++
				case !h.Removed():
					stayed++
				}
			}
			if share := float64(moved) / float64(moved+stayed); share > c.worst {
				t.Errorf("%.4f of the keys of hosts that stay have moved, want at most %v", share, c.worst)
			}
		})
	}
}

// TestHashIsTheSameEverywhere: proxies that are told the hosts in another
// order send a key to the same host.
func TestHashIsTheSameEverywhere(t *testing.T) {
	for _, lb := range []config.LBPolicy{config.RingHash, config.Maglev} {
		a := open(t, &config.Cluster{LB: lb, Endpoints: hosts(1, 2, 3, 4, 5)})
		e := hosts(1, 2, 3, 4, 5)
		hs := e.Localities[0].Hosts
		hs[0], hs[3], hs[2], hs[4] = hs[3], hs[0], hs[4], hs[2]
		b := open(t, &config.Cluster{LB: lb, Endpoints: e})
		pa, pb := a.s.Picker(1), b.s.Picker(2)
		for i := range 5000 {
			x, _ := pa.Pick(hashed(i))
			y, _ := pb.Pick(hashed(i))
			if x.Name != y.Name {
				t.Fatalf("policy %d, key %d: %s and %s", lb, i, x.Name, y.Name)
			}
		}
	}
}

// TestRingIncremental changes hosts at random; the ring that is patched must
// be the ring that would be made from nothing.
func TestRingIncremental(t *testing.T) {
	w := open(t, &config.Cluster{LB: config.RingHash, Endpoints: hosts(equal(300)...)})
	all := hosts(equal(300)...).Localities[0].Hosts
	x := uint64(1)
	in := make([]bool, len(all))
	for step := range 60 {
		for range 1 + step%5 {
			x = x*6364136223846793005 + 1442695040888963407
			in[x>>33%uint64(len(all))] = x>>62 != 0
		}
		e := &config.Endpoints{Localities: []*config.Locality{{Zone: "a"}}}
		for i, ep := range all {
			if in[i] {
				e.Localities[0].Hosts = append(e.Localities[0].Hosts, ep)
			}
		}
		if len(e.Localities[0].Hosts) == 0 {
			continue
		}
		if err := w.s.Update(e); err != nil {
			t.Fatal(err)
		}
		if same, n := w.s.RingSame(); !same {
			t.Fatalf("step %d: the patched ring is another than a fresh one at %d", step, n)
		}
	}
}

// TestLeastRequest: the busier of two is never chosen when both are drawn, so
// of two hosts the idle one gets all but the draws of the busy one twice.
func TestLeastRequest(t *testing.T) {
	w := open(t, &config.Cluster{LB: config.LeastRequest, Endpoints: hosts(equal(2)...)})
	w.s.Hosts()[0].Begin()
	w.chi(w.counts(20000, nil), []float64{1, 3})
	w = open(t, &config.Cluster{LB: config.LeastRequest, LeastChoices: 3, Endpoints: hosts(equal(2)...)})
	w.s.Hosts()[0].Begin()
	w.chi(w.counts(20000, nil), []float64{1, 7})
}

// TestWeightedLeastRequest holds Envoy's example: weight 2 with 4 requests
// under way counts as 0.4.
func TestWeightedLeastRequest(t *testing.T) {
	for _, c := range []struct {
		bias float64
		want []float64
	}{{0, []float64{0.4, 1}}, {2, []float64{2. / 25, 1}}} {
		w := open(t, &config.Cluster{LB: config.LeastRequest, LeastBias: c.bias, Endpoints: hosts(2, 1)})
		for range 4 {
			w.s.Hosts()[0].Begin()
		}
		w.chi(w.counts(20000, nil), c.want)
	}
}

// TestPeakEWMA: between two hosts the one that costs less is always chosen;
// the cost rises at once, sinks by e in ten seconds, and counts what is under
// way.
func TestPeakEWMA(t *testing.T) {
	w := open(t, &config.Cluster{LB: config.PeakEWMA, Endpoints: hosts(equal(2)...)})
	a, b := w.s.Hosts()[0], w.s.Hosts()[1]
	done := func(h *balance.Host, o balance.Outcome, d time.Duration) { h.Begin(); h.End(o, d, w.now) }
	done(a, 200, 10*time.Millisecond)
	done(b, 200, 30*time.Millisecond)
	only := func(want *balance.Host) {
		t.Helper()
		p := w.s.Picker(1)
		for range 100 {
			if h, _ := p.Pick(&balance.Ask{Now: w.now}); h != want {
				t.Fatalf("picked %s, want %s", h.Name, want.Name)
			}
		}
	}
	only(a)
	for range 3 {
		a.Begin()
	}
	only(b) // 10 ms × 4 against 30 ms
	for range 3 {
		a.End(balance.Cancelled, 0, w.now)
	}
	only(a)
	done(a, 200, 100*time.Millisecond)
	if got := a.Latency(w.now); got < 99*time.Millisecond {
		t.Errorf("a peak of 100 ms gives %s", got)
	}
	done(a, balance.ConnectFailed, time.Microsecond)
	if got := a.Latency(w.now); got < 99*time.Millisecond {
		t.Errorf("a fast failure made the host attractive: %s", got)
	}
	w.now += int64(10 * time.Second)
	if got, want := a.Latency(w.now).Seconds(), 0.1/math.E; math.Abs(got-want) > 0.001 {
		t.Errorf("after the decay time %v s, want %v", got, want)
	}
	// Half a value in, half a decay time later: old × e^-½ + new × (1 − e^-½).
	done(a, 200, 100*time.Millisecond)
	w.now += int64(5 * time.Second)
	done(a, 200, 20*time.Millisecond)
	if got, want := a.Latency(w.now).Seconds(), 0.1*math.Exp(-0.5)+0.02*(1-math.Exp(-0.5)); math.Abs(got-want) > 0.001 {
		t.Errorf("average %v s, want %v", got, want)
	}
}
