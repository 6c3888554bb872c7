// Command vaultserver is a real Vault server for tests, over a folder: what
// Vault keeps lies there, and a server that is started again over the same
// folder has it still. It holds the parts that nodeagent speaks to: the
// secrets engines pki and kv, the auth methods approle, cert and jwt, and the
// audit device file.
//
// It listens with TLS alone, asks for client certificates and demands none,
// and has made its CA and its certificate itself unless it is given a pair.
// When it can be asked, it prints one line of JSON (type ready). It ends on
// SIGTERM, or with -stdin when its standard input ends, so that it never
// outlives who started it.
//
// The unseal key lies in the same folder as the data, and no memory is locked:
// nothing but a test may trust such a server with a secret.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/vault"
	"github.com/hashicorp/vault/version"
)

// ready is the line that is printed once requests are answered.
type ready struct {
	Address string `json:"address"` // of the API, "https://127.0.0.1:8200"
	Version string `json:"version"` // of Vault, "1.13.0"
	Sealed  bool   `json:"sealed"`
	// CAFile has the certificate of the CA that signed the server's. Empty
	// with -tls-cert: who gave the certificate has its CA, too.
	CAFile string `json:"ca_file,omitempty"`
	// Both only when this start initialised the folder.
	RootToken string `json:"root_token,omitempty"`
	UnsealKey string `json:"unseal_key,omitempty"` // hexadecimal
}

type options struct {
	dir, listen, tlsCert, tlsKey string
	san                          []string
	sealed, stdin                bool
}

func main() {
	var o options
	var san string
	flag.StringVar(&o.dir, "dir", "", "`folder` of the data, the unseal key and the certificates; made if missing")
	flag.StringVar(&o.listen, "listen", "127.0.0.1:0", "`address` and port to listen on")
	flag.StringVar(&o.tlsCert, "tls-cert", "", "`file` of a certificate to use instead of an own one")
	flag.StringVar(&o.tlsKey, "tls-key", "", "`file` of that certificate's key")
	flag.StringVar(&san, "san", "", "comma-separated `names` and addresses for the own certificate, beside localhost, 127.0.0.1 and ::1")
	flag.BoolVar(&o.sealed, "sealed", false, "stay sealed instead of unsealing with the key in the folder")
	flag.BoolVar(&o.stdin, "stdin", false, "end when standard input ends")
	flag.Parse()
	if o.dir == "" || flag.NArg() > 0 || (o.tlsCert == "") != (o.tlsKey == "") {
		fmt.Fprintln(os.Stderr, "vaultserver: needs -dir and no arguments; -tls-cert and -tls-key only together")
		flag.Usage()
		os.Exit(2)
	}
	o.san = strings.FieldsFunc(san, func(r rune) bool { return r == ',' })
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "vaultserver: %v\n", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, or standard input if that was asked for.
func run(ctx context.Context, o options) error {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return fmt.Errorf("find folder %q: %w", o.dir, err)
	}
	o.dir = dir
	certificate, caFile, err := servingPair(o, time.Now())
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer listener.Close()
	line := ready{Address: "https://" + listener.Addr().String(), Version: version.Version, CAFile: caFile}
	logger := hclog.New(&hclog.LoggerOptions{Name: "vault", Level: hclog.Info, Output: os.Stderr})
	core, err := newCore(o.dir, line.Address, logger)
	if err != nil {
		return err
	}
	fresh, err := open(ctx, core, o)
	if err != nil {
		return errors.Join(err, core.Shutdown())
	}
	line.RootToken, line.UnsealKey, line.Sealed = fresh.RootToken, fresh.UnsealKey, core.Sealed()
	err = serve(ctx, core, tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequestClientCert,
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}), line, logger, o.stdin)
	return errors.Join(err, core.Shutdown())
}

// serve answers requests. The line is printed before the first one is
// accepted, but the listener queues connections already.
func serve(ctx context.Context, core *vault.Core, listener net.Listener, line ready, logger hclog.Logger, stdin bool) error {
	server := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core:           core,
			ListenerConfig: &configutil.Listener{Address: listener.Addr().String()},
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          logger.StandardLogger(nil),
	}
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(listener) }()
	if stdin {
		go func() {
			_, err := io.Copy(io.Discard, os.Stdin)
			ended <- err
		}()
	}
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		return fmt.Errorf("print ready line: %w", err)
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	// Idle connections and long requests must not keep a test waiting.
	ending, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if server.Shutdown(ending) != nil {
		err = errors.Join(err, server.Close())
	}
	return err
}
