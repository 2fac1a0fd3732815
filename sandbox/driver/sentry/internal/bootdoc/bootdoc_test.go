// SPDX-License-Identifier: Apache-2.0

package bootdoc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox/driver/sentry/internal/bootdoc"
)

func TestRead(t *testing.T) {
	want := bootdoc.Doc{ID: "a", Root: "r", CPUs: 2, MemoryBytes: 1 << 30, SharedSlots: 4}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := bootdoc.Read(bytes.NewReader(b)); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for in, kind := range map[string]errs.Kind{
		"": errs.Invalid, "{}": errs.Invalid, `{"id":"a","root":"r"}`: errs.Invalid, `{"id":"a","root":"r","cpus":1,"shared_slots":999}`: errs.Invalid,
		strings.Repeat(" ", 1<<17): errs.TooLarge,
	} {
		if _, err := bootdoc.Read(strings.NewReader(in)); !errors.Is(err, kind) {
			t.Errorf("%.30q: %v", in, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"id":"a","root":"r","cpus":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := bootdoc.Read(bytes.NewReader(b)); err == nil && (d.ID == "" || d.CPUs < 1) {
			t.Errorf("accepted %+v", d)
		}
	})
}
