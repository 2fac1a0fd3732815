// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// built is a program from the Go module proxy that is only a rival: it has a
// module of its own, in the user's cache, so that ours does not grow.
type built struct {
	name, mod, main string

	once sync.Once
	path string
	err  error
}

var mosnBuild = &built{
	name: "mosn",
	// The replacements are those of MOSN's own go.mod, which do not come with
	// it. Its command imports a module that the Go proxy no longer serves
	// (for a filter that is not used here), hence a main of our own.
	mod: `module rival

go 1.24

require mosn.io/mosn v1.6.1

replace github.com/envoyproxy/go-control-plane => github.com/envoyproxy/go-control-plane v0.10.0

replace istio.io/api => istio.io/api v0.0.0-20211103171850-665ed2b92d52
`,
	main: `package main

import (
	"os"

	"github.com/urfave/cli"
	_ "mosn.io/mosn/pkg/filter/network/proxy"
	_ "mosn.io/mosn/pkg/filter/network/streamproxy"
	"mosn.io/mosn/pkg/mosn"
	_ "mosn.io/mosn/pkg/network"
	_ "mosn.io/mosn/pkg/protocol"
	_ "mosn.io/mosn/pkg/router"
	"mosn.io/mosn/pkg/stagemanager"
	_ "mosn.io/mosn/pkg/stream/http"
	_ "mosn.io/mosn/pkg/stream/http2"
)

func main() {
	app := cli.NewApp()
	app.Flags = []cli.Flag{cli.StringFlag{Name: "config, c"}}
	app.Action = func(c *cli.Context) error {
		stages := stagemanager.InitStageManager(c, c.String("config"), mosn.NewMosn())
		stages.AppendInitStage(mosn.DefaultInitStage)
		stages.AppendPreStartStage(mosn.DefaultPreStartStage)
		stages.AppendStartStage(mosn.DefaultStartStage)
		stages.RunAll()
		return nil
	}
	if app.Run(os.Args) != nil {
		os.Exit(1)
	}
}
`}

var fasthttpBuild = &built{
	name: "fasthttp",
	mod: `module rival

go 1.24

require github.com/valyala/fasthttp v1.58.0
`,
	// The least that is a reverse proxy: hop-by-hop fields go, the rest stays.
	main: `package main

import (
	"crypto/tls"
	"crypto/x509"
	"log"
	"net"
	"os"
	"time"

	"github.com/valyala/fasthttp"
)

var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

func main() {
	listen, origin := os.Args[1], os.Args[2]
	up := &fasthttp.HostClient{Addr: origin, MaxConns: 1 << 16, MaxIdleConnDuration: time.Hour, NoDefaultUserAgentHeader: true, DisableHeaderNamesNormalizing: true, DisablePathNormalizing: true}
	s := &fasthttp.Server{NoDefaultServerHeader: true, NoDefaultDate: true, NoDefaultContentType: true, DisableHeaderNamesNormalizing: true, Concurrency: 1 << 16,
		StreamRequestBody: false, MaxRequestBodySize: 16 << 20,
		Handler: func(ctx *fasthttp.RequestCtx) {
			for _, h := range hopByHop {
				ctx.Request.Header.Del(h)
			}
			ctx.Request.URI().SetScheme("http") // also when the client came by TLS
			if err := up.Do(&ctx.Request, &ctx.Response); err != nil {
				ctx.Error(err.Error(), 502)
				return
			}
			for _, h := range hopByHop {
				ctx.Response.Header.Del(h)
			}
		}}
	l, err := net.Listen("tcp4", listen)
	if err != nil {
		log.Fatal(err)
	}
	if len(os.Args) > 5 {
		cert, err := tls.LoadX509KeyPair(os.Args[3], os.Args[4])
		if err != nil {
			log.Fatal(err)
		}
		pem, err := os.ReadFile(os.Args[5])
		if err != nil {
			log.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})
	}
	log.Fatal(s.Serve(l))
}
`}

// binary gives the program's path and builds it when it is not there. The
// folder's name holds what it was built from.
func (r *built) binary() (string, error) {
	r.once.Do(func() {
		cache, err := os.UserCacheDir()
		if err != nil {
			r.err = err
			return
		}
		sum := sha256.Sum256([]byte(r.mod + r.main))
		dir := filepath.Join(cache, "redoubt-bench", r.name+"-"+hex.EncodeToString(sum[:6]))
		r.path = filepath.Join(dir, r.name)
		if _, err := os.Stat(r.path); err != nil {
			r.err = r.build(dir)
		}
	})
	return r.path, r.err
}

func (r *built) build(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{"go.mod": r.mod, "main.go": r.main} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	cmd := exec.Command("go", "build", "-mod=mod", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", r.path+".new", ".")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build of %s: %w\n%s", r.name, err, out)
	}
	return os.Rename(r.path+".new", r.path)
}
