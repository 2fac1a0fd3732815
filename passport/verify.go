// SPDX-License-Identifier: Apache-2.0

package passport

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/policy"
	"redoubt.dev/provenance/bundle"
	"redoubt.dev/provenance/sign"
	"redoubt.dev/provenance/verify"
)

// The links that a passport adds to those of the image (verify.Link…).
const (
	LinkFile     = "file"     // the file is a passport, in its canonical form
	LinkPassport = "passport" // the node signed the statement
	LinkInstance = "instance" // the statement is about this instance and these images
)

// skew is how far the time that the node wrote and the timestamp may differ.
const skew = 5 * time.Minute

// Denied says which link of a passport fails. It is the verifier's own word.
type Denied = verify.Denied

// Report is what a passport proves.
type Report struct {
	Issuer        string            `json:"issuer"`
	IssuedOn      time.Time         `json:"issuedOn"`
	SignedOn      time.Time         `json:"signedOn"` // by the timestamp authority
	Instance      Instance          `json:"instance"`
	Containers    []ContainerReport `json:"containers"`
	Sandbox       Sandbox           `json:"sandbox"`
	Identity      Identity          `json:"identity"`
	Authorization artifact.Digest   `json:"authorizationPolicy"`
	// Current says whether the SVID that the passport names is still valid.
	Current bool `json:"current"`
}

// ContainerReport is one container and its proven links, in chain order.
type ContainerReport struct {
	Name     string          `json:"name"`
	Image    string          `json:"image"`
	EROFS    artifact.Digest `json:"erofs"`
	Admitted time.Time       `json:"admitted"`
	Policies []string        `json:"policies"`
	Links    []verify.Link   `json:"links"`
}

// verification is one run of Verify; its methods are the steps, in order.
type verification struct {
	raw  []byte
	root verify.TrustRoot
	now  time.Time

	f     file
	att   verify.Attestation
	p     predicate
	items map[artifact.Digest][]byte
	out   Report
}

// Verify checks a passport with nothing but the file and the trust root. The
// error is always a *Denied that names the first link that fails. It is pure.
func Verify(raw []byte, root verify.TrustRoot, now time.Time) (*Report, error) {
	v := &verification{raw: raw, root: root, now: now}
	for _, step := range []func() *Denied{v.parse, v.signature, v.statement, v.evidence, v.containers, v.canonical} {
		if d := step(); d != nil {
			if d.Image == "" {
				d.Image = "passport"
			}
			return nil, d
		}
	}
	return &v.out, nil
}

func fault(link, expected, seen string) *Denied {
	if len(seen) > 512 {
		seen = seen[:512] + "…"
	}
	return &Denied{Kind: errs.Unproven, Link: link, Expected: expected, Seen: seen, Fix: "ask the node for the passport again, and find out who changed this one"}
}

func (v *verification) parse() *Denied {
	if len(v.raw) > MaxFile {
		return fault(LinkFile, fmt.Sprintf("at most %d bytes", MaxFile), fmt.Sprint(len(v.raw)))
	}
	if err := bundle.Decode(v.raw, &v.f); err != nil {
		return fault(LinkFile, "a passport", err.Error())
	}
	if v.f.MediaType != MediaType {
		return fault(LinkFile, MediaType, v.f.MediaType)
	}
	if d := artifact.DigestOf(v.f.Bundle); d != v.f.Digest {
		return fault(LinkPassport, "bundle "+v.f.Digest.String(), d.String())
	}
	return nil
}

func (v *verification) signature() *Denied {
	var err error
	if v.att, err = verify.Attest(v.f.Bundle, v.root, v.now); err != nil {
		return fault(LinkPassport, "a signature of the node under the trust root", err.Error())
	}
	td := v.root.TrustDomain()
	if td.IsZero() {
		return fault(LinkPassport, "the trust root of an installation", "one that names no trust domain")
	}
	if want := sign.Node(td).String(); v.att.Signer != want {
		// A builder's word about an image is no node's word about a pod.
		d := fault(LinkPassport, "signed by "+want, v.att.Signer)
		d.Kind = errs.Denied
		return d
	}
	if v.att.Statement.PredicateType != PredicateType {
		return fault(LinkPassport, PredicateType, v.att.Statement.PredicateType)
	}
	return nil
}

