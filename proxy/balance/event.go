// SPDX-License-Identifier: Apache-2.0

package balance

// Events hears what becomes of hosts, for the audit trail and metrics. Calls
// come one at a time for one Set, without a lock held, and never from a loop.
type Events interface {
	// Ejected says that h was found an outlier. enforced is false when it was
	// only noticed, because its kind is not enforced or too many are ejected.
	Ejected(h *Host, why Cause, enforced bool)
	Returned(h *Host)                         // the ejection is over
	Health(h *Host, healthy bool, why string) // an active check changed its mind
}

// Cause is why a host was found an outlier.
type Cause uint8

// The causes, in Envoy's words.
const (
	Consecutive5xx Cause = iota
	ConsecutiveGateway
	ConsecutiveLocal
	SuccessRate
	SuccessRateLocal
	FailurePercentage
	FailurePercentageLocal
)

func (c Cause) String() string {
	return [...]string{"5xx", "gateway failure", "local origin failure", "success rate", "local origin success rate",
		"failure percentage", "local origin failure percentage"}[c]
}
