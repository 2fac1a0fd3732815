// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"redoubt.dev/proxy/config"
)

// MaxFile bounds a bootstrap file and each file of resources, in bytes.
const MaxFile = 32 << 20

// Bootstrap is what a bootstrap file says. It is immutable.
type Bootstrap struct {
	// Static is what the file configures by itself, valid as it stands unless
	// Dynamic.
	Static *config.Config
}

// Load reads the bootstrap file at path, YAML or JSON. The error joins all
// problems that were found, each an *errs.Error.
func Load(path string) (*Bootstrap, error) { return nil, nil }

// Parse reads a bootstrap; name stands for it in errors.
func Parse(data []byte, name string) (*Bootstrap, error) { return nil, nil }

// Dynamic tells that parts come from a management server or from watched
// files, so that Static alone is not all.
func (b *Bootstrap) Dynamic() bool { return false }
