// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
)

func places(t *testing.T) Places {
	d := t.TempDir()
	return Places{Transient: filepath.Join(d, "run"), Claims: filepath.Join(d, "claims"), Logs: filepath.Join(d, "logs"), Edges: filepath.Join(d, "netns")}
}

// tree lists the files below dir with mode and content.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		st, _ := d.Info()
		rel, _ := filepath.Rel(dir, p)
		out = append(out, rel+" "+st.Mode().Perm().String()+" "+string(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, "\n")
}

func TestProject(t *testing.T) {
	mode, itemMode, yes := int32(0o400), int32(0o755), true
	data := map[string]string{"a": "1", "b": "2"}
	for _, c := range []struct {
		name     string
		items    []corev1.KeyToPath
		mode     *int32
		optional *bool
		want     string
		kind     errs.Kind
	}{
		{"all keys", nil, nil, nil, "a -rw-r--r-- 1\nb -rw-r--r-- 2", ""},
		{"mode", nil, &mode, nil, "a -r-------- 1\nb -r-------- 2", ""},
		{"items", []corev1.KeyToPath{{Key: "b", Path: "x/y", Mode: &itemMode}}, &mode, nil, "x/y -rwxr-xr-x 2", ""},
		{"missing key", []corev1.KeyToPath{{Key: "c", Path: "c"}}, nil, nil, "", errs.NotFound},
		{"missing key, optional", []corev1.KeyToPath{{Key: "c", Path: "c"}, {Key: "a", Path: "a"}}, nil, &yes, "a -rw-r--r-- 1", ""},
		{"out of the volume", []corev1.KeyToPath{{Key: "a", Path: "../a"}}, nil, nil, "", errs.Invalid},
		{"absolute", []corev1.KeyToPath{{Key: "a", Path: "/a"}}, nil, nil, "", errs.Invalid},
	} {
		dir := filepath.Join(t.TempDir(), "v")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "old"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		err := record().project(dir, data, c.items, c.mode, c.optional)
		if c.kind != "" {
			if !errors.Is(err, c.kind) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if got := tree(t, dir); err != nil || got != c.want {
			t.Errorf("%s: %v, %q; want %q", c.name, err, got, c.want)
		}
	}
}

func TestMaterialise(t *testing.T) {
	at, r, yes := places(t), record(), true
	r.Pod.Spec.Volumes = []corev1.Volume{
		{Name: "c", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}}},
		{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}},
		{Name: "o", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "none", Optional: &yes, Items: []corev1.KeyToPath{{Key: "k", Path: "k"}}}}},
		{Name: "e", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "p", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data-ledger-0"}}},
	}
	for range 2 { // safe to repeat
		f, err := r.materialise(at, declared, netip.MustParseAddr("169.254.1.1"))
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]sandbox.MountKind{"c": sandbox.Fixed, "s": sandbox.Fixed, "o": sandbox.Fixed, "e": sandbox.Shared, "p": sandbox.Host}
		for name, kind := range kinds {
			if got := f.grant[f.byName[name]].Kind; got != kind {
				t.Errorf("volume %s has kind %v, want %v", name, got, kind)
			}
		}
		if got := tree(t, f.byName["s"]); got != "over -rw-r--r-- new\npassword -rw-r--r-- hunter2" {
			t.Errorf("secret volume: %q", got)
		}
		mounts := f.mounts(&corev1.Container{VolumeMounts: []corev1.VolumeMount{{Name: "p", MountPath: "/data"}, {Name: "e", MountPath: "/tmp"}, {Name: "s", MountPath: "/key", ReadOnly: true}}}, at)
		got := map[string]bool{}
		for _, m := range mounts {
			got[m.ContainerPath] = m.Readonly
			if _, ok := f.grant[m.HostPath]; !ok {
				t.Errorf("mount %s of %s is not granted", m.ContainerPath, m.HostPath)
			}
		}
		want := map[string]bool{"/etc/hosts": true, "/etc/hostname": true, "/etc/resolv.conf": true, "/data": false, "/tmp": false, "/key": true}
		for p, ro := range want {
			if got[p] != ro || len(got) != len(want) {
				t.Errorf("mounts read-only: %v, want %v", got, want)
				break
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(at.Transient, r.UID, "etc", "resolv.conf"))
	if want := "nameserver 169.254.1.1\nsearch bank.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"; err != nil || string(b) != want {
		t.Errorf("resolv.conf %q, %v", b, err)
	}
	if hosts, err := os.ReadFile(filepath.Join(at.Transient, r.UID, "etc", "hosts")); err != nil || !strings.Contains(string(hosts), "10.0.0.9\tledger-0\n") {
		t.Errorf("hosts %q, %v", hosts, err)
	}
	r.Pod.Spec.Volumes[1].Secret.SecretName = "gone"
	if _, err := r.materialise(at, declared, netip.Addr{}); !errors.Is(err, errs.NotFound) {
		t.Errorf("a Secret that is not declared: %v", err)
	}
	r.Pod.Spec.Volumes = []corev1.Volume{{Name: "x"}}
	if _, err := r.materialise(at, declared, netip.Addr{}); !errors.Is(err, errs.Unsupported) {
		t.Errorf("a volume without source: %v", err)
	}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Mode()
}

