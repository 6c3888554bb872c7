package etcdops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.uber.org/zap"
)

// PeerState is what a host's etcd peer port says of it.
type PeerState string

const (
	// PeerSilent: nothing answers, whatever the reason. It says nothing about
	// whether the host holds data.
	PeerSilent PeerState = "silent"
	// PeerServes: etcd runs there and is of a cluster whose members have agreed
	// on something: the cluster exists. It answers so without a quorum, too.
	PeerServes PeerState = "serves"
	// PeerForms: etcd runs there, and its cluster has agreed on nothing yet.
	PeerForms PeerState = "forms"
	// PeerEmpty: nodeagent answers there in etcd's place. It holds no data, and
	// knows of none that it ever had.
	PeerEmpty PeerState = "empty"
	// PeerLost: nodeagent answers there. It holds no data, and etcd has run on it.
	PeerLost PeerState = "lost"
	// PeerHeld: nodeagent answers there. It holds data of a cluster that another
	// one has taken the place of, and so does not start etcd.
	PeerHeld PeerState = "held"
)

// PeerAnswer is what one host's peer port said.
type PeerAnswer struct {
	Member    Member       `json:"member"`
	State     PeerState    `json:"state"`
	ClusterID string       `json:"clusterID,omitempty"`
	Members   []PeerMember `json:"members,omitempty"`
	// Initial is the initial cluster that a waiting host would begin.
	Initial string `json:"initial,omitempty"`
	// Replaced: it serves a cluster that says that it has taken the place of the
	// one whose data the asking host holds.
	Replaced bool `json:"replaced,omitempty"`
	// Error says why it is silent.
	Error string `json:"error,omitempty"`
}

// PeerMember is a member as etcd lists it on its peer port.
type PeerMember struct {
	ID         uint64   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	IsLearner  bool     `json:"isLearner"`
}

// waitingHost is what nodeagent answers on etcd's peer port while it waits.
type waitingHost struct {
	Nodeagent string `json:"nodeagent"` // always "waiting"
	Host      string `json:"host"`
	Initial   string `json:"initial"`
	Lost      bool   `json:"lost"`
	// Held is the id of the cluster whose data the host holds, if it does.
	Held string `json:"held,omitempty"`
}

// maxAnswer bounds what is read of a peer's answer.
const maxAnswer = 1 << 20

// AskPeers asks the peer ports of the members, all at once. Unlike the client
// port this one answers while there is no quorum.
func AskPeers(ctx context.Context, files TLS, members []Member) []PeerAnswer {
	answers := make([]PeerAnswer, len(members))
	var wait sync.WaitGroup
	for i, m := range members {
		wait.Go(func() {
			answer, err := askPeer(ctx, files, m)
			if err != nil {
				answer = PeerAnswer{State: PeerSilent, Error: err.Error()}
			}
			answer.Member = m
			answers[i] = answer
		})
	}
	wait.Wait()
	return answers
}

func askPeer(ctx context.Context, files TLS, m Member) (_ PeerAnswer, err error) {
	cfg, err := files.config()
	if err != nil {
		return PeerAnswer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, m.PeerURL+"/members", nil)
	if err != nil {
		return PeerAnswer{}, err
	}
	transport := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return PeerAnswer{}, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return PeerAnswer{}, err
	}
	return readPeer(response.StatusCode, response.Header.Get("X-Etcd-Cluster-Id"), body)
}

// readPeer tells etcd's answer from nodeagent's. It is pure.
func readPeer(status int, cluster string, body []byte) (PeerAnswer, error) {
	var host waitingHost
	if status == http.StatusServiceUnavailable && json.Unmarshal(body, &host) == nil && host.Nodeagent == "waiting" {
		state := PeerEmpty
		switch {
		case host.Held != "":
			return PeerAnswer{State: PeerHeld, ClusterID: host.Held}, nil
		case host.Lost:
			state = PeerLost
		}
		return PeerAnswer{State: state, Initial: host.Initial}, nil
	}
	if status != http.StatusOK {
		return PeerAnswer{}, fmt.Errorf("it answers %d %s", status, http.StatusText(status))
	}
	answer := PeerAnswer{State: PeerForms, ClusterID: cluster}
	if err := json.Unmarshal(body, &answer.Members); err != nil {
		return PeerAnswer{}, fmt.Errorf("read its members: %w", err)
	}
	// A member publishes its client URLs through the quorum; etcd itself takes
	// that for having been bootstrapped.
	if slices.ContainsFunc(answer.Members, func(m PeerMember) bool { return len(m.ClientURLs) > 0 }) {
		answer.State = PeerServes
	}
	return answer, nil
}

// newClusterID is the id of the cluster that etcd begins with these members and
// token: a digest of them.
func newClusterID(members []Member, token string) (string, error) {
	urls, err := types.NewURLsMap(initialCluster(members))
	if err != nil {
		return "", err
	}
	cluster, err := membership.NewClusterFromURLsMap(zap.NewNop(), token, urls)
	if err != nil {
		return "", err
	}
	return idText(uint64(cluster.ID())), nil
}

// joinedCluster is the value of etcd's flag initial-cluster for a member that
// joins: the cluster's own list, with the name of the one that has none yet.
func joinedCluster(list []PeerMember, self Member) string {
	var pairs []string
	for _, m := range list {
		name := m.Name
		switch {
		case slices.Contains(m.PeerURLs, self.PeerURL):
			name = self.Name
		case name == "":
			name = idText(m.ID) // another one that has not started; etcd goes by URLs
		}
		for _, url := range m.PeerURLs {
			pairs = append(pairs, name+"="+url)
		}
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}
