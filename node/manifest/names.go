// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"redoubt.dev/node/manifest/internal/tree"
)

// grammar is one of Kubernetes' grammars of names, and its name in words.
type grammar struct {
	ok    func(string) []string
	words string
}

var (
	subdomain     = grammar{validation.IsDNS1123Subdomain, "a DNS name: lower case letters, digits, '-' and '.', at most 253"}
	label         = grammar{validation.IsDNS1123Label, "a DNS label: lower case letters, digits and '-', at most 63"}
	serviceName   = grammar{validation.IsDNS1035Label, "a DNS label that begins with a letter: lower case letters, digits and '-', at most 63"}
	portName      = grammar{validation.IsValidPortName, "a port name: lower case letters, digits and single '-', at least one letter, at most 15"}
	qualifiedName = grammar{validation.IsQualifiedName, "a label key: an optional DNS name and '/', then letters, digits, '-', '_', '.', at most 63"}
	labelValue    = grammar{validation.IsValidLabelValue, "a label value: letters, digits, '-', '_', '.', at most 63"}
	configKey     = grammar{validation.IsConfigMapKey, "a key: letters, digits, '-', '_', '.', at most 253"}
	envName       = grammar{validation.IsEnvVarName, "the name of a variable: letters, digits, '_', '-', '.', not beginning with a digit"}
	jobName       = grammar{func(s string) []string { return bounded(validation.IsDNS1123Subdomain(s), s, 63) }, "a DNS name of at most 63 characters, which its pods can carry as a label"}
	// The pods of a StatefulSet carry its name and a hash of 11 characters in a label.
	statefulName = grammar{func(s string) []string { return bounded(validation.IsDNS1123Label(s), s, 52) }, "a DNS label of at most 52 characters"}
)

func bounded(errs []string, s string, max int) []string {
	if len(s) > max {
		errs = append(errs, "too long")
	}
	return errs
}

// names gives the grammar of each kind's metadata.name.
var names = map[string]grammar{"Namespace": label, "Service": serviceName, "Job": jobName, "StatefulSet": statefulName}

func (d *document) named(p tree.Path, s string, g grammar) {
	if s == "" {
		d.bad(p, g.words, "none", "")
	} else if len(g.ok(s)) > 0 {
		d.bad(p, g.words, tree.Quote(s), "")
	}
}

// maxAnnotations is the API server's bound on all annotations of an object.
const maxAnnotations = 256 << 10

func (d *document) meta(m metav1.Object) {
	g, ok := names[d.key.Kind]
	if !ok {
		g = subdomain
	}
	d.named("metadata.name", m.GetName(), g)
	if ns := m.GetNamespace(); ns != "" {
		d.named("metadata.namespace", ns, label)
	}
	d.labels("metadata.labels", m.GetLabels())
	d.annotations("metadata.annotations", m.GetAnnotations())
}

func (d *document) labels(p tree.Path, m map[string]string) {
	for k, v := range m {
		if len(qualifiedName.ok(k)) > 0 {
			d.bad(p.Key(k), qualifiedName.words, tree.Quote(k), "")
		}
		if len(labelValue.ok(v)) > 0 {
			d.bad(p.Key(k), labelValue.words, tree.Quote(v), "")
		}
	}
}

func (d *document) annotations(p tree.Path, m map[string]string) {
	total := 0
	for k, v := range m {
		total += len(k) + len(v)
		// Kubernetes takes upper case letters in the prefix of an annotation.
		if len(qualifiedName.ok(strings.ToLower(k))) > 0 {
			d.bad(p.Key(k), qualifiedName.words, tree.Quote(k), "")
		}
	}
	if total > maxAnnotations {
		d.bad(p, "at most 256 KiB of annotations", "", "keep large data in a ConfigMap")
	}
}

// selector checks a label selector and gives it compiled; nil when it is wrong.
func (d *document) selector(p tree.Path, s *metav1.LabelSelector) labels.Selector {
	if s == nil {
		return labels.Nothing()
	}
	d.labels(p.Field("matchLabels"), s.MatchLabels)
	for i, e := range s.MatchExpressions {
		q := p.Field("matchExpressions").Index(i)
		d.named(q.Field("key"), e.Key, qualifiedName)
		needs := e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn
		switch {
		case e.Operator == "":
			d.bad(q.Field("operator"), "one of In, NotIn, Exists, DoesNotExist", "none", "")
		case needs && len(e.Values) == 0:
			d.bad(q.Field("values"), "at least one value", "none", "")
		case !needs && len(e.Values) > 0:
			d.bad(q.Field("values"), "no values with "+string(e.Operator), "", "remove the values")
		}
		for j, v := range e.Values {
			if len(labelValue.ok(v)) > 0 {
				d.bad(q.Field("values").Index(j), labelValue.words, tree.Quote(v), "")
			}
		}
	}
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil // said above, field by field
	}
	return sel
}
