// SPDX-License-Identifier: Apache-2.0

package control

import (
	"time"

	"redoubt.dev/base/obs"
)

// Up asks that the manifests at Paths, absolute files or directories, run.
type Up struct {
	Paths []string `json:"paths"`
}

// Upped answers Up: what was accepted.
type Upped struct {
	Set     string   `json:"set"`
	Objects []string `json:"objects"` // "Kind namespace/name"
	Changed bool     `json:"changed"`
}

// Down asks for the end: of the set at Paths, or of all with the node itself.
type Down struct {
	Paths []string `json:"paths,omitempty"`
}

// Status is all that the node knows.
type Status struct {
	Node     Node         `json:"node"`
	Sets     []Set        `json:"sets"`
	Pods     []Pod        `json:"pods"`
	Services []Service    `json:"services"`
	Denials  []obs.Record `json:"denials,omitempty"` // the newest, of admission and gate
	Ready    bool         `json:"ready"`             // all that is wanted runs and is ready, or has succeeded
}

// Node tells of the machine.
type Node struct {
	TrustDomain string    `json:"trustDomain"`
	Version     string    `json:"version"`
	PID         int       `json:"pid"`
	ProxyPID    int       `json:"proxyPID"` // 0 while none runs
	Started     time.Time `json:"started"`
	Snapshot    uint64    `json:"snapshot"` // version that the proxy serves
	Registry    string    `json:"registry"` // URL on this machine
	Host        string    `json:"host"`     // its name in image references
	Health      string    `json:"health,omitempty"`
}

// Set is what one redoubt up brought.
type Set struct {
	Name    string    `json:"name"`
	Paths   []string  `json:"paths"`
	Objects int       `json:"objects"`
	Loaded  time.Time `json:"loaded"`
	Error   string    `json:"error,omitempty"` // why the files as they are now are not in force
}

// Pod is one pod.
type Pod struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       string    `json:"uid"`
	Owner     string    `json:"owner"` // "Deployment bank/ledger"
	Addr      string    `json:"addr"`
	Identity  string    `json:"identity"`
	Sandbox   string    `json:"sandbox,omitempty"` // driver kind
	PID       int       `json:"pid,omitempty"`     // of the sandbox on this machine
	Created   time.Time `json:"created"`
	PodStatus
}

// PodStatus is what is known of a pod.
type PodStatus struct {
	Phase      string            `json:"phase"` // Kubernetes' Pending, Running, Succeeded or Failed
	Ready      bool              `json:"ready"`
	Reason     string            `json:"reason,omitempty"` // why it is not further: a denial, an error, a back-off
	Containers []ContainerStatus `json:"containers,omitempty"`
	Restarts   int               `json:"restarts"`
	Ended      time.Time         `json:"ended,omitzero"`
	Gone       bool              `json:"-"` // nothing of it is left
}

// ContainerStatus is the part of one container.
type ContainerStatus struct {
	Name     string `json:"name"`
	ID       string `json:"id,omitempty"`
	Image    string `json:"image"` // pinned by digest once admitted
	State    string `json:"state"` // waiting, running, ended
	Ready    bool   `json:"ready"`
	Restarts int    `json:"restarts"`
	ExitCode int32  `json:"exitCode,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// Service is one service and where it can be reached.
type Service struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Type      string   `json:"type"`
	VIP       string   `json:"vip,omitempty"`
	Ports     []string `json:"ports"`
	Endpoints int      `json:"endpoints"`
	External  []string `json:"external,omitempty"` // host:port on this machine
}

// Logs asks for what a container wrote.
type Logs struct {
	Pod       string `json:"pod"` // [namespace/]name
	Container string `json:"container,omitempty"`
	Follow    bool   `json:"follow,omitempty"`
	Previous  bool   `json:"previous,omitempty"`
	Tail      int    `json:"tail"` // lines; negative for all
}

// Exec asks for a process in a container. Its stdin, stdout and stderr are
// passed as descriptors with the request.
type Exec struct {
	Pod       string   `json:"pod"`
	Container string   `json:"container,omitempty"`
	Command   []string `json:"command"`
	Terminal  bool     `json:"terminal,omitempty"` // the descriptors are the replica end of a pty
}

// Exited answers Exec.
type Exited struct {
	Code  int    `json:"code"`
	Error *Error `json:"error,omitempty"`
}

// Build asks for an image. Exactly one of Go, Directory and Tar is set, an
// absolute path.
type Build struct {
	Go         string            `json:"go,omitempty"`
	Directory  string            `json:"directory,omitempty"`
	Tar        string            `json:"tar,omitempty"`
	Tag        string            `json:"tag"`
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	Env        []string          `json:"env,omitempty"`
	User       string            `json:"user,omitempty"`
	WorkingDir string            `json:"workingDir,omitempty"`
	Ports      []string          `json:"ports,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// Event is one line of a long answer. The last one has Done or Error.
type Event struct {
	Step  string `json:"step,omitempty"`
	Text  string `json:"text,omitempty"`
	Done  any    `json:"done,omitempty"`
	Error *Error `json:"error,omitempty"`
}

// Verify asks whether an image may run in a namespace.
type Verify struct {
	Image     string `json:"image"`
	Namespace string `json:"namespace"`
}
