// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/policy"
	"redoubt.dev/provenance/bundle"
	"redoubt.dev/provenance/internal/strictjson"
	"redoubt.dev/provenance/slsa"
)

// Bounds on evidence. Ten thousand junk signatures must not stop a node: each
// costs about 0.3 ms to refuse.
const (
	MaxBundles  = 256
	MaxSimple   = 64
	MaxEvidence = 64 << 20 // bytes of all bundles together
)

// Evidence is all that is known of an image, as raw bytes of unknown honesty.
// provenance.Collect gathers it.
type Evidence struct {
	// Namespace is that of the pod that would run the image; "" is the
	// registry's gate, where only policies that guard all namespaces speak.
	Namespace string       `json:"namespace,omitempty"`
	Ref       artifact.Ref `json:"ref"`             // the image as it was asked for
	Index     []byte       `json:"index,omitempty"` // nil unless Ref named an index
	Manifest  []byte       `json:"manifest"`
	Config    []byte       `json:"config"`
	Bundles   [][]byte     `json:"bundles,omitempty"` // Sigstore bundles
	Simple    []Simple     `json:"simple,omitempty"`  // cosign's older signatures
}

// verification is one run of Verify; its methods are the steps, in order.
type verification struct {
	ev    Evidence
	root  TrustRoot
	now   time.Time
	im    image
	rules []rule

	atts   []Attestation // sound and about this image
	simple []simpleSig
	causes []string
	used   map[artifact.Digest]bool
	links  []Link
}

type simpleSig struct {
	signer string
	digest artifact.Digest // of the payload
	about  artifact.Digest
}

// Verify decides whether the image that ev shows may run. The error is always
// a *Denied. now bounds timestamps from above and is kept in the Permit;
// Verify reads no clock.
func Verify(ev Evidence, pol []policy.TrustPolicy, root TrustRoot, now time.Time) (Permit, error) {
	v := &verification{ev: ev, root: root, now: now, used: map[artifact.Digest]bool{}}
	if d := v.image(); d != nil {
		return Permit{}, v.because(d)
	}
	if d := v.cover(pol); d != nil {
		return Permit{}, v.because(d)
	}
	if d := v.attest(); d != nil {
		return Permit{}, v.because(d)
	}
	for _, r := range v.rules {
		for _, step := range []func(rule) *Denied{v.signature, v.provenance, v.sbom} {
			if d := step(r); d != nil {
				d.Policy = r.name()
				return Permit{}, v.because(d)
			}
		}
	}
	return v.permit(), nil
}

// because completes a denial.
func (v *verification) because(d *Denied) *Denied {
	d.Image = clip(v.ev.Ref.String())
	if d.Kind == errs.Unproven {
		d.Causes = v.causes
	}
	d.Expected, d.Seen = clip(d.Expected), clip(d.Seen)
	return d
}

func (v *verification) image() *Denied {
	total := 0
	for _, b := range v.ev.Bundles {
		total += len(b)
	}
	if len(v.ev.Bundles) > MaxBundles || len(v.ev.Simple) > MaxSimple || total > MaxEvidence {
		return &Denied{Kind: errs.Unproven, Link: LinkImage, Expected: fmt.Sprintf("at most %d bundles, %d signatures, %d bytes", MaxBundles, MaxSimple, MaxEvidence),
			Seen: fmt.Sprintf("%d, %d, %d", len(v.ev.Bundles), len(v.ev.Simple), total), Fix: "remove the signatures that are not needed from the registry"}
	}
	im, err := readImage(v.ev)
	if err != nil {
		d := &Denied{Kind: errs.Unproven, Link: LinkImage, Expected: "the manifest, config and index that the reference names", Seen: err.Error(), Fix: "build or pull the image again"}
		var e *errs.Error
		if errors.As(err, &e) && e.Expected != "" {
			d.Expected, d.Seen = strings.TrimSpace(e.Field+" "+e.Expected), e.Seen
			if d.Seen == "" && e.Err != nil {
				d.Seen = e.Err.Error()
			}
		}
		return d
	}
	v.im = im
	v.links = append(v.links, Link{Name: LinkImage, Subject: im.digest, Evidence: im.manifest.Config.Digest, Type: im.manifest.MediaType,
		Detail: map[string]string{"reference": v.ev.Ref.String()}})
	return nil
}

func (v *verification) cover(pol []policy.TrustPolicy) *Denied {
	name := v.ev.Ref.Name()
	rules, err := covering(pol, v.ev.Namespace, name)
	if err != nil {
		return &Denied{Kind: errs.Denied, Link: LinkPolicy, Expected: "policies that can be enforced", Seen: err.Error(), Fix: "mend the TrustPolicy"}
	}
	if len(rules) == 0 {
		where := "every namespace"
		if v.ev.Namespace != "" {
			where = "namespace " + v.ev.Namespace
		}
		return &Denied{Kind: errs.Denied, Link: LinkPolicy, Expected: "a TrustPolicy for " + where + " whose images cover " + name, Seen: fmt.Sprintf("none of %d", len(pol)),
			Fix: "write a TrustPolicy that says who must have signed it"}
	}
	v.rules = rules
	_, digest := bytesOf(rules)
	names := make([]string, len(rules))
	for i, r := range rules {
		names[i] = r.name()
	}
	v.links = append(v.links, Link{Name: LinkPolicy, Subject: v.im.digest, Evidence: digest, Detail: map[string]string{"policies": strings.Join(names, ", ")}})
	return nil
}

