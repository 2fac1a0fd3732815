// SPDX-License-Identifier: Apache-2.0

package balance_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
)

var policies = []struct {
	name     string
	lb       config.LBPolicy
	weighted bool
}{
	{"RoundRobin", config.RoundRobin, false},
	{"RoundRobinWeighted", config.RoundRobin, true},
	{"LeastRequest", config.LeastRequest, false},
	{"LeastRequestWeighted", config.LeastRequest, true},
	{"Random", config.Random, false},
	{"PeakEWMA", config.PeakEWMA, false},
	{"RingHash", config.RingHash, false},
	{"Maglev", config.Maglev, false},
}

func many(n int, weighted bool) *config.Endpoints {
	ws := equal(n)
	for i := range ws {
		if ws[i] = 1; weighted {
			ws[i] = uint32(1 + i%7)
		}
	}
	return hosts(ws...)
}

func TestNoAllocation(t *testing.T) {
	for _, c := range policies {
		w := open(t, &config.Cluster{LB: c.lb, Outlier: &config.Outlier{}, Endpoints: many(50, c.weighted)})
		p := w.s.Picker(1)
		i := 0
		if n := testing.AllocsPerRun(1000, func() {
			i++
			h, _ := p.Pick(&balance.Ask{Hash: uint64(i) * 0x9e3779b97f4a7c15, HasHash: true, Now: w.now})
			w.s.Admit(balance.Requests, false)
			h.Begin()
			h.End(200, time.Millisecond, w.now)
			w.s.Release(balance.Requests, false)
		}); n != 0 {
			t.Errorf("%s: %v allocations per request", c.name, n)
		}
	}
	sub := balance.Match(map[string]string{"v": "1"})
	e := many(50, false)
	for _, ep := range e.Localities[0].Hosts {
		ep.Metadata = map[string]string{"v": "1"}
	}
	w := open(t, &config.Cluster{Subsets: &config.Subsets{Keys: [][]string{{"v"}}}, Endpoints: e})
	p := w.s.Picker(1)
	if n := testing.AllocsPerRun(1000, func() { p.Pick(&balance.Ask{Subset: sub}) }); n != 0 {
		t.Errorf("subset: %v allocations per pick", n)
	}
	dst := open(t, &config.Cluster{Discovery: config.OrigDst})
	p = dst.s.Picker(1)
	to := e.Localities[0].Hosts[0].Addr
	if n := testing.AllocsPerRun(1000, func() { p.Pick(&balance.Ask{Dest: to}) }); n != 0 {
		t.Errorf("original destination: %v allocations per pick", n)
	}
}

// TestConcurrent has loops pick and report while everything changes: for the
// race detector, and for the books, which must balance at the end.
func TestConcurrent(t *testing.T) {
	for _, c := range policies {
		t.Run(c.name, func(t *testing.T) {
			var now atomic.Int64
			o := balance.Options{Now: func() int64 { return now.Add(int64(10 * time.Microsecond)) }, Wake: func() {}, Events: &world{T: t}}
			cl := &config.Cluster{LB: c.lb, Health: []*config.HealthCheck{{}}, Endpoints: many(40, c.weighted), LeastBias: 0.5,
				SlowStart: &config.SlowStart{Window: time.Second},
				Outlier:   &config.Outlier{MaxPercent: 30, Interval: time.Millisecond, BaseEjection: time.Millisecond, EnforcingGateway: 50}}
			first, err := balance.New(cl, balance.Options{Now: o.Now}, nil)
			if err != nil {
				t.Fatal(err)
			}
			var set atomic.Pointer[balance.Set]
			set.Store(first)
			var loops, control sync.WaitGroup
			var stop atomic.Bool
			for l := range 3 {
				loops.Go(func() {
					s := set.Load()
					p := s.Picker(uint64(l))
					for i := range 20000 {
						if i%1000 == 0 {
							s = set.Load()
							p = s.Picker(uint64(i))
						}
						h, _ := p.Pick(&balance.Ask{Hash: uint64(i * l), HasHash: i%2 == 0, Now: now.Load()})
						if h == nil || !s.Admit(balance.Requests, l == 0) {
							continue
						}
						h.Begin()
						out := balance.Outcome(200)
						switch (i + l) % 5 {
						case 0:
							out = 503
						case 1:
							out = balance.ConnectFailed
						}
						h.End(out, time.Duration(i), now.Load())
						s.Release(balance.Requests, l == 0)
					}
				})
			}
			control.Go(func() {
				for i := 0; !stop.Load(); i++ {
					s := set.Load()
					hs := s.Hosts()
					s.Checked(hs[i%len(hs)], i%3 != 0, i%7 == 0, "")
					switch i % 10 {
					case 3:
						s.Update(many(20+i%21, c.weighted))
					case 5:
						s.Sweep(now.Load())
					case 7:
						if next, err := balance.New(cl, balance.Options{Now: o.Now}, s); err == nil {
							set.Store(next)
						}
					}
				}
			})
			loops.Wait()
			stop.Store(true)
			control.Wait()
			for _, high := range []bool{true, false} {
				if n, _, _ := set.Load().Used(balance.Requests, high); n != 0 {
					t.Errorf("%d requests still counted", n)
				}
			}
			for _, h := range set.Load().Hosts() {
				if n := h.Active.Load(); n != 0 {
					t.Errorf("%s: %d requests still counted", h.Name, n)
				}
			}
		})
	}
}

