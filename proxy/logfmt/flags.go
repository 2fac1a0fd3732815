// SPDX-License-Identifier: Apache-2.0

package logfmt

import "redoubt.dev/proxy/filter"

// flagNames are in the order of filter.Flags' bits.
var flagNames = [...]struct{ short, long string }{
	{"UH", "NoHealthyUpstream"}, {"UF", "UpstreamConnectionFailure"}, {"UO", "UpstreamOverflow"}, {"NR", "NoRouteFound"},
	{"URX", "UpstreamRetryLimitExceeded"}, {"NC", "NoClusterFound"}, {"DC", "DownstreamConnectionTermination"},
	{"UR", "UpstreamRemoteReset"}, {"UC", "UpstreamConnectionTermination"}, {"UT", "UpstreamRequestTimeout"},
	{"SI", "StreamIdleTimeout"}, {"UAEX", "UnauthorizedExternalService"}, {"RL", "RateLimited"}, {"DI", "DelayInjected"},
	{"FI", "FaultInjected"}, {"LR", "LocalReset"}, {"DPE", "DownstreamProtocolError"}, {"UPE", "UpstreamProtocolError"},
	{"DT", "DurationTimeout"}, {"OM", "OverloadManagerTerminated"}, {"DO", "DropOverload"},
}

func shortFlags(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
	n := len(dst)
	for i := range flagNames {
		if c.Flags&(1<<i) != 0 {
			if len(dst) > n {
				dst = append(dst, ',')
			}
			dst = append(dst, flagNames[i].short...)
		}
	}
	return dst, len(dst) > n
}

func longFlags(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
	n := len(dst)
	for i := range flagNames {
		if c.Flags&(1<<i) != 0 {
			if len(dst) > n {
				dst = append(dst, ',')
			}
			dst = append(dst, flagNames[i].long...)
		}
	}
	return dst, len(dst) > n
}

// FlagOf finds a flag by its short name.
func FlagOf(short string) (filter.Flags, bool) {
	for i := range flagNames {
		if flagNames[i].short == short {
			return 1 << i, true
		}
	}
	return 0, false
}
