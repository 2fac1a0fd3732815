// SPDX-License-Identifier: Apache-2.0

// The Go runtime must not open files of the host's control groups and keep
// them: the driver says how many processors there are.
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command redoubt-sentry is one pod's sandbox: a kernel in user space and the
// application on it (role boot), or the server of the files that such a pod
// sees live of its host (role gofer). The sandbox driver starts it with descriptors and a boot
// document; it is of no use from a shell.
//
// Exit codes: 0 never, 1 the sandbox failed or its first process ended, 2 it
// was not started by the driver.
package main

import (
	"fmt"
	"os"

	"redoubt.dev/sandbox/driver/sentry/guest"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "redoubt-sentry: this program is started by the sandbox driver")
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "boot":
		err = guest.Boot()
	case "filter":
		err = guest.Filter()
	case "gofer":
		err = guest.Gofer()
	default:
		fmt.Fprintf(os.Stderr, "redoubt-sentry: unknown role %q\n", os.Args[1])
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "redoubt-sentry:", err)
		os.Exit(1)
	}
}