// attest verifies every signature once, for all policies, and keeps those
// that hold and are about this image.
func (v *verification) attest() *Denied {
	var keys []key
	for _, r := range v.rules {
		for _, k := range r.keys {
			if !slices.ContainsFunc(keys, func(o key) bool { return o.name == k.name }) {
				keys = append(keys, k)
			}
		}
	}
	for i, raw := range v.ev.Bundles {
		v.attestBundle(i, raw, keys)
	}
	for i, s := range v.ev.Simple {
		ok := false
		for _, k := range keys {
			about, err := verifySimple(s, k)
			if err == nil && slices.Contains(v.im.names, about) {
				v.simple = append(v.simple, simpleSig{signer: k.name, digest: artifact.DigestOf(s.Payload), about: about})
				ok = true
				break
			}
		}
		if !ok {
			v.cause("older signature %d counts only when a policy names its public key and it verifies", i)
		}
	}
	slices.SortStableFunc(v.atts, func(a, b Attestation) int { return b.Time.Compare(a.Time) }) // newest first
	return nil
}

func (v *verification) attestBundle(i int, raw []byte, keys []key) {
	a, err := Attest(raw, v.root, v.now)
	for _, k := range keys {
		if err == nil {
			break
		}
		if ka, kerr := attestByKey(raw, k); kerr == nil {
			a, err = ka, nil
		}
	}
	if err != nil {
		v.cause("bundle %d: %v", i, err)
		return
	}
	if !slices.Contains(v.im.names, a.Statement.About()) {
		v.cause("bundle %d: is about %s", i, a.Statement.About())
		return
	}
	// Evidence is about an image under its name: whoever may push could else put
	// one team's image, with its genuine signature, under another team's tag.
	if name := a.Statement.Subject[0].Name; name != "" && name != v.ev.Ref.Name() { // "": foreign signers that name none
		v.cause("bundle %d: is about %q, not %q", i, name, v.ev.Ref.Name())
		return
	}
	v.atts = append(v.atts, a)
}

func (v *verification) signature(r rule) *Denied {
	seen := []string{}
	for _, a := range v.atts {
		if a.Statement.PredicateType != bundle.Signature {
			continue
		}
		if r.signs(a.Signer) {
			v.link(Link{Name: LinkSignature, Signer: a.Signer, Subject: a.Statement.About(), Evidence: a.Digest, Type: bundle.Signature, Time: a.Time})
			return nil
		}
		seen = append(seen, a.Signer)
	}
	for _, s := range v.simple {
		if r.signs(s.signer) {
			v.link(Link{Name: LinkSignature, Signer: s.signer, Subject: s.about, Evidence: s.digest, Type: "simple signing"})
			return nil
		}
		seen = append(seen, s.signer)
	}
	d := &Denied{Link: LinkSignature, Expected: "a signature by " + r.signers(), Fix: "have an accepted signer sign the image, or name its signer in the TrustPolicy"}
	if d.Kind, d.Seen = errs.Denied, "signed by "+strings.Join(seen, ", "); len(seen) == 0 {
		d.Kind, d.Seen = errs.Unproven, "no signature that verifies"
	}
	return d
}

// provenance demands that the builder itself signed what it says: the signer
// and builder.id are one name.
func (v *verification) provenance(r rule) *Denied {
	accepted := r.Spec.Builders
	demanded := len(accepted) > 0 || len(r.Spec.Sources) > 0
	if len(accepted) == 0 {
		for _, s := range r.Spec.Signers {
			if s.Identity != "" {
				accepted = append(accepted, s.Identity)
			}
		}
	}
	who := strings.Join(accepted, " or ")
	if who == "" {
		who = "a builder, of which the policy names none"
	}
	d := &Denied{Kind: errs.Unproven, Link: LinkProvenance, Expected: "provenance by " + who, Seen: "none that verifies",
		Fix: "build the image with redoubt build, or name its builder in the TrustPolicy"}
	for _, a := range v.atts {
		if a.Statement.PredicateType != bundle.Provenance {
			continue
		}
		if !slices.Contains(accepted, a.Signer) {
			if d.Kind == errs.Unproven {
				d.Kind, d.Seen = errs.Denied, "by "+a.Signer
			}
			continue
		}
		demanded = true // present, by someone whose word counts: then it must be sound
		bad := v.appraise(r, a)
		if bad == nil {
			return nil
		}
		d = bad
	}
	if !demanded {
		return nil
	}
	return d
}

