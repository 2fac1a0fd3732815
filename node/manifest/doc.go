// SPDX-License-Identifier: Apache-2.0

// Package manifest reads what users write: Kubernetes, Istio and Redoubt
// manifests, strictly.
//
// Walk: Load (files within bounds) → split into documents (document.go) →
// shape against supported.txt (shape.go) → decode into the API's own types →
// defaults, as Kubernetes sets them (defaults.go) → validate → Set.
//
// Decoding is strict because a policy that is silently not in force is worse
// than none: an unknown kind or field, a duplicate key, a value of another
// type is an error. So is a field that Kubernetes knows but that has no effect
// here: supported.txt is the whole list of what has.
//
// Invariants:
//   - every problem of every file is reported at once, each as an errs.Error
//     that names file, document, object and field
//   - a Set holds only valid objects with their defaults set; a failed Load
//     gives none
//   - no value of an application (env, Secret, ConfigMap) is in an error
//   - input is bounded: size of a file and of all, documents, depth, aliases
//
// Begin at Load.
package manifest
