// SPDX-License-Identifier: Apache-2.0

// Package sentry is the sandbox driver that gives each pod a kernel in user
// space: one redoubt-sentry process per pod, no helper process beside it
// unless a volume of the host is mounted live.
//
// Walk: Create (launch.go): journal → cgroup → process → gate → control
// socket → network (net.go) → first process. Add (container.go): journal →
// register → files. Start: specification (spec.go) and files (mounts.go) go
// over the control socket. Destroy, and Adopt of what does not run any more,
// undo by the journal (state.go) whatever was made, in the reverse order.
//
// What holds a taken-over Sentry in: it is nobody in a user namespace of its
// own, without capabilities, in an empty root, in PID, mount, IPC, UTS and
// network namespaces of its own (the last one empty: it holds one packet
// socket on the pod's edge), behind a system call filter, in the pod's
// cgroup; and it holds no descriptor of a directory. package guest sets that
// up from inside, launch.go from outside.
//
// Invariants:
//   - each act is in the journal before it is done
//   - the Sentry boots nothing before it is in its cgroup and in the journal
//   - the binary that runs is the one whose digest Info tells
//   - this package does not link the Sentry: the node stays small
//
// Locks: box.acts before box.mu; Destroy takes acts only after it has killed.
package sentry
