// SPDX-License-Identifier: Apache-2.0

// Package plan decides which pods there should be.
//
// It is pure: a function of the wanted objects, the pods there are, and the
// time. It does what Kubernetes' Deployment, StatefulSet and Job controllers
// do, for one machine; the node carries its actions out and asks again.
//
// Begin at Plan.
package plan
