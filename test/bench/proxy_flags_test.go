// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"flag"
	"slices"
	"strings"
	"time"
)

// What a run of the proxy rows can be told:
//
//	go test -run '^$' -bench ProxyHTTP1/c=64/100B -benchtime 1x ./test/bench -only redoubt,nginx -rounds 5
var (
	rounds   = flag.Int("rounds", 3, "how often each contestant takes its turn; medians are over these")
	span     = flag.Duration("span", 2*time.Second, "measured time of one turn")
	only     = flag.String("only", "", "comma-separated contestants; empty: all that the row knows")
	proxyBin = flag.String("proxy", "../../bin/redoubt-proxy", "the redoubt-proxy that is measured")
	tableOut = flag.String("table", "", "`file` to which the Markdown tables are appended too")
	profiles = flag.String("profiles", "", "`directory` for a CPU profile of redoubt per cell, taken in a turn that is not measured")
	paced    = flag.String("paced", "redoubt,nginx,haproxy", "contestants whose slowest saturation sets the fixed rate")
)

// picked says whether a contestant was asked for.
func picked(name string) bool { return *only == "" || listed(*only, name) }

func listed(list, name string) bool { return slices.Contains(strings.Split(list, ","), name) }
