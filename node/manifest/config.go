// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	corev1 "k8s.io/api/core/v1"

	"redoubt.dev/node/manifest/internal/tree"
)

// maxData is Kubernetes' bound on the data of a ConfigMap or Secret.
const maxData = 1 << 20

func (d *document) namespace(v *corev1.Namespace) { defaultNamespace(v) }

func (d *document) serviceAccount(*corev1.ServiceAccount) {}

func (d *document) configMap(v *corev1.ConfigMap) {
	total := 0
	for k, s := range v.Data {
		d.dataKey(tree.Path("data").Key(k), k)
		total += len(s)
	}
	for k, b := range v.BinaryData {
		d.dataKey(tree.Path("binaryData").Key(k), k)
		if _, twice := v.Data[k]; twice {
			d.bad(tree.Path("binaryData").Key(k), "each key in data or binaryData", "in both", "give one another name")
		}
		total += len(b)
	}
	d.size("data", total)
}

func (d *document) secret(v *corev1.Secret) {
	for k := range v.StringData {
		d.dataKey(tree.Path("stringData").Key(k), k)
	}
	for k := range v.Data {
		d.dataKey(tree.Path("data").Key(k), k)
	}
	defaultSecret(v)
	total := 0
	for _, b := range v.Data {
		total += len(b)
	}
	d.size("data", total)
	for _, k := range requiredKeys[v.Type] {
		if _, ok := v.Data[k]; !ok && !d.shape.Silenced(tree.Path("data").Key(k)) {
			d.bad("data", "the key "+k+" in a Secret of type "+string(v.Type), "", "")
		}
	}
}

// requiredKeys are what the API server demands of each type.
var requiredKeys = map[corev1.SecretType][]string{
	corev1.SecretTypeTLS:     {corev1.TLSCertKey, corev1.TLSPrivateKeyKey},
	corev1.SecretTypeSSHAuth: {corev1.SSHAuthPrivateKey},
}

func (d *document) dataKey(p tree.Path, k string) {
	if len(configKey.ok(k)) > 0 {
		d.bad(p, configKey.words, tree.Quote(k), "")
	}
}

func (d *document) size(p tree.Path, total int) {
	if total > maxData {
		d.bad(p, "at most 1 MiB of data", "", "split it")
	}
}
