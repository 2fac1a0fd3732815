// SPDX-License-Identifier: Apache-2.0

package config

import "time"

// AccessLog is one sink with its format.
type AccessLog struct {
	Path      string      // file; "/dev/stdout" and "/dev/stderr" are known
	Format    string      // command operators; "": Envoy's default
	JSON      []JSONField // instead of Format
	OmitEmpty bool
	Filter    *LogFilter
}

// JSONField is one key of a JSON access log, in order.
type JSONField struct {
	Key    string
	Format string
	Object []JSONField // nested; Format is then empty
}

// LogFilter selects what is logged. One of the kinds is set.
type LogFilter struct {
	Kind     string // "status", "duration", "not_health_check", "fraction", "and", "or", "header", "flags", "grpc_status"
	Op       string // "EQ", "GE", "LE"
	Value    uint32
	Fraction *Fraction
	Header   *HeaderMatch
	Flags    []string
	Codes    []uint32
	Exclude  bool
	All      []*LogFilter
}

// Tracing says which requests are traced and where spans go.
type Tracing struct {
	Client, Random, Overall Fraction
	Service                 string
	Cluster                 string // that takes OTLP over HTTP or gRPC
	Path                    string // of the OTLP/HTTP collector
	GRPC                    bool
	Timeout                 time.Duration // of an export; 0: 10 s
	MaxTag                  int
	Tags                    []TraceTag
}

// TraceTag is a custom tag.
type TraceTag struct{ Name, Literal, RequestHeader, Default string }
