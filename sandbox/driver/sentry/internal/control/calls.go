// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Layer kinds, by the Sentry's numbers.
const (
	LowerNone   = 0
	LowerGofer  = 1
	LowerErofs  = 2
	UpperNone   = 0
	UpperMemory = 1
	UpperAnon   = 3 // a file of the host that has no name
)

// MountConf says what backs the root file system, or a mount of type bind or
// erofs, in the order of the specification.
type MountConf struct {
	Lower int    `json:"lower"`
	Upper int    `json:"upper"`
	Size  string `json:"size,omitempty"`
}

// StartArgs starts a created container. Files hold standard streams when
// there is no terminal, then one file per MountConf with an anonymous upper
// layer, then one per MountConf with a lower layer.
type StartArgs struct {
	Spec                 *specs.Spec
	Conf                 any
	CID                  string
	NumGoferFilestoreFDs int
	GoferMountConfs      []MountConf
	// IsRootfsUpperTarFilePresent says that before the files of lower layers
	// comes a tar archive, the content of the root's upper layer.
	IsRootfsUpperTarFilePresent bool
}

// StartRoot boots the guest's first process.
func (c Client) StartRoot(ctx context.Context, root string) error {
	return c.Call(ctx, "containerManager.StartRoot", root, nil, nil)
}

// Create registers a container; terminal is nil when it has none.
func (c Client) Create(ctx context.Context, id string, terminal *os.File) error {
	var files []*os.File
	if terminal != nil {
		files = []*os.File{terminal}
	}
	return c.Call(ctx, "containerManager.CreateSubcontainer", struct{ CID string }{id}, files, nil)
}

// Start runs a created container.
func (c Client) Start(ctx context.Context, a StartArgs, files []*os.File) error {
	return c.Call(ctx, "containerManager.StartSubcontainer", a, files, nil)
}

// Wait blocks until the container's first process has ended and gives its
// wait status as wait(2) does.
func (c Client) Wait(ctx context.Context, id string) (uint32, error) {
	var status uint32
	c.Timeout = 0 // it may run for years
	err := c.Call(ctx, "containerManager.Wait", id, nil, &status)
	return status, err
}

// WaitPID is Wait for a process that Exec started. It may be called once.
func (c Client) WaitPID(ctx context.Context, id string, pid int32) (uint32, error) {
	var status uint32
	c.Timeout = 0
	err := c.Call(ctx, "containerManager.WaitPID", struct {
		PID int32
		CID string
	}{pid, id}, nil, &status)
	return status, err
}

// Destroy kills what still runs of a container and forgets it.
func (c Client) Destroy(ctx context.Context, id string) error {
	return c.Call(ctx, "containerManager.DestroySubcontainer", id, nil, nil)
}

// Signal sends to process pid of a container, 0 being its first, or to all.
func (c Client) Signal(ctx context.Context, id string, pid int32, sig int32, all bool) error {
	mode := 0
	if all {
		mode = 1
	}
	return c.Call(ctx, "containerManager.Signal", struct {
		CID   string
		Signo int32
		PID   int32
		Mode  int
	}{id, sig, pid, mode}, nil, nil)
}

// Capabilities are sets of capability bits.
type Capabilities struct {
	PermittedCaps, InheritableCaps, EffectiveCaps, BoundingCaps, AmbientCaps uint64
}

// ExecArgs starts one more process in a running container.
type ExecArgs struct {
	Argv             []string     `json:"argv"`
	Envv             []string     `json:"envv"`
	WorkingDirectory string       `json:"wd"`
	KUID             uint32       `json:"KUID"`
	KGID             uint32       `json:"KGID"`
	ExtraKGIDs       []uint32     `json:"ExtraKGIDs"`
	NoNewPrivileges  bool         `json:"NoNewPrivileges"`
	Capabilities     Capabilities `json:"Capabilities"`
	StdioIsPty       bool         `json:"StdioIsPty"`
	GuestFDs         []int        `json:"GuestFDs"`
	ContainerID      string       `json:"ContainerID"`
}

// Exec gives the new process's id inside its container.
func (c Client) Exec(ctx context.Context, a ExecArgs, files []*os.File) (int32, error) {
	var pid int32
	err := c.Call(ctx, "containerManager.ExecuteAsync", a, files, &pid)
	return pid, err
}

// State of a container as the Sentry sees it.
type State int

// The states.
const (
	Unknown State = iota
	Creating
	Running
	Stopped
)

// State asks for a container's state.
func (c Client) State(ctx context.Context, id string) (State, error) {
	var s State
	err := c.Call(ctx, "containerManager.ContainerRuntimeState", id, nil, &s)
	return s, err
}

// Limit is a value for a file of a container's control group in the guest.
type Limit struct{ File, Value string }

// Limit writes limits for a container that is created and not started.
func (c Client) Limit(ctx context.Context, id string, limits []Limit) error {
	return c.Call(ctx, "Pod.Limit", struct {
		CID    string
		Limits []Limit
	}{id, limits}, nil, nil)
}

// Bound limits a pod-wide volume that no container has mounted yet.
func (c Client) Bound(ctx context.Context, slot int, bytes int64) error {
	return c.Call(ctx, "Pod.Bound", struct {
		Slot  int
		Bytes int64
	}{slot, bytes}, nil, nil)
}
