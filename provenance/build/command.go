// SPDX-License-Identifier: Apache-2.0

package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"redoubt.dev/api/errs"
)

const maxOutput = 32 << 20

// git runs a read-only git command in dir. Nothing that the repository
// configures is run: no hooks, no file system monitor, no pager; and git's own
// refusal of trees of other users stays in force.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	args = append([]string{"-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-optional-locks", "--no-pager"}, args...)
	out, err := command(ctx, dir, []string{"GIT_TERMINAL_PROMPT=0", "LC_ALL=C"}, "git", args...)
	return strings.TrimRight(string(out), "\n"), err
}

// keep lists the variables of our own environment that a tool may see. All
// others could steer a build from outside of its parameters.
var keep = []string{"PATH", "HOME", "TMPDIR", "GOCACHE", "GOMODCACHE", "GOPATH", "GOROOT"}

// command runs a tool to its end and gives its output, bounded. When ctx ends,
// the tool and what it started are killed and waited for.
func command(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	for _, e := range c.Environ() {
		k, _, _ := strings.Cut(e, "=")
		for _, want := range keep {
			if k == want {
				c.Env = append(c.Env, e)
			}
		}
	}
	c.Env = append(c.Env, env...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 5 * time.Second
	out, complaint := &bounded{max: maxOutput}, &bounded{max: 16 << 10}
	c.Stdout, c.Stderr = out, complaint
	err := c.Run()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return nil, &errs.Error{Kind: errs.Unavailable, Subject: name, Expected: "the program on PATH", Seen: "none", Fix: "install " + name}
	case err != nil:
		return nil, &errs.Error{Kind: errs.Invalid, Subject: name + " " + verb(args), Expected: "success", Seen: err.Error(), Err: errors.New(strings.TrimSpace(complaint.String()))}
	case out.over:
		return nil, &errs.Error{Kind: errs.TooLarge, Subject: "output of " + name, Expected: fmt.Sprintf("at most %d bytes", maxOutput)}
	}
	return out.Bytes(), nil
}

// verb is the first argument that is no flag, for messages.
func verb(args []string) string {
	for i := 0; i < len(args); i++ {
		if args[i] == "-c" {
			i++
		} else if !strings.HasPrefix(args[i], "-") {
			return args[i]
		}
	}
	return ""
}

// bounded keeps the first max bytes and drops the rest.
type bounded struct {
	bytes.Buffer
	max  int
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if room := b.max - b.Len(); n > room {
		b.over, p = true, p[:room]
	}
	b.Buffer.Write(p)
	return n, nil
}
