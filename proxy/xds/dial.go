// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/secure"
)

const (
	connectTimeout = 5 * time.Second
	agent          = "redoubt"
)

// identify is the node as a server is told.
func (b *Bootstrap) identify() *corev3.Node {
	n := &corev3.Node{}
	if b.node != nil {
		n = proto.CloneOf(b.node)
	}
	if n.GetUserAgentName() == "" {
		n.UserAgentName = agent
	}
	return n
}

// dial makes a connection to a management server; it connects when it is
// used. Each is made anew, with keys and trust read again.
func dial(svc *corev3.GrpcService, b *Bootstrap) (*grpc.ClientConn, error) {
	opts := []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxFile)), grpc.WithUserAgent(agent), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithNoProxy(),
	}
	if g := svc.GetGoogleGrpc(); g != nil {
		creds, err := targetCreds(g)
		if err != nil {
			return nil, err
		}
		return grpc.NewClient(g.GetTargetUri(), append(opts, grpc.WithTransportCredentials(creds))...)
	}
	c := b.Static.Clusters[svc.GetEnvoyGrpc().GetClusterName()]
	if c == nil || c.Endpoints == nil {
		return nil, errs.New(errs.Internal, "xds client", "no hosts of the management server's cluster")
	}
	authority := cmp.Or(svc.GetEnvoyGrpc().GetAuthority(), c.Name)
	creds, err := clusterCreds(c, authority)
	if err != nil {
		return nil, err
	}
	if c.HTTP2.PingInterval > 0 {
		opts = append(opts, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: c.HTTP2.PingInterval, Timeout: c.HTTP2.PingTimeout}))
	}
	opts = append(opts, grpc.WithTransportCredentials(creds), grpc.WithAuthority(authority), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return connect(ctx, c)
	}))
	return grpc.NewClient("passthrough:///"+c.Name, opts...)
}

func clusterCreds(c *config.Cluster, authority string) (credentials.TransportCredentials, error) {
	if c.TLS == nil {
		return insecure.NewCredentials(), nil // a unix socket: serverKinds has seen to it
	}
	s, err := secure.NewClient(c.TLS, []string{"h2"}, secure.Deps{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	cfg := s.Config(secure.Target{Authority: authority, Host: c.Name})
	if cfg == nil {
		return nil, errs.New(errs.Internal, "xds client", "secrets of the management server's cluster are missing")
	}
	return credentials.NewTLS(cfg), nil
}

// connect tries the hosts in random order.
func connect(ctx context.Context, c *config.Cluster) (net.Conn, error) {
	type target struct{ network, addr string }
	var targets []target
	for _, l := range c.Endpoints.Localities {
		for _, h := range l.Hosts {
			switch {
			case h.Pipe != "":
				targets = append(targets, target{"unix", h.Pipe})
			case h.Addr.IsValid():
				targets = append(targets, target{"tcp", h.Addr.String()})
			default:
				targets = append(targets, target{"tcp", net.JoinHostPort(h.Host, strconv.Itoa(int(h.Port)))})
			}
		}
	}
	rand.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
	d := net.Dialer{Timeout: cmp.Or(c.ConnectTimeout, connectTimeout)}
	var tried []error
	for _, t := range targets {
		conn, err := d.DialContext(ctx, t.network, t.addr)
		if err == nil {
			return conn, nil
		}
		tried = append(tried, err)
	}
	if tried == nil {
		return nil, errs.New(errs.Unavailable, "cluster "+c.Name, "it has no hosts")
	}
	return nil, errors.Join(tried...)
}

func targetCreds(g *corev3.GrpcService_GoogleGrpc) (credentials.TransportCredentials, error) {
	ssl := g.GetChannelCredentials().GetSslCredentials()
	if ssl == nil {
		if !strings.HasPrefix(g.GetTargetUri(), "unix:") {
			return nil, errs.New(errs.Internal, "xds client", "a target on the network without TLS")
		}
		return insecure.NewCredentials(), nil
	}
	c := newConverter(newReader("management server"), nil, source{})
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	root := (*place)(nil)
	if !cfg.RootCAs.AppendCertsFromPEM(c.data(ssl.GetRootCerts(), root.field("root_certs")).bytes) {
		c.wrong(root.field("root_certs"), "certificates in PEM", "none", "")
	}
	if ssl.GetCertChain() != nil {
		pair, err := tls.X509KeyPair(c.data(ssl.GetCertChain(), root.field("cert_chain")).bytes, c.data(ssl.GetPrivateKey(), root.field("private_key")).bytes)
		if err != nil {
			c.failed(root.field("private_key"), "a certificate and its private key in PEM", err, "")
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(cfg), c.err()
}

// googleGRPC checks a target of its own.
func (c *converter) googleGRPC(g *corev3.GrpcService_GoogleGrpc, p *place) {
	ssl := g.GetChannelCredentials().GetSslCredentials()
	unix := strings.HasPrefix(g.GetTargetUri(), "unix:")
	switch {
	case ssl == nil && !unix:
		c.wrong(p.field("channel_credentials"), "ssl_credentials, or a target of unix:", "neither: anyone on the way could configure this proxy", "add ssl_credentials with root_certs")
	case ssl != nil && ssl.GetRootCerts() == nil:
		c.wrong(p.field("channel_credentials").field("ssl_credentials").field("root_certs"), "the server's CA", "none", "add it")
	case ssl != nil && (ssl.GetCertChain() == nil) != (ssl.GetPrivateKey() == nil):
		c.wrong(p.field("channel_credentials").field("ssl_credentials").field("private_key"), "cert_chain and private_key together", "one of them", "")
	}
}
