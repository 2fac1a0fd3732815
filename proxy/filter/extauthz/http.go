// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// byHTTP asks with the request's own method and path.
type byHTTP struct {
	cfg       *config.AuthzHTTP
	allowed   []filter.Text
	upstream  []filter.Text
	appended  []filter.Text
	client    []filter.Text
	onSuccess []filter.Text
}

func newHTTP(cfg *config.AuthzHTTP, common []filter.Text) (*byHTTP, error) {
	a := &byHTTP{cfg: cfg}
	for _, l := range []struct {
		from []config.StringMatch
		to   *[]filter.Text
	}{{cfg.AllowedHeaders, &a.allowed}, {cfg.Upstream, &a.upstream}, {cfg.UpstreamAppend, &a.appended}, {cfg.Client, &a.client}, {cfg.ClientOnSuccess, &a.onSuccess}} {
		var err error
		if *l.to, err = filter.CompileTexts(l.from); err != nil {
			return nil, err
		}
	}
	a.allowed = append(a.allowed, common...)
	return a, nil
}

func (a *byHTTP) cluster() string        { return a.cfg.Cluster }
func (a *byHTTP) timeout() time.Duration { return limit(a.cfg.Timeout) }

func limit(d time.Duration) time.Duration {
	if d <= 0 {
		return minTimeout
	}
	return d
}

var errPath = &errs.Error{Kind: errs.Invalid, Subject: "path", Expected: "one that can be shown to the authorization service as it is"}

func (a *byHTTP) describe(f *Filter, c *filter.Context, _ *config.ExtAuthzRoute, body []byte) (*http.Request, error) {
	q := c.Req
	host := string(q.In(q.Authority))
	if host == "" {
		host = a.cfg.Host
	}
	target := a.cfg.PathPrefix + string(q.In(q.Path))
	if !strings.HasPrefix(target, "/") {
		target = "/"
	}
	// Connections are kept by the URL's host, which must not be the client's
	// choice: each name that it thinks of would have connections of its own.
	u := &url.URL{Scheme: "http", Host: "authz", Opaque: target}
	if strings.HasPrefix(target, "//") { // Opaque would make it another host's
		path, query, ask := strings.Cut(target, "?")
		u = &url.URL{Scheme: "http", Host: "authz", RawPath: path, RawQuery: query, ForceQuery: ask}
		var err error
		if u.Path, err = url.PathUnescape(path); err != nil || u.EscapedPath() != path {
			return nil, errPath // the service would judge another path than the one that is asked for
		}
	}
	r := &http.Request{Method: string(q.In(q.Method)), URL: u, Host: host, Header: http.Header{}, Body: http.NoBody, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if len(body) > 0 {
		b := bytes.Clone(body)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	}
	for i := range q.Fields {
		fl := &q.Fields[i]
		if fl.Drop || fl.Known.Hop() || fl.Known == message.Expect {
			continue
		}
		name := bytes.ToLower(q.In(fl.Name))
		if filter.AnyText(f.disallowed, name) || fl.Known != message.Authorization && !filter.AnyText(a.allowed, name) {
			continue
		}
		r.Header.Add(string(name), string(q.In(fl.Value)))
	}
	for _, h := range a.cfg.Add {
		r.Header.Set(h.Name, h.Value)
	}
	return r, nil
}

var errService = &errs.Error{Kind: errs.Unavailable, Subject: "authorization service", Expected: "an answer that is no server error"}

func (a *byHTTP) read(resp *http.Response) (*answer, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case len(body) > maxAnswer:
		return nil, errTooLong
	case resp.StatusCode >= 500:
		return nil, errService
	}
	out := &answer{allow: resp.StatusCode == 200}
	var told []pair
	for name, values := range resp.Header {
		low := []byte(strings.ToLower(name))
		for i, v := range values {
			if out.allow {
				a.allowedField(out, low, v, i)
			} else if len(a.client) == 0 && !own(string(low)) || filter.AnyText(a.client, low) {
				told = append(told, pair{string(low), v, config.AppendOrAdd})
			}
		}
	}
	if !out.allow {
		out.denied = denial(resp.StatusCode, body, told)
	}
	return out, nil
}

// own are fields that the proxy makes itself for its reply.
func own(name string) bool {
	switch name {
	case "date", "server", "content-length", "transfer-encoding", "connection", "x-envoy-upstream-service-time":
		return true
	}
	return false
}

func (a *byHTTP) allowedField(out *answer, name []byte, v string, i int) {
	if string(name) == "x-envoy-auth-headers-to-remove" {
		for _, n := range strings.Split(v, ",") {
			out.remove = append(out.remove, strings.ToLower(strings.TrimSpace(n)))
		}
		return
	}
	switch {
	case filter.AnyText(a.appended, name):
		out.add = append(out.add, pair{name: string(name), value: v})
	case filter.AnyText(a.upstream, name) && i == 0:
		out.set = append(out.set, pair{name: string(name), value: v})
	case filter.AnyText(a.upstream, name): // further lines of a field that was set
		out.add = append(out.add, pair{name: string(name), value: v})
	}
	if filter.AnyText(a.onSuccess, name) {
		out.response = append(out.response, pair{string(name), v, config.AppendOrAdd})
	}
}
