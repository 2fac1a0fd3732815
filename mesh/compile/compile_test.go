// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	istio "istio.io/api/security/v1beta1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/api/wire"
	"redoubt.dev/mesh/compile"
)

var rewrite = flag.Bool("rewrite", false, "write what the code says into testdata")

// script reads the little language of the transcripts, one line each, with
// YAML where an API type is meant:
//
//	namespace NAME {labels}
//	pod NS/NAME ADDR {labels: …, account: …, host: a.b, ready: false, ports: {web: 8080}, local: false}
//	service NS/NAME [VIP] {spec}
//	authz NS/NAME {spec}
//	peerauth NS/NAME {spec}
//	netpol NS/NAME {spec}
//	gateway LISTEN NS/SERVICE:PORT
//	revoke SERIAL
func script(t testing.TB, text string) compile.Input {
	t.Helper()
	td, err := id.ParseTrustDomain("bank.example")
	must(t, err)
	in := compile.Input{Version: 7, TrustDomain: td, Roots: [][]byte{{1}}, Namespaces: map[string]map[string]string{}}
	for l := range strings.SplitSeq(text, "\n") {
		l, body, _ := strings.Cut(l, "{")
		body = "{" + body
		if body == "{" {
			body = "{}"
		}
		f := strings.Fields(l)
		if len(f) < 2 || f[0] == "#" {
			continue
		}
		ns, name, _ := strings.Cut(f[1], "/")
		switch f[0] {
		case "namespace":
			m := map[string]string{}
			must(t, yaml.UnmarshalStrict([]byte(body), &m))
			in.Namespaces[ns] = m
		case "pod":
			in.Pods = append(in.Pods, pod(t, td, ns, name, f[2], body))
		case "service":
			s := compile.Service{Service: &corev1.Service{}}
			s.Namespace, s.Name = ns, name
			must(t, yaml.UnmarshalStrict([]byte(body), &s.Spec))
			if len(f) > 2 {
				s.VIP = netip.MustParseAddr(f[2])
			}
			in.Services = append(in.Services, s)
		case "authz":
			p := compile.AuthorizationPolicy{Namespace: ns, Name: name, Spec: &istio.AuthorizationPolicy{}}
			j, err := yaml.YAMLToJSON([]byte(body))
			must(t, err)
			must(t, protojson.Unmarshal(j, p.Spec))
			in.Authorizations = append(in.Authorizations, p)
		case "peerauth":
			p := compile.PeerAuthentication{Namespace: ns, Name: name, Spec: &istio.PeerAuthentication{}}
			j, err := yaml.YAMLToJSON([]byte(body))
			must(t, err)
			must(t, protojson.Unmarshal(j, p.Spec))
			in.PeerAuths = append(in.PeerAuths, p)
		case "netpol":
			p := &networkingv1.NetworkPolicy{}
			p.Namespace, p.Name = ns, name
			must(t, yaml.UnmarshalStrict([]byte(body), &p.Spec))
			in.NetworkPolicies = append(in.NetworkPolicies, p)
		case "gateway":
			sns, rest, _ := strings.Cut(f[2], "/")
			svc, port, _ := strings.Cut(rest, ":")
			var n uint16
			_, err := fmt.Sscan(port, &n)
			must(t, err)
			in.Gateways = append(in.Gateways, wire.Gateway{Listen: netip.MustParseAddrPort(f[1]), Namespace: sns, Service: svc, Port: n})
		case "revoke":
			in.Revoked = append(in.Revoked, f[1])
		default:
			t.Fatalf("what is %q?", l)
		}
	}
	return in
}

