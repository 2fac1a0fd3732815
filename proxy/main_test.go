// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"os"
	"runtime"
	"testing"
)

// TestMain makes room as cmd/redoubt-proxy does: a busy loop keeps its
// processor while it waits, and two proxies run beside clients and servers.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(2*2 + 2)
	os.Exit(m.Run())
}
