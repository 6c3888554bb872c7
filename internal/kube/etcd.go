package kube

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
)

// loopback is where components of the same host reach each other.
var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func etcd(spec *hosts.Spec, root layout.Root) component {
	server, peer := root.Certificate(layout.CertEtcdServer), root.Certificate(layout.CertEtcdPeer)
	serverCA, peerCA := root.Trust(layout.CAEtcdServer), root.Trust(layout.CAEtcdPeer)
	client := secureURL(spec.Address, spec.Etcd.ClientPort)
	peers := secureURL(spec.Address, spec.Etcd.PeerPort)
	local := secureURL(loopback, spec.Etcd.ClientPort)
	// No TLS on the socket, and none that etcd could ask a certificate by: its
	// folder lets in root alone, who owns the data folder and the keys of etcd's
	// certificates anyway.
	socket := "unix://" + root.EtcdSocket()
	return component{
		name:        layout.Etcd,
		description: "etcd member " + spec.Name + " of cluster " + spec.Cluster,
		flags: flags{
			{"name", spec.Name},
			{"data-dir", root.EtcdData()},
			{"listen-client-urls", distinct(local, client, socket)},
			{"advertise-client-urls", client},
			{"listen-peer-urls", peers},
			{"initial-advertise-peer-urls", peers},
			{"cert-file", server.Cert},
			{"key-file", server.Key},
			{"client-cert-auth", "true"},
			{"trusted-ca-file", serverCA},
			{"peer-cert-file", peer.Cert},
			{"peer-key-file", peer.Key},
			{"peer-client-cert-auth", "true"},
			{"peer-trusted-ca-file", peerCA},
			{"tls-min-version", "TLS1.3"},
			{"listen-metrics-urls", "http://" + net.JoinHostPort(loopback.String(), strconv.Itoa(metricsPort(spec)))},
			{"feature-gates", "InitialCorruptCheck=true,CompactHashCheck=true"},
			{"quota-backend-bytes", strconv.FormatInt(spec.Etcd.QuotaBytes, 10)},
			{"heartbeat-interval", milliseconds(spec.Etcd.HeartbeatInterval)},
			{"election-timeout", milliseconds(spec.Etcd.ElectionTimeout)},
		},
		hardening: hardening{on: true, capabilities: lowPort(spec.Etcd.ClientPort, spec.Etcd.PeerPort)},
		service: slices.Concat(stateDirectory(root, filepath.Dir(root.EtcdData())), runtimeDirectory(root, root.EtcdRuntime()), []string{
			"Type=notify",
			// How the member begins where it has no data. With data etcd does not
			// look at it, so no flag of the unit changes with the fleet's members.
			"EnvironmentFile=-" + root.EtcdStart(),
			// Ready means that the member has found its leader. A member that
			// waits for the others may be started again meanwhile: what it has
			// agreed on is in its log.
			"TimeoutStartSec=5min",
			"TimeoutStopSec=30s",
			"OOMScoreAdjust=-997",
			"IOSchedulingPriority=0",
			"LimitNOFILE=65536",
		}),
		// Lost data must not become an empty cluster, whoever starts the unit:
		// systemd after a kill, at boot, or a person. Of assertions with a bar
		// one has to hold (systemd.unit(5)): there is data, or nodeagent has
		// decided how the member begins without.
		unitSettings: []string{
			"AssertPathExistsGlob=|" + filepath.Join(root.EtcdData(), "member", "wal", "*.wal"),
			"AssertPathExists=|" + root.EtcdStart(),
			// Data of a cluster that was restored elsewhere must not serve again.
			"AssertPathExists=!" + root.EtcdReplaced(),
		},
		effect: plan.Quorum,
		ready: &units.Probe{
			URL:     local + "/health",
			CA:      serverCA,
			Cert:    root.Certificate(layout.CertNodeagentEtcdClient).Cert,
			Key:     root.Certificate(layout.CertNodeagentEtcdClient).Key,
			Timeout: 5 * time.Minute,
		},
		restart: []string{serverCA, peerCA},
	}
}

// etcdServers are the client URLs for kube-apiserver: the host's own member
// alone where it has one, with the others behind it for when it is down;
// otherwise all members.
func etcdServers(spec *hosts.Spec) string {
	var servers []string
	if spec.Has(hosts.RoleEtcd) {
		servers = append(servers, secureURL(loopback, spec.Etcd.ClientPort))
	}
	for _, peer := range spec.Peers {
		if peer.Has(hosts.RoleEtcd) {
			servers = append(servers, secureURL(peer.Address, spec.Etcd.ClientPort))
		}
	}
	return strings.Join(servers, ",")
}

// metricsPort is 2381 as elsewhere, or the next one that etcd does not use.
func metricsPort(spec *hosts.Spec) int {
	port := 2381
	for port == spec.Etcd.ClientPort || port == spec.Etcd.PeerPort {
		port++
	}
	return port
}

func secureURL(addr netip.Addr, port int) string {
	return "https://" + net.JoinHostPort(addr.String(), strconv.Itoa(port))
}

// distinct joins URLs by commas, each once.
func distinct(urls ...string) string {
	slices.Sort(urls)
	return strings.Join(slices.Compact(urls), ",")
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// lowPort is the capability to listen on a port below 1024, where one is.
func lowPort(ports ...int) []string {
	if slices.Min(ports) < 1024 {
		return []string{"CAP_NET_BIND_SERVICE"}
	}
	return nil
}
