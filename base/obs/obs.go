// SPDX-License-Identifier: Apache-2.0

// Package obs makes what runs visible: structured logs, Prometheus metrics,
// and the append-only audit log of decisions.
package obs

import (
	"io"
	"log/slog"
)

// Logger writes JSON lines to w at level; the part's name stands in "part".
func Logger(w io.Writer, part string, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})).With("part", part)
}