func pod(t testing.TB, td id.TrustDomain, ns, name, addr, body string) compile.Pod {
	t.Helper()
	var o struct {
		Labels  map[string]string `json:"labels"`
		Account string            `json:"account"`
		Host    string            `json:"host"`
		Ready   *bool             `json:"ready"`
		Local   *bool             `json:"local"`
		SVID    *string           `json:"svid"`
		Ports   map[string]uint16 `json:"ports"`
	}
	must(t, yaml.UnmarshalStrict([]byte(body), &o))
	p := compile.Pod{UID: ns + "-" + name, Namespace: ns, Name: name, Labels: o.Labels, ServiceAccount: o.Account, Ready: o.Ready == nil || *o.Ready}
	p.Hostname, p.Subdomain, _ = strings.Cut(o.Host, ".")
	if addr != "-" {
		p.Addr = netip.MustParseAddr(addr)
	}
	for n, v := range o.Ports {
		c := compile.Port{Name: n, Port: v}
		if n, ok := strings.CutPrefix(n, "udp/"); ok {
			c = compile.Port{Name: n, Port: v, Protocol: corev1.ProtocolUDP}
		}
		p.Ports = append(p.Ports, c)
	}
	if o.Local == nil || *o.Local {
		p.NetNS = "/run/netns/" + name
		sa := o.Account
		if sa == "" {
			sa = "default"
		}
		p.SVID = wire.SVID{ID: "spiffe://" + td.Name() + "/ns/" + ns + "/sa/" + sa, Chain: [][]byte{{2}}, Key: wire.Secret{3}}
		if o.SVID != nil {
			p.SVID.ID = *o.SVID
		}
		if p.SVID.ID == "" {
			p.SVID = wire.SVID{}
		}
	}
	return p
}

var bar = regexp.MustCompile(`(?m)^----\n`)

// TestTranscripts runs testdata/*.txt: blocks of "title", "----", script,
// "----", what comes of it, parted by "====". "(show a.b)" in the title picks
// the parts that the block is about; the whole is compared in whole.txt.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		must(t, err)
		var out []string
		for block := range strings.SplitSeq(string(b), "====\n") {
			parts := bar.Split(block, -1)
			if len(parts) != 3 {
				t.Fatalf("%s: block %q has %d parts", file, parts[0], len(parts))
			}
			title := strings.TrimSpace(parts[0])
			t.Run(filepath.Base(file)+"/"+title, func(t *testing.T) {
				in := script(t, parts[1])
				got := say(t, title, in)
				if got != parts[2] && !*rewrite {
					t.Errorf("got:\n%swant:\n%s", got, parts[2])
				}
				parts[2] = got
				for seed := range uint64(5) {
					if again := say(t, title, shuffle(in, seed)); again != got {
						t.Errorf("in another order (%d):\n%swant:\n%s", seed, again, got)
					}
				}
			})
			out = append(out, strings.Join(parts, "----\n"))
		}
		if *rewrite {
			must(t, os.WriteFile(file, []byte(strings.Join(out, "====\n")), 0o644))
		}
	}
}

// say compiles and prints what the title asks for, one JSON value a line.
func say(t *testing.T, title string, in compile.Input) string {
	t.Helper()
	snap, err := compile.Compile(in)
	if err != nil {
		return err.Error() + "\n"
	}
	j, err := json.Marshal(snap)
	must(t, err)
	_, what, ok := strings.Cut(title, "(show ")
	if !ok {
		j, err = json.MarshalIndent(snap, "", " ")
		must(t, err)
		return string(j) + "\n"
	}
	var v any
	must(t, json.Unmarshal(j, &v))
	var b strings.Builder
	for _, path := range strings.Split(strings.TrimSuffix(what, ")"), ", ") {
		pick(t, &b, v, strings.Split(path, "."), "")
	}
	return b.String()
}

// pick prints the value at path; a list on the way is taken item by item, with
// the item's name before its line.
func pick(t *testing.T, b *strings.Builder, v any, path []string, name string) {
	t.Helper()
	switch v := v.(type) {
	case []any:
		if len(path) == 0 {
			break
		}
		for _, e := range v {
			n := name
			if s, ok := e.(map[string]any)["name"].(string); ok {
				n += s + " "
			} else if p, ok := e.(map[string]any)["port"]; ok {
				n += fmt.Sprint(p) + " "
			}
			pick(t, b, e, path, n)
		}
		return
	case map[string]any:
		if len(path) > 0 {
			pick(t, b, v[path[0]], path[1:], name)
			return
		}
	}
	j, err := json.Marshal(v)
	must(t, err)
	fmt.Fprintf(b, "%s%s\n", name, j)
}

