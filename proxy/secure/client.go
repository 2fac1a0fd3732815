// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
)

// Target is whom a Client expects at the other end.
type Target struct {
	// Authority is the request's, without port, for auto_sni and
	// auto_san_validation; "" when there is none.
	Authority string
	// Host tells endpoints apart whose sessions are not to be mixed: its
	// address, or its name.
	Host string
	// Identity is a URI that the peer must show as a subject alternative name
	// beside what the configuration demands; "" for none.
	Identity string
	// ALPN overrides what is offered; nil: what the configuration, or
	// NewClient, says.
	ALPN []string
}

// Client is the client's side of TLS for one cluster. Safe for concurrent
// use.
type Client struct{}

// NewClient makes a Client of t. alpn is what is offered when t names no
// protocols. Files and secrets are as with NewServer.
func NewClient(t *config.ClientTLS, alpn []string, d Deps) (*Client, error) {
	return nil, errs.New(errs.Unsupported, "TLS", "not there yet")
}

// Ready tells that all named secrets have come. Until then Start refuses.
func (c *Client) Ready() bool { return false }

// Start does the client's side of a handshake on conn, on its loop.
func (c *Client) Start(h *Handshaker, conn *engine.Conn, t Target, o Options, done func(*filter.TLSInfo, error)) {
}

// Update is as Server's.
func (c *Client) Update(name string, cert *config.Cert) (known bool, err error) { return false, nil }

// UpdateValidation is as Server's. Sessions are forgotten.
func (c *Client) UpdateValidation(name string, v *config.Validation) (known bool, err error) {
	return false, nil
}

// Close stops watching files and forgets sessions.
func (c *Client) Close() {}
