// SPDX-License-Identifier: Apache-2.0

package secure

import "crypto/tls"

// Config gives the client's side for a connection that is made off the loops,
// such as a health check's; nil while secrets are missing.
func (c *Client) Config(t Target) *tls.Config {
	m := c.src.now.Load()
	if !m.ready {
		return nil
	}
	a := &approach{c: c, m: m, now: c.src.d.Now, want: expect{uri: t.Identity}}
	if c.autoSAN {
		a.want.name = t.Authority
	}
	return a.config(&t)
}
