package netcfg

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
)

func mustList(t testing.TB, spec *hosts.Spec) FirewallList {
	t.Helper()
	list, err := ListFirewall(t.Context(), spec)
	must(t, err)
	return list
}

// states are the states of the parts that are not as the spec says.
func states(list FirewallList) map[string]ListedState {
	found := map[string]ListedState{}
	for _, c := range list.Chains {
		if c.State != ListedSame {
			found[c.Name] = c.State
		}
		for _, r := range c.Rules {
			if r.State != ListedSame {
				found[c.Name+" "+r.Name] = r.State
			}
		}
	}
	return found
}

func TestListFirewall(t *testing.T) {
	newNamespace(t)
	spec := everythingSpec()
	if list := mustList(t, &hosts.Spec{}); list.Wanted || list.Present || !list.Converged || len(list.Chains)+len(list.Tables) > 0 {
		t.Errorf("a fresh namespace without a firewall lists %+v", list)
	}
	list := mustList(t, spec)
	if list.Present || !list.Wanted || list.Converged {
		t.Errorf("before it is made: %+v", list)
	}
	if diff := cmp.Diff(ListedMissing, states(list)["input ssh"]); diff != "" {
		t.Error(diff)
	}
	convergeFirewall(t, wantFirewall(spec))
	list = mustList(t, spec)
	if !list.Converged || len(states(list)) > 0 {
		t.Errorf("converged it lists %v", states(list))
	}
	// Somebody changes one rule, puts in another, and has a table of their own.
	conn, err := nftables.New()
	must(t, err)
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: FirewallTable}
	chain := &nftables.Chain{Name: inputChain, Table: table}
	rules, err := conn.GetRules(table, chain)
	must(t, err)
	for _, r := range rules {
		if name, _ := userdata.GetString(r.UserData, userdata.TypeComment); name == "web" {
			r.Table, r.Chain, r.Exprs = table, chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
			conn.ReplaceRule(r)
		}
	}
	conn.InsertRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
	theirs := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "kube-proxy"})
	conn.AddChain(&nftables.Chain{Name: "x", Table: theirs})
	must(t, conn.Flush())
	list = mustList(t, spec)
	if diff := cmp.Diff(map[string]ListedState{"input web": ListedDiffers, "input ": ListedExtra}, states(list)); diff != "" {
		t.Error(diff)
	}
	want := []Foreign{{Kind: "nftables table", Name: "ip kube-proxy", Detail: "1 chains, 0 of them on hooks", By: "kube-proxy"}}
	if diff := cmp.Diff(want, list.Tables); diff != "" {
		t.Error(diff)
	}
}

// Where the kernel has modules nf_tables is not asked for before it is there:
// asking would load it.
func TestFirewallLoadsNoModule(t *testing.T) {
	var uname unix.Utsname
	must(t, unix.Uname(&uname))
	builtin := "lib/modules/" + unix.ByteSliceToString(uname.Release[:]) + "/modules.builtin"
	for name, tc := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"no modules":       {map[string]string{"proc/version": ""}, true},
		"not loaded":       {map[string]string{"proc/modules": "", builtin: "kernel/net/netfilter/nf_log.ko\n"}, false},
		"loaded":           {map[string]string{"proc/modules": "", builtin: "", "sys/module/nf_tables/refcnt": "1"}, true},
		"built in":         {map[string]string{"proc/modules": "", builtin: "kernel/net/netfilter/nf_tables.ko\n"}, true},
		"nothing tells it": {map[string]string{"proc/modules": ""}, true},
	} {
		root := t.TempDir()
		for path, content := range tc.files {
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755))
			must(t, os.WriteFile(filepath.Join(root, path), []byte(content), 0o600))
		}
		got, err := hasNFTables(root)
		must(t, err)
		if got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
