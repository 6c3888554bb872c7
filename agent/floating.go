package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/netcfg"
)

// floating holds the host's floating addresses, each in a goroutine of its own.
// When that is stopped every address has been given up.
type floating struct {
	spec floatingSpec // what is followed
	background
}

// floatingSpec is all that floating addresses depend on. A change of anything
// else in the fleet must not move an address.
type floatingSpec struct {
	host      string
	addresses []hosts.Floating
	endpoints []string
	tls       etcdops.TLS
}

// follow holds the addresses that the host's spec names. While they stay the
// same it does nothing; otherwise it gives up what was held before.
func (f *floating) follow(ctx context.Context, h *Host) {
	spec := floatingSpec{h.Spec().Name, h.Spec().Network.Floating, etcdEndpoints(h.Spec()), EtcdTLS(h.root)}
	if reflect.DeepEqual(f.spec, spec) {
		return
	}
	f.stop()
	f.spec = spec
	var holders []func(context.Context)
	for _, address := range spec.addresses {
		held := &holder{Floating: address, spec: spec, network: h.network, log: h.log.With("floating", address.Name, "address", address.Address)}
		holders = append(holders, held.run)
	}
	f.begin(ctx, holders...)
}

// etcdEndpoints are the client URLs of the fleet's members, the host's own
// first.
func etcdEndpoints(spec *hosts.Spec) []string {
	var endpoints []string
	if spec.Has(hosts.RoleEtcd) {
		endpoints = append(endpoints, localEtcd(spec))
	}
	for _, p := range spec.Peers {
		if p.Has(hosts.RoleEtcd) {
			endpoints = append(endpoints, "https://"+net.JoinHostPort(p.Address.String(), strconv.Itoa(spec.Etcd.ClientPort)))
		}
	}
	return endpoints
}

// holder holds one floating address when it is this host's turn.
type holder struct {
	hosts.Floating
	spec    floatingSpec
	network *netcfg.System
	log     *slog.Logger

	claims *etcdops.Claims // nil while the certificate cannot be read
	// announce is how many more looks announce the address: one announcement
	// may be lost.
	announce int
	told     string // the last step and reason that was logged
}

// announcements is at how many looks in a row a new holder announces itself.
const announcements = 3

// pause is the time between two looks. An address that is held must outlive a
// look that etcd does not answer: its claim and its lifetime are renewed three
// times before they end.
func (h *holder) pause() time.Duration { return h.TTL / 3 }

// run holds the address when it is this host's turn, until ctx is done; then it
// gives it up.
func (h *holder) run(ctx context.Context) {
	defer h.close()
	for ctx.Err() == nil {
		claim := h.look(ctx)
		h.wait(ctx, claim)
	}
	// The daemon's own time is over, the cluster's is not.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.pause())
	defer cancel()
	h.leave(last)
}

// wait returns when it is time for the next look: at the end of the pause, or
// at once when another host's claim ended or changed.
func (h *holder) wait(ctx context.Context, claim etcdops.Claim) {
	ctx, cancel := context.WithTimeout(ctx, h.pause())
	defer cancel()
	if h.claims != nil && claim.Holder != "" && claim.Holder != h.spec.host {
		h.claims.Changed(ctx, claim)
		if ctx.Err() == nil {
			// The first choice goes first, where it is there.
			rank := max(0, slices.Index(h.Hosts, h.spec.host))
			sleepUntil(ctx, time.Now().Add(time.Duration(rank)*h.pause()/time.Duration(2*len(h.Hosts))))
			return
		}
	}
	<-ctx.Done()
}

// look finds out how things are, and does what follows. The claim is zero where
// etcd did not answer.
func (h *holder) look(ctx context.Context) etcdops.Claim {
	begun := time.Now()
	have, claim, problem := h.observe(ctx)
	step, reason := have.next()
	if err := h.take(ctx, step, &claim, have, begun); err != nil {
		problem = errors.Join(problem, err)
	}
	if ctx.Err() == nil {
		h.tell(step, reason, problem)
	}
	return claim
}

// observe asks the link and etcd.
func (h *holder) observe(ctx context.Context) (holding, etcdops.Claim, error) {
	have := holding{self: h.spec.host}
	var linkErr error
	have.here, have.up, linkErr = h.network.FloatingHere(h.Interface, h.Address)
	have.blind = linkErr != nil
	claim, err := h.ask(ctx)
	have.known, have.holder = err == nil, claim.Holder
	if err != nil && have.here {
		var rivalErr error
		have.rival, rivalErr = netcfg.Rival(ctx, h.Interface, h.Address.Addr())
		err = errors.Join(err, rivalErr)
	}
	return have, claim, errors.Join(linkErr, err)
}