// appraise reads one provenance statement and, when it meets r, adds its
// links.
func (v *verification) appraise(r rule, a Attestation) *Denied {
	p, x, err := slsa.Parse(a.Statement.Predicate)
	if err != nil {
		return &Denied{Kind: errs.Denied, Link: LinkProvenance, Expected: "a SLSA v1 predicate of build type " + slsa.BuildType, Seen: err.Error(), Fix: "build the image with redoubt build"}
	}
	if p.RunDetails.Builder.ID != a.Signer {
		return &Denied{Kind: errs.Denied, Link: LinkProvenance, Expected: "builder.id " + a.Signer + ", who signed it", Seen: p.RunDetails.Builder.ID, Fix: "only the builder itself may sign its provenance"}
	}
	if len(r.Spec.Sources) > 0 && !slices.ContainsFunc(r.Spec.Sources, func(pat string) bool { return Match(pat, x.Source.Repository) }) {
		return &Denied{Kind: errs.Denied, Link: LinkSource, Expected: "source " + strings.Join(r.Spec.Sources, " or "), Seen: x.Source.Repository, Fix: "build from an accepted repository, or name this one in the TrustPolicy"}
	}
	rev, dirty := p.Revision()
	v.link(Link{Name: LinkProvenance, Signer: a.Signer, Subject: a.Statement.About(), Evidence: a.Digest, Type: bundle.Provenance, Time: a.Time,
		Detail: map[string]string{"builder": p.RunDetails.Builder.ID, "buildType": p.BuildDefinition.BuildType, "invocation": clip(p.RunDetails.Metadata.InvocationID)}})
	v.link(Link{Name: LinkSource, Signer: a.Signer, Subject: a.Statement.About(), Evidence: a.Digest, Type: bundle.Provenance, Time: a.Time,
		Detail: map[string]string{"repository": clip(x.Source.Repository), "ref": clip(x.Source.Ref), "path": clip(x.Source.Path), "revision": clip(rev), "dirty": fmt.Sprint(dirty)}})
	return nil
}

func (v *verification) sbom(r rule) *Denied {
	for _, a := range v.atts {
		if a.Statement.PredicateType != bundle.SBOM || !(r.signs(a.Signer) || slices.Contains(r.Spec.Builders, a.Signer)) {
			continue
		}
		var doc struct {
			Version string `json:"spdxVersion"`
			Name    string `json:"name"`
		}
		if err := strictjson.Decode(a.Statement.Predicate, &doc); err != nil || !strings.HasPrefix(doc.Version, "SPDX-2.") {
			v.cause("SBOM %s: not an SPDX 2 document", a.Digest)
			continue
		}
		v.link(Link{Name: LinkSBOM, Signer: a.Signer, Subject: a.Statement.About(), Evidence: a.Digest, Type: bundle.SBOM, Time: a.Time,
			Detail: map[string]string{"format": clip(doc.Version)}})
		return nil
	}
	if !r.Spec.RequireSBOM {
		return nil
	}
	return &Denied{Kind: errs.Unproven, Link: LinkSBOM, Expected: "an SPDX SBOM by " + r.signers(), Seen: "none that verifies", Fix: "build the image with redoubt build, which signs one"}
}

// link adds a proven step once; two policies often rest on the same one.
func (v *verification) link(l Link) {
	v.used[l.Evidence] = true
	for _, o := range v.links {
		if o.Name == l.Name && o.Evidence == l.Evidence {
			return
		}
	}
	v.links = append(v.links, l)
}

func (v *verification) permit() Permit {
	g := &grant{ref: v.ev.Ref.At(v.im.digest), links: v.links, at: v.now}
	for _, r := range v.rules {
		g.policies = append(g.policies, r.name())
		g.rules = append(g.rules, r.TrustPolicy)
	}
	_, g.digest = bytesOf(v.rules)
	ev := v.ev
	ev.Bundles, ev.Simple = nil, nil
	for _, b := range v.ev.Bundles {
		if v.used[artifact.DigestOf(b)] {
			ev.Bundles = append(ev.Bundles, bytes.Clone(b))
		}
	}
	for _, s := range v.ev.Simple {
		if v.used[artifact.DigestOf(s.Payload)] {
			ev.Simple = append(ev.Simple, s)
		}
	}
	g.evidence = ev
	return Permit{grant: g}
}

const maxCauses = 16

func (v *verification) cause(format string, args ...any) {
	if len(v.causes) < maxCauses {
		v.causes = append(v.causes, clip(fmt.Sprintf(format, args...)))
	}
}

// clip bounds what an attacker can put in a log or an error.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > 512 {
		s = s[:512] + "…"
	}
	return s
}

func digestBytes(d artifact.Digest) []byte {
	b, err := hex.DecodeString(d.Hex())
	if err != nil {
		panic("verify: a digest that is not hexadecimal")
	}
	return b
}

var _ json.Marshaler = Permit{}

// MarshalJSON shows a permit in logs and passports; nothing reads one back.
func (p Permit) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Ref          string          `json:"ref"`
		Policies     []string        `json:"policies"`
		PolicyDigest artifact.Digest `json:"policyDigest"`
		Links        []Link          `json:"links"`
		Time         time.Time       `json:"time"`
	}{p.Ref().String(), p.Policies(), p.PolicyDigest(), p.Links(), p.Time()})
}
