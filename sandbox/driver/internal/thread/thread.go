// SPDX-License-Identifier: Apache-2.0

// Package thread runs functions on threads that are thrown away afterwards,
// so that they may change what belongs to a thread: its namespaces.
package thread

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs f on a thread of its own.
func Run(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// Never the first thread: it cannot be thrown away, and it
			// stands for the whole process in /proc/self. Hold it, so that
			// the next try gets another.
			err := Run(f)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- f() // never unlocked: the thread ends with this function
	}()
	return <-done
}

// InNetNS is Run in a network namespace.
func InNetNS(ns *os.File, f func() error) error {
	return Run(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}
