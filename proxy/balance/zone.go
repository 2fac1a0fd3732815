// SPDX-License-Identifier: Apache-2.0

package balance

// zoneShares spreads requests over localities so that as many as possible stay
// in the first, which is the proxy's own, while all hosts get about the same
// load (Envoy's zone aware routing). local and upstream are the hosts of both
// clusters by locality. It gives relative shares.
func zoneShares(local, upstream []int) []uint64 {
	const whole = 10000
	perMyriad := func(ns []int) []uint64 {
		sum, out := 0, make([]uint64, len(ns))
		for _, n := range ns {
			sum += n
		}
		for i, n := range ns {
			if sum > 0 {
				out[i] = uint64(whole * n / sum)
			}
		}
		return out
	}
	l, u := perMyriad(local), perMyriad(upstream)
	out := make([]uint64, len(upstream))
	if u[0] >= l[0] {
		out[0] = 1
		return out
	}
	stay := u[0] * whole / l[0] // of what leaves this locality
	var residual uint64
	for i := 1; i < len(u); i++ {
		if u[i] > l[i] {
			out[i] = u[i] - l[i]
			residual += out[i]
		}
	}
	if residual == 0 {
		// Rounding left no capacity elsewhere: any locality will do.
		for i := range out {
			out[i] = whole - stay
			residual += out[i]
		}
		out[0] += stay * uint64(len(out))
		return out
	}
	for i := 1; i < len(out); i++ {
		out[i] *= whole - stay
	}
	out[0] = stay * residual
	return out
}

// localityShares are the effective weights of localities: each its weight,
// times how much of it may be used, at most all, given some overprovisioning.
func localityShares(weights []uint32, eligible, total []int, over uint32) []uint64 {
	out := make([]uint64, len(weights))
	for i, w := range weights {
		if total[i] > 0 {
			out[i] = uint64(w) * uint64(min(1e6, float64(over)*1e4*float64(eligible[i])/float64(total[i])))
		}
	}
	return out
}
