// SPDX-License-Identifier: Apache-2.0

package config

import "time"

// HealthCheck is one active check.
type HealthCheck struct {
	Interval, Timeout                             time.Duration
	Jitter                                        time.Duration
	JitterPerCent                                 uint32
	InitialJitter                                 time.Duration
	NoTraffic                                     time.Duration // 0: 60 s
	UnhealthyAfter, HealthyAfter                  uint32        // 0: 1
	UnhealthyInterval, UnhealthyEdge, HealthyEdge time.Duration // 0: Interval
	HTTP                                          *HTTPCheck
	TCP                                           *TCPCheck
	GRPC                                          *GRPCCheck
	NoReuse                                       bool // reuse_connection: false
	AlwaysLogFailures                             bool
}

// HTTPCheck asks for a path.
type HTTPCheck struct {
	Host, Path, Method string
	Expected           [][2]int // half-open ranges; nil: 200
	Retriable          [][2]int
	Add                []HeaderAdd
	Remove             []string
	HTTP2              bool
	Service            *StringMatch
	Receive            [][]byte
}

// TCPCheck connects, and may send and expect bytes.
type TCPCheck struct {
	Send    []byte
	Receive [][]byte
}

// GRPCCheck is grpc.health.v1.
type GRPCCheck struct{ Service, Authority string }

// Outlier is an OutlierDetection. Zero values are Envoy's defaults; a
// negative number switches a kind off.
type Outlier struct {
	Consecutive5xx                                 int           // 5
	ConsecutiveGateway                             int           // 5
	ConsecutiveLocal                               int           // 5
	Interval                                       time.Duration // 10 s
	BaseEjection                                   time.Duration // 30 s
	MaxEjection                                    time.Duration // 300 s
	MaxPercent                                     int           // 10
	Enforcing5xx, EnforcingGateway, EnforcingLocal int           // per cent: 100, 0, 100; -1 is 0
	EnforcingSuccess                               int           // 100
	SuccessMinHosts                                int           // 5
	SuccessVolume                                  int           // 100
	SuccessStdevFactor                             int           // 1900
	EnforcingFailure                               int           // 0
	FailureThreshold                               int           // 85
	FailureMinHosts                                int           // 5
	FailureVolume                                  int           // 50
	SplitLocal                                     bool
	Jitter                                         time.Duration
	AlwaysOne                                      bool
}

// Breakers are a cluster's circuit breakers. 0: 1024, retries 3; MaxUint32 is
// no limit.
type Breakers struct {
	MaxConns, MaxPending, MaxRequests, MaxRetries uint32
	Budget                                        *RetryBudget // instead of MaxRetries
}

// RetryBudget bounds retries by what is under way.
type RetryBudget struct {
	PerCent float64 // 0: 20
	Min     uint32  // 0: 3
}
