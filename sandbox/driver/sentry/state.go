// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox/driver/internal/proc"
)

const (
	stateFile   = "state.json"
	controlSock = "control.sock"
	logFile     = "sentry.log"
	maxState    = 4 << 20
)

// state is the journal of one sandbox: all that was made for it, written
// before it is made. Whoever reads it can undo everything.
type state struct {
	ID      string  `json:"id"`
	Boot    string  `json:"boot"` // boot of the machine; a process id means nothing in another one
	Cgroup  string  `json:"cgroup"`
	Binary  string  `json:"binary"` // digest of what runs
	Sentry  proc.ID `json:"sentry"`
	Gofer   proc.ID `json:"gofer"`
	Ready   bool    `json:"ready"`             // the guest's first process runs
	Volumes int     `json:"volumes,omitempty"` // host volumes that were ever mounted; the next one's number
	// Shared holds pod-wide volumes by their names.
	Shared     map[string]shared  `json:"shared,omitempty"`
	Containers map[string]*record `json:"containers,omitempty"`
}

// shared is one pod-wide volume.
type shared struct {
	Slot  int   `json:"slot"`
	Bytes int64 `json:"bytes,omitempty"` // bound; 0: the pod's memory
}

// record is one container.
type record struct {
	Started bool  `json:"started"`
	Volumes []int `json:"volumes,omitempty"` // its host volumes
}

// save writes the journal in one step: old or new, never half.
func (s *state) save(dir string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "."+stateFile)
	// No fsync: the journal has to survive this process, not the machine,
	// after whose restart nothing of the sandbox is left anyway.
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return os.Rename(tmp, filepath.Join(dir, stateFile))
}

// loadState reads a journal back.
func loadState(dir string) (state, error) {
	var s state
	f, err := os.Open(filepath.Join(dir, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return s, &errs.Error{Kind: errs.NotFound, Subject: "sandbox in " + dir}
	}
	if err != nil {
		return s, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return s, err
	}
	if len(b) > maxState {
		return s, &errs.Error{Kind: errs.TooLarge, Subject: f.Name()}
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, &errs.Error{Kind: errs.Invalid, Subject: f.Name(), Err: err}
	}
	if s.Containers == nil {
		s.Containers = map[string]*record{}
	}
	for id, rec := range s.Containers {
		if rec == nil {
			return s, &errs.Error{Kind: errs.Invalid, Subject: f.Name(), Field: "containers", Seen: id + " without a record"}
		}
	}
	return s, nil
}
