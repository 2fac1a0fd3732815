// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/policy"
	"redoubt.dev/base/obs"
	"redoubt.dev/node/pod"
	"redoubt.dev/provenance"
	"redoubt.dev/provenance/verify"
	"redoubt.dev/sandbox/engine"
	"redoubt.dev/sandbox/image"
)

// Auditor takes one record per decision; *obs.Audit is one.
type Auditor interface{ Write(obs.Record) error }

// Config is what an Admission works with.
type Config struct {
	Registry provenance.Reader
	Root     verify.TrustRoot
	Default  policy.TrustPolicy // for images that no declared policy covers
	Images   string             // directory of root file system images
	Audit    Auditor
	Now      func() time.Time
}

// Admission is the node's admission control. Methods may run concurrently.
type Admission struct {
	cfg Config

	mu       sync.Mutex
	policies []policy.TrustPolicy
	pods     map[string]*entry            // by UID
	permits  map[artifact.Digest]admitted // by manifest digest
	making   map[string]chan struct{}     // root file systems being made, by path; closed when that is over
	measured map[string]artifact.Digest   // of the root file systems that this process looked at, by path
}

// admitted is an image that has a Permit.
type admitted struct {
	permit verify.Permit
	repo   string
	layers []artifact.Digest
	rootfs string // path
}

// entry is what the record of an admitted pod holds.
type entry struct {
	name       string
	containers map[string]allowed
	grant      *engine.PodGrant
	decided    time.Time
}

// allowed is one container of an admitted pod.
type allowed struct {
	permit verify.Permit
	rootfs string   // path
	args   []string // argument list that the manifest and the image make, nil when expansion decides
}

// New makes an Admission that has admitted nothing.
func New(cfg Config) (*Admission, error) {
	if err := os.MkdirAll(cfg.Images, 0o700); err != nil {
		return nil, fmt.Errorf("make image directory: %w", err)
	}
	return &Admission{cfg: cfg, pods: map[string]*entry{}, permits: map[artifact.Digest]admitted{}, making: map[string]chan struct{}{}, measured: map[string]artifact.Digest{}}, nil
}

// SetPolicies replaces the declared policies.
func (a *Admission) SetPolicies(p []policy.TrustPolicy) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.policies = slices.Clone(p)
}

// Policies gives those that speak for an image of a namespace: the declared
// ones, or the installation's default when none of them covers it.
func (a *Admission) Policies(namespace string, ref artifact.Ref) []policy.TrustPolicy {
	a.mu.Lock()
	declared := a.policies
	a.mu.Unlock()
	for _, p := range declared {
		if p.Namespace != "" && p.Namespace != namespace {
			continue
		}
		if slices.ContainsFunc(p.Spec.Images, func(pattern string) bool { return verify.Match(pattern, ref.Name()) }) {
			return declared
		}
	}
	return append(slices.Clone(declared), a.cfg.Default)
}

// Verify collects the evidence of an image and decides about it, on record.
func (a *Admission) Verify(ctx context.Context, namespace, subject, ref string) (verify.Permit, error) {
	permit, err := a.verify(ctx, namespace, ref)
	rec := obs.Record{Action: "run", Subject: subject, Object: ref, Decision: obs.Permit, Reason: strings.Join(permit.Policies(), ", ")}
	if err == nil {
		rec.Object = permit.Ref().String()
	} else {
		rec.Decision, rec.Reason = obs.Deny, err.Error()
	}
	if aerr := a.cfg.Audit.Write(rec); aerr != nil {
		return verify.Permit{}, errors.Join(err, aerr) // no record, no permit
	}
	return permit, err
}

func (a *Admission) verify(ctx context.Context, namespace, name string) (verify.Permit, error) {
	ref, err := artifact.ParseRef(name)
	if err != nil {
		return verify.Permit{}, err
	}
	ev, err := provenance.Collect(ctx, a.cfg.Registry, namespace, ref)
	if err != nil {
		return verify.Permit{}, err
	}
	return verify.Verify(ev, a.Policies(namespace, ref), a.cfg.Root, a.cfg.Now())
}

// Admit decides about every image of a pod.
func (a *Admission) Admit(ctx context.Context, r *pod.Record) (map[string]string, error) {
	e := &entry{name: r.Name(), containers: map[string]allowed{}, decided: a.cfg.Now()}
	images := map[string]string{}
	for _, c := range slices.Concat(r.Pod.Spec.InitContainers, r.Pod.Spec.Containers) {
		permit, err := a.Verify(ctx, r.Pod.Namespace, "pod "+r.Name()+" container "+c.Name, c.Image)
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", c.Name, err)
		}
		cfg, err := imageConfig(&c, permit)
		if err != nil {
			return nil, err
		}
		if err := nonRoot(&r.Pod.Spec, &c, cfg.User); err != nil {
			return nil, err
		}
		args, err := arguments(&c, cfg)
		if err != nil {
			return nil, err
		}
		layers, err := layersOf(permit)
		if err != nil {
			return nil, err
		}
		rootfs := a.path(layers)
		e.containers[c.Name] = allowed{permit, rootfs, args}
		images[c.Name] = permit.Ref().String()
		a.mu.Lock()
		a.permits[permit.Digest()] = admitted{permit, permit.Ref().Repository, layers, rootfs}
		a.mu.Unlock()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.pods[r.UID]; old != nil {
		e.grant = old.grant
	}
	a.pods[r.UID] = e
	return images, nil
}

