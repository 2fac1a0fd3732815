// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"reflect"
	"strings"
	"testing"
)

// TestEveryFieldIsThoughtOf fails when a field is added to what moves between
// processes: say in movecargo.go how it moves, and then here that you did.
func TestEveryFieldIsThoughtOf(t *testing.T) {
	for _, c := range []struct {
		of     any
		fields string
	}{
		{stream{}, "w a ch cl down up t c ask tried dial host last quiet most attempts ended toUp toDown prev next"},
		{arrival{}, "w ln st ch c info t stage"},
		{way{}, "moved pipe"},
	} {
		var got []string
		of := reflect.TypeOf(c.of)
		for i := range of.NumField() {
			got = append(got, of.Field(i).Name)
		}
		if s := strings.Join(got, " "); s != c.fields {
			t.Errorf("%v has other fields than those whose way to another process is known:\n%s", of, s)
		}
	}
}
