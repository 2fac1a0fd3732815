// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/manifest"
	"redoubt.dev/node/plan"
)

// set is what one redoubt up brought: paths, and what they last held that was
// good. A copy of the good files lies beside its record, for a node that comes
// back when the files have become bad or are gone.
type set struct {
	Name   string    `json:"name"`
	Paths  []string  `json:"paths"`
	Loaded time.Time `json:"loaded"`

	good  manifest.Set
	stamp string // of the files as last looked at
	fault error  // why the files as they are now are not in force
}

func setName(paths []string) string {
	s := sha256.Sum256([]byte(strings.Join(paths, "\n")))
	return filepath.Base(paths[0]) + "-" + hex.EncodeToString(s[:4])
}

// stamp tells cheaply whether files changed: names, sizes and times.
func stamp(paths []string) string {
	var b strings.Builder
	one := func(p string, st fs.FileInfo) { fmt.Fprintf(&b, "%s %d %d\n", p, st.Size(), st.ModTime().UnixNano()) }
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			fmt.Fprintf(&b, "%s gone\n", p)
			continue
		}
		one(p, st)
		if st.IsDir() {
			entries, _ := os.ReadDir(p)
			for _, e := range entries {
				if st, err := e.Info(); err == nil && !st.IsDir() {
					one(e.Name(), st)
				}
			}
		}
	}
	return b.String()
}

func (n *Node) setDir(name string) string { return filepath.Join(n.cfg.Root, "node", "sets", name) }

// saveSet keeps the record and a copy of the good files.
func (n *Node) saveSet(s *set) error {
	dir := n.setDir(s.Name)
	fresh := dir + ".new"
	if err := errors.Join(os.RemoveAll(fresh), os.MkdirAll(filepath.Join(fresh, "files"), 0o700)); err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(fresh, "set.json"), b, 0o600); err != nil {
		return err
	}
	copied := map[string]bool{}
	for _, k := range s.good.Keys() {
		src, ok := s.good.Source(k)
		if !ok || copied[src.File] {
			continue
		}
		copied[src.File] = true
		b, err := os.ReadFile(src.File)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(fresh, "files", copyName(len(copied), src.File)), b, 0o600); err != nil {
			return err
		}
	}
	// What was copied must be what was checked, and must be whole on disk
	// before it takes the place of the last good copy.
	if again, err := manifest.Load([]string{filepath.Join(fresh, "files")}); err != nil || again.Digest() != s.good.Digest() {
		return &errs.Error{Kind: errs.Conflict, Subject: "set " + s.Name, Expected: "files that do not change while they are read", Fix: "try again", Err: err}
	}
	unix.Sync()
	old := dir + ".old"
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, dir); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// copyName names the copy of a file so that reading its directory finds it: a
// file that redoubt up names may have any ending.
func copyName(n int, file string) string {
	name := fmt.Sprintf("%04d-%s", n, filepath.Base(file))
	if !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
		name += ".yaml"
	}
	return name
}

// removeSet forgets a set in one step: half a set would keep the next node
// from starting.
func (n *Node) removeSet(name string) error {
	gone := n.setDir(name) + ".new"
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(n.setDir(name), gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(gone)
}

// mendSets finishes what a kill cut short in saveSet: a set whose copy was
// moved aside is put back.
func (n *Node) mendSets() error {
	entries, err := os.ReadDir(n.setDir(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		path := n.setDir(e.Name())
		if name, ok := strings.CutSuffix(path, ".old"); ok {
			if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
				if err := os.Rename(path, name); err != nil {
					return err
				}
			}
		}
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".old") || strings.HasSuffix(e.Name(), ".new") {
			if err := os.RemoveAll(n.setDir(e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// loadSets reads all sets back as they were in force: the last good copies. The
// files may have become bad meanwhile, or clash with those of another set;
// look finds out, as if they had changed now.
func (n *Node) loadSets() (map[string]*set, error) {
	sets := map[string]*set{}
	if err := n.mendSets(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(n.setDir(""))
	if errors.Is(err, fs.ErrNotExist) {
		return sets, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		s := &set{}
		b, err := os.ReadFile(filepath.Join(n.setDir(e.Name()), "set.json"))
		if err == nil {
			err = json.Unmarshal(b, s)
		}
		if err != nil {
			return nil, fmt.Errorf("read set %s: %w", e.Name(), err)
		}
		if s.good, err = manifest.Load([]string{filepath.Join(n.setDir(s.Name), "files")}); err != nil {
			return nil, fmt.Errorf("read the last good copy of set %s: %w", s.Name, err)
		}
		sets[s.Name] = s
	}
	return sets, nil
}

// merged is all sets as one.
type merged struct {
	manifest.Set
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
}

// ConfigMap and Secret make merged a pod.Lookup.
func (m *merged) ConfigMap(namespace, name string) *corev1.ConfigMap {
	return m.configMaps[namespace+"/"+name]
}

// Secret finds one by name, nil when there is none.
func (m *merged) Secret(namespace, name string) *corev1.Secret { return m.secrets[namespace+"/"+name] }

// merge joins sets and indexes what pods look up.
func merge(sets map[string]*set) (*merged, error) {
	var parts []*manifest.Set
	for _, name := range sortedNames(sets) {
		parts = append(parts, &sets[name].good)
	}
	all, err := manifest.Merge(parts...)
	out := &merged{Set: all, configMaps: map[string]*corev1.ConfigMap{}, secrets: map[string]*corev1.Secret{}}
	for _, c := range out.ConfigMaps {
		out.configMaps[c.Namespace+"/"+c.Name] = c
	}
	for _, s := range out.Secrets {
		out.secrets[s.Namespace+"/"+s.Name] = s
	}
	return out, err
}

func (m *merged) objects() plan.Objects {
	return plan.Objects{Pods: m.Pods, Deployments: m.Deployments, StatefulSets: m.StatefulSets, Jobs: m.Jobs}
}

func sortedNames[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
