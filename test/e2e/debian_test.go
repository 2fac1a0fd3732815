// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// PostgreSQL, Redis and CPython as Debian ships them, in an image made of
// Debian's packages. Each is reached by a real client from outside, through
// the mesh.
const debianApps = `
apiVersion: v1
kind: Namespace
metadata: {name: debian}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: client, namespace: debian}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: debian}
spec: {rules: [{}]}
---
apiVersion: v1
kind: Pod
metadata: {name: postgres, namespace: debian, labels: {app: postgres}}
spec:
  containers:
    - name: postgres
      image: registry.redoubt.local/debian:12
      command: [/bin/sh, -c]
      args:
        - |
          set -e
          export PATH=/usr/lib/postgresql/15/bin:$PATH
          initdb -D /data/pg -A trust >/dev/null
          echo "host all all all trust" >> /data/pg/pg_hba.conf
          exec postgres -D /data/pg -c 'listen_addresses=*' -c unix_socket_directories=/data
      securityContext: {runAsUser: USER, runAsGroup: GROUP, runAsNonRoot: true}
      ports: [{name: tcp-pg, containerPort: 5432}]
      readinessProbe: {tcpSocket: {port: 5432}, periodSeconds: 1}
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {sizeLimit: 1Gi}}]
---
apiVersion: v1
kind: Service
metadata: {name: postgres, namespace: debian}
spec: {type: LoadBalancer, selector: {app: postgres}, ports: [{name: tcp-pg, port: 5432}]}
---
apiVersion: v1
kind: Pod
metadata: {name: redis, namespace: debian, labels: {app: redis}}
spec:
  containers:
    - name: redis
      image: registry.redoubt.local/debian:12
      command: [redis-server, --protected-mode, "no", --dir, /tmp]
      ports: [{name: redis, containerPort: 6379}]
      readinessProbe: {exec: {command: [redis-cli, ping]}, periodSeconds: 1, timeoutSeconds: 5}
---
apiVersion: v1
kind: Service
metadata: {name: redis, namespace: debian}
spec: {type: LoadBalancer, selector: {app: redis}, ports: [{name: redis, port: 6379}]}
---
apiVersion: v1
kind: Pod
metadata: {name: python, namespace: debian, labels: {app: python}}
spec:
  serviceAccountName: client
  containers:
    - name: python
      image: registry.redoubt.local/debian:12
      command: [python3, -m, http.server, "8000", --directory, /usr/share]
      ports: [{name: http, containerPort: 8000}]
      readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: python, namespace: debian}
spec: {type: LoadBalancer, selector: {app: python}, ports: [{name: http, port: 8000}]}
`

func TestDebianPackagesRunUnmodified(t *testing.T) {
	l := start(t)
	tar, err := filepath.Abs(filepath.Join(repo, "dist/debian.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tar); err != nil {
		t.Skip("capability: dist/debian.tar, which make e2e makes with mmdebstrap")
	}
	l.must(t, "build", tar, "-t", registryName+"/debian:12")
	uid, gid := userOf(t, tar, "postgres")
	app := strings.NewReplacer("USER", uid, "GROUP", gid).Replace(debianApps)
	if out, code := l.apply(t, app); code != 0 {
		t.Fatalf("up: code %d: %s", code, out)
	}
	eventually(t, 2*time.Minute, func() error {
		for _, name := range []string{"postgres", "redis", "python"} {
			if p := l.pod(t, name); !p.Ready {
				logs, _ := l.redoubt("logs", "debian/"+name, "--tail", "5")
				return fmt.Errorf("%s: %s %s: %s", name, p.Phase, p.Reason, logs)
			}
		}
		return nil
	})
	client := func(want string, args ...string) {
		t.Helper()
		eventually(t, 20*time.Second, func() error {
			out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), want) {
				return fmt.Errorf("%v: %w: %s", args, err, out)
			}
			return nil
		})
	}
	inside := func(want, pod string, args ...string) {
		t.Helper()
		eventually(t, 30*time.Second, func() error {
			out, code := l.redoubt(append([]string{"exec", pod, "--"}, args...)...)
			if code != 0 || !strings.Contains(out, want) {
				return fmt.Errorf("%v: code %d: %s", args, code, out)
			}
			return nil
		})
	}
	t.Run("from outside", func(t *testing.T) {
		client("PostgreSQL 15", "psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc", "select version()")
		client("499999500000", "psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc", "create temp table n as select generate_series(0,999999) as i; select sum(i) from n")
		client("PONG", "redis-cli", "-h", "127.0.0.1", "ping")
		client("OK", "redis-cli", "-h", "127.0.0.1", "set", "k", "v")
		client("v", "redis-cli", "-h", "127.0.0.1", "get", "k")
		client("doc/", "curl", "-sS", "http://127.0.0.1:8000/")
	})
	t.Run("from pod to pod", func(t *testing.T) {
		inside("PostgreSQL 15", "debian/python", "psql", "-h", "postgres", "-U", "postgres", "-Atc", "select version()")
		inside("PONG", "debian/python", "redis-cli", "-h", "redis.debian.svc.cluster.local", "ping")
		inside("doc/", "debian/redis", "python3", "-c", "import urllib.request; print(urllib.request.urlopen('http://python:8000/').read().decode())")
	})
	t.Run("kernel", func(t *testing.T) {
		inside("Starting gVisor", "debian/python", "dmesg")
		inside("Linux", "debian/python", "uname", "-a")
		host, err := os.ReadFile("/proc/sys/kernel/osrelease")
		if err != nil {
			t.Fatal(err)
		}
		if out := l.must(t, "exec", "debian/python", "--", "uname", "-r"); strings.TrimSpace(out) == strings.TrimSpace(string(host)) {
			t.Errorf("the pod runs on the machine's kernel %s", out)
		}
	})
}

// userOf finds a user of a root file system's /etc/passwd.
func userOf(t *testing.T, tar, name string) (uid, gid string) {
	t.Helper()
	out, err := exec.Command("tar", "-xOf", tar, "./etc/passwd").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(out), "\n") {
		if f := strings.Split(line, ":"); len(f) > 3 && f[0] == name {
			return f[2], f[3]
		}
	}
	t.Fatalf("no user %s", name)
	return "", ""
}
