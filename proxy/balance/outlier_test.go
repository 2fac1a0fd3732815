// SPDX-License-Identifier: Apache-2.0

package balance_test

import (
	"reflect"
	"testing"
	"time"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
)

// run has host i end these outcomes, and sweeps.
func (w *world) run(i int, n int, o balance.Outcome) {
	for range n {
		h := w.s.Hosts()[i]
		h.Begin()
		h.End(o, time.Millisecond, w.now)
	}
}

func (w *world) said(want ...string) {
	w.Helper()
	w.s.Sweep(w.now)
	if len(w.log)+len(want) > 0 && !reflect.DeepEqual(w.log, want) {
		w.Errorf("events %q, want %q", w.log, want)
	}
	w.log = nil
}

func TestConsecutive(t *testing.T) {
	for _, c := range []struct {
		name string
		o    config.Outlier
		do   []balance.Outcome
		want []string
	}{
		{"five 5xx", config.Outlier{}, []balance.Outcome{500, 500, 501, 505, 500}, []string{"eject 10.0.0.0:80 5xx true"}},
		{"interrupted", config.Outlier{}, []balance.Outcome{500, 500, 500, 500, 404, 500, 500, 500, 500}, nil},
		{"cancelled counts for nothing", config.Outlier{}, []balance.Outcome{500, 500, 500, balance.Cancelled, 500, 500}, []string{"eject 10.0.0.0:80 5xx true"}},
		{"gateway errors are noticed, not enforced", config.Outlier{}, []balance.Outcome{503, 503, 504, 502, 503},
			[]string{"eject 10.0.0.0:80 gateway failure false", "eject 10.0.0.0:80 5xx true"}},
		{"gateway errors enforced", config.Outlier{EnforcingGateway: 100, ConsecutiveGateway: 2, Consecutive5xx: -1}, []balance.Outcome{503, 500, 503, 503},
			[]string{"eject 10.0.0.0:80 gateway failure true"}},
		{"local failures are 5xx", config.Outlier{Consecutive5xx: 2, ConsecutiveGateway: -1}, []balance.Outcome{balance.ConnectFailed, balance.TimedOut}, []string{"eject 10.0.0.0:80 5xx true"}},
		{"told apart", config.Outlier{SplitLocal: true, Consecutive5xx: 2, ConsecutiveLocal: 3}, []balance.Outcome{balance.ConnectFailed, balance.ResetByPeer, 500, balance.ConnectFailed, balance.ConnectTimeout}, nil},
		{"told apart, local", config.Outlier{SplitLocal: true, ConsecutiveLocal: 3}, []balance.Outcome{balance.ConnectFailed, balance.ResetByPeer, balance.ConnectTimeout}, []string{"eject 10.0.0.0:80 local origin failure true"}},
		{"off", config.Outlier{Consecutive5xx: -1, ConsecutiveGateway: -1}, []balance.Outcome{500, 500, 500, 500, 500, 503, 503, 503, 503, 503}, nil},
		{"not enforced", config.Outlier{Enforcing5xx: -1}, []balance.Outcome{500, 500, 500, 500, 500}, []string{"eject 10.0.0.0:80 5xx false"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.MaxPercent = 50
			w := open(t, &config.Cluster{Outlier: &c.o, Endpoints: hosts(equal(4)...)})
			for _, o := range c.do {
				w.run(0, 1, o)
			}
			w.said(c.want...)
		})
	}
}

// TestEjection: the flag works before the sweep, the time out grows with each
// ejection up to the bound, and shrinks in health.
func TestEjection(t *testing.T) {
	w := open(t, &config.Cluster{Outlier: &config.Outlier{MaxPercent: 100, BaseEjection: 30 * time.Second, MaxEjection: 70 * time.Second}, Endpoints: hosts(equal(4)...)})
	out := func(want time.Duration) {
		t.Helper()
		w.run(2, 5, 500)
		w.chi(w.counts(300, nil), []float64{1, 1, 0, 1})
		w.said("eject 10.0.0.2:80 5xx true")
		if got := w.s.Hosts()[2].Health(); got != "failed_outlier_check" {
			t.Error(got)
		}
		from := w.now
		for w.log == nil {
			w.now += int64(10 * time.Second)
			w.s.Sweep(w.now)
		}
		if got := time.Duration(w.now - from); got != want {
			t.Errorf("ejected for %s, want %s", got, want)
		}
		w.said("return 10.0.0.2:80")
		w.chi(w.counts(400, nil), []float64{1, 1, 1, 1})
	}
	out(30 * time.Second)
	out(60 * time.Second)
	out(70 * time.Second)
	out(70 * time.Second)
	for range 2 { // two sweeps in health: two steps down
		w.now += int64(10 * time.Second)
		w.s.Sweep(w.now)
	}
	out(70 * time.Second) // four steps up, one for being out … down to two, and up one
	for range 9 {
		w.now += int64(10 * time.Second)
		w.s.Sweep(w.now)
	}
	out(30 * time.Second)
}

