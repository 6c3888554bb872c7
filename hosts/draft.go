package hosts

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// The issuers and kinds of pod network.
const (
	issuerLocal = "local"
	issuerVault = "vault"

	caKeysPlain      = "plain"
	caKeysPassphrase = "passphrase"
	caKeysCredential = "credential"

	authCert    = "cert"
	authAppRole = "approle"
	authJWT     = "jwt"

	hostInSubject = "{host}"

	cniBridge = "bridge"
	cniNone   = "none"
)

// draft is a host on its way to a Spec: its joined tree, and the spec as far
// as it is read. Nothing outside this package sees a spec before every check
// has passed.
type draft struct {
	*findings
	file string // the host's own file
	tree *node  // cluster.toml joined with the host's file
	spec *Spec

	addresses []heldAddress // all that the host holds, see held
	outside   *reached      // where it is reached from outside, see endpoint
	shared    *shared       // what all hosts know of each other, once all are read
}

// value returns the value at a dotted path, the zero value where there is none
// or a bad one.
func value[T any](d *draft, path string) T { return parsed[T](d.tree.get(path)) }

func parsed[T any](n *node) T {
	var zero T
	if n == nil || n.bad || n.parsed == nil {
		return zero
	}
	return n.parsed.(T)
}

// values returns the values of a list, bad items left out.
func values[T any](n *node) []T {
	if n == nil || n.bad {
		return nil
	}
	var vs []T
	for _, item := range n.list {
		if !item.bad && item.parsed != nil {
			vs = append(vs, item.parsed.(T))
		}
	}
	return vs
}

// has tells whether the file says anything at the path, be it good or bad.
func (d *draft) has(path string) bool { return d.tree.get(path) != nil }

// ok tells whether none of the paths holds a bad value, so that a check may
// build on them.
func (d *draft) ok(paths ...string) bool {
	return !slices.ContainsFunc(paths, func(path string) bool {
		// A bad table stands for everything that would be below it.
		for n, rest := d.tree, path; n != nil; {
			if n.bad {
				return true
			}
			if rest == "" {
				return n.broken()
			}
			var key string
			key, rest = cutPath(rest)
			n = n.table[key]
		}
		return false
	})
}

func cutPath(path string) (first, rest string) {
	for i := range len(path) {
		if path[i] == '.' {
			return path[:i], path[i+1:]
		}
	}
	return path, ""
}

// read translates the joined tree; it decides nothing.
func (d *draft) read() {
	s := d.spec
	s.Cluster = value[string](d, "cluster.name")
	s.Domain = value[string](d, "cluster.domain")
	for _, role := range values[string](d.tree.get("host.roles")) {
		s.Roles = append(s.Roles, Role(role))
	}
	slices.Sort(s.Roles)
	s.Roles = slices.Compact(s.Roles)
	s.Address = value[netip.Addr](d, "host.address")
	d.readKernel()
	d.readNetwork()
	d.readFirewall()
	d.readPKI()
	d.readKubernetes()
	s.Etcd = Etcd{
		QuotaBytes:        value[int64](d, "etcd.quota"),
		ClientPort:        value[int](d, "etcd.client_port"),
		PeerPort:          value[int](d, "etcd.peer_port"),
		HeartbeatInterval: value[time.Duration](d, "etcd.heartbeat_interval"),
		ElectionTimeout:   value[time.Duration](d, "etcd.election_timeout"),
		Existing:          value[bool](d, "etcd.existing"),
	}
	s.Snapshots = Snapshots{
		Schedule:    value[string](d, "snapshots.schedule"),
		Keep:        readRetention(d.tree.get("snapshots")),
		Destination: value[string](d, "snapshots.destination"),

		Compression:  value[string](d, "snapshots.compression"),
		Recipients:   values[string](d.tree.get("snapshots.recipients")),
		IdentityFile: value[string](d, "snapshots.identity_file"),
		VaultKey:     value[string](d, "snapshots.vault_key"),
		PublicKeys:   unique(values[string](d.tree.get("snapshots.public_keys"))),
		Certificates: value[bool](d, "snapshots.certificates"),
		Copies:       readCopies(d.tree.get("snapshots.copies")),
	}
	d.readSchedule()
	s.Metrics.Listen = value[netip.AddrPort](d, "metrics.listen")
	d.readNames()
	for _, domain := range d.tree.get("drift").names() {
		if s.Drift == nil {
			s.Drift = map[string]Drift{}
		}
		s.Drift[domain] = Drift(value[string](d, "drift."+domain))
	}
}

