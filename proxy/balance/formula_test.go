// SPDX-License-Identifier: Apache-2.0

package balance_test

import (
	"math"
	"reflect"
	"testing"
	"time"

	"redoubt.dev/proxy/balance"
)

// TestSpillOver holds the tables of Envoy's page on priority levels.
func TestSpillOver(t *testing.T) {
	for _, c := range []struct {
		healthy []int
		want    []int
	}{
		{[]int{100, 100}, []int{100, 0}},
		{[]int{72, 100}, []int{100, 0}},
		{[]int{71, 100}, []int{99, 1}},
		{[]int{50, 100}, []int{70, 30}},
		{[]int{25, 100}, []int{35, 65}},
		{[]int{0, 100}, []int{0, 100}},
		{[]int{72, 72}, []int{100, 0}},
		{[]int{71, 71}, []int{99, 1}},
		{[]int{50, 50}, []int{70, 30}},
		{[]int{25, 25}, []int{50, 50}},
		{[]int{5, 65}, []int{7, 93}},
		{[]int{100, 100, 100}, []int{100, 0, 0}},
		{[]int{72, 72, 100}, []int{100, 0, 0}},
		{[]int{71, 71, 100}, []int{99, 1, 0}},
		{[]int{50, 50, 100}, []int{70, 30, 0}},
		{[]int{25, 100, 100}, []int{35, 65, 0}},
		{[]int{25, 25, 100}, []int{35, 35, 30}},
		{[]int{25, 25, 20}, []int{36, 36, 28}},
	} {
		var in [][2]int
		for _, h := range c.healthy {
			in = append(in, [2]int{h, 0})
		}
		load, _ := balance.Shares(0, in...)
		var got []int
		for _, l := range load {
			got = append(got, l[0])
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("healthy %v: traffic %v, want %v", c.healthy, got, c.want)
		}
	}
}

// TestDegradedShares holds the table of Envoy's page on degraded endpoints.
func TestDegradedShares(t *testing.T) {
	for _, c := range []struct{ in, want [2]int }{
		{[2]int{100, 0}, [2]int{100, 0}},
		{[2]int{71, 0}, [2]int{100, 0}},
		{[2]int{71, 29}, [2]int{99, 1}},
		{[2]int{25, 65}, [2]int{35, 65}},
		{[2]int{5, 0}, [2]int{100, 0}},
	} {
		if got, _ := balance.Shares(50, c.in); got[0] != c.want {
			t.Errorf("healthy and degraded %v: traffic %v, want %v", c.in, got[0], c.want)
		}
	}
}

// TestPanicShares holds the rows of Envoy's page on the panic threshold, but
// for two that its own formula contradicts.
func TestPanicShares(t *testing.T) {
	for _, c := range []struct {
		healthy   [2]int
		threshold float64
		panics    []bool
	}{
		{[2]int{72, 100}, 50, []bool{false, false}},
		{[2]int{0, 100}, 50, []bool{false, false}},
		{[2]int{50, 60}, 50, []bool{false, false}},
		{[2]int{25, 100}, 50, []bool{false, false}},
		{[2]int{25, 25}, 50, []bool{true, true}},
		{[2]int{5, 65}, 50, []bool{true, false}},
		{[2]int{0, 0}, 50, []bool{true, true}},
		{[2]int{0, 0}, 0, []bool{false, false}},
	} {
		_, got := balance.Shares(c.threshold, [2]int{c.healthy[0], 0}, [2]int{c.healthy[1], 0})
		if !reflect.DeepEqual(got, c.panics) {
			t.Errorf("healthy %v, threshold %v: panics %v, want %v", c.healthy, c.threshold, got, c.panics)
		}
	}
	if load, _ := balance.Shares(0, [2]int{0, 0}, [2]int{0, 0}); load[0] != [2]int{} || load[1] != [2]int{} {
		t.Errorf("no health and no panic: %v, want no traffic at all", load)
	}
}

func TestSharesWithoutHosts(t *testing.T) {
	out := balance.RawShares([]balance.Level{balance.MakeLevel(0, 0, 0, 0), balance.MakeLevel(3, 1, 0, 2)}, 140, 50)
	h0, _, p0 := out[0].Parts()
	h1, _, p1 := out[1].Parts()
	if h0 != 0 || h1 != 100 || p0 || p1 {
		t.Errorf("an empty priority and one of which all that count are healthy: %v", out)
	}
	out = balance.RawShares([]balance.Level{balance.MakeLevel(4, 0, 0, 4), balance.MakeLevel(12, 0, 0, 0)}, 140, 50)
	h0, _, _ = out[0].Parts()
	h1, _, _ = out[1].Parts()
	if h0+h1 != 100 || h0 != 25 {
		t.Errorf("in a panic everywhere, load goes by hosts: %v", out)
	}
}

