// SPDX-License-Identifier: Apache-2.0

// Package sandbox runs code isolated: one kernel per pod, one contract, several drivers.
//
// Walk: image (one EROFS per container image) → Driver.Create (the pod's
// kernel boots) → Sandbox.Add (a container is made, nothing of it runs) →
// Container.Start → Wait → Delete → Destroy.
//
// Invariants:
//   - the process that holds the application holds no key of the platform
//   - a driver never starts a goroutine that outlives its call, except the
//     ones that wait for the guest
//   - what Create made, Destroy removes, also after the death of the node:
//     Adopt finds a sandbox by its directory alone
//
// Begin at Driver. driver/sentry is the default, driver/none (runc) is the
// control in tests, engine puts both under containerd's CRI.
package sandbox
