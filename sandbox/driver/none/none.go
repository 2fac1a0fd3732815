// SPDX-License-Identifier: Apache-2.0

package none

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/internal/cgroup"
	"redoubt.dev/sandbox/driver/internal/proc"
)

// Kind is this driver's name. It says what a passport would have to say.
const Kind = "none"

// Driver runs containers without isolation from the host's kernel.
type Driver struct {
	runc   string
	groups *cgroup.Root
}

var _ sandbox.Driver = (*Driver)(nil)

// SkipIsolationForTest makes the driver. There is no other way to get it.
func SkipIsolationForTest() (*Driver, error) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return nil, &errs.Error{Kind: errs.Unavailable, Subject: "sandbox driver none", Expected: "runc", Err: err, Fix: "apt-get install runc"}
	}
	groups, err := cgroup.Probe()
	if err != nil {
		return nil, err
	}
	return &Driver{runc, groups}, nil
}

// Kind says "none".
func (d *Driver) Kind() string { return Kind }

var (
	sandboxID   = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
	containerID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)
)

const stateFile = "state.json"

// state is the journal of a pod.
type state struct {
	ID         string            `json:"id"`
	Boot       string            `json:"boot"`
	Cgroup     string            `json:"cgroup"`
	Pause      proc.ID           `json:"pause"`
	Ready      bool              `json:"ready"`
	Containers map[string]string `json:"containers"` // name → directory
	Next       int               `json:"next"`       // number of the next directory
}

func invalid(field, want, seen string) error {
	return &errs.Error{Kind: errs.Invalid, Field: field, Expected: want, Seen: seen}
}

func checkSpec(s sandbox.Spec) error {
	switch {
	case !sandboxID.MatchString(s.ID):
		return invalid("ID", sandboxID.String(), s.ID)
	case !filepath.IsAbs(s.Dir):
		return invalid("Dir", "an absolute path", s.Dir)
	case !filepath.IsAbs(s.Cgroup) || s.Cgroup == "/":
		return invalid("Cgroup", "an absolute path below the root", s.Cgroup)
	case s.Limits.MemoryBytes < 0 || s.Limits.CPUMillis < 0 || s.Limits.Pids < 0:
		return invalid("Limits", "no negative number", fmt.Sprintf("%+v", s.Limits))
	}
	if s.NetNS != "" {
		if _, err := os.Stat(s.NetNS); err != nil {
			return &errs.Error{Kind: errs.NotFound, Field: "NetNS", Err: err}
		}
	}
	return nil
}

// Create makes a pod.
func (d *Driver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	p := &pod{d: d, spec: spec, group: d.groups.Group(spec.Cgroup), containers: map[string]*container{},
		state: state{ID: spec.ID, Boot: proc.BootID(), Cgroup: spec.Cgroup, Containers: map[string]string{}}}
	if err := p.launch(); err != nil {
		return nil, errors.Join(fmt.Errorf("create pod %s: %w", spec.ID, err), p.Destroy(context.WithoutCancel(ctx)))
	}
	return p, nil
}

// Adopt takes a pod over, or removes what is left of it.
func (d *Driver) Adopt(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	p := &pod{d: d, spec: spec, group: d.groups.Group(spec.Cgroup), containers: map[string]*container{}}
	b, err := os.ReadFile(filepath.Join(spec.Dir, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(&errs.Error{Kind: errs.NotFound, Subject: "pod " + spec.ID}, p.sweep())
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &p.state); err != nil {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: stateFile, Err: err}
	}
	if err = p.adopt(); err == nil {
		return p, nil
	}
	if undo := p.Destroy(ctx); undo != nil {
		return nil, undo
	}
	return nil, &errs.Error{Kind: errs.NotFound, Subject: "pod " + spec.ID, Err: err}
}
