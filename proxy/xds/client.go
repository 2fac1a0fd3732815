// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"context"
	"log/slog"

	"redoubt.dev/proxy/config"
)

// Client keeps a configuration up to date with what its bootstrap names.
type Client struct{}

// Status is what a Client has seen so far.
type Status struct {
	Connected        bool   // to all management servers that are named
	Acked, Nacked    uint64 // responses
	Applied, Refused uint64 // snapshots, by what apply answered
	Reconnects       uint64
	LastError        string // of the last NACK, refused snapshot or lost stream
	Warming          []string
}

// NewClient makes a Client; it starts nothing. apply puts a snapshot in
// force; it is called by Run, never twice at once, with immutable values, and
// an error leaves the previous one in force. log may be nil.
func NewClient(b *Bootstrap, apply func(*config.Config) error, log *slog.Logger) (*Client, error) {
	return &Client{}, nil
}

// Run applies the first snapshot as soon as it is complete, and every later
// one, until ctx ends. For a bootstrap that is not Dynamic it applies once.
func (c *Client) Run(ctx context.Context) error { return nil }

// Status may be called at any time.
func (c *Client) Status() Status { return Status{} }
