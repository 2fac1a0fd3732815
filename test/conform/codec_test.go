// SPDX-License-Identifier: Apache-2.0

package conform

import (
	"redoubt.dev/proxy/http1"
)

// parsed is a message as the codec understands it.
type parsed struct {
	method, target, host, body string
	persistent, old            bool
}

// parseOne reads one whole request at the start of in; n is 0 when it is not
// whole.
func parseOne(in []byte) (p parsed, n int, err error) {
	var r http1.Request
	n, err = r.Parse(in)
	if err != nil || n == 0 {
		return p, 0, err
	}
	p.method, p.host = string(r.Method.In(in)), string(r.HostSpan.In(in))
	if r.Root {
		p.target = "/"
	}
	p.target += string(r.Target.In(in))
	p.persistent, p.old = r.Persistent(), r.Minor == 0
	b := r.Body()
	for !b.Done() {
		data, used, _, err := b.Next(in[n:])
		if err != nil {
			return p, 0, err
		}
		if used == 0 && !b.Done() {
			return p, 0, nil
		}
		p.body += string(data)
		n += used
	}
	return p, n, nil
}
