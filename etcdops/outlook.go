package etcdops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// Outlook is whether a host's etcd may be started, and why.
type Outlook struct {
	Host string `json:"host"`
	// Data: it has data. Marked: etcd has once been healthy there.
	Data   bool `json:"data"`
	Marked bool `json:"marked"`
	// Others are what the other hosts say.
	Others []PeerAnswer `json:"others"`
	// Begin is how it may start, empty where it is Held, for that reason.
	Begin Begin  `json:"begin,omitempty"`
	Held  string `json:"held,omitempty"`
}

// Outlook looks without changing anything.
func (s *Starter) Outlook(ctx context.Context) (Outlook, error) {
	standing, err := s.standing()
	if err != nil {
		return Outlook{}, fmt.Errorf("look at etcd's data: %w", err)
	}
	answers := AskPeers(ctx, s.Peer, s.others())
	askReplaced(ctx, s.Client, standing.Cluster, answers)
	o := Outlook{Host: s.Self.Name, Data: standing.Data, Marked: standing.Marked, Others: answers}
	o.Begin, _, err = DecideBegin(standing, o.Others)
	if err != nil {
		o.Held = s.explain(standing, err).Error()
	}
	return o, nil
}

// Meaning says in words what a host's state stands for.
func (a PeerAnswer) Meaning() string {
	switch a.State {
	case PeerServes:
		return "etcd runs there, of the cluster " + a.ClusterID
	case PeerForms:
		return "etcd runs there; its cluster " + a.ClusterID + " has yet to begin"
	case PeerEmpty:
		return "it waits, and holds no data"
	case PeerHeld:
		return "it holds data of the cluster " + a.ClusterID + ", and does not start it"
	case PeerLost:
		return "it holds no data, and etcd has run on it"
	}
	return firstLine(a.Error)
}

// Meaning says in words how etcd begins.
func (b Begin) Meaning() string {
	switch b {
	case BeginData:
		return "it has its data"
	case BeginJoin:
		return "it joins the cluster, which has a place for it"
	}
	return "it is one of the first members of a new cluster"
}

// MayDeclare tells whether a person may say that a new cluster begins: on a host
// without data, where no member of a cluster answers, and with each host that
// says nothing named.
func (o Outlook) MayDeclare(without []string, again bool) error {
	if o.Data {
		return fmt.Errorf("host %s has etcd's data; no cluster begins there", o.Host)
	}
	if o.Marked && !again {
		return fmt.Errorf("etcd has run on host %s: restore a snapshot (`nodeagent snapshot restore`), or say with --again that its data are not needed any more", o.Host)
	}
	for _, a := range o.Others {
		name := a.Member.Name
		switch {
		case a.State == PeerServes || a.State == PeerForms:
			return fmt.Errorf("etcd runs on %s: a cluster that is there is joined (`nodeagent etcd replace %s` where it has no place for this host)", name, o.Host)
		case a.State == PeerHeld:
			return fmt.Errorf("%s holds data of the cluster %s: no cluster begins beside it", name, a.ClusterID)
		case a.State == PeerLost:
			return fmt.Errorf("etcd has run on %s: say there first that its data are not needed any more (`nodeagent etcd init --again`)", name)
		case a.State == PeerSilent && !slices.Contains(without, name) && len(without) > 0:
			return fmt.Errorf("%s says nothing either, and may hold the data: start nodeagent there, or name it, too", name)
		case a.State == PeerEmpty && slices.Contains(without, name):
			return fmt.Errorf("%s waits for the others: begin with it, not without it", name)
		}
	}
	for _, name := range without {
		if !slices.ContainsFunc(o.Others, func(a PeerAnswer) bool { return a.Member.Name == name }) {
			return fmt.Errorf("the fleet has no other host %q with the role etcd", name)
		}
	}
	return nil
}

// Declare notes that a person said that a new cluster begins, after MayDeclare.
// With again alone the host forgets that etcd has run on it, and the others are
// asked as ever. What is noted counts until the member has been healthy.
func (s *Starter) Declare(now time.Time, without, again bool) error {
	if again {
		if err := atomicfile.Remove(s.Root.EtcdMarker()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("forget that etcd has run here: %w", err)
		}
	}
	if !without {
		return nil
	}
	if err := atomicfile.MkdirAll(etcdDir(s.Root), 0o700); err != nil {
		return err
	}
	text := fmt.Sprintf("On %s a person said that a new etcd cluster begins without the hosts that said nothing.\n", now.UTC().Format(time.RFC3339))
	if err := atomicfile.Write(declaredPath(s.Root), []byte(text), 0o600); err != nil {
		return fmt.Errorf("note that a new cluster begins: %w", err)
	}
	return nil
}
