// SPDX-License-Identifier: Apache-2.0

package stock

import (
	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// buffer holds requests back until they are whole.
type buffer struct {
	slot int
	own  *config.Buffer
}

var tooLarge = &filter.LocalReply{Status: 413, Body: []byte("Payload Too Large"), Detail: "request_payload_too_large"}

func newBuffer(cfg *config.Buffer, slot int) (*buffer, error) {
	if err := checkBuffer(cfg); err != nil {
		return nil, err
	}
	return &buffer{slot, cfg}, nil
}

func checkBuffer(cfg *config.Buffer) error {
	if cfg.Max == 0 {
		return &errs.Error{Kind: errs.Invalid, Field: "max_request_bytes", Expected: "at least 1"}
	}
	return nil
}

func (f *buffer) Scope(levels []any) (any, error) {
	cfg, err := as[*config.Buffer](levels)
	if err == nil {
		err = checkBuffer(cfg)
	}
	return cfg, err
}

func (f *buffer) Request(c *filter.Context) filter.Verdict {
	cfg := f.own
	if o, ok := c.Override(f.slot).(*config.Buffer); ok {
		cfg = o
	}
	switch {
	case c.Req.Length == message.NoBody || c.Req.Upgrade.Len() > 0:
		return filter.Next
	case c.Req.Length > int64(cfg.Max):
		c.Local = tooLarge
		return filter.Reply
	}
	if c.BufferRequest == 0 || int(cfg.Max) < c.BufferRequest {
		c.BufferRequest = int(cfg.Max)
	}
	return filter.Next
}
