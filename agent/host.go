package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/kernel"
	"github.com/nodeagent/nodeagent/internal/kube"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
	"github.com/nodeagent/nodeagent/netcfg"
	"github.com/nodeagent/nodeagent/pki"
)

// Host is one host with its spec: what plan, apply, run and status work on.
type Host struct {
	root    layout.Root
	log     *slog.Logger
	spec    atomic.Pointer[hosts.Spec]
	kernel  *kernel.System
	network *netcfg.System
	systemd *units.Systemd
	// heed makes kernel and network keep away from rejected specs, as the
	// daemon does; a person's apply may try one again.
	heed bool
	// judged is the digest of the network that the daemon's host lane has done
	// with, a string.
	judged atomicString
	// drift is what was logged of domains whose drift is only reported; mades
	// guards the record of those that were made.
	drift driftLog
	mades sync.Mutex
	// seenNetwork and seenPKI are what a command, which is over in a moment, has
	// observed and may use once more. The daemon always looks.
	seenNetwork recent[netcfg.State]
	seenPKI     recent[pki.State]
	// login is the issuer where that is Vault.
	login login
	// seal is the key in Vault that snapshots are encrypted with.
	seal sealKey
	// keyring opens the local issuer's keys where they are encrypted.
	keyring *pki.Keyring
	// clock knows whether the clock was set.
	clock clockWatch
	// start decides how etcd begins where it has no data.
	start etcdStart
	// settled is the digest of the spec at whose address etcd's cluster is known to
	// find this host's member.
	settled atomicString
	// looks makes the daemon ask its issuer at once; see lookNow.
	looks chan struct{}
	// saved makes the daemon bring snapshots to further places; see copySoon.
	saved chan struct{}
	// figures is what the daemon counts.
	figures figures
	// locked are the locks that the caller holds all the time; see Holds.
	locked []string
	// trying is set while an attempt is made: else the network is left alone as
	// long as one awaits confirmation.
	trying atomic.Bool
}

// Open opens the running host for a spec. It changes nothing.
func Open(_ context.Context, root layout.Root, spec *hosts.Spec, log *slog.Logger) (*Host, error) {
	h := &Host{root: root, log: log, systemd: units.New(root, log), looks: make(chan struct{}, 1), saved: make(chan struct{}, 1)}
	h.spec.Store(spec)
	h.AskBy(nil)
	h.systemd.Guard, h.systemd.Turn = h.guardStart, h.takeTurn
	var err error
	if h.kernel, err = kernel.Open(root); err != nil {
		return nil, err
	}
	if h.network, err = netcfg.Open(); err != nil {
		return nil, err
	}
	h.network.Userspace = wireGuardProgram{h.systemd}
	return h, nil
}

// Close frees what Open opened.
func (h *Host) Close() error {
	h.closeLogin()
	h.systemd.Close()
	return errors.Join(h.start.close(), h.network.Close())
}

// Spec is the spec in force.
func (h *Host) Spec() *hosts.Spec { return h.spec.Load() }

func (h *Host) setSpec(spec *hosts.Spec) {
	h.spec.Store(spec)
	h.followLogin()
}

// Domains returns the host's domains in the order in which they are applied.
func (h *Host) Domains() []Domain {
	return []Domain{h.kernelDomain(), h.namesDomain(), h.networkDomain(), h.pkiDomain(), h.unitsDomain(), h.proofDomain(), h.clusterDomain()}
}

func (h *Host) kernelDomain() Domain {
	return verbs[kernel.State]{
		name: DomainKernel,
		want: func(context.Context) (kernel.State, error) { return h.wantKernel() },
		observe: func(ctx context.Context, want kernel.State) (kernel.State, error) {
			return kernel.Observe(ctx, h.kernel, want)
		},
		diff:  kernel.Diff,
		apply: h.applyKernel,
	}
}

func (h *Host) networkDomain() Domain {
	return verbs[netcfg.State]{
		name:    DomainNetwork,
		want:    func(context.Context) (netcfg.State, error) { return h.wantNetwork() },
		observe: h.observeNetwork,
		diff:    netcfg.Diff,
		apply:   h.applyNetwork,
	}
}

// observeNetwork looks at the network, or takes what Cuts saw a moment ago.
func (h *Host) observeNetwork(ctx context.Context, want netcfg.State) (netcfg.State, error) {
	if have, ok := h.seenNetwork.take(time.Now()); ok {
		return have, nil
	}
	return h.network.Observe(ctx, want)
}

func (h *Host) pkiDomain() Domain {
	return verbs[pki.State]{
		name:  DomainPKI,
		whole: true,
		want:  func(context.Context) (pki.State, error) { return pki.Want(h.Spec()), nil },
		observe: func(ctx context.Context, _ pki.State) (pki.State, error) {
			have, err := h.observePKI(ctx)
			if h.heed {
				return have, err
			}
			if err == nil {
				h.seenPKI.keep(have, time.Now())
			}
			return have.AskAgain(), err
		},
		diff: func(have, want pki.State) []plan.Change { return pki.Diff(have, want, time.Now()) },
		apply: func(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
			h.seenPKI.forget()
			applier := pki.Applier{Root: h.root, Issuer: h.issuer, Keys: h.keyring}
			if h.heed { // a command keeps open what a person has opened
				defer h.keyring.Forget()
			}
			return applier.Apply(ctx, changes, rep)
		},
	}
}

