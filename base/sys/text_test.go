// SPDX-License-Identifier: Apache-2.0

package sys_test

import (
	"strings"
	"testing"

	"redoubt.dev/base/sys"
)

// TestForgetCode wants a program to go on as if nothing had happened.
func TestForgetCode(t *testing.T) {
	before := strings.Repeat("constants", 3)
	n := sys.ForgetCode()
	t.Logf("%d bytes given up", n)
	if strings.Repeat("constants", 3) != before {
		t.Fatal("constants changed")
	}
}
