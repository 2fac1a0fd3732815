// SPDX-License-Identifier: Apache-2.0

// Command teller is the bank's counter: a page to make a transfer, and the
// same as JSON.
package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"html/template"
	"log"
	"net/http"
	"strconv"

	"redoubt.dev/examples/bank/internal/web"
)

var page = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Teller</title>
<style>body{font:1rem/1.5 system-ui;max-width:28rem;margin:3rem auto;padding:0 1rem}label{display:block;margin:.8rem 0 .2rem}
input{font:inherit;width:100%;padding:.4rem;box-sizing:border-box}button{font:inherit;margin-top:1.2rem;padding:.5rem 1.2rem}
p.note{padding:.6rem;border-left:.3rem solid #2b6;background:#f2fbf5}p.bad{border-color:#c33;background:#fdf2f2}</style>
<h1>Transfer</h1>
{{with .Note}}<p class="note {{if $.Bad}}bad{{end}}">{{.}}</p>{{end}}
<form method="post" action="/">
<label for="from">From account</label><input id="from" name="from" value="alice" required>
<label for="to">To account</label><input id="to" name="to" value="bob" required>
<label for="amount">Amount in cents</label><input id="amount" name="amount" type="number" min="1" value="1250" required>
<label for="memo">Memo</label><input id="memo" name="memo">
<button>Send</button></form></html>
`))

type view struct {
	Note string
	Bad  bool
}

func main() {
	payments := web.Env("PAYMENTS_URL", "http://payments:8080")
	send := func(r *http.Request, t web.Transfer) (map[string]any, error) {
		if t.ID == "" {
			t.ID = rand.Text()
		}
		if err := t.Validate(); err != nil {
			return nil, &web.StatusError{Code: http.StatusBadRequest, Text: err.Error()}
		}
		var out map[string]any
		return out, web.Post(r.Context(), payments+"/payments", t, &out)
	}
	show := func(w http.ResponseWriter, code int, v view) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(code)
		if err := page.Execute(w, v); err != nil {
			log.Printf("answer: %v", err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { show(w, http.StatusOK, view{}) })
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		amount, _ := strconv.ParseInt(r.FormValue("amount"), 10, 64)
		_, err := send(r, web.Transfer{From: r.FormValue("from"), To: r.FormValue("to"), Amount: amount, Memo: r.FormValue("memo")})
		if err != nil {
			show(w, status(err), view{Note: "Refused: " + err.Error(), Bad: true})
			return
		}
		show(w, http.StatusOK, view{Note: "Booked."})
	})
	mux.HandleFunc("POST /transfer", func(w http.ResponseWriter, r *http.Request) {
		var t web.Transfer
		if err := web.Read(r, &t); err != nil {
			web.Fail(w, http.StatusBadRequest, err)
			return
		}
		out, err := send(r, t)
		if err != nil {
			web.Fail(w, status(err), err)
			return
		}
		web.Write(w, http.StatusOK, out)
	})
	web.Serve(":8080", mux)
}

func status(err error) int {
	var s *web.StatusError
	if errors.As(err, &s) {
		return s.Code
	}
	return http.StatusBadGateway
}
