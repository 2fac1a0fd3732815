// SPDX-License-Identifier: Apache-2.0

package children

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/sys"
)

// StartNode starts a node that outlives its starter and returns when ready
// does without an error. log takes what the node says.
func StartNode(ctx context.Context, binary string, args []string, log string, ready func(context.Context) error) error {
	if err := sys.KeepDescriptors(); err != nil {
		return err
	}
	f, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the node's log: %w", err)
	}
	defer f.Close()
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the node: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the node, or with this process
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ready(ctx) == nil {
			return nil
		}
		select {
		case <-tick.C:
		case err := <-ended:
			return &errs.Error{Kind: errs.Unavailable, Subject: "node", Expected: "that it runs", Seen: fmt.Sprint("it ended: ", err), Fix: "see " + log}
		case <-ctx.Done():
			return &errs.Error{Kind: errs.Unavailable, Subject: "node", Expected: "that it answers", Fix: "see " + log, Err: context.Cause(ctx)}
		}
	}
}