func shuffle(in compile.Input, seed uint64) compile.Input {
	r := rand.New(rand.NewPCG(seed, 1))
	in.Services = shuffled(r, in.Services)
	in.Pods = shuffled(r, in.Pods)
	for i := range in.Pods {
		in.Pods[i].Ports = shuffled(r, in.Pods[i].Ports)
	}
	in.Authorizations = shuffled(r, in.Authorizations)
	in.PeerAuths = shuffled(r, in.PeerAuths)
	in.NetworkPolicies = shuffled(r, in.NetworkPolicies)
	in.Gateways = shuffled(r, in.Gateways)
	in.Revoked = shuffled(r, in.Revoked)
	return in
}

func shuffled[T any](r *rand.Rand, in []T) []T {
	out := append([]T(nil), in...)
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// TestInputIsNotChanged: Compile only reads.
func TestInputIsNotChanged(t *testing.T) {
	b, err := os.ReadFile("testdata/whole.txt")
	must(t, err)
	text := bar.Split(string(b), -1)[1]
	in := script(t, text)
	before, err := json.Marshal(in)
	must(t, err)
	if _, err := compile.Compile(in); err != nil {
		t.Fatal(err)
	}
	after, err := json.Marshal(in)
	must(t, err)
	if !reflect.DeepEqual(before, after) {
		t.Error("the input is another now")
	}
}

// TestDigestFollowsThePolicies: it changes with each policy in force on a pod
// and with nothing else.
func TestDigestFollowsThePolicies(t *testing.T) {
	const base = `pod a/p 10.0.0.1 {labels: {app: p}}
pod b/q 10.0.0.2
authz a/x {rules: [{}]}
peerauth a/x {mtls: {mode: STRICT}}
netpol a/x {podSelector: {}, ingress: [{}]}
`
	digest := func(text string) string {
		t.Helper()
		snap, err := compile.Compile(script(t, text))
		must(t, err)
		return snap.Pods[0].Inbound.Digest
	}
	want := digest(base)
	for name, c := range map[string]struct {
		text string
		same bool
	}{
		"another pod":               {base + "pod a/r 10.0.0.3\n", true},
		"a policy elsewhere":        {base + "authz b/x {rules: [{}]}\n", true},
		"a policy for others":       {base + "authz a/y {selector: {matchLabels: {app: z}}, rules: [{}]}\n", true},
		"another address":           {strings.Replace(base, "10.0.0.1", "10.0.0.9", 1), true},
		"a policy more":             {base + "authz a/y {rules: [{}]}\n", false},
		"an empty policy more":      {base + "authz a/y {}\n", false},
		"a mesh-wide policy":        {base + "authz redoubt-system/y {}\n", false},
		"a policy turned to deny":   {strings.Replace(base, "authz a/x {", "authz a/x {action: DENY, ", 1), false},
		"another mode":              {strings.Replace(base, "STRICT", "PERMISSIVE", 1), false},
		"another network policy":    {strings.Replace(base, "ingress: [{}]", "ingress: []", 1), false},
		"the same under other name": {strings.Replace(base, "authz a/x", "authz a/z", 1), false},
	} {
		if got := digest(c.text); (got == want) != c.same {
			t.Errorf("%s: same digest is %v, want %v", name, got == want, c.same)
		}
	}
}

// TestRefused: what cannot be compiled exactly gives no snapshot at all.
func TestRefused(t *testing.T) {
	foreign := "spiffe://bank.example/ns/a/sa/admin"
	for name, c := range map[string]struct {
		text string
		kind errs.Kind
	}{
		"two pods with one address":   {"pod a/p 10.0.0.1\npod a/q 10.0.0.1", errs.Conflict},
		"two services with one":       {"service a/p 10.0.0.1 {}\nservice a/q 10.0.0.1 {}", errs.Conflict},
		"another's SVID":              {"pod a/p 10.0.0.1 {svid: '" + foreign + "'}", errs.Internal},
		"a name that is none":         {"pod a/p 10.0.0.1 {account: 'a b'}", errs.Invalid},
		"an action":                   {"authz a/x {action: AUDIT}", errs.Unsupported},
		"a provider":                  {"authz a/x {action: CUSTOM, provider: {name: x}}", errs.Unsupported},
		"a target":                    {"authz a/x {targetRef: {kind: Service, name: x}}", errs.Unsupported},
		"targets":                     {"authz a/x {targetRefs: [{kind: Service, name: x}]}", errs.Unsupported},
		"a condition":                 {"authz a/x {rules: [{when: [{key: source.ip, values: [a]}]}]}", errs.Unsupported},
		"tokens":                      {"authz a/x {rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}", errs.Unsupported},
		"not tokens":                  {"authz a/x {rules: [{from: [{source: {principals: [a], notRequestPrincipals: ['*']}}]}]}", errs.Unsupported},
		"headers' addresses":          {"authz a/x {rules: [{from: [{source: {remoteIpBlocks: [10.0.0.1]}}]}]}", errs.Unsupported},
		"trust domains":               {"authz a/x {rules: [{from: [{source: {principals: [a], notTrustDomains: [x]}}]}]}", errs.Unsupported},
		"an empty source":             {"authz a/x {rules: [{from: [{source: {}}]}]}", errs.Invalid},
		"no source":                   {"authz a/x {rules: [{from: [{}]}]}", errs.Invalid},
		"an empty operation":          {"authz a/x {rules: [{to: [{operation: {}}]}]}", errs.Invalid},
		"a star within":               {"authz a/x {action: DENY, rules: [{to: [{operation: {paths: ['/a*b']}}]}]}", errs.Invalid},
		"a template":                  {"authz a/x {rules: [{to: [{operation: {paths: ['/{*}']}}]}]}", errs.Unsupported},
		"a port that is none":         {"authz a/x {rules: [{to: [{operation: {ports: [http]}}]}]}", errs.Invalid},
		"a block that is none":        {"authz a/x {rules: [{from: [{source: {ipBlocks: ['::ffff:10.0.0.1']}}]}]}", errs.Invalid},
		"mTLS off":                    {"peerauth a/x {mtls: {mode: DISABLE}}", errs.Unsupported},
		"mTLS off on a port":          {"peerauth a/x {selector: {matchLabels: {a: b}}, portLevelMtls: {'80': {mode: DISABLE}}}", errs.Unsupported},
		"ports without a workload":    {"peerauth a/x {portLevelMtls: {'80': {mode: STRICT}}}", errs.Invalid},
		"a network block that is not": {"netpol a/x {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: x}}]}]}", errs.Invalid},
		"an exception that is not":    {"netpol a/x {podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}]}]}", errs.Invalid},
		"a selector that is not":      {"netpol a/x {podSelector: {matchExpressions: [{key: a, operator: Is}]}}", errs.Invalid},
	} {
		snap, err := compile.Compile(script(t, c.text))
		if snap != nil || !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, %v; want %s", name, snap, err, c.kind)
		}
	}
	if _, err := compile.Compile(compile.Input{}); !errors.Is(err, errs.Invalid) {
		t.Errorf("no trust domain: %v", err)
	}
	nothing := compile.Input{TrustDomain: script(t, "").TrustDomain, Authorizations: []compile.AuthorizationPolicy{{Name: "x"}}, PeerAuths: []compile.PeerAuthentication{{Name: "x"}}}
	if _, err := compile.Compile(nothing); !errors.Is(err, errs.Invalid) {
		t.Errorf("no specs: %v", err)
	}
}

// BenchmarkCompile is a machine of 200 pods in 20 services and namespaces.
func BenchmarkCompile(b *testing.B) {
	var text strings.Builder
	for i := range 20 {
		fmt.Fprintf(&text, "service n%d/s 10.1.0.%d {selector: {app: s}, ports: [{port: 80, targetPort: web}]}\n", i, i+1)
		fmt.Fprintf(&text, "authz n%d/a {rules: [{from: [{source: {namespaces: [n%d]}}]}]}\n", i, (i+1)%20)
		fmt.Fprintf(&text, "netpol n%d/a {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: n%d}}}]}]}\n", i, (i+1)%20)
		for j := range 10 {
			fmt.Fprintf(&text, "pod n%d/p%d 10.2.%d.%d {labels: {app: s}, ports: {web: 8080}}\n", i, j, i, j+1)
		}
	}
	in := script(b, text.String())
	for b.Loop() {
		if _, err := compile.Compile(in); err != nil {
			b.Fatal(err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
