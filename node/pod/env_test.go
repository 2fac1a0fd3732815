// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"redoubt.dev/api/errs"
)

// objects is a Lookup over what a test declares.
type objects struct {
	maps    map[string]*corev1.ConfigMap
	secrets map[string]*corev1.Secret
}

func (o objects) ConfigMap(ns, name string) *corev1.ConfigMap { return o.maps[ns+"/"+name] }
func (o objects) Secret(ns, name string) *corev1.Secret       { return o.secrets[ns+"/"+name] }

var declared = objects{
	maps: map[string]*corev1.ConfigMap{"bank/conf": {Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"bin": {0xff}}}},
	secrets: map[string]*corev1.Secret{"bank/key": {Data: map[string][]byte{"password": []byte("hunter2"), "over": []byte("old")},
		StringData: map[string]string{"over": "new"}}},
}

func record() *Record {
	return &Record{UID: "uid-1", Addr: netip.MustParseAddr("10.0.0.9"), Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: "ledger-0", Labels: map[string]string{"app": "ledger"}}}}
}

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "$(A)", "": "empty"}
	for in, want := range map[string]string{
		"": "", "x": "x", "$(A)": "1", "x$(A)y$(A)": "x1y1", "$(NONE)": "$(NONE)", "$$(A)": "$(A)", "$$$(A)": "$1", "$$": "$", "$": "$", "a$": "a$",
		"$A": "$A", "$(A": "$(A", "$($(A))": "$($(A))", "$(B)": "$(A)", "$()": "empty", "$(A)$(": "1$(", "$x$(A)": "$x1",
	} {
		if got := expand(in, values); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

// What holds no "$" stays; a doubled text comes back whole; nothing is
// expanded twice.
func FuzzExpand(f *testing.F) {
	f.Add("a$(A)$$(A)$(", "v$(A)")
	f.Fuzz(func(t *testing.T, s, v string) {
		values := map[string]string{"A": v}
		if got := expand(strings.ReplaceAll(s, "$", "$$"), values); got != s {
			t.Errorf("escaped %q came out as %q", s, got)
		}
		if got := expand(s, nil); len(got) > len(s) {
			t.Errorf("%q grew to %q without any value", s, got)
		}
		if !strings.Contains(v, "$") {
			if got, want := expand("x$(A)y", values), "x"+v+"y"; got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
	})
}

func TestEnvironment(t *testing.T) {
	yes := true
	from := func(n string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: n} }
	field := func(p string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: p}}
	}
	key := func(m, k string, opt *bool) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: from(m), Key: k, Optional: opt}}
	}
	secret := func(m, k string, opt *bool) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: from(m), Key: k, Optional: opt}}
	}
	for _, c := range []struct {
		name string
		c    corev1.Container
		want string // "" for an error of kind NotFound or Unsupported
	}{
		{"order and expansion", corev1.Container{Env: []corev1.EnvVar{{Name: "Z", Value: "z"}, {Name: "A", Value: "$(Z)$(LATER)"}, {Name: "LATER", Value: "l"}, {Name: "Z", Value: "again $(Z)"}}},
			"Z=again z A=z$(LATER) LATER=l"},
		{"from, then over it", corev1.Container{
			EnvFrom: []corev1.EnvFromSource{{Prefix: "C_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: from("conf")}}, {SecretRef: &corev1.SecretEnvSource{LocalObjectReference: from("key")}}},
			Env:     []corev1.EnvVar{{Name: "C_a", Value: "mine"}, {Name: "D", Value: "$(C_b)"}}},
			"C_a=mine C_b=2 over=new password=hunter2 D=2"},
		{"values from", corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: key("conf", "a", nil)}, {Name: "P", ValueFrom: secret("key", "password", nil)}, {Name: "N", ValueFrom: field("metadata.name")},
			{Name: "I", ValueFrom: field("status.podIP")}, {Name: "L", ValueFrom: field("metadata.labels['app']")}, {Name: "S", ValueFrom: field("spec.serviceAccountName")}, {Name: "H", ValueFrom: field("spec.nodeName")}, {Name: "U", ValueFrom: field("metadata.uid")}}},
			"A=1 P=hunter2 N=ledger-0 I=10.0.0.9 L=ledger S=default H=node-1 U=uid-1"},
		{"optional and not there", corev1.Container{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: from("none"), Optional: &yes}}},
			Env: []corev1.EnvVar{{Name: "A", ValueFrom: key("none", "a", &yes)}, {Name: "B", ValueFrom: key("conf", "none", &yes)}, {Name: "C", ValueFrom: secret("key", "none", &yes)}, {Name: "D", Value: "d"}}}, "D=d"},
		{"missing map", corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: key("none", "a", nil)}}}, ""},
		{"missing key", corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: secret("key", "none", nil)}}}, ""},
		{"missing from", corev1.Container{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: from("none")}}}}, ""},
		{"unknown field", corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: field("status.hostIP")}}}, ""},
	} {
		kv, err := record().environment(&c.c, declared, "node-1")
		if c.want == "" {
			if !errors.Is(err, errs.NotFound) && !errors.Is(err, errs.Unsupported) {
				t.Errorf("%s: %v, %v", c.name, kv, err)
			} else if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: the error shows a secret: %v", c.name, err)
			}
			continue
		}
		var got []string
		for _, e := range kv {
			got = append(got, e.Key+"="+string(e.Value))
		}
		if s := strings.Join(got, " "); err != nil || s != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, s, err, c.want)
		}
	}
}