func (h *holder) ask(ctx context.Context) (etcdops.Claim, error) {
	if h.claims == nil {
		claims, err := etcdops.OpenClaims(context.WithoutCancel(ctx), h.spec.tls, h.spec.endpoints)
		if err != nil {
			return etcdops.Claim{}, err
		}
		// A look asks twice at most, and must be over before the next is due.
		claims.Timeout = h.TTL / 6
		h.claims = claims
	}
	claim, err := h.claims.Look(ctx, h.name())
	if err != nil {
		h.close() // the CA bundle may have changed
	}
	return claim, err
}

func (h *holder) name() string { return "floating/" + h.Name }

func (h *holder) close() {
	if h.claims != nil {
		_ = h.claims.Close() // nothing is written by closing
		h.claims = nil
	}
}

// take does one step. begun is when the look began: what a claim or lifetime is
// renewed for counts from there.
func (h *holder) take(ctx context.Context, s step, claim *etcdops.Claim, have holding, begun time.Time) error {
	switch s {
	case stepClaim:
		taken, err := h.claims.Take(ctx, h.name(), h.spec.host, h.TTL)
		if err != nil || taken.Holder != h.spec.host {
			*claim = taken
			return errors.Join(err, h.drop(ctx, have))
		}
		*claim = taken
		return h.hold(ctx, false, begun)
	case stepRenew:
		switch err := h.claims.Renew(ctx, *claim); {
		case errors.Is(err, etcdops.ErrClaimLost):
			return errors.Join(err, h.drop(ctx, have))
		case err != nil:
			// The claim may lapse: its address must not live longer. The next look
			// tells whether etcd is without a quorum.
			return err
		}
		return h.hold(ctx, have.here, begun)
	case stepKeep:
		return h.hold(ctx, true, begun)
	case stepGive:
		err := h.drop(ctx, have)
		if err == nil && have.known && have.holder == h.spec.host {
			err = h.claims.Release(ctx, *claim)
			*claim = etcdops.Claim{}
		}
		return err
	}
	return nil
}

// hold puts the address on the link until the claim would lapse, and announces
// it while that is new.
func (h *holder) hold(ctx context.Context, here bool, begun time.Time) error {
	if err := h.network.Hold(ctx, h.Interface, h.Address, h.TTL-time.Since(begun)); err != nil {
		return err
	}
	if !here {
		h.announce = announcements
	}
	if h.announce == 0 {
		return nil
	}
	h.announce--
	return netcfg.Announce(ctx, h.Interface, h.Address.Addr())
}

func (h *holder) drop(ctx context.Context, have holding) error {
	if !have.here {
		return nil
	}
	return h.network.Drop(ctx, h.Interface, h.Address)
}

// leave takes the address off the link and then lets the others have it: in
// that order, so that it is never on two.
func (h *holder) leave(ctx context.Context) {
	here, _, err := h.network.FloatingHere(h.Interface, h.Address)
	if err == nil && here {
		err = h.network.Drop(ctx, h.Interface, h.Address)
	}
	if err != nil {
		h.log.Error("the floating address was not given up; it ends by itself", "within", h.TTL, "error", err)
		return
	}
	claim, err := h.ask(ctx)
	if err == nil && claim.Holder == h.spec.host {
		err = h.claims.Release(ctx, claim)
	}
	if err != nil {
		h.log.Warn("the claim of the floating address was not released; it lapses by itself", "within", h.TTL, "error", err)
	} else if here {
		h.log.Info("floating address given up")
	}
}

// tell logs what is done, once.
func (h *holder) tell(s step, reason string, problem error) {
	line := string(s) + ": " + reason
	if line == h.told {
		return
	}
	h.told = line
	switch {
	case problem != nil:
		h.log.Warn("floating address", "step", s, "because", reason, "error", problem)
	default:
		h.log.Info("floating address", "step", s, "because", reason)
	}
}

// FloatingStatus is what this host knows of one floating address.
type FloatingStatus struct {
	Name    string       `json:"name"`
	Address netip.Prefix `json:"address"`
	Link    string       `json:"link"`
	// Here tells that this host holds it.
	Here bool   `json:"here"`
	Err  string `json:"error,omitempty"`
}

// Floating tells which floating addresses this host holds now.
func (h *Host) Floating() []FloatingStatus {
	var all []FloatingStatus
	for _, f := range h.Spec().Network.Floating {
		s := FloatingStatus{Name: f.Name, Address: f.Address, Link: f.Interface}
		var err error
		if s.Here, _, err = h.network.FloatingHere(f.Interface, f.Address); err != nil {
			s.Err = err.Error()
		}
		all = append(all, s)
	}
	return all
}
