// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs f on a thread that is thrown away afterwards, so that f may
// change what belongs to a thread: namespaces and cgroups.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this function
		done <- f()
	}()
	return <-done
}

// inNetNS runs f on a thread that has entered a network namespace.
func inNetNS(ns *os.File, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}
