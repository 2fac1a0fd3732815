// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"sync"

	"redoubt.dev/proxy/message"
)

// Then gives a transform that does first, which may be nil, and then second.
// Filters that set Context.RequestBody or ResponseBody use it, so that none
// pushes another's out.
func Then(first, second Transform) Transform {
	if first == nil {
		return second
	}
	return &pair{first: first, second: second}
}

type pair struct{ first, second Transform }

// between holds bytes on their way from one transform to the next.
var between = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}

// keepAtMost is how large a buffer goes back to the pool.
const keepAtMost = 1 << 20

func (t *pair) Append(dst, p []byte, end bool, trailers *message.Head) ([]byte, error) {
	buf := between.Get().(*[]byte)
	mid, err := t.first.Append((*buf)[:0], p, end, trailers)
	if err == nil {
		dst, err = t.second.Append(dst, mid, end, trailers)
	}
	if cap(mid) <= keepAtMost {
		*buf = mid[:0]
		between.Put(buf)
	}
	return dst, err
}

func (t *pair) Close() {
	t.first.Close()
	t.second.Close()
}
