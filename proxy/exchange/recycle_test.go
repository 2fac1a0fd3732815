// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"testing"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/handover/wire"
)

// A request's identifier lies in the arena of its head. A stream that is used
// again must not keep it: what is taken over from another process would be
// written into the next request's head.
func TestAttackRecycledArena(t *testing.T) {
	l, err := engine.New()
	if err != nil {
		t.Fatal(err)
	}
	w := NewWorker(l, &Shared{}, 0)
	x := w.newStream(nil, nil)
	x.req.Buf = make([]byte, 0, 4<<10)
	x.req.AddString("x-request-id", "of the first")
	x.c.RequestID, _ = x.req.Find("x-request-id")
	w.recycle(x)

	y := w.newStream(nil, nil)
	if y != x {
		t.Fatal("not the same")
	}
	y.req.AddString("authorization", "Bearer secret-of-the-second")
	var b wire.Writer
	c := y.c
	c.RequestID = []byte("moved-moved")
	ExportContext(&b, &c)
	r := wire.NewReader(b.B)
	ImportContext(r, &y.c)
	if v, _ := y.req.Find("authorization"); string(v) != "Bearer secret-of-the-second" || string(y.c.RequestID) != "moved-moved" {
		t.Errorf("%q, %q", v, y.c.RequestID)
	}
}
