package etcdops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// member is the etcd member that is saved.
type member struct {
	view   View
	chosen MemberView
	choice choice
	status *clientv3.StatusResponse
}

// manifest says what is known before the stream begins.
func (s member) manifest(opts SaveOptions) Manifest {
	m := Manifest{
		Format:           ManifestFormat,
		Cluster:          opts.Cluster,
		Host:             opts.Host,
		Taken:            opts.Now.UTC().Truncate(time.Second),
		EtcdVersion:      s.status.Version,
		EncryptionKey:    opts.Surroundings.encryptsWith(),
		Surroundings:     opts.Surroundings,
		Size:             s.status.DbSize,
		Stored:           Stored{Form: opts.Sealing.form()},
		OpenedBy:         opts.Sealing.openedBy(),
		NodeagentVersion: opts.Version,
	}
	s.choice.describe(&m, s.chosen, s.view)
	return m
}

// chooseMember looks at the cluster and returns a client of the member that is
// best saved.
func chooseMember(ctx context.Context, site Site) (*clientv3.Client, member, error) {
	view := Look(ctx, site, false)
	if err := ctx.Err(); err != nil {
		return nil, member{}, err
	}
	compareForSave(ctx, site.TLS, &view)
	choice, err := chooseMembers(view, site.Self)
	if err != nil {
		return nil, member{}, err
	}
	var failed []error
	for _, m := range choice.members {
		at, err := open(ctx, site, m, view.ClusterID)
		if err == nil {
			m.Endpoint = at.endpoint
			return at.client, member{view, m, choice, at.status}, nil
		}
		failed = append(failed, err)
	}
	return nil, member{}, errors.Join(failed...)
}

// compareForSave has the members hash their keys, where there are several: those
// in step, or where the cluster has no quorum all that answer.
func compareForSave(ctx context.Context, files TLS, v *View) {
	which := MemberView.InStep
	if !v.Quorum {
		which = func(m MemberView) bool { return m.Answers && m.OtherCluster == "" }
	}
	n := 0
	for _, m := range v.Members {
		if which(m) {
			n++
		}
	}
	if n > 1 {
		compareHashes(ctx, files, v, which)
	}
}

// connected is a member that was connected to, and where.
type connected struct {
	endpoint string
	client   *clientv3.Client
	status   *clientv3.StatusResponse
}

// open connects to a member of the cluster: to the host's own by its socket, if
// that one answers there. It may not, having been started before it had one.
func open(ctx context.Context, site Site, m MemberView, cluster string) (connected, error) {
	if site.Socket == "" || m.Name != site.Self {
		return openAt(ctx, site.TLS, m.Endpoint, m, cluster)
	}
	bySocket, failed := openAt(ctx, site.TLS, socketURL(site.Socket), m, cluster)
	if failed == nil {
		return bySocket, nil
	}
	byTLS, err := openAt(ctx, site.TLS, m.Endpoint, m, cluster)
	if err != nil && !errors.Is(failed, os.ErrNotExist) {
		err = errors.Join(err, failed)
	}
	return byTLS, err
}

// openAt connects to a member and asks it once more, for it may be another one by
// now.
func openAt(ctx context.Context, files TLS, endpoint string, m MemberView, cluster string) (connected, error) {
	client, err := dial(ctx, files, endpoint)
	if err != nil {
		return connected{}, err
	}
	status, err := memberStatus(ctx, client, endpoint)
	if err == nil {
		err = sameMember(status, endpoint, m.ID, cluster)
	}
	if err != nil {
		return connected{}, errors.Join(err, closeClient(client))
	}
	return connected{endpoint, client, status}, nil
}

func sameMember(status *clientv3.StatusResponse, endpoint, id, cluster string) error {
	if got := idText(status.Header.GetClusterId()); got != cluster {
		return fmt.Errorf("at %s the cluster %s answers, not %s", endpoint, got, cluster)
	}
	if got := idText(status.Header.GetMemberId()); got != id {
		return fmt.Errorf("at %s the member %s answers, not %s", endpoint, got, id)
	}
	return nil
}

// alarmsOf are the alarms that a member knows of. It tells them with its status,
// which needs no quorum, as texts of etcdserverpb.AlarmMember.
func alarmsOf(status *clientv3.StatusResponse) *clientv3.AlarmResponse {
	alarms := &clientv3.AlarmResponse{}
	for _, text := range status.Errors {
		if alarm, ok := parseAlarm(text); ok {
			alarms.Alarms = append(alarms.Alarms, alarm)
		}
	}
	return alarms
}

var alarmText = regexp.MustCompile(`^memberID:(\d+) +alarm:(\w+) *$`)

func parseAlarm(text string) (*pb.AlarmMember, bool) {
	// One or two spaces between the fields, and one behind them before etcd 3.7.
	found := alarmText.FindStringSubmatch(text)
	if found == nil {
		return nil, false
	}
	var id uint64
	if _, err := fmt.Sscan(found[1], &id); err != nil {
		return nil, false
	}
	kind, ok := pb.AlarmType_value[found[2]]
	return &pb.AlarmMember{MemberID: id, Alarm: pb.AlarmType(kind)}, ok
}

func idText(id uint64) string { return fmt.Sprintf("%x", id) }
