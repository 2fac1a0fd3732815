// SPDX-License-Identifier: Apache-2.0

// Command payments carries a transfer through: risk is asked, then the ledger
// books it.
package main

import (
	"errors"
	"fmt"
	"net/http"

	"redoubt.dev/examples/bank/internal/web"
)

func main() {
	risk, ledger := web.Env("RISK_URL", "http://risk:8080"), web.Env("LEDGER_URL", "http://ledger:8080")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("POST /payments", func(w http.ResponseWriter, r *http.Request) {
		var t web.Transfer
		err := web.Read(r, &t)
		if err == nil {
			err = t.Validate()
		}
		if err != nil {
			web.Fail(w, http.StatusBadRequest, err)
			return
		}
		var verdict struct {
			Allow  bool   `json:"allow"`
			Reason string `json:"reason"`
		}
		if err := web.Post(r.Context(), risk+"/assess", t, &verdict); err != nil {
			fail(w, fmt.Errorf("risk: %w", err))
			return
		}
		if !verdict.Allow {
			web.Fail(w, http.StatusForbidden, errors.New(verdict.Reason))
			return
		}
		var booked map[string]any
		if err := web.Post(r.Context(), ledger+"/transfers", t, &booked); err != nil {
			fail(w, fmt.Errorf("ledger: %w", err))
			return
		}
		web.Write(w, http.StatusOK, booked)
	})
	web.Serve(":8080", mux)
}

// fail passes a refusal on as it is, and anything else as a bad gateway.
func fail(w http.ResponseWriter, err error) {
	var status *web.StatusError
	if errors.As(err, &status) && status.Code/100 == 4 {
		web.Fail(w, status.Code, err)
		return
	}
	web.Fail(w, http.StatusBadGateway, err)
}
