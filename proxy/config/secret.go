// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"io"
	"log/slog"
)

// SecretBytes is key material; it prints redacted in every format verb, in
// logs and in JSON, so that a dump of a configuration is safe to show.
type SecretBytes []byte

const redacted = "[secret]"

func (SecretBytes) String() string   { return redacted }
func (SecretBytes) GoString() string { return redacted }

// Format prints redacted for every verb: a Stringer alone would leave %d.
func (SecretBytes) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue keeps the key out of logs.
func (SecretBytes) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps the key out of JSON.
func (SecretBytes) MarshalText() ([]byte, error) { return []byte(redacted), nil }
