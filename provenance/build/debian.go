// SPDX-License-Identifier: Apache-2.0

package build

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strings"

	"redoubt.dev/api/errs"
)

// dpkgStatus is where Debian and its children list what is installed.
const dpkgStatus = "var/lib/dpkg/status"

const (
	maxStatus = 64 << 20
	maxPkgs   = 100_000
)

// debian adds the packages of a Debian root file system; without a status
// file it adds none.
func (b *builder) debian(open func(name string) (io.ReadCloser, error)) error {
	f, err := open(dpkgStatus)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", dpkgStatus, err)
	}
	defer f.Close()
	distro := "debian"
	if os, err := open("etc/os-release"); err == nil {
		distro = osID(io.LimitReader(os, 64<<10))
		os.Close()
	}
	pkgs, err := parseStatus(io.LimitReader(f, maxStatus+1), distro)
	for _, p := range pkgs {
		b.pkgs.add(p)
	}
	return err
}

// parseStatus reads dpkg's status: paragraphs of "Field: value" (deb822). Only
// installed packages count.
func parseStatus(r io.Reader, distro string) ([]pkg, error) {
	var out []pkg
	var name, version, arch, status string
	flush := func() error {
		if name != "" && version != "" && strings.HasSuffix(status, " installed") {
			if len(out) >= maxPkgs {
				return &errs.Error{Kind: errs.TooLarge, Subject: dpkgStatus, Expected: fmt.Sprintf("at most %d packages", maxPkgs)}
			}
			out = append(out, pkg{name: name, version: version,
				purl: "pkg:deb/" + distro + "/" + url.PathEscape(name) + "@" + url.PathEscape(version) + "?arch=" + url.QueryEscape(arch)})
		}
		name, version, arch, status = "", "", "", ""
		return nil
	}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		if strings.TrimSpace(line) == "" {
			if err := flush(); err != nil {
				return nil, err
			}
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok || line[0] == ' ' || line[0] == '\t' {
			continue // a continuation
		}
		value = strings.TrimSpace(value)
		if len(value) > 512 || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			continue // no name or version looks so
		}
		switch key {
		case "Package":
			name = value
		case "Version":
			version = value
		case "Architecture":
			arch = value
		case "Status":
			status = value
		}
	}
	if err := sc.Err(); err != nil {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: dpkgStatus, Expected: "lines of at most 1 MiB", Err: err}
	}
	return out, flush()
}

// osID reads ID= of os-release.
func osID(r io.Reader) string {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		if v, ok := strings.CutPrefix(sc.Text(), "ID="); ok {
			v = strings.Trim(v, `"'`)
			if nameRE.MatchString(v) {
				return strings.ToLower(v)
			}
		}
	}
	return "debian"
}
