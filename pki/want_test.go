package pki

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// listing prints a wanted state for a golden file.
func listing(s State) string {
	var b strings.Builder
	for _, a := range s.Authorities {
		fmt.Fprintf(&b, "authority %s: O=%s, %s, renewed %s before its end\n", a.Name, a.Cluster, span(a.Lifetime), span(a.RenewBefore))
	}
	for _, t := range s.Trust {
		fmt.Fprintf(&b, "trust %s\n", t.CA)
	}
	for _, k := range s.Keys {
		fmt.Fprintf(&b, "key %s\n", k.Name)
	}
	for _, c := range s.Certificates {
		fmt.Fprintf(&b, "certificate %s by %s\n", c.Name, c.CA)
		for _, line := range strings.Split(describeWanted(c.Request), "\n") {
			fmt.Fprintf(&b, "  %s\n", line)
		}
		fmt.Fprintf(&b, "  renewed: %s before its end\n", span(c.RenewBefore))
	}
	return b.String()
}

func TestWantGolden(t *testing.T) {
	for _, s := range append(trio(), mercury()) {
		t.Run(s.Name, func(t *testing.T) {
			golden.Check(t, filepath.Join("testdata", "want", s.Name+".txt"), listing(Want(s)))
		})
	}
}

func TestWantByRoles(t *testing.T) {
	etcd := []string{layout.CertEtcdPeer, layout.CertEtcdServer, layout.CertNodeagentEtcdClient}
	control := []string{
		layout.CertAdmin, layout.CertAPIServerEtcdClient, layout.CertAPIServerKubeletClient, layout.CertFrontProxyClient,
		layout.CertAPIServer, layout.CertControllerManagerClient, layout.CertControllerManagerServer,
		layout.CertSchedulerClient, layout.CertSchedulerServer,
	}
	worker := []string{layout.CertKubeProxy, layout.CertKubeletClient, layout.CertKubeletServer}
	for _, tc := range []struct {
		roles        []hosts.Role
		certificates []string
		trust        []string
		keys         int
	}{
		{nil, nil, nil, 0},
		{[]hosts.Role{hosts.RoleEtcd}, etcd, []string{layout.CAEtcdServer, layout.CAEtcdPeer}, 0},
		{[]hosts.Role{hosts.RoleControlPlane}, control, []string{layout.CAEtcdServer, layout.CAK8sServer, layout.CAK8sClient, layout.CAFrontProxy}, 2},
		{[]hosts.Role{hosts.RoleWorker}, worker, []string{layout.CAK8sServer, layout.CAK8sClient}, 0},
		{
			[]hosts.Role{hosts.RoleControlPlane, hosts.RoleEtcd, hosts.RoleWorker},
			slices.Concat(etcd, control, worker),
			[]string{layout.CAEtcdServer, layout.CAEtcdPeer, layout.CAK8sServer, layout.CAK8sClient, layout.CAFrontProxy},
			2,
		},
	} {
		t.Run(fmt.Sprint(tc.roles), func(t *testing.T) {
			s := Want(spec("n1", "192.0.2.1", tc.roles...))
			var certificates, trust []string
			for _, c := range s.Certificates {
				certificates = append(certificates, c.Name)
			}
			for _, b := range s.Trust {
				trust = append(trust, b.CA)
			}
			slices.Sort(tc.certificates)
			if diff := cmp.Diff(tc.certificates, certificates); diff != "" {
				t.Errorf("certificates (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.trust, trust); diff != "" {
				t.Errorf("trust (-want +got):\n%s", diff)
			}
			if len(s.Keys) != tc.keys || len(s.Authorities) != len(tc.trust) {
				t.Errorf("%d keys and %d authorities, want %d and %d", len(s.Keys), len(s.Authorities), tc.keys, len(tc.trust))
			}
		})
	}
}

// No certificate that a plan keeps may speak as a group that cannot be taken
// away again.
func TestNobodyIsMaster(t *testing.T) {
	for _, s := range append(trio(), mercury()) {
		for _, c := range Want(s).Certificates {
			if c.Organization == "system:masters" {
				t.Errorf("%s: %s is of group system:masters", s.Name, c.Name)
			}
		}
	}
}
