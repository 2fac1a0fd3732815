// SPDX-License-Identifier: Apache-2.0

// Package none is the sandbox driver without a sandbox: containers by runc on
// the host's own kernel. It exists to be compared with, in tests and
// benchmarks, and so that the conformance suite is held to two unrelated
// implementations. No configuration of a node can select it: it has to be
// linked and constructed by name, SkipIsolationForTest.
//
// Walk: Create: journal → control group → a pausing process that holds the
// pod's namespaces (pod.go). Add: bundle on disk (bundle.go). Start: one shell
// per container that runs "runc run" and writes down how it ended, so that
// exit codes survive this process (container.go).
//
// What differs from a driver of products: a shell and a runc stay beside each
// container; ContainerSpec.Rootfs is a directory, which all containers of it
// share unwritten below an overlay.
package none