func BenchmarkPick(b *testing.B) {
	for _, c := range policies {
		for _, n := range []int{10, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				s, err := balance.New(&config.Cluster{LB: c.lb, Endpoints: many(n, c.weighted)}, balance.Options{}, nil)
				if err != nil {
					b.Fatal(err)
				}
				p := s.Picker(1)
				a := balance.Ask{HasHash: true, Now: 1}
				p.Pick(&a)
				b.ReportAllocs()
				for b.Loop() {
					a.Hash = a.Hash*6364136223846793005 + 1442695040888963407
					p.Pick(&a)
				}
			})
		}
	}
}

// BenchmarkRequest is all that a request asks of this package.
func BenchmarkRequest(b *testing.B) {
	s, err := balance.New(&config.Cluster{LB: config.LeastRequest, Outlier: &config.Outlier{}, Endpoints: many(1000, false)}, balance.Options{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	p := s.Picker(1)
	now := int64(1)
	b.ReportAllocs()
	for b.Loop() {
		now += 100000
		h, _ := p.Pick(&balance.Ask{Now: now})
		s.Admit(balance.Requests, false)
		h.Begin()
		h.End(200, time.Millisecond, now)
		s.Release(balance.Requests, false)
	}
}

// BenchmarkFirstPick is the pick of a loop that meets a new snapshot, in which
// one of 10,000 weighted hosts is another.
func BenchmarkFirstPick(b *testing.B) {
	for _, kind := range []string{"Replace", "Remove"} {
		b.Run(kind, func(b *testing.B) {
			e := many(10001, true)
			other := &config.Endpoints{Localities: []*config.Locality{{Zone: "a", Hosts: slices.Clone(e.Localities[0].Hosts)}}}
			if hs := other.Localities[0].Hosts; kind == "Replace" {
				hs[5000] = hosts(equal(10002)...).Localities[0].Hosts[10001]
			} else {
				other.Localities[0].Hosts = append(hs[:5000], hs[5001:]...)
			}
			s, err := balance.New(&config.Cluster{Endpoints: e}, balance.Options{Now: func() int64 { return 1 }}, nil)
			if err != nil {
				b.Fatal(err)
			}
			p := s.Picker(1)
			a := &balance.Ask{}
			i := 0
			for b.Loop() {
				b.StopTimer()
				i++
				s.Update([]*config.Endpoints{e, other}[i%2])
				b.StartTimer()
				p.Pick(a)
			}
		})
	}
}

// BenchmarkUpdate changes one of 10,000 hosts and makes the next snapshot each
// time.
func BenchmarkUpdate(b *testing.B) {
	for _, c := range policies {
		for _, kind := range []string{"Replace", "Health"} {
			b.Run(c.name+"/"+kind, func(b *testing.B) {
				e := many(10000, c.weighted)
				// A clock that stands still: no change waits for another.
				cl := &config.Cluster{LB: c.lb, Endpoints: e}
				if kind == "Health" {
					cl.Health = []*config.HealthCheck{{}}
				}
				s, err := balance.New(cl, balance.Options{Now: func() int64 { return 1 }}, nil)
				if err != nil {
					b.Fatal(err)
				}
				for _, h := range s.Hosts()[1:] {
					h.ForceHealthy()
				}
				s.Checked(s.Hosts()[0], true, false, "")
				spare := hosts(equal(10001)...).Localities[0].Hosts[10000]
				eps := e.Localities[0].Hosts
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					i++
					if kind == "Health" {
						s.Checked(s.Hosts()[5000], i%2 == 0, false, "")
						continue
					}
					next := &config.Endpoints{Localities: []*config.Locality{{Zone: "a", Hosts: slices.Clone(eps)}}}
					if i%2 == 0 {
						next.Localities[0].Hosts[5000] = spare
					}
					s.Update(next)
				}
			})
		}
	}
}

// BenchmarkChurn is one of 10,000 hosts after the other, as fast as it goes,
// with the pauses that real time makes: what a change costs when they come
// faster than snapshots.
func BenchmarkChurn(b *testing.B) {
	for _, c := range policies {
		b.Run(c.name, func(b *testing.B) {
			e := many(10000, c.weighted)
			s, err := balance.New(&config.Cluster{LB: c.lb, Endpoints: e}, balance.Options{}, nil)
			if err != nil {
				b.Fatal(err)
			}
			spare := hosts(equal(10001)...).Localities[0].Hosts[10000]
			other := &config.Endpoints{Localities: []*config.Locality{{Zone: "a", Hosts: slices.Clone(e.Localities[0].Hosts)}}}
			other.Localities[0].Hosts[5000] = spare
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				s.Update([]*config.Endpoints{e, other}[i%2])
			}
			b.ReportMetric(float64(s.Snapshots())/float64(i), "snapshots/op")
		})
	}
}
