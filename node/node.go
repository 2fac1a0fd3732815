// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/id"
	"redoubt.dev/api/policy"
	"redoubt.dev/base/obs"
	"redoubt.dev/base/run"
	"redoubt.dev/identity"
	"redoubt.dev/node/admit"
	"redoubt.dev/node/children"
	"redoubt.dev/node/pod"
	"redoubt.dev/provenance"
	"redoubt.dev/provenance/registry"
	"redoubt.dev/provenance/sign"
	"redoubt.dev/provenance/verify"
	"redoubt.dev/sandbox/driver/sentry"
	"redoubt.dev/sandbox/edge"
	"redoubt.dev/sandbox/engine"
)

// Node is one machine.
type Node struct {
	cfg         Config
	log         *slog.Logger
	trustDomain id.TrustDomain
	started     time.Time

	audit         *trail
	ca            *identity.CA
	issuer        *identity.Issuer
	keys          *sign.Authority
	trust         verify.TrustRoot
	store         *registry.Store
	defaultPolicy policy.TrustPolicy
	admission     *admit.Admission
	driver        *sentry.Driver
	engine        *engine.Engine
	proxy         *children.Proxy
	net           *network

	ctx     context.Context // of Run; what outlives a request hangs on it
	version uint64          // of the last snapshot; belongs to the world's goroutine
	kicked  chan struct{}   // capacity 1: more than one change is one
	asked   chan func(*world)
	downed  chan struct{} // closed when the node was asked to go down
	goDown  sync.Once

	look atomic.Pointer[merged]
}

// New opens what lasts: keys, registry, audit log. It starts nothing.
func New(cfg Config, log *slog.Logger) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	td, err := id.ParseTrustDomain(cfg.TrustDomain)
	if err != nil {
		return nil, err
	}
	for dir, mode := range map[string]os.FileMode{cfg.Root: 0o711, cfg.State: 0o711, filepath.Join(cfg.Root, "audit"): 0o711, filepath.Join(cfg.Root, "node"): 0o700} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
		// The proxy's user must reach its own directories below.
		if err := os.Chmod(dir, mode); err != nil {
			return nil, err
		}
	}
	n := &Node{cfg: cfg, log: log, trustDomain: td, started: time.Now(), version: uint64(time.Now().UnixNano()),
		kicked: make(chan struct{}, 1), asked: make(chan func(*world)), downed: make(chan struct{})}
	n.net = &network{n: n, attached: map[string]*pod.Record{}}
	n.look.Store(&merged{})
	records, err := obs.OpenAudit(filepath.Join(cfg.Root, "audit", "node.jsonl"), "node", time.Now)
	if err != nil {
		return nil, err
	}
	n.audit = &trail{Audit: records}
	if err := n.openTrust(); err != nil {
		return nil, err
	}
	if err := n.openSandbox(); err != nil {
		return nil, err
	}
	n.proxy = children.NewProxy(children.Config{Binary: filepath.Join(cfg.Binaries, "redoubt-proxy"), State: filepath.Join(cfg.State, "proxy"), Audit: filepath.Join(cfg.Root, "audit", "proxy"), UID: cfg.ProxyUser}, log)
	return n, nil
}

// openTrust opens the keys, the registry behind its gate, and admission.
func (n *Node) openTrust() (err error) {
	root := n.cfg.Root
	if n.ca, err = identity.Open(filepath.Join(root, "identity"), n.trustDomain, time.Now); err != nil {
		return err
	}
	n.issuer = identity.NewIssuer(n.ca, time.Duration(n.cfg.SVIDTTL), time.Now)
	if n.keys, err = sign.Open(filepath.Join(root, "signing"), n.trustDomain, time.Now); err != nil {
		return err
	}
	if n.trust, err = verify.ParseTrustRoot(n.keys.TrustRoot()); err != nil {
		return err
	}
	n.defaultPolicy = verify.DefaultPolicy(n.trustDomain)
	n.store, err = registry.Open(filepath.Join(root, "registry"), registry.Config{Host: n.cfg.Registry, Gate: func(s *registry.Store) registry.Gate {
		return &provenance.Gate{Reader: s, Policies: func(ref artifact.Ref) []policy.TrustPolicy { return n.admission.Policies("", ref) }, Root: n.trust, Now: time.Now, Audit: n.audit}
	}})
	if err != nil {
		return err
	}
	n.admission, err = admit.New(admit.Config{Registry: n.store, Root: n.trust, Default: n.defaultPolicy, Images: filepath.Join(root, "images"), Audit: n.audit, Now: time.Now})
	return err
}

