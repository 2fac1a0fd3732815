// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"

	"redoubt.dev/api/errs"
)

type passportRequest struct {
	Pod string `json:"pod"`
}

func (n *Node) passport(context.Context, passportRequest) (json.RawMessage, error) {
	return nil, errs.New(errs.Unsupported, "passport", "not yet")
}
