// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
	"redoubt.dev/base/obs"
	"redoubt.dev/base/run"
	"redoubt.dev/mesh/compile"
	"redoubt.dev/node/manifest"
	"redoubt.dev/node/plan"
	"redoubt.dev/node/pod"
	"redoubt.dev/sandbox/edge"
)

// world is what is wanted and what there is. Its goroutine alone touches it;
// others use ask.
type world struct {
	n      *Node
	sets   map[string]*set
	all    *merged
	addrs  addresses
	pods   map[string]*pod.Worker
	ending map[string]bool
	group  *run.Group
	last   *wire.Snapshot
	fault  error // of the last compilation

	resumed map[string]time.Time // pods of an earlier node, assumed to be ready until then
	clashes []string             // services that cannot have the address that they want
}

// lookFiles is how often files are looked at for changes.
const lookFiles = time.Second

// run is the node's reconcile loop.
func (w *world) run(ctx context.Context) error {
	w.group = run.New(ctx)
	defer func() {
		w.group.Stop()
		_ = w.group.Wait()
	}()
	if err := w.resume(); err != nil {
		return err
	}
	look := time.NewTicker(lookFiles)
	defer look.Stop()
	var again time.Time
	for {
		next, err := w.reconcile()
		if err != nil {
			w.n.log.Error("reconcile", "error", err)
			next = time.Now().Add(time.Second)
		}
		again = next
		timer := (<-chan time.Time)(nil)
		if !again.IsZero() {
			timer = time.After(time.Until(again))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.n.kicked:
		case <-w.n.issuer.Changed():
		case <-timer:
		case <-look.C:
			w.look()
		case f := <-w.n.asked:
			f(w)
		}
	}
}

// ask runs f in the world's goroutine and waits for it. Once it was taken it
// is waited for whatever ctx says: f writes to what the caller reads next.
func (n *Node) ask(ctx context.Context, f func(*world)) error {
	done := make(chan struct{})
	select {
	case n.asked <- func(w *world) { defer close(done); f(w) }:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	<-done
	return nil
}

func (n *Node) addressFile() string { return filepath.Join(n.cfg.Root, "node", "addresses.json") }

func (n *Node) recordFile(uid string) string {
	return filepath.Join(n.cfg.Root, "node", "pods", uid+".json")
}

// resume reads back what an earlier node left.
func (w *world) resume() error {
	n := w.n
	w.pods, w.ending, w.resumed = map[string]*pod.Worker{}, map[string]bool{}, map[string]time.Time{}
	w.addrs = addresses{Services: map[string]netip.Addr{}, NodePorts: map[string]uint16{}}
	if err := readJSON(n.addressFile(), &w.addrs); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read addresses: %w", err)
	}
	var err error
	if w.sets, err = n.loadSets(); err != nil {
		return err
	}
	if w.all, err = merge(w.sets); err != nil {
		return err
	}
	w.use(w.all)
	files, err := filepath.Glob(n.recordFile("*"))
	if err != nil {
		return err
	}
	var records []*pod.Record
	for _, f := range files {
		r := &pod.Record{}
		if err := readJSON(f, r); err != nil {
			n.log.Error("drop unreadable pod record", "file", f, "error", err)
			_ = os.Remove(f)
			continue
		}
		records = append(records, r)
	}
	var keep []edge.Edge
	for _, r := range records {
		e := edge.At(n.netnsDir(), r.UID, r.Addr)
		keep = append(keep, e)
		if e.Exists() && !r.Ending {
			// Its edge stands: the first snapshot must hold it, or the proxy
			// that runs since before would cut its connections.
			if err := n.net.admit(r); err != nil {
				return err
			}
			w.resumed[r.UID] = time.Now().Add(assumeReady)
		}
		w.start(r)
	}
	return edge.Sweep(n.netnsDir(), keep)
}

// assumeReady is how long a pod of an earlier node is taken for ready.
const assumeReady = 15 * time.Second

func (w *world) start(r *pod.Record) {
	p := pod.New(r, w.n.deps())
	w.pods[r.UID] = p
	w.ending[r.UID] = r.Ending
	w.group.Go("pod "+r.Name(), p.Run)
}