// runConfig is what an image says of the process it runs (OCI image-spec, config).
type runConfig struct {
	Entrypoint []string `json:"Entrypoint"`
	Cmd        []string `json:"Cmd"`
	User       string   `json:"User"`
}

func imageConfig(c *corev1.Container, permit verify.Permit) (runConfig, error) {
	var cfg struct {
		Config runConfig `json:"config"`
	}
	if err := json.Unmarshal(permit.Evidence().Config, &cfg); err != nil {
		return runConfig{}, &errs.Error{Kind: errs.Invalid, Subject: "image " + c.Image, Field: "config", Err: err}
	}
	return cfg.Config, nil
}

// nonRoot holds a container to runAsNonRoot: the user that it runs as, its own
// or the image's, must be a number other than 0. A name proves nothing.
func nonRoot(spec *corev1.PodSpec, c *corev1.Container, imageUser string) error {
	want, user := false, (*int64)(nil)
	if p := spec.SecurityContext; p != nil {
		want, user = p.RunAsNonRoot != nil && *p.RunAsNonRoot, p.RunAsUser
	}
	if s := c.SecurityContext; s != nil {
		if s.RunAsNonRoot != nil {
			want = *s.RunAsNonRoot
		}
		if s.RunAsUser != nil {
			user = s.RunAsUser
		}
	}
	seen := imageUser
	if user != nil {
		seen = strconv.FormatInt(*user, 10)
	}
	uid, _, _ := strings.Cut(seen, ":")
	if n, err := strconv.Atoi(uid); !want || err == nil && n != 0 {
		return nil
	}
	return &errs.Error{Kind: errs.Denied, Subject: "container " + c.Name, Field: "securityContext.runAsNonRoot", Expected: "a user by number that is not 0", Seen: strconv.Quote(seen), Fix: "set runAsUser, or build the image with --user"}
}

// arguments gives the argument list that a container must start with, as
// Kubernetes combines command, args and the image's; nil when a variable
// reference in it is expanded only later.
func arguments(c *corev1.Container, cfg runConfig) ([]string, error) {
	command, args := c.Command, c.Args
	if len(command) == 0 {
		command = cfg.Entrypoint
		if len(args) == 0 {
			args = cfg.Cmd
		}
	}
	all := slices.Concat(command, args)
	if len(all) == 0 {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: "container " + c.Name, Field: "command", Expected: "a command here or an entrypoint in the image", Seen: "neither"}
	}
	if slices.ContainsFunc(all, func(s string) bool { return strings.Contains(s, "$") }) {
		return nil, nil
	}
	return all, nil
}

// Grant notes what the sandbox of an admitted pod may have.
func (a *Admission) Grant(uid string, g engine.PodGrant) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.pods[uid]; e != nil {
		e.grant = &g
	}
}

// Forget drops the record of a pod that is gone.
func (a *Admission) Forget(uid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pods, uid)
}

// Permits gives the permits of a running pod by container, and when they were
// decided.
func (a *Admission) Permits(uid string) (map[string]verify.Permit, time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.pods[uid]
	if e == nil {
		return nil, time.Time{}
	}
	out := map[string]verify.Permit{}
	for n, c := range e.containers {
		out[n] = c.permit
	}
	return out, e.decided
}

// Pod answers the engine: the grant of an admitted pod.
func (a *Admission) Pod(_ context.Context, uid string) (engine.PodGrant, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.pods[uid]; e != nil && e.grant != nil {
		return *e.grant, nil
	}
	return engine.PodGrant{}, a.refused("sandbox of pod "+uid, "an admitted pod", "none of that UID")
}

// Container answers the engine: whether this container of an admitted pod may
// start with this image and process.
func (a *Admission) Container(_ context.Context, uid, name, rootfs string, p *specs.Process) error {
	a.mu.Lock()
	e := a.pods[uid]
	a.mu.Unlock()
	if e == nil {
		return a.refused("container "+name+" of pod "+uid, "an admitted pod", "none of that UID")
	}
	subject := "container " + name + " of pod " + e.name
	c, ok := e.containers[name]
	if !ok {
		return a.refused(subject, "a container of the admitted manifest", "another name")
	}
	if rootfs != c.rootfs {
		return a.refused(subject, "image "+c.permit.Ref().String(), "another image")
	}
	if c.args != nil && !slices.Equal(c.args, p.Args) {
		return a.refused(subject, fmt.Sprintf("command %q", c.args), fmt.Sprintf("%q", p.Args))
	}
	return nil
}

