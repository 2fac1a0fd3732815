// SPDX-License-Identifier: Apache-2.0

package proxy

// ShareForTest lowers what one site may have, before Run.
func (p *Proxy) ShareForTest(n int64) { p.sh.SiteConns = n }