func (h *Host) unitsDomain() Domain {
	return verbs[units.State]{
		name:    DomainUnits,
		whole:   true,
		want:    func(context.Context) (units.State, error) { return h.wantUnits(), nil },
		observe: h.systemd.Observe,
		diff:    units.Diff,
		apply:   h.applyUnits,
	}
}

// wantUnits renders the units with the digests of the certificates and keys as
// they lie on disk now.
func (h *Host) wantUnits() units.State {
	return kube.Render(h.Spec(), h.root, kube.Facts{Digests: pki.Inputs(h.root, kube.ClientPairs(h.Spec(), h.root)...)})
}

// Converge converges the named domains (none: all) and remembers that etcd has
// once been healthy, which is what guards its data from then on. The error is
// about that; what did not converge is in the result.
func (h *Host) Converge(ctx context.Context, names []string, rep plan.Reporter) (Result, error) {
	domains, err := Only(h.Domains(), names)
	if err != nil {
		return nil, err
	}
	result := h.converge(ctx, domains, rep)
	if len(names) > 0 && !slices.Contains(names, DomainUnits) {
		return result, nil
	}
	return result, errors.Join(h.markEtcd(ctx), h.settleAddress(ctx))
}

// converge is [Converge]; the daemon leaves alone what it is only to report.
func (h *Host) converge(ctx context.Context, domains []Domain, rep plan.Reporter) Result {
	if h.heed && slices.ContainsFunc(domains, func(d Domain) bool { return h.reports(d.Name()) }) {
		return h.convergeReporting(ctx, domains, rep)
	}
	return Converge(ctx, domains, rep)
}

// markEtcd writes the marker that etcd runs on this host as soon as it does.
func (h *Host) markEtcd(ctx context.Context) error {
	if !h.Spec().Has(hosts.RoleEtcd) || etcdops.Begun(h.root) {
		return nil
	}
	for _, u := range h.wantUnits().Units {
		if u.Name == layout.Unit(layout.Etcd) && h.systemd.Check(ctx, u) == nil {
			return etcdops.MarkInitialised(h.root, time.Now())
		}
	}
	return nil
}

// certificatesDue is when the next certificate is to be renewed. What cannot be
// read is looked at again after the longest pause. One that waits has the moment
// at which that ends, though it was tried too: the pauses of the loop grow past
// it. Tried tells that what is due already has failed just now.
func (h *Host) certificatesDue(ctx context.Context, tried bool) Due {
	have, err := h.observePKI(ctx)
	now := time.Now() // what waits is told by how long from the look on
	due := Due{At: now.Add(lastRetry), Domains: []string{DomainPKI}, Why: CauseRenewal}
	if err == nil {
		due.At = renewalMoment(pki.NextDue(have, pki.Want(h.Spec()), now), now, tried)
	}
	return due
}

// renewalMoment is when to renew what is due next, the zero time where nothing is
// or where the loop tries again what failed. What has become due while the
// converge that just ran was looking at it, too early, is looked at once more;
// not at once, for whatever does not converge without failing must not make
// this busy.
func renewalMoment(next, now time.Time, tried bool) time.Time {
	switch {
	case next.IsZero() || next.After(now):
		return next
	case tried:
		return time.Time{}
	}
	return now.Add(firstRetry)
}

// watch arms the sources of events that the domains have.
func (h *Host) watch(ctx context.Context, events chan<- Event) error {
	network := Event{Source: "the network", Domains: []string{DomainNetwork}}
	if err := watchSignals(ctx, h.log, h.network.Watch, events, network); err != nil {
		return err
	}
	go h.network.FollowNames(ctx, func() {
		send(ctx, events, Event{Source: "the name of a silent WireGuard peer", Domains: []string{DomainNetwork}})
	})
	if err := h.watchNames(ctx, events); err != nil {
		return err
	}
	services := Event{Source: "systemd", Domains: []string{DomainUnits}}
	if err := watchSignals(ctx, h.log, h.systemd.Watch, events, services); err != nil {
		return err
	}
	go h.watchEtcdStart(ctx, events)
	go h.watchReplaced(ctx, events)
	clock := Event{Source: "the clock", Domains: []string{DomainPKI, DomainProof}}
	if err := watchSignals(ctx, h.log, watchClock, events, clock); err != nil {
		return err
	}
	for dir, domains := range map[string][]string{
		h.root.PKI(): {DomainPKI, DomainUnits, DomainProof}, h.root.Components(): {DomainUnits}, h.root.Confirm(): {DomainNetwork},
	} {
		if err := atomicfile.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		watchTrees(ctx, h.log, events, Event{Source: "the files in " + dir, Domains: domains}, dir)
	}
	return nil
}

// polled are the domains of which the kernel announces no changes: sysctls,
// and WireGuard devices where the spec has one.
func (h *Host) polled() []string {
	if h.Spec().Network.WireGuard != nil {
		return []string{DomainKernel, DomainNetwork}
	}
	return []string{DomainKernel}
}

// localEtcd is the client URL of this host's own etcd member.
func localEtcd(spec *hosts.Spec) string {
	return "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(spec.Etcd.ClientPort))
}

// errNoEtcd is the error of an etcd operation on a host without etcd.
func errNoEtcd(spec *hosts.Spec) error {
	return fmt.Errorf("host %q has not the role etcd: run this on one that has", spec.Name)
}
