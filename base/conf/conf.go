// SPDX-License-Identifier: Apache-2.0

// Package conf reads configuration strictly: an unknown key is an error that
// names it, and every reader is bounded.
package conf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"sigs.k8s.io/yaml"

	"redoubt.dev/api/errs"
)

// MaxFile bounds a configuration file, in bytes.
const MaxFile = 4 << 20

// Load decodes the YAML or JSON file at path into v, which holds the
// defaults. A missing file leaves v as it is.
func Load(path string, v any) error {
	b, err := ReadFile(path, MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if second(b) {
		return &errs.Error{Kind: errs.Invalid, Subject: path, Expected: "one YAML document", Seen: "a second one, which would be ignored"}
	}
	if err := yaml.UnmarshalStrict(b, v); err != nil {
		return &errs.Error{Kind: errs.Invalid, Subject: path, Expected: "known keys of the right types", Err: err}
	}
	return nil
}

// second tells whether a document begins behind the first one's content. The
// marker is one wherever it stands at the start of a line (YAML 1.2, 9.1.2).
func second(b []byte) bool {
	content := false
	for line := range bytes.Lines(b) {
		word := bytes.Fields(line)
		switch {
		case len(word) == 0 || word[0][0] == '#':
		case string(word[0]) == "---" && line[0] == '-':
			if content {
				return true
			}
			content = len(word) > 1
		default:
			content = true
		}
	}
	return false
}

// ReadFile reads at most max bytes; a longer file is errs.TooLarge before
// more than max bytes were read.
func ReadFile(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadAll(f, path, max)
}

// ReadAll reads r to its end, at most max bytes; subject names it in errors.
func ReadAll(r io.Reader, subject string, max int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", subject, err)
	}
	if int64(len(b)) > max {
		return nil, &errs.Error{Kind: errs.TooLarge, Subject: subject, Expected: fmt.Sprintf("at most %d bytes", max), Fix: "split it into smaller files"}
	}
	return b, nil
}
