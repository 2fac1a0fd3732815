// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"redoubt.dev/base/obs"
	"redoubt.dev/base/sys"
	"redoubt.dev/proxy"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/serve"
	"redoubt.dev/proxy/xds"
)

// validate reads a configuration as a proxy would, and says what is wrong.
func validate(path string) error {
	b, err := xds.Load(path)
	if err != nil {
		return err
	}
	if err := serve.Check(b.Static); err != nil {
		return err
	}
	fmt.Printf("%s: valid: %d listeners, %d clusters, %d route configurations\n", path, len(b.Static.Listeners), len(b.Static.Clusters), len(b.Static.Routes))
	return nil
}

// standAlone serves the configuration at path until ctx ends.
func standAlone(ctx context.Context, path string, loops int, drain time.Duration, level slog.Level, up upgrade) error {
	if err := proxy.Confine(); err != nil {
		return err
	}
	b, err := xds.Load(path)
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(loops + 1) // one processor beside the loops: handshakes, logs, the collector
	debug.SetGCPercent(200)
	log := obs.Logger(os.Stderr, "proxy", level)
	in, err := up.join(log)
	if err != nil {
		return err
	}
	s, err := serve.New(serve.Options{Loops: loops, Drain: drain, Log: log, Inherit: in})
	if err != nil {
		return err
	}
	return s.Run(ctx, func(ctx context.Context) error {
		l := &life{s: s, up: up, in: in, log: log, admin: b.Static.Admin, drain: drain, dynamic: b.Dynamic()}
		if in == nil {
			l.openAdmin()
		}
		c, err := xds.NewClient(b, func(cfg *config.Config) error {
			err := s.Apply(cfg)
			if err != nil && !b.Dynamic() {
				return err
			}
			if err != nil {
				log.Error("configuration refused; the last good one stays", "err", err)
				return err
			}
			trim()
			log.Info("configuration in force", "listeners", len(cfg.Listeners), "clusters", len(cfg.Clusters))
			l.begin()
			return nil
		}, log)
		if err != nil {
			return err
		}
		s.Sources(func() map[string]uint64 {
			st := c.Status()
			return map[string]uint64{"accepted": st.Acked, "rejected": st.Nacked + st.Unread, "reconnects": st.Reconnects}
		})
		if err := c.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		<-ctx.Done()
		return nil
	})
}

// trim gives back what only reading a configuration needed, once it is in
// force for the first time: the code of the configuration API is most of the
// program, and serving touches little of it.
var trim = sync.OnceFunc(func() {
	debug.FreeOSMemory()
	sys.ForgetCode()
})
