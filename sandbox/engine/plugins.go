// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/events/exchange"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	// What of containerd is linked in: this list is the whole of it.
	_ "github.com/containerd/containerd/v2/core/metrics/cgroups"
	_ "github.com/containerd/containerd/v2/core/metrics/cgroups/v2"
	_ "github.com/containerd/containerd/v2/core/runtime/v2"
	_ "github.com/containerd/containerd/v2/plugins/content/local/plugin"
	_ "github.com/containerd/containerd/v2/plugins/cri"
	_ "github.com/containerd/containerd/v2/plugins/cri/images"
	_ "github.com/containerd/containerd/v2/plugins/cri/runtime"
	_ "github.com/containerd/containerd/v2/plugins/diff/walking/plugin"
	_ "github.com/containerd/containerd/v2/plugins/events"
	_ "github.com/containerd/containerd/v2/plugins/gc"
	_ "github.com/containerd/containerd/v2/plugins/leases"
	_ "github.com/containerd/containerd/v2/plugins/metadata"
	_ "github.com/containerd/containerd/v2/plugins/mount"
	_ "github.com/containerd/containerd/v2/plugins/nri"
	_ "github.com/containerd/containerd/v2/plugins/sandbox"
	_ "github.com/containerd/containerd/v2/plugins/server/grpc"
	_ "github.com/containerd/containerd/v2/plugins/server/ttrpc"
	_ "github.com/containerd/containerd/v2/plugins/services/containers"
	_ "github.com/containerd/containerd/v2/plugins/services/content"
	_ "github.com/containerd/containerd/v2/plugins/services/diff"
	_ "github.com/containerd/containerd/v2/plugins/services/events"
	_ "github.com/containerd/containerd/v2/plugins/services/healthcheck"
	_ "github.com/containerd/containerd/v2/plugins/services/images"
	_ "github.com/containerd/containerd/v2/plugins/services/introspection"
	_ "github.com/containerd/containerd/v2/plugins/services/leases"
	_ "github.com/containerd/containerd/v2/plugins/services/mounts"
	_ "github.com/containerd/containerd/v2/plugins/services/namespaces"
	_ "github.com/containerd/containerd/v2/plugins/services/sandbox"
	_ "github.com/containerd/containerd/v2/plugins/services/snapshots"
	_ "github.com/containerd/containerd/v2/plugins/services/tasks"
	_ "github.com/containerd/containerd/v2/plugins/services/transfer"
	_ "github.com/containerd/containerd/v2/plugins/services/version"
	_ "github.com/containerd/containerd/v2/plugins/services/warning"
	_ "github.com/containerd/containerd/v2/plugins/streaming"
	_ "github.com/containerd/containerd/v2/plugins/transfer"
)

var (
	registerOnce sync.Once
	current      atomic.Pointer[Engine] // the engine that the plugins below belong to
)

// register adds our plugins to containerd's registry, which is global to the
// process.
func register(e *Engine) {
	current.Store(e)
	registerOnce.Do(func() {
		registry.Register(&plugin.Registration{
			Type: plugins.SnapshotPlugin,
			ID:   runtimeName,
			InitFn: func(ic *plugin.InitContext) (any, error) {
				root := ic.Properties[plugins.PropertyRootDir]
				if err := mkdir(root); err != nil {
					return nil, err
				}
				return newSnapshotter(root, current.Load().admit)
			},
		})
		registry.Register(&plugin.Registration{
			Type:     plugins.SandboxControllerPlugin,
			ID:       runtimeName,
			Requires: []plugin.Type{plugins.EventPlugin},
			InitFn: func(ic *plugin.InitContext) (any, error) {
				ex, err := ic.GetByID(plugins.EventPlugin, "exchange")
				if err != nil {
					return nil, err
				}
				e := current.Load()
				e.pods.publishTo(ex.(*exchange.Exchange))
				return &controller{pods: e.pods, address: "ttrpc+unix://" + e.cfg.taskSocket()}, nil
			},
		})
	})
}