func (v *verification) statement() *Denied {
	if err := bundle.Decode(v.att.Statement.Predicate, &v.p); err != nil {
		return fault(LinkPassport, "a passport's statement", err.Error())
	}
	p := v.p
	switch {
	case p.Issuer != v.att.Signer:
		return fault(LinkPassport, "issuer "+v.att.Signer, p.Issuer)
	case p.IssuedOn.Sub(v.att.Time).Abs() > skew:
		return fault(LinkPassport, "issued about when it was signed, "+v.att.Time.Format(time.RFC3339), p.IssuedOn.Format(time.RFC3339))
	case v.att.Statement.Subject[0].Name != p.Instance.name() || v.att.Statement.About() != p.Instance.digest():
		return fault(LinkInstance, "a statement about "+p.Instance.name(), v.att.Statement.Subject[0].Name)
	case len(p.Containers) == 0 || len(p.Containers) != len(p.Instance.Images):
		return fault(LinkInstance, fmt.Sprintf("%d containers", len(p.Instance.Images)), fmt.Sprint(len(p.Containers)))
	case !p.Identity.ID.MemberOf(v.root.TrustDomain()):
		return fault(LinkInstance, "an identity of "+v.root.TrustDomain().Name(), p.Identity.ID.String())
	}
	v.out = Report{
		Issuer: p.Issuer, IssuedOn: p.IssuedOn, SignedOn: v.att.Time, Instance: p.Instance, Sandbox: p.Sandbox,
		Identity: p.Identity, Authorization: p.Authorization, Current: v.now.Before(p.Identity.NotAfter),
	}
	return nil
}

// evidence checks each piece against its digest, and that the statement names
// it.
func (v *verification) evidence() *Denied {
	v.items = map[artifact.Digest][]byte{}
	links := v.linkOf()
	for _, it := range v.f.Evidence {
		link, named := links[it.Digest]
		if !named {
			continue // found missing, or superfluous, below
		}
		if d := artifact.DigestOf(it.Content); d != it.Digest {
			return fault(link, "evidence "+it.Digest.String(), d.String())
		}
		v.items[it.Digest] = it.Content
	}
	for _, c := range v.p.Containers {
		for _, n := range c.names() {
			if v.items[n.digest] == nil {
				return fault(n.link, "evidence "+n.digest.String(), "none in the file")
			}
		}
	}
	for _, it := range v.f.Evidence {
		if _, named := links[it.Digest]; !named {
			return fault(LinkFile, "only evidence that the statement names", it.Digest.String())
		}
	}
	return nil
}

// named is one piece of evidence and the link that rests on it.
type named struct {
	link   string
	digest artifact.Digest
}

// names lists the evidence of a container in the order in which Issue packs
// it.
func (c admitted) names() []named {
	e := c.Admission.Evidence
	out := []named{{verify.LinkImage, e.Manifest}, {verify.LinkImage, e.Config}}
	if !e.Index.IsZero() {
		out = append(out, named{verify.LinkImage, e.Index})
	}
	for _, d := range e.Bundles {
		out = append(out, named{c.link(d), d})
	}
	for _, s := range e.Simple {
		out = append(out, named{c.link(s.Payload), s.Payload}, named{c.link(s.Payload), s.Signature})
	}
	return append(out, named{verify.LinkPolicy, c.Admission.Policy})
}

// link gives the first link that rests on evidence d.
func (c admitted) link(d artifact.Digest) string {
	for _, l := range c.Admission.Links {
		if l.Evidence == d {
			return l.Name
		}
	}
	return verify.LinkSignature
}

