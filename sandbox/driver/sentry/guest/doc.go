// SPDX-License-Identifier: Apache-2.0

// Package guest is the inside of the redoubt-sentry process: the program that
// holds one pod's kernel and all of its application, and nothing else.
//
// Walk: Boot: read the boot document → empty root (root.go) → drop every
// capability on every thread → wait at the gate → boot the kernel → unmount
// /proc → system call filter → first process → serve the control socket until
// killed.
//
// Invariants:
//   - before the first instruction of an application runs, the process is
//     nobody, in its own user, PID, mount, IPC, UTS and an empty network
//     namespace, has no capability, sees an empty read-only root, holds no
//     descriptor of a directory, and can make only the filtered system calls
//   - it never forks or executes a program after that
//   - whatever fails before ends the process: there is no degraded mode
//
// This is the only package that links the Sentry; cmd/redoubt-sentry is its
// main, the driver talks to it over the control socket.
package guest