func TestMaxEjection(t *testing.T) {
	w := open(t, &config.Cluster{Outlier: &config.Outlier{MaxPercent: 40}, Endpoints: hosts(equal(5)...)})
	for i := range 4 {
		w.run(i, 5, 500)
	}
	w.said("eject 10.0.0.0:80 5xx true", "eject 10.0.0.1:80 5xx true", "eject 10.0.0.2:80 5xx false", "eject 10.0.0.3:80 5xx false")
	// An ejected host that leaves makes room.
	e := hosts(equal(5)...)
	e.Localities[0].Hosts = e.Localities[0].Hosts[1:]
	w.s.Update(e)
	w.run(1, 5, 500) // 2 of 4 would be 50 %
	w.said("eject 10.0.0.2:80 5xx false")
	small := open(t, &config.Cluster{Outlier: &config.Outlier{}, Endpoints: hosts(equal(3)...)})
	small.run(0, 5, 500)
	small.said("eject 10.0.0.0:80 5xx false") // 33 % are more than 10
	small = open(t, &config.Cluster{Outlier: &config.Outlier{AlwaysOne: true}, Endpoints: hosts(equal(3)...)})
	small.run(0, 5, 500)
	small.run(1, 5, 500)
	small.said("eject 10.0.0.0:80 5xx true", "eject 10.0.0.1:80 5xx false")
}

func TestSuccessRate(t *testing.T) {
	off := config.Outlier{Consecutive5xx: -1, ConsecutiveGateway: -1, MaxPercent: 50}
	for _, c := range []struct {
		name   string
		change func(*config.Outlier)
		fails  []int // of 100 requests
		want   []string
	}{
		// Rates 100 ×5 and 50: mean 91.67, deviation 18.63, threshold 56.3.
		{"one is out", nil, []int{0, 0, 0, 0, 0, 50}, []string{"eject 10.0.0.5:80 success rate true"}},
		// A higher factor: threshold 91.67 − 3 × 18.63 = 35.8.
		{"not so far out", func(o *config.Outlier) { o.SuccessStdevFactor = 3000 }, []int{0, 0, 0, 0, 0, 50}, nil},
		{"too few hosts", nil, []int{0, 0, 0, 50}, nil},
		{"too few requests", func(o *config.Outlier) { o.SuccessVolume = 101 }, []int{0, 0, 0, 0, 0, 50}, nil},
		{"not enforced", func(o *config.Outlier) { o.EnforcingSuccess = -1 }, []int{0, 0, 0, 0, 0, 50}, []string{"eject 10.0.0.5:80 success rate false"}},
		{"failure percentage", func(o *config.Outlier) { o.EnforcingFailure, o.SuccessMinHosts = 100, 100 }, []int{84, 85, 0, 0, 99, 0}, []string{
			"eject 10.0.0.1:80 failure percentage true", "eject 10.0.0.4:80 failure percentage true"}},
		{"failure percentage, noticed", func(o *config.Outlier) { o.SuccessMinHosts = 100 }, []int{90, 0, 0, 0, 0}, []string{"eject 10.0.0.0:80 failure percentage false"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := off
			if c.change != nil {
				c.change(&o)
			}
			w := open(t, &config.Cluster{Outlier: &o, Endpoints: hosts(equal(len(c.fails))...)})
			for i, n := range c.fails {
				w.run(i, n, 500)
				w.run(i, 100-n, 200)
			}
			w.said()
			w.now += int64(10 * time.Second)
			w.said(c.want...)
			w.now += int64(10 * time.Second)
			w.said() // a new interval begins with nothing
		})
	}
}

func TestActiveCheckEndsEjection(t *testing.T) {
	w := open(t, &config.Cluster{Health: []*config.HealthCheck{{}}, Outlier: &config.Outlier{MaxPercent: 100}, Endpoints: hosts(1, 1)})
	for _, h := range w.s.Hosts() {
		w.s.Checked(h, true, false, "")
	}
	w.log = nil
	w.run(0, 5, 500)
	w.said("eject 10.0.0.0:80 5xx true")
	w.s.Checked(w.s.Hosts()[0], true, false, "")
	w.said("return 10.0.0.0:80")
	w.chi(w.counts(100, nil), []float64{1, 1})
}