func (d *draft) readKernel() {
	parameters := d.tree.get("kernel.parameters")
	for _, name := range values[string](d.tree.get("kernel.modules")) {
		d.addModule(name, parameters)
	}
	d.spec.Kernel.Sysctls = map[string]string{}
	sysctls := d.tree.get("kernel.sysctl")
	for _, name := range sysctls.names() {
		if v := parsed[sysctlValue](sysctls.table[name]); v.value != "" {
			d.spec.Kernel.Sysctls[name] = v.value
		}
	}
}

// addModule adds a module once, with the parameters that are written for it
// under either spelling of its name.
func (d *draft) addModule(name string, parameters *node) {
	modules := &d.spec.Kernel.Modules
	i, found := slices.BinarySearchFunc(*modules, name, func(m Module, name string) int {
		return strings.Compare(m.Name, name)
	})
	if found {
		return
	}
	module := Module{Name: name}
	for _, spelled := range parameters.names() {
		if canonical, err := parseModule(spelled); err != nil || canonical != name {
			continue
		}
		set := parameters.table[spelled]
		for _, key := range set.names() {
			if module.Parameters == nil {
				module.Parameters = map[string]string{}
			}
			module.Parameters[key] = parsed[string](set.table[key])
		}
	}
	*modules = slices.Insert(*modules, i, module)
}

func (d *draft) readPKI() {
	d.spec.PKI = PKI{
		Issuer:        value[string](d, "pki.issuer"),
		Lifetime:      value[time.Duration](d, "pki.lifetime"),
		RenewBefore:   value[time.Duration](d, "pki.renew_before"),
		CALifetime:    value[time.Duration](d, "pki.ca_lifetime"),
		AdminLifetime: value[time.Duration](d, "pki.admin_lifetime"),
		KeyType:       value[string](d, "pki.key_type"),
		ExtraNames:    unique(values[string](d.tree.get("pki.extra_names"))),
	}
	if d.has("pki.survive_vault_outage") && !d.has("pki.renew_before") {
		d.spec.PKI.RenewBefore = value[time.Duration](d, "pki.survive_vault_outage")
	}
	if d.has("pki.local") {
		d.spec.PKI.Local = &LocalIssuer{
			CAKeys:         value[string](d, "pki.local.ca_keys"),
			PassphraseFile: value[string](d, "pki.local.passphrase_file"),
			Credential:     value[string](d, "pki.local.credential"),
		}
	}
	if d.has("pki.vault") {
		d.spec.PKI.Vault = &Vault{
			Address: value[string](d, "pki.vault.address"),
			Mount:   value[string](d, "pki.vault.mount"),
			CAFile:  value[string](d, "pki.vault.ca_file"),
			Auth:    value[string](d, "pki.vault.auth"),
			JWTFile: value[string](d, "pki.vault.jwt_file"),

			JWTSubject:  value[string](d, "pki.vault.jwt_subject"),
			JWTAudience: value[string](d, "pki.vault.jwt_audience"),
		}
	}
}

func (d *draft) readKubernetes() {
	k := &d.spec.Kubernetes
	*k = Kubernetes{
		Version:      value[string](d, "kubernetes.version"),
		PodRange:     value[netip.Prefix](d, "kubernetes.pod_range"),
		ServiceRange: value[netip.Prefix](d, "kubernetes.service_range"),
		HostPodRange: value[netip.Prefix](d, "host.pod_range"),
		PodMTU:       value[int](d, "kubernetes.pod_mtu"),
		Endpoint:     value[string](d, "kubernetes.endpoint"),
		APIPort:      value[int](d, "kubernetes.api_port"),
		CNI:          value[string](d, "kubernetes.cni"),
		Binaries:     value[string](d, "kubernetes.binaries"),
		CNIBinaries:  value[string](d, "kubernetes.cni_binaries"),
		PauseImage:   value[string](d, "kubernetes.pause_image"),
		ExtraArgs:    map[string]map[string]string{},
		Config:       map[string]map[string]any{},
	}
	args := d.tree.get("kubernetes.extra_args")
	for _, component := range args.names() {
		flags := map[string]string{}
		for _, flag := range args.table[component].names() {
			flags[flag] = parsed[string](args.table[component].table[flag])
		}
		k.ExtraArgs[component] = flags
	}
	config := d.tree.get("kubernetes.config")
	for _, component := range config.names() {
		if values, ok := config.table[component].free().(map[string]any); ok {
			k.Config[component] = values
		}
	}
}

// unique removes repetitions and keeps the order.
func unique(words []string) []string {
	var once []string
	for _, w := range words {
		if !slices.Contains(once, w) {
			once = append(once, w)
		}
	}
	return once
}
