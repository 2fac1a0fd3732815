// SPDX-License-Identifier: Apache-2.0

// Package bootdoc is what the driver tells a new redoubt-sentry process: one
// JSON document on a fixed descriptor, and other descriptors at fixed places.
// No flag and no environment variable takes part, so that nothing but the
// driver can change how a Sentry runs.
package bootdoc

import (
	"encoding/json"
	"fmt"
	"io"

	"redoubt.dev/api/errs"
)

// The descriptors that a Sentry starts with, in this order. Standard input
// and output are /dev/null, standard error is the sandbox's log.
const (
	DocFD     = 3 + iota // the Doc, read to its end
	ControlFD            // bound, not yet listening unix socket: the only way to steer the Sentry
	ReadyFD              // one byte is written here once the control socket listens
	GateFD               // one byte is read here before anything is booted; its end means: the driver died, leave
	PauseFD              // executable of the guest's first process
	RootFD               // EROFS of the guest's first process: an empty directory
	UnmountFD            // executable that unmounts /proc
	FilterFD             // the filter of system calls
	Count     = FilterFD - DocFD + 1
)

// FilterOutFD is where a process in the role filter writes.
const FilterOutFD = 3

// The descriptors that a gofer starts with.
const (
	GoferListenFD = 3 + iota // listening unix socket on which orders come
	GoferReadyFD             // as ReadyFD
	GoferGateFD              // as GateFD
	GoferCount    = GoferGateFD - GoferListenFD + 1
)

// GoferVolumes is the directory in a gofer's root under which the driver
// mounts volumes, by number.
const GoferVolumes = "/v"

// Order tells a gofer to serve a volume on the socket that comes along.
type Order struct {
	Volume   int  `json:"volume"`
	ReadOnly bool `json:"read_only"`
}

// maxBytes bounds the document: it holds identifiers and numbers only.
const maxBytes = 64 << 10

// Doc describes the sandbox to boot.
type Doc struct {
	ID       string `json:"id"`       // for the process list and logs
	Root     string `json:"root"`     // container id of the guest's first process
	Hostname string `json:"hostname"` // of the pod
	CPUs     int    `json:"cpus"`     // processors that the guest shows, at least 1
	// MemoryBytes is what the guest shows as its whole memory.
	MemoryBytes     uint64 `json:"memory_bytes"`
	HostMemoryBytes uint64 `json:"host_memory_bytes"`
	CPUQuotaMicros  int64  `json:"cpu_quota_micros"` // per CPUPeriodMicros; -1: none
	CPUPeriodMicros int64  `json:"cpu_period_micros"`
	// SharedSlots is how many pod-wide volumes may be mounted later, by the
	// names of SharedSource.
	SharedSlots int `json:"shared_slots"`
	// Debug sends the Sentry's whole log to standard error; it holds what
	// the application does, and grows without bound.
	Debug bool `json:"debug,omitempty"`
}

// SharedSource is the mount source that stands for the i-th pod-wide volume.
// The Sentry must know the names of its pod-wide volumes when it boots, the
// volumes themselves are known only when containers are added.
func SharedSource(i int) string { return fmt.Sprintf("redoubt-shared-%d", i) }

// Read decodes a Doc.
func Read(r io.Reader) (Doc, error) {
	var d Doc
	b, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return d, fmt.Errorf("read boot document: %w", err)
	}
	if len(b) > maxBytes {
		return d, &errs.Error{Kind: errs.TooLarge, Subject: "boot document", Expected: fmt.Sprintf("at most %d bytes", maxBytes)}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, &errs.Error{Kind: errs.Invalid, Subject: "boot document", Err: err}
	}
	if d.ID == "" || d.Root == "" || d.CPUs < 1 || d.SharedSlots < 0 || d.SharedSlots > 256 {
		return d, &errs.Error{Kind: errs.Invalid, Subject: "boot document", Seen: string(b)}
	}
	return d, nil
}
