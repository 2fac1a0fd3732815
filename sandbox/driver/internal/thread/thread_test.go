// SPDX-License-Identifier: Apache-2.0

package thread_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"redoubt.dev/sandbox/driver/internal/thread"
)

// TestNeverTheFirst: the thread that stands for the process stays as it was.
func TestNeverTheFirst(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		err := thread.Run(func() error {
			if unix.Gettid() == unix.Getpid() {
				t.Error("on the first thread")
			}
			if os.Geteuid() == 0 {
				return unix.Unshare(unix.CLONE_NEWUTS)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if after, _ := os.Readlink("/proc/self/ns/uts"); after != before {
		t.Errorf("the process moved from %s to %s", before, after)
	}
}