// look reloads sets whose files changed.
func (w *world) look() {
	for _, name := range sortedNames(w.sets) {
		s := w.sets[name]
		now := stamp(s.Paths)
		if now == s.stamp {
			continue
		}
		s.stamp = now
		good, err := manifest.Load(s.Paths)
		if err == nil && good.Digest() == s.good.Digest() {
			s.fault = nil // touched, or as it was again
			continue
		}
		if err == nil {
			err = w.accept(&set{Name: s.Name, Paths: s.Paths, stamp: now, good: good})
		}
		if err != nil {
			s.fault = err
			w.n.log.Warn("manifests changed but are not in force", "set", s.Name, "error", err)
			_ = w.n.audit.Write(obs.Record{Action: "load", Subject: "files", Object: s.Name, Decision: obs.Deny, Reason: err.Error()})
		}
	}
}

// accept takes a set into the world when it fits with the others, and keeps
// it on disk first.
func (w *world) accept(s *set) error {
	sets := map[string]*set{s.Name: s}
	for n, other := range w.sets {
		if n != s.Name {
			sets[n] = other
		}
	}
	all, err := merge(sets)
	if err != nil {
		return err
	}
	if err := all.Check(); err != nil {
		return err
	}
	if err := reserved(&s.good); err != nil {
		return err
	}
	s.Loaded = time.Now()
	if err := w.n.saveSet(s); err != nil {
		return fmt.Errorf("keep set %s: %w", s.Name, err)
	}
	// No record, no change: policies are among what comes into force.
	if err := w.n.audit.Write(obs.Record{Action: "load", Subject: "files", Object: s.Name, Decision: obs.Permit, Reason: s.good.Digest().String()}); err != nil {
		return err
	}
	w.sets = sets
	w.use(all)
	for _, p := range w.pods {
		p.Kick()
	}
	return nil
}

// reserved refuses workloads in the platform's own namespace: their identities
// would be the gateway's, the builder's and the node's.
func reserved(s *manifest.Set) error {
	var all []error
	for _, k := range s.Keys() {
		switch k.Kind {
		case "Pod", "Deployment", "StatefulSet", "Job", "ServiceAccount":
			if k.Namespace == compile.RootNamespace {
				all = append(all, &errs.Error{Kind: errs.Denied, Subject: k.String(), Field: "metadata.namespace", Expected: "another namespace", Seen: k.Namespace, Fix: "the names in it belong to the platform"})
			}
		}
	}
	return errors.Join(all...)
}

func (w *world) drop(name string) error {
	if err := w.n.audit.Write(obs.Record{Action: "unload", Subject: "redoubt down", Object: name, Decision: obs.Permit}); err != nil {
		return err
	}
	if err := w.n.removeSet(name); err != nil {
		return err
	}
	delete(w.sets, name)
	all, err := merge(w.sets)
	if err != nil {
		return err
	}
	w.use(all)
	return nil
}

// use puts what is wanted in force, here and where other goroutines look.
func (w *world) use(all *merged) {
	w.all = all
	w.n.look.Store(all)
	w.n.admission.SetPolicies(all.TrustPolicies)
}

