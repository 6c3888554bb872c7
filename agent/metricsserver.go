package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// metricsRetry is the pause after an address could not be listened on: it may
	// not be on its link yet.
	metricsRetry = 10 * time.Second
	// metricsTimeout bounds one answer, and how long one who asks may take for it.
	metricsTimeout = 15 * time.Second
)

// metricsServer answers Prometheus where the spec says.
type metricsServer struct {
	listen netip.AddrPort // what is followed
	background
}

// follow serves where the host's spec says. While that does not change it does
// nothing.
func (s *metricsServer) follow(ctx context.Context, h *Host, version string) {
	listen := h.Spec().Metrics.Listen
	if s.listen == listen {
		return
	}
	s.stop()
	s.listen = listen
	if !listen.IsValid() {
		return
	}
	s.begin(ctx, func(ctx context.Context) { serveMetrics(ctx, h.log, listen, newMetrics(h, version)) })
}

// serveMetrics serves until ctx is done.
func serveMetrics(ctx context.Context, log *slog.Logger, at netip.AddrPort, m prometheus.Collector) {
	server := &http.Server{
		Handler: metricsHandler(log, m), ReadHeaderTimeout: metricsTimeout, ReadTimeout: metricsTimeout, WriteTimeout: 2 * metricsTimeout,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	told := ""
	for ctx.Err() == nil {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
		if err != nil {
			if told != err.Error() {
				log.Warn("metrics are not served", "error", err, "again in", metricsRetry)
			}
			told = err.Error()
			sleepUntil(ctx, time.Now().Add(metricsRetry))
			continue
		}
		log.Info("metrics are served", "at", "http://"+at.String()+"/metrics")
		stop := context.AfterFunc(ctx, func() { server.Close() })
		defer stop()
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are not served", "error", err)
		}
		return
	}
}

// metricsHandler answers GET /metrics.
func metricsHandler(log *slog.Logger, m prometheus.Collector) http.Handler {
	// A registry of our own: the default one has those of etcd's code, which this
	// process does not serve with.
	registry := prometheus.NewRegistry()
	registry.MustRegister(m, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: 2, Timeout: metricsTimeout,
		DisableCompression: true, // some kilobytes, and memory that the agent would keep
	}))
	return mux
}
