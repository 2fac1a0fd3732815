// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"path/filepath"
	"runtime"

	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
)

// Config says where the engine lives.
type Config struct {
	Root   string // persistent data, below /var/lib/redoubt
	State  string // transient data and sockets, below /run/redoubt
	Binary string // an executable that containerd may take for a shim; it is never run for a pod
	Mirror string // URL of the node's registry; every image of every host is pulled from it
}

const runtimeName = "redoubt"

// Socket is the path of the private CRI socket.
func (c Config) Socket() string { return filepath.Join(c.State, "cri.sock") }

func (c Config) taskSocket() string { return filepath.Join(c.State, "task.sock") }

// noShim is what containerd takes for a shim binary. It never starts one for a
// pod, but runs it when a task is deleted, to clean up after a shim that died:
// there is nothing to do, and that is what true does.
const noShim = "/bin/true"

func (c Config) hostsDir() string { return filepath.Join(c.State, "hosts") }

func (c Config) containerd() *srvconfig.Config {
	return &srvconfig.Config{
		Version:         4,
		Root:            filepath.Join(c.Root, "containerd"),
		State:           filepath.Join(c.State, "containerd"),
		RequiredPlugins: []string{"io.containerd.grpc.v1.cri", "io.containerd.server.v1.grpc"},
		Plugins: map[string]any{
			"io.containerd.server.v1.grpc":  map[string]any{"address": c.Socket()},
			"io.containerd.server.v1.ttrpc": map[string]any{"address": c.Socket() + ".ttrpc"},
			"io.containerd.transfer.v1.local": map[string]any{
				"unpack_config": []map[string]any{{"platform": "linux/" + runtime.GOARCH, "snapshotter": runtimeName, "differ": "walking"}},
			},
			"io.containerd.nri.v1.nri": map[string]any{"disable": true},
			"io.containerd.cri.v1.images": map[string]any{
				"snapshotter":                  runtimeName,
				"disable_snapshot_annotations": false,
				"use_local_image_pull":         true,
				"registry":                     map[string]any{"config_path": c.hostsDir()},
			},
			"io.containerd.cri.v1.runtime": map[string]any{
				"restrict_oom_score_adj":       true, // CAP_SYS_RESOURCE may be missing
				"ignore_image_defined_volumes": true, // they live in the guest's own overlay
				"enable_unprivileged_ports":    false,
				"enable_unprivileged_icmp":     false,
				"disable_apparmor":             true, // the guest has a kernel of its own
				"containerd": map[string]any{
					"default_runtime_name": runtimeName,
					"runtimes": map[string]any{runtimeName: map[string]any{
						"runtime_type":             noShim,
						"sandboxer":                runtimeName,
						"snapshotter":              runtimeName,
						"disable_pause_image_pull": true,
					}},
				},
			},
			"io.containerd.grpc.v1.cri": map[string]any{
				"stream_server_address": "127.0.0.1", "stream_server_port": "0",
			},
		},
	}
}
