// SPDX-License-Identifier: Apache-2.0

// Command ledger holds the accounts. Each transfer is one line of a file,
// synced before it is answered, and applied once per ID.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"redoubt.dev/examples/bank/internal/web"
)

// opening is what every account holds at first, in cents.
const opening = 1_000_000_00

type ledger struct {
	mu       sync.Mutex
	file     *os.File
	balances map[string]int64
	done     map[string]web.Transfer
}

// open replays the file. A last line cut short by a crash was never answered,
// and is dropped.
func open(path string) (*ledger, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l := &ledger{file: f, balances: map[string]int64{}, done: map[string]web.Transfer{}}
	good := int64(0)
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		var t web.Transfer
		if err := json.Unmarshal(line, &t); err != nil {
			return nil, fmt.Errorf("line at %d: %w", good, err)
		}
		l.apply(t)
		good += int64(len(line))
	}
	if err := f.Truncate(good); err != nil {
		return nil, err
	}
	if _, err := f.Seek(good, io.SeekStart); err != nil {
		return nil, err
	}
	log.Printf("replayed %d transfers", len(l.done))
	return l, nil
}

func (l *ledger) balance(account string) int64 {
	b, ok := l.balances[account]
	if !ok {
		return opening
	}
	return b
}

func (l *ledger) apply(t web.Transfer) {
	l.balances[t.From] = l.balance(t.From) - t.Amount
	l.balances[t.To] = l.balance(t.To) + t.Amount
	l.done[t.ID] = t
}

var errFunds = errors.New("not enough on the account")

// book makes a transfer last, once.
func (l *ledger) book(t web.Transfer) (again bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.done[t.ID]; ok {
		if old != t {
			return false, errors.New("id: another transfer has it")
		}
		return true, nil
	}
	if l.balance(t.From) < t.Amount {
		return false, errFunds
	}
	b, err := json.Marshal(t)
	if err != nil {
		return false, err
	}
	if _, err := l.file.Write(append(b, '\n')); err != nil {
		log.Fatal(err) // the file and the memory may differ now: start again from the file
	}
	if err := l.file.Sync(); err != nil {
		log.Fatal(err)
	}
	l.apply(t)
	return false, nil
}

func main() {
	dir := web.Env("LEDGER_DIR", "/data")
	l, err := open(filepath.Join(dir, "ledger.jsonl"))
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("POST /transfers", func(w http.ResponseWriter, r *http.Request) {
		var t web.Transfer
		err := web.Read(r, &t)
		if err == nil {
			err = t.Validate()
		}
		if err != nil {
			web.Fail(w, http.StatusBadRequest, err)
			return
		}
		again, err := l.book(t)
		switch {
		case errors.Is(err, errFunds):
			web.Fail(w, http.StatusUnprocessableEntity, err)
		case err != nil:
			web.Fail(w, http.StatusConflict, err)
		default:
			web.Write(w, http.StatusOK, map[string]any{"id": t.ID, "again": again})
		}
	})
	mux.HandleFunc("GET /accounts/{name}", func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		defer l.mu.Unlock()
		web.Write(w, http.StatusOK, map[string]any{"account": r.PathValue("name"), "balance": l.balance(r.PathValue("name"))})
	})
	mux.HandleFunc("GET /summary", func(w http.ResponseWriter, _ *http.Request) {
		l.mu.Lock()
		defer l.mu.Unlock()
		sum := int64(0)
		for a := range l.balances {
			sum += l.balance(a) - opening
		}
		web.Write(w, http.StatusOK, map[string]any{"transfers": len(l.done), "imbalance": sum})
	})
	mux.HandleFunc("GET /transfers/{id}", func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		defer l.mu.Unlock()
		t, ok := l.done[r.PathValue("id")]
		if !ok {
			web.Fail(w, http.StatusNotFound, errors.New("no such transfer"))
			return
		}
		web.Write(w, http.StatusOK, t)
	})
	web.Serve(":8080", mux)
}
