// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/children"
	"redoubt.dev/node/control"
)

const startTimeout = time.Minute

// ensureNode starts a node when none answers; started tells that it did.
func (a *app) ensureNode(ctx context.Context) (started bool, err error) {
	ready := func(ctx context.Context) error {
		var st control.Status
		return a.client().Call(ctx, "status", struct{}{}, &st)
	}
	if err := ready(ctx); err == nil || !errors.Is(err, errs.Unavailable) {
		return false, err
	}
	if os.Geteuid() != 0 {
		return false, &errs.Error{Kind: errs.Denied, Subject: "node", Expected: "root, which the node needs to make sandboxes and networks", Fix: "run it with sudo"}
	}
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(a.root, 0o711); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if a.output == "text" {
		fmt.Fprintln(os.Stderr, "starting the node …")
	}
	return true, children.StartNode(ctx, filepath.Join(filepath.Dir(self), "redoubt-node"), []string{"-config", a.config, "-root", a.root, "-state", a.state}, filepath.Join(a.root, "node.log"), ready)
}