// reconcile makes one step from what is to what is wanted.
func (w *world) reconcile() (again time.Time, err error) {
	if err := w.address(); err != nil {
		return again, err
	}
	for uid, p := range w.pods {
		if p.Status().Gone {
			if err := os.Remove(w.n.recordFile(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return again, err
			}
			delete(w.pods, uid)
			delete(w.ending, uid)
		}
	}
	var have []plan.Actual
	for uid, p := range w.pods {
		r, st := p.Record(), p.Status()
		have = append(have, plan.Actual{UID: uid, Owner: r.Owner, Name: r.Pod.Name, Hash: r.Hash, Ordinal: r.Ordinal, Phase: corev1.PodPhase(st.Phase), Ready: st.Ready, Deleting: w.ending[uid], Created: r.Created, Ended: st.Ended})
	}
	acts := plan.Plan(w.all.objects(), have, time.Now(), suffix)
	for _, d := range acts.Delete {
		if err := w.end(d.UID, d.Reason); err != nil {
			return again, err
		}
	}
	for _, c := range acts.Create {
		if err := w.create(c); err != nil {
			return again, err
		}
	}
	return acts.Again, w.push()
}

// address gives every service its addresses before anything depends on them.
func (w *world) address() error {
	before, _ := json.Marshal(w.addrs)
	services, ports := map[string]bool{}, map[string]bool{}
	for _, s := range w.all.Services {
		name := s.Namespace + "/" + s.Name
		if s.Spec.ClusterIP != corev1.ClusterIPNone {
			services[name] = true
			if _, err := w.addrs.service(w.n.cfg.ServiceCIDR, name); err != nil {
				return err
			}
		}
		if s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			for _, p := range s.Spec.Ports {
				key := nodePortKey(s, p)
				ports[key] = true
				if _, err := w.addrs.nodePort(key, p.NodePort); err != nil {
					return err
				}
			}
		}
	}
	w.addrs.keep(services, ports)
	if after, _ := json.Marshal(w.addrs); string(after) == string(before) {
		return nil
	}
	return writeJSON(w.n.addressFile(), w.addrs)
}

func (w *world) create(c plan.Create) error {
	taken := map[netip.Addr]bool{}
	for _, p := range w.pods {
		taken[p.Record().Addr] = true
	}
	a, err := next(w.n.cfg.PodCIDR, w.addrs.LastPod, taken)
	if err != nil {
		return err
	}
	w.addrs.LastPod = a
	r := &pod.Record{UID: newUID(), Owner: c.Owner, Hash: c.Hash, Ordinal: c.Ordinal, Pod: c.Pod, Addr: a, Created: time.Now().UTC()}
	if err := errors.Join(writeJSON(w.n.addressFile(), w.addrs), writeJSON(w.n.recordFile(r.UID), r)); err != nil {
		return fmt.Errorf("keep record of pod %s: %w", r.Name(), err)
	}
	w.n.log.Info("make pod", "pod", r.Name(), "uid", r.UID, "address", a.String())
	w.start(r)
	return nil
}

func (w *world) end(uid, why string) error {
	p := w.pods[uid]
	r := *p.Record()
	r.Ending = true
	if err := writeJSON(w.n.recordFile(uid), &r); err != nil {
		return err
	}
	w.n.log.Info("end pod", "pod", r.Name(), "uid", uid, "reason", why)
	w.ending[uid] = true
	p.End()
	return nil
}

// push compiles the mesh and hands it to the proxy when it is another. A
// compilation that fails leaves the last good snapshot in force.
func (w *world) push() error {
	s, err := w.compileMesh()
	if err != nil {
		w.fault = err
		return fmt.Errorf("compile the mesh: %w", err)
	}
	w.fault = nil
	if w.last != nil {
		s.Version = w.last.Version
		if reflect.DeepEqual(s, w.last) {
			return nil
		}
	}
	w.n.version++
	s.Version = w.n.version
	w.last = s
	w.n.proxy.Push(s)
	return nil
}

// endAll ends every pod and returns when nothing is left of them.
func (n *Node) endAll(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		left := 0
		var fault error
		err := n.ask(ctx, func(w *world) {
			w.sets = map[string]*set{}
			w.all, _ = merge(nil)
			for uid := range w.pods {
				if !w.ending[uid] {
					fault = errors.Join(fault, w.end(uid, "the node goes down"))
				}
			}
			left = len(w.pods)
		})
		if err = errors.Join(err, fault); err != nil || left == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &errs.Error{Kind: errs.Unavailable, Subject: "node", Expected: "that all pods end", Seen: fmt.Sprintf("%d left", left), Err: context.Cause(ctx)}
		}
	}
}

// suffix is the random part of a pod's name, letters and digits that spell no
// words (Kubernetes' alphabet).
func suffix() string {
	const alphabet = "bcdfghjklmnpqrstvwxz2456789"
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand documents
	for i := range b {
		b[i] = alphabet[int(b[i])%len(alphabet)]
	}
	return string(b[:])
}

// newUID gives a random UUID, version 4 (RFC 9562).
func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// writeJSON replaces the file in one step, on disk before it returns.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