func (n *Node) openSandbox() (err error) {
	sc := sentry.Default()
	sc.Binary = filepath.Join(n.cfg.Binaries, "redoubt-sentry")
	if n.driver, err = sentry.New(sc); err != nil {
		return err
	}
	n.engine, err = engine.New(engine.Config{Root: n.cfg.Root, State: filepath.Join(n.cfg.State, "engine"), Mirror: "http://" + n.cfg.RegistryListen.String()}, n.driver, n.admission, n.log)
	return err
}

func (n *Node) netnsDir() string { return filepath.Join(n.cfg.State, "netns") }

func (n *Node) places() pod.Places {
	return pod.Places{Transient: filepath.Join(n.cfg.State, "pods"), Claims: filepath.Join(n.cfg.Root, "volumes"), Logs: filepath.Join(n.cfg.Root, "logs"), Edges: n.netnsDir(), WritableHostPaths: n.cfg.AllowWritableHostPaths, Closed: []string{n.cfg.Root, n.cfg.State, "/etc/redoubt", "/proc", "/sys", "/dev"}}
}

func (n *Node) deps() pod.Deps {
	host, _ := os.Hostname()
	return pod.Deps{
		Runtime: n.engine.Runtime(), Images: n.engine.Images(), Exec: n.probeExec,
		Admit: n.admission, Network: n.net, Lookup: lookup{n}, Places: n.places(), DNS: edge.Gateway, Node: host,
		MaxPids: n.cfg.MaxPidsPerPod, Log: n.log, Changed: n.kick,
	}
}

// kick asks the world to look again; it does not wait.
func (n *Node) kick() {
	select {
	case n.kicked <- struct{}{}:
	default:
	}
}

// Run works until ctx ends, which leaves pods and proxy running for the next
// node, or until the node was asked to go down, which leaves nothing running.
func (n *Node) Run(ctx context.Context) error {
	defer n.audit.Close()
	secrets := n.places().Transient
	if err := inMemory(secrets); err != nil {
		return err
	}
	if err := edge.Host(n.netnsDir()); err != nil {
		return err
	}
	// The data plane and the engine end after the pods' workers have.
	below := run.New(context.WithoutCancel(ctx))
	n.ctx = below.Context()
	below.Go("registry", n.serveRegistry)
	below.Go("engine", n.engine.Run)
	below.Go("proxy", n.proxy.Run)
	below.Go("identity", n.issuer.Run)
	defer func() {
		below.Stop()
		_ = below.Wait()
	}()
	rctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	context.AfterFunc(below.Context(), cancel)
	if err := n.engine.Ready(rctx); err != nil {
		below.Stop()
		return fmt.Errorf("start the engine: %w", firstError(below.Wait(), err))
	}
	gw, err := id.Workload(n.trustDomain, "redoubt-system", gatewayAccount)
	if err != nil {
		return err
	}
	if _, err := n.issuer.Admit(identity.Record{UID: gatewayUID, ID: gw}); err != nil {
		return err
	}

	g := run.New(ctx)
	context.AfterFunc(below.Context(), g.Stop)
	g.Go("world", (&world{n: n}).run)
	g.Go("api", n.serveAPI)
	g.Go("down", func(ctx context.Context) error {
		select {
		case <-n.downed:
			g.Stop()
		case <-ctx.Done():
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	select {
	case <-n.downed:
		below.Stop()
		_ = below.Wait()
		return n.clear()
	default:
		return nil
	}
}

// clear removes what a node that goes down leaves: the proxy, the network and
// everything below State. What lasts stays below Root.
func (n *Node) clear() error {
	err := n.proxy.Stop(5 * time.Second)
	return firstError(err, edge.Unhost(n.netnsDir()), release(n.places().Transient), os.RemoveAll(n.cfg.State))
}

func firstError(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

// serveRegistry answers containerd, and clients of this machine that push.
func (n *Node) serveRegistry(ctx context.Context) error {
	l, err := net.Listen("tcp", n.cfg.RegistryListen.String())
	for err != nil { // whoever took the port must not keep the node, and its pods, down
		n.log.Error("the registry does not answer; images that are not here yet cannot start", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
		l, err = net.Listen("tcp", n.cfg.RegistryListen.String())
	}
	return serveHTTP(ctx, l, &registry.Server{Store: n.store, AllowPush: true})
}

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}
