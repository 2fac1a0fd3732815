// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/run"
	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
)

// Bounds of what names stand for and of asking.
const (
	maxAddrs   = 1024 // of one name
	dnsTimeout = 5 * time.Second
	dnsRefresh = 5 * time.Second
)

// Resolver gives a set the addresses that its endpoints' names stand for, for
// clusters of type STRICT_DNS (all addresses) and LOGICAL_DNS (one).
type Resolver struct {
	set    *balance.Set
	c      *config.Cluster
	lookup *net.Resolver
	failed func(host string, err error)

	mu    sync.Mutex
	names map[string]*name
}

// name is one name to resolve, with what it stands for.
type name struct {
	host  string
	addrs []netip.Addr
	asked bool // an answer, or none, has come
	// made are the endpoints that were made of templates, so that the set sees
	// the same pointer for what did not change.
	made map[made]*config.Endpoint
}

type made struct {
	of   *config.Endpoint
	addr netip.Addr
}

// NewResolver makes the resolver of s's cluster. lookup may be nil for the
// system's; failed is told of names that do not resolve, and may be nil.
func NewResolver(s *balance.Set, lookup *net.Resolver, failed func(host string, err error)) (*Resolver, error) {
	if lookup == nil {
		lookup = net.DefaultResolver
	}
	if failed == nil {
		failed = func(string, error) {}
	}
	r := &Resolver{set: s, c: s.Cluster(), lookup: lookup, failed: failed, names: map[string]*name{}}
	if _, err := families(r.c.DNSFamily); err != nil {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: "cluster " + r.c.Name, Field: "dns_lookup_family", Err: err}
	}
	n := 0
	r.each(func(_ *config.Locality, ep *config.Endpoint) {
		n++
		if toResolve(ep) && r.names[ep.Host] == nil {
			r.names[ep.Host] = &name{host: ep.Host, made: map[made]*config.Endpoint{}}
		}
	})
	if r.c.Discovery == config.LogicalDNS && n != 1 {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: "cluster " + r.c.Name, Field: "load_assignment",
			Expected: "exactly one endpoint for LOGICAL_DNS", Seen: strconv.Itoa(n)}
	}
	return r, nil
}

// families tells which lookups are done, in order; the first that gives
// addresses counts, unless all do.
func families(f string) (networks []string, err error) {
	switch f {
	case "V4_ONLY":
		return []string{"ip4"}, nil
	case "V6_ONLY":
		return []string{"ip6"}, nil
	case "V4_PREFERRED":
		return []string{"ip4", "ip6"}, nil
	case "", "AUTO":
		return []string{"ip6", "ip4"}, nil
	case "ALL":
		return []string{"ip"}, nil
	}
	return nil, fmt.Errorf("family %q is not known", f)
}

func toResolve(ep *config.Endpoint) bool {
	return !ep.Addr.IsValid() && ep.Pipe == "" && ep.Host != ""
}

func (r *Resolver) each(f func(*config.Locality, *config.Endpoint)) {
	if r.c.Endpoints == nil {
		return
	}
	for _, l := range r.c.Endpoints.Localities {
		for _, ep := range l.Hosts {
			f(l, ep)
		}
	}
}

// Run resolves until ctx ends. The set gets its first hosts when each name has
// been asked for once, whatever came of it.
func (r *Resolver) Run(ctx context.Context) error {
	g := run.New(ctx)
	g.Go("wait", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	for _, n := range r.names {
		g.Go("resolve "+n.host, func(ctx context.Context) error { return r.follow(ctx, n) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// follow looks n up again and again.
func (r *Resolver) follow(ctx context.Context, n *name) error {
	every := or(r.c.DNSRefresh, dnsRefresh)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		addrs, err := r.ask(ctx, n.host)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.failed(n.host, err)
		}
		if err := r.learn(n, addrs); err != nil {
			return err
		}
		// Up to a tenth later, so that a fleet does not ask in step.
		timer.Reset(every + upTo(every/10, rand.Uint64()))
	}
}

// ask looks a name up. An answer without addresses is an error.
func (r *Resolver) ask(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	networks, err := families(r.c.DNSFamily)
	if err != nil {
		return nil, err
	}
	for _, network := range networks {
		var addrs []netip.Addr
		if addrs, err = r.lookup.LookupNetIP(ctx, network, host); err == nil && len(addrs) > 0 {
			for i, a := range addrs {
				addrs[i] = a.Unmap()
			}
			slices.SortFunc(addrs, netip.Addr.Compare)
			addrs = slices.Compact(addrs)
			return addrs[:min(len(addrs), maxAddrs)], nil
		}
	}
	if err == nil {
		err = &net.DNSError{Err: "no address", Name: host, IsNotFound: true}
	}
	return nil, err
}

// learn takes an answer in; nil keeps what was known.
func (r *Resolver) learn(n *name, addrs []netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := !n.asked
	n.asked = true
	if r.c.Discovery == config.LogicalDNS && len(addrs) > 1 {
		// One of the addresses; the one in use while it is among them, since a
		// server that rotates its answer must not make us change at each look.
		one := addrs[0]
		if len(n.addrs) == 1 && slices.Contains(addrs, n.addrs[0]) {
			one = n.addrs[0]
		}
		addrs = []netip.Addr{one}
	}
	changed := addrs != nil && !slices.Equal(addrs, n.addrs)
	if changed {
		n.addrs = addrs
	}
	if !changed && !first {
		return nil
	}
	for _, n := range r.names {
		if !n.asked {
			return nil
		}
	}
	return r.set.Update(r.endpointsLocked())
}

// endpointsLocked is the cluster's endpoints with names replaced by what they
// stand for.
func (r *Resolver) endpointsLocked() *config.Endpoints {
	in := r.c.Endpoints
	out := &config.Endpoints{DropPerCent: in.DropPerCent}
	used := make(map[made]bool)
	for _, l := range in.Localities {
		nl := *l
		nl.Hosts = make([]*config.Endpoint, 0, len(l.Hosts))
		for _, ep := range l.Hosts {
			if !toResolve(ep) {
				nl.Hosts = append(nl.Hosts, ep)
				continue
			}
			n := r.names[ep.Host]
			for _, a := range n.addrs {
				k := made{ep, a}
				used[k] = true
				if n.made[k] == nil {
					c := *ep
					c.Addr = netip.AddrPortFrom(a, ep.Port)
					n.made[k] = &c
				}
				nl.Hosts = append(nl.Hosts, n.made[k])
			}
		}
		out.Localities = append(out.Localities, &nl)
	}
	for _, n := range r.names {
		for k := range n.made {
			if !used[k] {
				delete(n.made, k)
			}
		}
	}
	return out
}
