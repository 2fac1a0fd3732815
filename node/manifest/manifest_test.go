// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"testing"

	"redoubt.dev/node/manifest"
)

func TestGood(t *testing.T) {
	set, err := manifest.Load([]string{"testdata/good"})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(set.Keys(), set.Digest())
	if err := set.Check(); err != nil {
		t.Error(err)
	}
}