func TestClaim(t *testing.T) {
	at, r := places(t), record()
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	path := filepath.Join(at.Claims, "bank", "data")
	// A kill in the middle of an earlier try left this.
	if err := os.MkdirAll(filepath.Join(at.Claims, "bank", ".data"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.claim(path); err != nil {
			t.Fatal(err)
		}
		if m := mode(t, path); m != fs.ModeDir|0o777 {
			t.Errorf("mode %v", m)
		}
		if m := mode(t, filepath.Dir(path)); m.Perm() != 0o700 {
			t.Errorf("mode above %v", m)
		}
		// What the application set later stays.
		if err := os.WriteFile(filepath.Join(path, "f"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left beside the claim: %v", entries)
	}
	if os.Geteuid() != 0 {
		t.Skip("capability: root, to give a directory to a group")
	}
	gid := int64(4242)
	r.Pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &gid}
	path += "-group"
	if err := r.claim(path); err != nil {
		t.Fatal(err)
	}
	st, _ := os.Stat(path)
	if m := st.Mode(); m != fs.ModeDir|fs.ModeSetgid|0o770 || st.Sys().(*syscall.Stat_t).Gid != 4242 {
		t.Errorf("mode %v, group %d", m, st.Sys().(*syscall.Stat_t).Gid)
	}
}

func TestHostPath(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	own, file := filepath.Join(dir, "own"), filepath.Join(dir, "file")
	link, round := filepath.Join(dir, "link"), filepath.Join(dir, "round")
	for _, err := range []error{os.MkdirAll(filepath.Join(own, "keys"), 0o700), os.WriteFile(file, nil, 0o600), os.Symlink(file, link), os.Symlink(filepath.Join(own, "keys"), round),
		os.Mkdir(filepath.Join(dir, "plain"), 0o755), os.Mkdir(own+"er", 0o755), syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	at := places(t)
	at.Closed = []string{own}
	for _, c := range []struct {
		path string
		kind corev1.HostPathType
		want string
		err  errs.Kind
	}{
		{filepath.Join(dir, "plain"), "", filepath.Join(dir, "plain"), ""},
		{file, corev1.HostPathFile, file, ""},
		{link, corev1.HostPathFile, file, ""},
		{own + "er", "", own + "er", ""},
		{file, corev1.HostPathDirectory, "", errs.Invalid},
		{dir + "/plain", corev1.HostPathFile, "", errs.Invalid},
		{dir + "/none", "", "", errs.Invalid},
		{dir + "/fifo", "", "", errs.Invalid},
		{own, "", "", errs.Denied},
		{own + "/keys", "", "", errs.Denied},
		{round, "", "", errs.Denied},
		{dir, "", "", errs.Denied},
		{"/", "", "", errs.Denied},
	} {
		got, err := record().hostPath(&corev1.HostPathVolumeSource{Path: c.path, Type: &c.kind}, at)
		if got != c.want || (c.err == "") != (err == nil) || c.err != "" && !errors.Is(err, c.err) {
			t.Errorf("%s %s: %q, %v; want %q, %v", c.path, c.kind, got, err, c.want, c.err)
		}
	}
}

// A directory is made only where writing is allowed at all.
func TestHostPathMakesNothingElsewhere(t *testing.T) {
	dir, kind := t.TempDir(), corev1.HostPathDirectoryOrCreate
	at := places(t)
	h := &corev1.HostPathVolumeSource{Path: filepath.Join(dir, "made"), Type: &kind}
	if _, err := record().hostPath(h, at); !errors.Is(err, errs.Invalid) {
		t.Errorf("not writable: %v", err)
	}
	if _, err := os.Stat(h.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the directory was made")
	}
	at.WritableHostPaths = []string{dir}
	if got, err := record().hostPath(h, at); err != nil || mode(t, got) != fs.ModeDir|0o755 {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWritable(t *testing.T) {
	at := Places{Claims: "/c", WritableHostPaths: []string{"/data/", "/one"}}
	for path, want := range map[string]bool{"/c/ns/x": true, "/data/x": true, "/one": true, "/one/x": true, "/onee": false, "/": false, "/dat": false, "/etc": false} {
		if got := at.writable(path); got != want {
			t.Errorf("writable(%s) = %v", path, got)
		}
	}
}
