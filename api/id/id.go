// SPDX-License-Identifier: Apache-2.0

// Package id names who speaks: SPIFFE IDs of workloads.
//
// The ID type is go-spiffe's, by alias; a held ID is valid. Workload IDs have
// the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>, as
// Istio and SPIRE's Kubernetes registrar use (SPIFFE-ID spec, section 2).
package id

import (
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"redoubt.dev/api/errs"
)

// ID is a SPIFFE ID. The zero ID is invalid and matches nothing.
type ID = spiffeid.ID

// TrustDomain is the root of a set of IDs.
type TrustDomain = spiffeid.TrustDomain

// Parse reads a SPIFFE ID.
func Parse(s string) (ID, error) {
	v, err := spiffeid.FromString(s)
	if err != nil {
		return ID{}, &errs.Error{Kind: errs.Invalid, Field: "spiffe id", Expected: "spiffe://<trust domain>/ns/<namespace>/sa/<service account>", Seen: quote(s), Err: err}
	}
	return v, nil
}

// ParseTrustDomain reads a trust domain name, such as "bank.example".
func ParseTrustDomain(s string) (TrustDomain, error) {
	v, err := spiffeid.TrustDomainFromString(s)
	if err != nil {
		return TrustDomain{}, &errs.Error{Kind: errs.Invalid, Field: "trust domain", Expected: "a lower case DNS name", Seen: quote(s), Err: err}
	}
	return v, nil
}

// Workload makes the ID of service account sa in namespace ns.
func Workload(td TrustDomain, ns, sa string) (ID, error) {
	v, err := spiffeid.FromSegments(td, "ns", ns, "sa", sa)
	if err != nil {
		return ID{}, &errs.Error{Kind: errs.Invalid, Field: "service account", Expected: "namespace and name of letters, digits, '-', '_', '.'", Seen: quote(ns + "/" + sa), Err: err}
	}
	return v, nil
}

// Split gives namespace and service account of a workload ID; ok is false for
// an ID of another form.
func Split(v ID) (ns, sa string, ok bool) {
	p := strings.Split(v.Path(), "/")
	if len(p) != 5 || p[1] != "ns" || p[3] != "sa" {
		return "", "", false
	}
	return p[2], p[4], true
}

func quote(s string) string {
	if len(s) > 128 {
		s = s[:128] + "…"
	}
	return "\"" + s + "\""
}
