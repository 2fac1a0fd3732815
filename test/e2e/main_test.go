// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const stageVar = "REDOUBT_E2E_STAGE"

// TestMain runs the tests two processes down: the first is init of a new
// process namespace, reaps what is left to it and takes everything with it
// when it ends; the second runs the tests.
func TestMain(m *testing.M) {
	switch os.Getenv(stageVar) {
	case "":
		if os.Geteuid() != 0 {
			fmt.Println("skip: capability: root, to make namespaces")
			os.Exit(0)
		}
		os.Exit(again("init", syscall.CLONE_NEWPID|syscall.CLONE_NEWNS|syscall.CLONE_NEWNET))
	case "init":
		os.Exit(asInit())
	default:
		code := m.Run()
		closeLab()
		os.Exit(code)
	}
}

// again starts this program once more as the given stage.
func again(stage string, flags uintptr) int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), stageVar+"="+stage) // Cmd drops the earlier value
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "start", stage, err)
		return 1
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

// asInit prepares the namespaces, runs the tests and reaps until they end.
func asInit() int {
	for _, step := range []struct {
		what string
		err  error
	}{
		{"make mounts private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")},
		{"mount /proc", unix.Mount("proc", "/proc", "proc", 0, "")},
		{"mount /run", unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755")},
		{"raise lo", exec.Command("ip", "link", "set", "lo", "up").Run()},
	} {
		if step.err != nil {
			fmt.Fprintln(os.Stderr, step.what, step.err)
			return 1
		}
	}
	if err := os.Setenv(stageVar, "tests"); err != nil {
		return 1
	}
	p, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the tests", err)
		return 1
	}
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 1
		}
		if pid == p.Pid {
			return ws.ExitStatus()
		}
	}
}
