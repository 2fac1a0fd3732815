// SPDX-License-Identifier: Apache-2.0

// Command risk says whether a transfer looks right.
package main

import (
	"fmt"
	"net/http"

	"redoubt.dev/examples/bank/internal/web"
)

// limit is the largest transfer that needs no person, in cents.
const limit = 10_000_00

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("POST /assess", func(w http.ResponseWriter, r *http.Request) {
		var t web.Transfer
		if err := web.Read(r, &t); err != nil {
			web.Fail(w, http.StatusBadRequest, err)
			return
		}
		answer := map[string]any{"allow": true}
		if t.Amount > limit {
			answer = map[string]any{"allow": false, "reason": "over the limit for transfers without a person"}
		}
		web.Write(w, http.StatusOK, answer)
	})
	web.Serve(":8080", mux)
}
