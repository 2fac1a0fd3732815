// SPDX-License-Identifier: Apache-2.0

// Package sys is the only place of unsafe: system calls on descriptors that
// never block, made without telling the Go scheduler.
//
// The plain calls of x/sys announce each system call to the scheduler, which
// may then hand the processor to another thread. For a non-blocking socket
// that is pure cost: the call returns at once by definition. Each function
// here says whether it may be used on a descriptor that blocks.
//
// Where the system is not Linux the same functions make the plain calls, for
// development; what cannot be had there is errors.ErrUnsupported.
package sys
