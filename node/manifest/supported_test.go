// SPDX-License-Identifier: Apache-2.0

package manifest

import "testing"

// TestSupportedFits holds supported.txt to the APIs: every path exists and
// ends at a scalar, and every kind has a table.
func TestSupportedFits(t *testing.T) {
	for name, k := range kinds() {
		if k.table == nil {
			t.Errorf("supported.txt has no section %s", name)
		} else if err := k.table.Fits(k.schema); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
