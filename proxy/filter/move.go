// SPDX-License-Identifier: Apache-2.0

package filter

// Entered gives which filters saw the request, for a request that moves to
// another process; Enter says it there, of a chain with the same filters.
func (c *Context) Entered() uint64 { return c.entered }

// Enter has Chain.End tell those filters that the request is over.
func (c *Context) Enter(filters uint64) { c.entered = filters }