// refused makes and records a denial of what CRI was asked for.
func (a *Admission) refused(subject, expected, seen string) error {
	err := &errs.Error{Kind: errs.Denied, Subject: subject, Expected: expected, Seen: seen, Fix: "declare it in a manifest and run redoubt up"}
	if aerr := a.cfg.Audit.Write(obs.Record{Action: "run", Subject: "cri", Object: subject, Decision: obs.Deny, Reason: err.Error()}); aerr != nil {
		return errors.Join(err, aerr)
	}
	return err
}

// layersOf gives the layers that a permitted manifest names.
func layersOf(p verify.Permit) ([]artifact.Digest, error) {
	var m struct {
		Layers []struct {
			Digest artifact.Digest `json:"digest"`
		} `json:"layers"`
	}
	if err := json.Unmarshal(p.Evidence().Manifest, &m); err != nil {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: p.Ref().String(), Field: "manifest", Err: err}
	}
	out := make([]artifact.Digest, 0, len(m.Layers))
	for _, l := range m.Layers {
		out = append(out, l.Digest)
	}
	return out, nil
}

// path names a root file system by its layers, not by its manifest: containerd
// names snapshots by layers too, so that two images of the same layers, which
// differ in their configuration alone, share one.
func (a *Admission) path(layers []artifact.Digest) string {
	h := sha256.New()
	for _, d := range layers {
		_, _ = fmt.Fprintln(h, d)
	}
	return filepath.Join(a.cfg.Images, hex.EncodeToString(h.Sum(nil))+".erofs")
}

// Rootfs answers the engine: the flat image of an admitted manifest, made on
// first use. Only one caller makes it; others wait.
func (a *Admission) Rootfs(ctx context.Context, d artifact.Digest) (string, error) {
	for {
		a.mu.Lock()
		ad, ok := a.permits[d]
		if !ok {
			a.mu.Unlock()
			return "", a.refused("image manifest "+d.String(), "a permitted image", "no permit")
		}
		if busy := a.making[ad.rootfs]; busy != nil {
			a.mu.Unlock()
			select {
			case <-busy:
				continue
			case <-ctx.Done():
				return "", context.Cause(ctx)
			}
		}
		if _, ok := a.measured[ad.rootfs]; ok {
			a.mu.Unlock()
			return ad.rootfs, nil
		}
		busy := make(chan struct{})
		a.making[ad.rootfs] = busy
		a.mu.Unlock()
		digest, err := a.rootfs(ctx, ad)
		a.mu.Lock()
		delete(a.making, ad.rootfs)
		if err == nil {
			a.measured[ad.rootfs] = digest
		}
		a.mu.Unlock()
		close(busy)
		return ad.rootfs, err
	}
}

// Measured gives the digest of the root file system that the containers of an
// admitted manifest run on, looking at it when this process has not yet.
func (a *Admission) Measured(ctx context.Context, manifest artifact.Digest) (artifact.Digest, error) {
	path, err := a.Rootfs(ctx, manifest)
	if err != nil {
		return artifact.Digest{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.measured[path], nil
}

// rootfs takes a root file system that an earlier process made when it is
// still what it was, and makes it otherwise. What it was stands beside it.
func (a *Admission) rootfs(ctx context.Context, ad admitted) (artifact.Digest, error) {
	path := ad.rootfs
	was, err := os.ReadFile(path + ".digest")
	if err == nil {
		if is, err := digestOf(path); err == nil && is.String() == string(was) {
			return is, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return artifact.Digest{}, err
	}
	made, err := a.flatten(ctx, ad)
	if err != nil {
		return artifact.Digest{}, err
	}
	return made, os.WriteFile(path+".digest", []byte(made.String()), 0o600)
}

func digestOf(path string) (artifact.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return artifact.Digest{}, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return artifact.Digest{}, err
	}
	return artifact.ParseDigest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}

// flatten makes the image from layers whose digests the permitted manifest
// names; the registry's readers fail on other bytes.
func (a *Admission) flatten(ctx context.Context, ad admitted) (made artifact.Digest, err error) {
	var layers []io.Reader
	defer func() {
		for _, l := range layers {
			l.(io.Closer).Close()
		}
	}()
	for _, d := range ad.layers {
		r, _, err := a.cfg.Registry.Blob(ctx, ad.repo, d)
		if err != nil {
			return made, fmt.Errorf("layer %s of %s: %w", d, ad.permit.Ref(), err)
		}
		layers = append(layers, r)
	}
	img, err := image.Flatten(ctx, layers, ad.rootfs, image.DefaultLimits())
	if err != nil {
		return made, fmt.Errorf("make root file system of %s: %w", ad.permit.Ref(), err)
	}
	return artifact.ParseDigest(img.Digest)
}
