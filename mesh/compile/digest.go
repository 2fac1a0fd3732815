// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// CanonicalJSON gives a message's JSON with one spelling: protojson varies its
// white space on purpose, and nothing else.
func CanonicalJSON(m proto.Message) json.RawMessage {
	b, err := protojson.Marshal(m)
	if err != nil {
		panic("compile: " + err.Error()) // only invalid UTF-8 in a message that no decoder lets in
	}
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		panic("compile: " + err.Error())
	}
	return out.Bytes()
}

// inForce is the digest of the policies that govern a pod: the sources, as
// they were declared, and not what they compiled to, which changes with every
// address.
func inForce(authz []AuthorizationPolicy, peers []PeerAuthentication, nets []*netpol) string {
	var all []string
	add := func(kind, ns, name string, spec any) {
		b, err := json.Marshal([]any{kind, ns, name, spec})
		if err != nil {
			panic(fmt.Sprintf("compile: %s %s/%s: %v", kind, ns, name, err))
		}
		all = append(all, string(b))
	}
	for _, p := range authz {
		add("AuthorizationPolicy", p.Namespace, p.Name, CanonicalJSON(p.Spec))
	}
	for _, p := range peers {
		add("PeerAuthentication", p.Namespace, p.Name, CanonicalJSON(p.Spec))
	}
	for _, p := range nets {
		add("NetworkPolicy", p.Namespace, p.Name, p.Spec)
	}
	slices.Sort(all)
	h := sha256.New()
	for _, s := range all {
		h.Write([]byte(s))
		h.Write([]byte{'\n'})
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}
