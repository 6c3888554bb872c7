package etcdops

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// member is the etcd member that is saved.
type member struct {
	endpoint string
	name     string
	status   *clientv3.StatusResponse
	alarms   []string
}

func (s member) manifest(opts SaveOptions) Manifest {
	return Manifest{
		Format:           ManifestFormat,
		Cluster:          opts.Cluster,
		Host:             opts.Host,
		Taken:            opts.Now.UTC().Truncate(time.Second),
		ClusterID:        idText(s.status.Header.GetClusterId()),
		MemberID:         idText(s.status.Header.GetMemberId()),
		MemberName:       s.name,
		Endpoint:         s.endpoint,
		EtcdVersion:      s.status.Version,
		Alarms:           s.alarms,
		EncryptionKey:    opts.Surroundings.encryptsWith(),
		Surroundings:     opts.Surroundings,
		Size:             s.status.DbSize,
		Stored:           Stored{Form: opts.Sealing.form()},
		NodeagentVersion: opts.Version,
	}
}

// chooseMember returns a client of the first endpoint that can be saved.
func chooseMember(ctx context.Context, files TLS, endpoints []string) (*clientv3.Client, member, error) {
	var failed []error
	for _, endpoint := range endpoints {
		client, err := dial(ctx, files, endpoint)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		m, err := askMember(ctx, client, endpoint)
		if err == nil {
			return client, m, nil
		}
		failed = append(failed, err, closeClient(client))
	}
	return nil, member{}, errors.Join(failed...)
}

func askMember(ctx context.Context, client *clientv3.Client, endpoint string) (member, error) {
	status, err := memberStatus(ctx, client, endpoint)
	if err != nil {
		return member{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	m := member{endpoint: endpoint, status: status}
	alarms, err := client.AlarmList(ctx)
	if err != nil {
		return member{}, fmt.Errorf("ask etcd %s for alarms: %w", endpoint, err)
	}
	for _, alarm := range alarms.Alarms {
		m.alarms = append(m.alarms, alarm.Alarm.String())
		if alarm.Alarm == pb.AlarmType_CORRUPT && alarm.MemberID == status.Header.GetMemberId() {
			return member{}, fmt.Errorf("etcd %s has the alarm CORRUPT: its data differs from the other members'", endpoint)
		}
	}
	members, err := client.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return member{}, fmt.Errorf("ask etcd %s for its members: %w", endpoint, err)
	}
	for _, other := range members.Members {
		if other.ID == status.Header.GetMemberId() {
			m.name = other.Name
		}
	}
	return m, nil
}

func idText(id uint64) string { return fmt.Sprintf("%x", id) }
