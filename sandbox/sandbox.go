// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"os"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Driver runs sandboxes of one isolation kind.
//
// Methods may run concurrently for different sandboxes, never for the same
// one. Errors have kinds of api/errs: NotFound when there is nothing to adopt,
// Unsupported for a spec that the driver cannot honour (it never ignores a
// field silently), Unavailable when the machine lacks an ability.
type Driver interface {
	// Kind is the driver's name, such as "sentry"; it stands in passports.
	Kind() string
	// Create boots a sandbox. Nothing of the application runs yet.
	Create(ctx context.Context, spec Spec) (Sandbox, error)
	// Adopt takes over a sandbox that an earlier process created in spec.Dir
	// and that still runs. When it does not, Adopt removes what is left of it
	// and returns an error of kind NotFound.
	Adopt(ctx context.Context, spec Spec) (Sandbox, error)
}

// Spec describes a sandbox. It must be the same in Create and Adopt.
type Spec struct {
	ID       string // unique on the machine, [a-z0-9-]{1,64}
	Dir      string // private to the driver, exists, mode 0700; removed by the caller after Destroy
	NetNS    string // path of the network namespace whose NIC the guest takes; "" for none but loopback
	Hostname string
	Cgroup   string // absolute path below each controller's root, e.g. "/redoubt/pod-1"; made and removed by the driver
	Limits   Limits // of the whole pod; zero means none
}

// Limits bound a whole pod.
type Limits struct {
	MemoryBytes int64 // 0: unlimited
	CPUMillis   int64 // thousandths of a core; 0: unlimited
	Pids        int64 // 0: unlimited
}

// Sandbox is one isolated place where the containers of a pod run. Methods
// may run concurrently.
type Sandbox interface {
	Info() Info
	// Add makes a container; none of its processes runs yet.
	Add(ctx context.Context, c ContainerSpec) (Container, error)
	// Find gives a container of an adopted sandbox again; kind NotFound when
	// the sandbox does not hold it.
	Find(ctx context.Context, id string) (Container, error)
	// Wait returns when the sandbox itself has ended, for whatever reason.
	Wait(ctx context.Context) error
	// Destroy kills all that runs and frees all that Create and Add took.
	// It is safe to repeat.
	Destroy(ctx context.Context) error
}

// Info says what a sandbox is, for status and passport.
type Info struct {
	PID    int    // host process that holds the guest
	Kernel string // what uname shows inside
	Binary string // digest "sha256:…" of the sandbox binary that runs
}

// ContainerSpec describes one container. Stdio and Rootfs are borrowed for
// the call: the caller closes them afterwards.
type ContainerSpec struct {
	ID string
	// OCI is taken for process, root.readonly, hostname, seccomp, the PID
	// namespace and resources; its mounts hold no bind mounts and no volumes.
	// A driver that gives each pod a kernel enforces memory and processor
	// time for the pod as a whole (Spec.Limits) and shows a container its
	// own resources; of processes it enforces the container's.
	OCI    *specs.Spec
	Rootfs string // path of a flat EROFS image (driver sentry) or of a directory (driver none)
	Mounts []Mount
	// Stdio are stdin, stdout, stderr; nil means /dev/null. With
	// OCI.Process.Terminal all three are the replica end of one pty.
	Stdio [3]*os.File
}

// MountKind says what a volume is.
type MountKind int

const (
	// Shared is a tmpfs of the pod, named by Source, the same in all its
	// containers (emptyDir). Bounded by SizeBytes when that is not 0.
	Shared MountKind = iota + 1
	// Fixed is a file or directory of the host (Source) whose content is
	// taken once, when the container is made (ConfigMap, Secret,
	// /etc/hosts, /etc/resolv.conf, tokens). Always read-only inside.
	Fixed
	// Host is a directory or file of the host (Source) seen live.
	Host
)

// Mount is one volume of a container.
type Mount struct {
	Kind      MountKind
	Target    string // absolute path in the container
	Source    string
	ReadOnly  bool
	SizeBytes int64 // Shared only; 0: bounded by the pod's memory; the same in all containers, or errs.Conflict
}

// Container is one container in a sandbox. Methods may run concurrently.
type Container interface {
	Start(ctx context.Context) error
	// Wait returns when the first process has ended. It may be called
	// repeatedly and after the end, until Delete.
	Wait(ctx context.Context) (Exit, error)
	// Signal sends to the first process, or to all of the container's.
	Signal(ctx context.Context, sig syscall.Signal, all bool) error
	// Exec starts another process in the container.
	Exec(ctx context.Context, p ProcessSpec) (Process, error)
	// Delete kills what still runs and frees what Add took. Safe to repeat.
	Delete(ctx context.Context) error
}

// ProcessSpec describes an added process; Stdio as in ContainerSpec.
type ProcessSpec struct {
	OCI   *specs.Process
	Stdio [3]*os.File
}

// Process is an added process.
type Process interface {
	PID() int // inside the sandbox
	Wait(ctx context.Context) (Exit, error)
	Signal(ctx context.Context, sig syscall.Signal) error
}

// Exit tells how a process ended. Code is 128+n when signal n ended it.
type Exit struct {
	Code int
	At   time.Time
}

// Usage is what a sandbox consumes, all of it: guest, application, helpers.
type Usage struct {
	MemoryBytes int64
	CPU         time.Duration
	Pids        int64
}

// Meter is what a Sandbox adds when it can tell its consumption.
type Meter interface {
	Usage(ctx context.Context) (Usage, error)
}
