// SPDX-License-Identifier: Apache-2.0

package filter

import "net/http"

// Doer is net/http's client, bound to a cluster: the URL's host is only what
// the request says, not where it goes. It follows no redirects, keeps no
// cookies and adds no fields that speak of the process; it may block, and ends
// with the request's context.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}
