// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 fields that the API deprecates are read, or refused by name

package xds

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	streamlogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/logfmt"
)

func (c *converter) accessLogs(list []*accesslogv3.AccessLog, p *place) (out []*config.AccessLog) {
	for i, m := range list {
		at := p.item("access_log", i)
		l := &config.AccessLog{Filter: c.logFilter(m.GetFilter(), at.field("filter"), 0)}
		typed := at.field("typed_config")
		switch x := c.unpack(m.GetTypedConfig(), typed).(type) {
		case nil:
			continue
		case *filelogv3.FileAccessLog:
			c.fileLog(x, l, typed)
		case *streamlogv3.StdoutAccessLog:
			l.Path = "/dev/stdout"
			c.logFormat(x.GetLogFormat(), l, typed.field("log_format"))
		case *streamlogv3.StderrAccessLog:
			l.Path = "/dev/stderr"
			c.logFormat(x.GetLogFormat(), l, typed.field("log_format"))
		default:
			c.slot(typed, x, "FileAccessLog, StdoutAccessLog or StderrAccessLog")
			continue
		}
		if _, err := logfmt.Of(l); err != nil {
			c.failed(typed, "known command operators", err, "")
		}
		if l.Filter != nil {
			if _, err := logfmt.CompileFilter(l.Filter); err != nil {
				c.failed(at.field("filter"), "a filter that can be evaluated", err, "")
			}
		}
		out = append(out, l)
	}
	return out
}

func (c *converter) fileLog(m *filelogv3.FileAccessLog, l *config.AccessLog, p *place) {
	l.Path = m.GetPath()
	if !filepath.IsAbs(l.Path) || filepath.Clean(l.Path) != l.Path {
		c.wrong(p.field("path"), "an absolute path without dots", l.Path, "")
	}
	switch x := m.GetAccessLogFormat().(type) {
	case *filelogv3.FileAccessLog_LogFormat:
		c.logFormat(x.LogFormat, l, p.field("log_format"))
	case *filelogv3.FileAccessLog_Format: // deprecated, of the same meaning
		l.Format = x.Format
	case *filelogv3.FileAccessLog_JsonFormat:
		l.JSON = c.jsonFields(x.JsonFormat, p.field("json_format"), 0)
	}
}

func (c *converter) logFormat(m *corev3.SubstitutionFormatString, l *config.AccessLog, p *place) {
	switch x := m.GetFormat().(type) {
	case *corev3.SubstitutionFormatString_TextFormat: // deprecated, of the same meaning
		l.Format = x.TextFormat
	case *corev3.SubstitutionFormatString_TextFormatSource:
		l.Format = string(c.data(x.TextFormatSource, p.field("text_format_source")).bytes)
	case *corev3.SubstitutionFormatString_JsonFormat:
		l.JSON = c.jsonFields(x.JsonFormat, p.field("json_format"), 0)
	}
	l.OmitEmpty = m.GetOmitEmptyValues()
}

func (c *converter) jsonFields(s *structpb.Struct, p *place, depth int) (out []config.JSONField) {
	if len(s.GetFields()) == 0 || depth > 8 {
		c.wrong(p, "at least one field, nested at most 8 deep", len(s.GetFields()), "")
		return nil
	}
	for _, k := range slices.Sorted(maps.Keys(s.GetFields())) { // a Struct has no order
		switch x := s.GetFields()[k].GetKind().(type) {
		case *structpb.Value_StringValue:
			out = append(out, config.JSONField{Key: k, Format: x.StringValue})
		case *structpb.Value_StructValue:
			out = append(out, config.JSONField{Key: k, Object: c.jsonFields(x.StructValue, p.field(k), depth+1)})
		default:
			c.unsupported(p.field(k), "a string or an object", fmt.Sprint(s.GetFields()[k].AsInterface()), "put it in quotes")
		}
	}
	return out
}

// logFilter bounds nesting by maxDepth, which strict has held.
func (c *converter) logFilter(m *accesslogv3.AccessLogFilter, p *place, depth int) *config.LogFilter {
	if m == nil {
		return nil
	}
	switch x := m.GetFilterSpecifier().(type) {
	case *accesslogv3.AccessLogFilter_StatusCodeFilter:
		return c.comparison("status", x.StatusCodeFilter.GetComparison(), p.field("status_code_filter"))
	case *accesslogv3.AccessLogFilter_DurationFilter:
		return c.comparison("duration", x.DurationFilter.GetComparison(), p.field("duration_filter"))
	case *accesslogv3.AccessLogFilter_NotHealthCheckFilter:
		return &config.LogFilter{Kind: "not_health_check"}
	case *accesslogv3.AccessLogFilter_RuntimeFilter:
		f := c.fractionOf(x.RuntimeFilter.GetPercentSampled(), p.field("runtime_filter").field("percent_sampled"))
		return &config.LogFilter{Kind: "fraction", Fraction: &f}
	case *accesslogv3.AccessLogFilter_AndFilter:
		return c.logFilters("and", x.AndFilter.GetFilters(), p.field("and_filter"), depth)
	case *accesslogv3.AccessLogFilter_OrFilter:
		return c.logFilters("or", x.OrFilter.GetFilters(), p.field("or_filter"), depth)
	case *accesslogv3.AccessLogFilter_HeaderFilter:
		h := c.headerMatch(x.HeaderFilter.GetHeader(), p.field("header_filter").field("header"))
		return &config.LogFilter{Kind: "header", Header: &h}
	case *accesslogv3.AccessLogFilter_ResponseFlagFilter:
		for i, s := range x.ResponseFlagFilter.GetFlags() {
			if _, ok := logfmt.FlagOf(s); !ok {
				c.unsupported(p.field("response_flag_filter").item("flags", i), "a flag that occurs here", s, "")
			}
		}
		return &config.LogFilter{Kind: "flags", Flags: x.ResponseFlagFilter.GetFlags()}
	case *accesslogv3.AccessLogFilter_GrpcStatusFilter:
		f := &config.LogFilter{Kind: "grpc_status", Exclude: x.GrpcStatusFilter.GetExclude()}
		for _, s := range x.GrpcStatusFilter.GetStatuses() {
			f.Codes = append(f.Codes, uint32(s))
		}
		return f
	}
	c.unsupported(p, "a filter that docs/config.md lists", "another", "")
	return nil
}

func (c *converter) logFilters(kind string, list []*accesslogv3.AccessLogFilter, p *place, depth int) *config.LogFilter {
	f := &config.LogFilter{Kind: kind}
	for i, m := range list {
		if x := c.logFilter(m, p.item("filters", i), depth+1); x != nil {
			f.All = append(f.All, x)
		}
	}
	return f
}

func (c *converter) comparison(kind string, m *accesslogv3.ComparisonFilter, p *place) *config.LogFilter {
	f := &config.LogFilter{Kind: kind, Value: m.GetValue().GetDefaultValue()}
	switch m.GetOp() {
	case accesslogv3.ComparisonFilter_EQ, accesslogv3.ComparisonFilter_GE, accesslogv3.ComparisonFilter_LE:
		f.Op = m.GetOp().String()
	default:
		c.unsupported(p.field("comparison").field("op"), "EQ, GE or LE", m.GetOp(), "")
	}
	return f
}
