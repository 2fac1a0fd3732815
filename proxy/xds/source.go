// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 fields that the API deprecates are read, or refused by name

package xds

import (
	"crypto/tls"
	"os"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"

	"redoubt.dev/base/conf"
)

// fetchTimeout is how long a listener or cluster waits for what it needs when
// its configuration source does not say.
const fetchTimeout = 15 * time.Second

// sourceKind says by which means resources come.
type sourceKind uint8

const (
	fromStatic sourceKind = iota // the bootstrap's own resources
	fromADS
	fromGRPC // a stream per type of resource
	fromPath // a watched file
)

// source is where resources come from. It is comparable: resources of the
// same source share a stream or a file.
type source struct {
	kind    sourceKind
	where   string // path, or a serialised GrpcService
	delta   bool
	nodeOne bool // node in a stream's first message only
}

// ref is a resource that is needed, and how long to wait for it; 0 is without
// end.
type ref struct {
	source
	name string
	wait time.Duration
}

// source reads a ConfigSource. ok is false after a problem.
func (c *converter) source(m *corev3.ConfigSource, p *place) (s source, wait time.Duration, ok bool) {
	wait = fetchTimeout
	if d := m.GetInitialFetchTimeout(); d != nil {
		wait = c.span(d, p.field("initial_fetch_timeout"))
	}
	if v := m.GetResourceApiVersion(); v != corev3.ApiVersion_V3 && v != corev3.ApiVersion_AUTO {
		c.unsupported(p.field("resource_api_version"), "V3", v, "set it to V3")
	}
	switch x := m.GetConfigSourceSpecifier().(type) {
	case *corev3.ConfigSource_Ads:
		if c.boot.ads == nil {
			c.wrong(p.field("ads"), "dynamic_resources.ads_config in the bootstrap", "none", "add it")
			return s, wait, false
		}
		return *c.boot.ads, wait, true
	case *corev3.ConfigSource_Self:
		if c.from.kind == fromStatic || c.from.kind == fromPath {
			c.wrong(p.field("self"), "a resource that a server sent", "a file", "name the source")
			return s, wait, false
		}
		return c.from, wait, true
	case *corev3.ConfigSource_PathConfigSource:
		at := p.field("path_config_source")
		s = source{kind: fromPath, where: x.PathConfigSource.GetPath()}
		if _, err := os.Stat(s.where); err != nil {
			c.failed(at.field("path"), "a file that exists", err, "create it before it is named")
			return s, wait, false
		}
		return s, wait, true
	case *corev3.ConfigSource_Path:
		c.unsupported(p.field("path"), "path_config_source", x.Path, "write path_config_source: {path: …}")
		return s, wait, false
	case *corev3.ConfigSource_ApiConfigSource:
		s, ok = c.apiSource(x.ApiConfigSource, p.field("api_config_source"))
		return s, wait, ok
	}
	c.wrong(p, "ads, api_config_source or path_config_source", "none of them", "")
	return s, wait, false
}

func (c *converter) apiSource(m *corev3.ApiConfigSource, p *place) (s source, ok bool) {
	s = source{kind: fromGRPC, nodeOne: m.GetSetNodeOnFirstMessageOnly()}
	switch m.GetApiType() {
	case corev3.ApiConfigSource_GRPC:
	case corev3.ApiConfigSource_DELTA_GRPC:
		s.delta = true
	default:
		c.unsupported(p.field("api_type"), "GRPC or DELTA_GRPC", m.GetApiType(), "")
		return s, false
	}
	if m.GetTransportApiVersion() != corev3.ApiVersion_V3 {
		c.unsupported(p.field("transport_api_version"), "V3", m.GetTransportApiVersion(), "set it to V3")
	}
	if len(m.GetGrpcServices()) != 1 {
		c.unsupported(p.field("grpc_services"), "one service", len(m.GetGrpcServices()), "give the cluster several endpoints instead")
		return s, false
	}
	svc, at := m.GetGrpcServices()[0], p.item("grpc_services", 0)
	if svc.GetTimeout() != nil {
		c.unsupported(at.field("timeout"), "", "a timeout of a stream that does not end", "remove it")
	}
	name := svc.GetEnvoyGrpc().GetClusterName()
	if svc.GetEnvoyGrpc() != nil && !c.boot.serverNames[name] {
		c.wrong(at.field("envoy_grpc").field("cluster_name"), "a cluster of static_resources", name, "define it there")
		return s, false
	}
	c.uses.server(name)
	if g := svc.GetGoogleGrpc(); g != nil {
		c.googleGRPC(g, at.field("google_grpc"))
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(svc)
	if err != nil {
		c.failed(at, "", err, "")
	}
	s.where = string(b)
	return s, err == nil
}

// content is what a DataSource holds.
type content struct {
	bytes []byte
	file  string // where it was read from; "" for inline
}

// maxData bounds what a DataSource holds, in bytes.
const maxData = 4 << 20

func (c *converter) data(m *corev3.DataSource, p *place) (d content) {
	switch x := m.GetSpecifier().(type) {
	case *corev3.DataSource_Filename:
		d.file = x.Filename
		b, err := conf.ReadFile(x.Filename, maxData)
		if err != nil {
			c.failed(p.field("filename"), "a file that can be read", err, "")
		}
		d.bytes = b
	case *corev3.DataSource_InlineBytes:
		d.bytes = x.InlineBytes
	case *corev3.DataSource_InlineString:
		d.bytes = []byte(x.InlineString)
	case *corev3.DataSource_EnvironmentVariable:
		c.unsupported(p.field("environment_variable"), "a filename", x.EnvironmentVariable, "secrets in the environment leak to children; write a file")
	default:
		c.wrong(p, "filename, inline_string or inline_bytes", "none of them", "")
	}
	if len(d.bytes) > maxData {
		c.wrong(p, "at most 4 MiB", len(d.bytes), "")
	}
	return d
}

var tlsVersions = map[int32]uint16{0: 0, 3: tls.VersionTLS12, 4: tls.VersionTLS13}
