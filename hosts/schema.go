package hosts

import (
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// form is how a part of a file is laid out.
type form int

const (
	formLeaf  form = iota // one value
	formTable             // a table with known keys
	formNamed             // a table whose keys are names
	formFlat              // the same, nested tables being dotted names
	formList              // a list
	formFree              // anything: handed to a component as it is
)

// scope is the files that may hold a key.
type scope int

const (
	anyFile scope = iota
	clusterFile
	hostFile
)

// rule is what the files may hold at one place. The tree of rules is the one
// place that knows every key.
type rule struct {
	form form
	keys map[string]*rule // of a table
	each *rule            // of named tables and lists
	name naming           // of named tables
	leaf leaf
	only scope
}

// naming is what the names in a table may be that people choose.
type naming struct {
	shape string // what the reference calls them: "label"
	check func(string) error
	words []string // where they are some of a few
}

// What names may be.
var (
	labels      = naming{shape: "label", check: checkLabel}
	linkNames   = naming{shape: "link name", check: checkLinkName}
	ruleNames   = naming{shape: "name of a rule", check: checkRuleName}
	zoneNames   = naming{shape: "zone", check: checkZoneName}
	copyNames   = naming{shape: "label", check: checkCopyName}
	moduleNames = naming{shape: "module name", check: checkModuleName}
	parameters  = naming{shape: "parameter", check: checkParameterName}
	sysctlNames = naming{shape: "sysctl", check: checkSysctlName}
	flagNames   = naming{shape: "flag", check: checkFlagName}
	addresses   = naming{shape: "address", check: checkHostsAddress}
)

type keys = map[string]*rule

func table(k keys) *rule { return &rule{form: formTable, keys: k} }
func named(name naming, each *rule) *rule {
	return &rule{form: formNamed, name: name, each: each}
}

func flat(name naming, each *rule) *rule {
	return &rule{form: formFlat, name: name, each: each}
}

func listOf(each *rule) *rule { return &rule{form: formList, each: each} }
func one(l leaf) *rule        { return &rule{leaf: l} }
func scalar(shape string, f func(any) (any, error)) *rule {
	return one(leaf{kind: "scalar", shape: shape, parse: f})
}
func free() *rule              { return &rule{form: formFree} }
func perCluster(r *rule) *rule { r.only = clusterFile; return r }
func perHost(r *rule) *rule    { r.only = hostFile; return r }

// components are those that extra_args may name; configurable are those whose
// configuration file kubernetes.config may change.
var (
	components = []string{
		layout.Etcd, layout.Containerd, layout.APIServer, layout.ControllerManager,
		layout.Scheduler, layout.Kubelet, layout.KubeProxy,
	}
	configurable = []string{layout.Kubelet, layout.KubeProxy, layout.Containerd}
)

// Limits of MTUs in bytes: IPv4 asks for 68 of every link (RFC 791), IPv6 and
// so everything that carries pods for 1280 (RFC 8200).
const (
	minLinkMTU = 68
	minIPv6MTU = 1280
	maxMTU     = 65535
)

// schema returns the rules of a fleet's files.
var schema = sync.OnceValue(func() *rule {
	port := integer("port", 1, 65535)
	return table(keys{
		"cluster": perCluster(table(keys{
			"name":   one(text("label", parseLabel)),
			"domain": one(text("DNS name", parseDomain)),
		})),
		"host": perHost(table(keys{
			"roles":     listOf(one(word(string(RoleControlPlane), string(RoleEtcd), string(RoleWorker)))),
			"address":   one(text("address", parseHostAddr)),
			"pod_range": one(text("range", parseClusterRange)),
		})),
		"wireguard": perHost(table(keys{
			"address":    one(text("address", parseHostAddr)),
			"public_key": one(text("WireGuard key", parseWireGuardKey)),
			"endpoint":   one(text("host:port", parseHostPort)),
			"client": named(labels, table(keys{
				"public_key": one(text("WireGuard key", parseWireGuardKey)),
				"addresses":  listOf(one(text("address or range", parseClientAddress))),
			})),
		})),
		"kernel":     kernelSchema(),
		"network":    networkSchema(),
		"firewall":   firewallSchema(port),
		"pki":        pkiSchema(),
		"kubernetes": kubernetesSchema(port),
		"etcd": table(keys{
			"quota":              perCluster(one(text("size", parseBytes))),
			"client_port":        perCluster(one(port)),
			"peer_port":          perCluster(one(port)),
			"heartbeat_interval": perCluster(one(duration(time.Millisecond))),
			"election_timeout":   perCluster(one(duration(time.Millisecond))),
			"existing":           one(boolean),
		}),
		"snapshots": snapshotsSchema(),
		"metrics":   table(keys{"listen": one(text("address:port", parseListen))}),
		"drift":     driftSchema(),
	})
})

func kernelSchema() *rule {
	return table(keys{
		"defaults":   one(boolean),
		"modules":    listOf(one(text("module name", parseModule))),
		"parameters": named(moduleNames, named(parameters, scalar("string, integer or boolean", parseParameter))),
		"sysctl":     flat(sysctlNames, scalar("string, integer or false", parseSysctlValue)),
	})
}

// driftSchema has a key for each domain of the agent.
func driftSchema() *rule {
	what := func() *rule { return one(word(string(DriftRepair), string(DriftReport))) }
	domains := keys{}
	for _, name := range driftDomains {
		domains[name] = what()
	}
	return table(domains)
}

// driftDomains are the domains that `run` keeps as the spec says.
var driftDomains = []string{"kernel", "names", "network", "pki", "units", "proof", "cluster"}

func pkiSchema() *rule {
	return table(keys{
		"issuer":               perCluster(one(word(issuerLocal, issuerVault))),
		"lifetime":             one(duration(time.Minute)),
		"renew_before":         one(duration(time.Second)),
		"survive_vault_outage": one(duration(time.Second)),
		"ca_lifetime":          perCluster(one(duration(time.Hour))),
		"admin_lifetime":       one(duration(time.Minute)),
		"key_type":             one(word("ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048")),
		"extra_names":          listOf(one(text("DNS name or address", parseExtraName))),
		"local": perCluster(table(keys{
			"ca_keys":         one(word(caKeysPlain, caKeysPassphrase, caKeysCredential)),
			"passphrase_file": one(text("path", parseSecretFile)),
			"credential":      one(text("credential name", parseCredentialName)),
		})),
		"vault": perCluster(table(keys{
			"address":  one(text("URL", parseVaultAddress)),
			"mount":    one(text("mount path", parseMount)),
			"ca_file":  one(text("path", parsePath)),
			"auth":     one(word(authCert, authAppRole, authJWT)),
			"jwt_file": one(text("path", parsePath)),

			"jwt_subject":  one(text("text with {host}", parseSubject)),
			"jwt_audience": one(text("text", parseAudience)),
		})),
	})
}

func kubernetesSchema(port leaf) *rule {
	return table(keys{
		"version":       perCluster(one(text("version", parseVersion))),
		"pod_range":     perCluster(one(text("range", parseClusterRange))),
		"service_range": perCluster(one(text("range", parseClusterRange))),
		"endpoint":      perCluster(one(text("host:port", parseHostPort))),
		"api_port":      perCluster(one(port)),
		"cni":           perCluster(one(word(cniBridge, cniNone))),
		"pod_mtu":       one(integer("integer", minIPv6MTU, maxMTU)),
		"binaries":      one(text("path", parseFolder)),
		"cni_binaries":  one(text("path", parseFolder)),
		"pause_image":   one(text("image", parseImage)),
		"extra_args":    named(oneOf("component", components), named(flagNames, scalar("string, number or boolean", parseFlagValue))),
		"config":        named(oneOf("component with a configuration file", configurable), free()),
	})
}