func (v *verification) linkOf() map[artifact.Digest]string {
	out := map[artifact.Digest]string{}
	for _, c := range v.p.Containers {
		for _, n := range c.names() {
			if _, ok := out[n.digest]; !ok {
				out[n.digest] = n.link
			}
		}
	}
	return out
}

// containers asks the verifier again what admission asked, and compares what
// it proves now with what the node signed, link by link.
func (v *verification) containers() *Denied {
	for i, c := range v.p.Containers {
		ev, d := v.rebuild(c)
		if d != nil {
			return d
		}
		var rules []policy.TrustPolicy
		if err := bundle.Decode(v.items[c.Admission.Policy], &rules); err != nil {
			return fault(verify.LinkPolicy, "policies", err.Error())
		}
		permit, err := verify.Verify(ev, rules, v.root, c.Admission.Time)
		if err != nil {
			if !errors.As(err, &d) {
				d = fault(verify.LinkImage, "a decision", err.Error())
			}
			return d
		}
		if permit.Digest() != v.p.Instance.Images[i] || permit.Ref().String() != c.Image || permit.PolicyDigest() != c.Admission.Policy {
			return fault(LinkInstance, "container "+c.Name+" of image "+c.Image, permit.Ref().String())
		}
		if link := firstDifference(permit.Links(), c.Admission.Links); link != "" {
			return fault(link, "the link that the node signed for "+c.Name, "another, by the same evidence")
		}
		if c.Admission.Time.After(v.p.IssuedOn.Add(skew)) {
			return fault(LinkInstance, "admission before issue", c.Admission.Time.Format(time.RFC3339))
		}
		v.out.Containers = append(v.out.Containers, ContainerReport{
			Name: c.Name, Image: c.Image, EROFS: c.EROFS, Admitted: c.Admission.Time, Policies: permit.Policies(), Links: permit.Links(),
		})
	}
	return nil
}

func (v *verification) rebuild(c admitted) (verify.Evidence, *Denied) {
	ref, err := artifact.ParseRef(c.Requested)
	if err != nil {
		return verify.Evidence{}, fault(verify.LinkImage, "an image reference", c.Requested)
	}
	e := c.Admission.Evidence
	ev := verify.Evidence{Namespace: c.Admission.Namespace, Ref: ref, Manifest: v.items[e.Manifest], Config: v.items[e.Config]}
	if !e.Index.IsZero() {
		ev.Index = v.items[e.Index]
	}
	for _, d := range e.Bundles {
		ev.Bundles = append(ev.Bundles, v.items[d])
	}
	for _, s := range e.Simple {
		ev.Simple = append(ev.Simple, verify.Simple{Payload: v.items[s.Payload], Signature: v.items[s.Signature]})
	}
	return ev, nil
}

// firstDifference names the first link in which two chains differ.
func firstDifference(a, b []verify.Link) string {
	for i := range max(len(a), len(b)) {
		switch {
		case i >= len(a):
			return b[i].Name
		case i >= len(b):
			return a[i].Name
		}
		x, err1 := json.Marshal(a[i])
		y, err2 := json.Marshal(b[i])
		if err1 != nil || err2 != nil || !bytes.Equal(x, y) {
			return a[i].Name
		}
	}
	return ""
}

// canonical comes last, so that a change is named by the link it breaks where
// it breaks one.
func (v *verification) canonical() *Denied {
	var order []artifact.Digest
	for _, c := range v.p.Containers {
		for _, n := range c.names() {
			if !slices.Contains(order, n.digest) {
				order = append(order, n.digest)
			}
		}
	}
	if !slices.EqualFunc(order, v.f.Evidence, func(d artifact.Digest, it item) bool { return d == it.Digest }) {
		return fault(LinkFile, "each piece of evidence once, in the order of the statement", "another order")
	}
	b, err := json.Marshal(v.f)
	if err != nil || !bytes.Equal(b, v.raw) {
		return fault(LinkFile, "the canonical form, as it was issued", "other bytes of the same meaning")
	}
	return nil
}
