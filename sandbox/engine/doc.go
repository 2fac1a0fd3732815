// SPDX-License-Identifier: Apache-2.0

// Package engine embeds containerd in the node: its CRI on a private socket,
// with our own snapshotter, sandbox controller and task service inside, so
// that a pod has no shim process and no pause container.
//
// Walk: CRI pull → snapshotter asks Admission.Rootfs for the one EROFS of an
// admitted image → RunPodSandbox → controller asks Admission.Pod → the
// driver boots → CreateContainer → tasks ask Admission.Container → the driver
// adds the container → exits come back as containerd events.
//
// Invariants:
//   - nothing is made that Admission did not grant, whoever asks over CRI
//   - what runs survives the death of the node: sandboxes and containers are
//     journalled before they start and adopted before containerd loads
//   - containerd's ttrpc connection to the task service is never closed while
//     pods run: containerd would take that for their death
//
// Begin at Engine.Run. Locks: pods.mu before pod.mu; container.mu
// before pod.journal.
package engine
