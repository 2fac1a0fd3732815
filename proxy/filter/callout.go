// SPDX-License-Identifier: Apache-2.0

package filter

import "net/http"

// Doer is net/http's client, bound to a cluster: the URL's host is only what
// the request says, not where it goes.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}