// TestLocalityShares holds the table of Envoy's page on locality weights.
func TestLocalityShares(t *testing.T) {
	for _, c := range [][3]int{{100, 33, 67}, {70, 33, 67}, {69, 33, 67}, {50, 26, 74}, {25, 15, 85}, {0, 0, 100}} {
		got := balance.LocalityShares([]uint32{1, 2}, []int{c[0], 100}, []int{100, 100}, 140)
		sum := float64(got[0] + got[1])
		for i := range got {
			// The page rounds, and says 32 to 68 for 69 % where its formula gives 32.6.
			if share := 100 * float64(got[i]) / sum; math.Abs(share-float64(c[i+1])) > 0.7 {
				t.Errorf("%d %% healthy: share %d is %.1f, want %d", c[0], i, share, c[i+1])
			}
		}
	}
}

func TestZoneShares(t *testing.T) {
	for _, c := range []struct {
		local, upstream []int
		want            []float64
	}{
		{[]int{1, 1}, []int{3, 3}, []float64{1, 0}},                             // the same shares: all stays
		{[]int{1, 2}, []int{3, 3}, []float64{1, 0}},                             // more room here than requests
		{[]int{3, 1}, []int{2, 2}, []float64{2. / 3, 1. / 3}},                   // 75 % of requests, 50 % of hosts
		{[]int{2, 1, 1}, []int{1, 2, 1}, []float64{0.5, 0.5, 0}},                // the second alone has room
		{[]int{2, 0, 0}, []int{1, 1, 2}, []float64{0.25, 0.25, 0.5}},            // all requests come from here
		{[]int{4, 1, 1}, []int{2, 2, 2}, []float64{0.5, 0.25, 0.25}},            // both have the same room
		{[]int{1, 9}, []int{0, 10}, []float64{0, 1}},                            // nobody here
		{[]int{10, 30, 60}, []int{10, 30, 60}, []float64{1, 0, 0}},              // proportional
		{[]int{50, 25, 25}, []int{25, 50, 25}, []float64{0.5, 0.5, 0}},          // in per cent
		{[]int{50, 50, 0}, []int{30, 60, 10}, []float64{0.6, 0.4 / 2, 0.4 / 2}}, // 10 of 20 each
	} {
		got := balance.ZoneShares(c.local, c.upstream)
		sum := 0.0
		for _, w := range got {
			sum += float64(w)
		}
		for i, w := range got {
			if math.Abs(float64(w)/sum-c.want[i]) > 0.001 {
				t.Errorf("local %v, upstream %v: %v, want shares %v", c.local, c.upstream, got, c.want)
				break
			}
		}
	}
}

func TestWarm(t *testing.T) {
	const window = int64(60 * time.Second)
	for _, c := range []struct {
		age                     time.Duration
		aggression, least, want float64
	}{
		{0, 1, 0.1, 0.1},                         // the floor
		{0, 1, 0.001, 1. / 60},                   // the first second counts whole
		{30 * time.Second, 1, 0.1, 0.5},          // linear
		{15 * time.Second, 2, 0.1, 0.5},          // square root
		{30 * time.Second, 0.5, 0.1, 0.25},       // square
		{60 * time.Second, 1, 0.1, 1},            // over
		{90 * time.Second, 0.3, 0.1, 1},          // long over
		{48 * time.Second, 1.5, 0.1, 0.86177388}, // 0.8^(1/1.5)
	} {
		if got := balance.Warm(int64(c.age), window, c.aggression, c.least); math.Abs(got-c.want) > 1e-6 {
			t.Errorf("after %s with aggression %v: %v, want %v", c.age, c.aggression, got, c.want)
		}
	}
}

// TestMurmur holds values of the reference implementation (MurmurHash64A with
// the seed of libstdc++).
func TestMurmur(t *testing.T) {
	for in, want := range murmurVectors {
		if got := balance.Murmur64([]byte(in), 0xc70f6907); got != want {
			t.Errorf("%q: %#x, want %#x", in, got, want)
		}
	}
}

// From libstdc++'s std::hash<std::string>.
var murmurVectors = map[string]uint64{
	"":                          0x553e93901e462a6e,
	"a":                         0x454ddee488c1ed6b,
	"127.0.0.1:80_0":            0xf46ef02bbe939e15,
	"10.0.0.1:8080_17":          0xc27bda5783a79ab5,
	"exactly8":                  0xbc769552f7635847,
	"longer than sixteen bytes": 0x300a28dc60133cc2,
}
