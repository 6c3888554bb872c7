package etcdops

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// DisarmPlan is what has to be done before alarms may be switched off.
type DisarmPlan struct {
	// Alarms that are on.
	Alarms []AlarmView `json:"alarms"`
	// Space: compact the history, defragment every member, then switch NOSPACE
	// off. Revision is the one that is compacted to.
	Space    bool  `json:"space"`
	Revision int64 `json:"revision,omitempty"`
	// Compare: all members' data have to be alike before CORRUPT of a member that
	// was removed is switched off.
	Compare bool `json:"compare,omitempty"`
	// Steps say it in words.
	Steps []string `json:"steps"`
}

// ErrCorruptMember is the error of disarming where a member's data differ.
var ErrCorruptMember = errors.New("a member's data are corrupt")

// PlanDisarm decides what to do about the alarms that are on. CORRUPT of a
// member that is still one is never switched off: the error says what to do. It
// is pure.
func PlanDisarm(v View) (DisarmPlan, error) {
	plan := DisarmPlan{Alarms: v.Alarms, Steps: []string{}}
	if len(v.Alarms) == 0 && v.Quorum {
		return plan, nil
	}
	var corrupt []string
	for _, a := range v.Alarms {
		switch {
		case a.Kind == AlarmCorrupt && !a.Gone:
			corrupt = append(corrupt, a.Member)
		case a.Kind == AlarmCorrupt:
			plan.Compare = true
		case a.Kind == AlarmNoSpace:
			plan.Space = true
		}
	}
	if len(corrupt) > 0 {
		return plan, corruptError(v, corrupt)
	}
	calm := v
	calm.Alarms = nil // they are what is dealt with
	if err := calm.steady(); err != nil {
		return plan, err
	}
	if plan.Compare {
		plan.Steps = append(plan.Steps, "compare the data of all members by a hash at one revision", "switch CORRUPT off for members that were removed")
	}
	if plan.Space {
		for _, m := range v.Members {
			plan.Revision = max(plan.Revision, m.Revision)
		}
		plan.Steps = append(plan.Steps, fmt.Sprintf("compact the history up to revision %d; clients that watch from an earlier one list again", plan.Revision))
		defrag, err := planDefrag(calm, DefragOptions{}, DefragPlan{})
		if err != nil {
			return plan, err
		}
		for _, step := range defrag.Steps {
			text := "defragment " + step.Member
			if step.Leads {
				text += ", the lead handed to another member first"
			}
			plan.Steps = append(plan.Steps, text)
		}
		plan.Steps = append(plan.Steps, "see that every member is below its quota, and switch NOSPACE off")
	}
	return plan, nil
}

func corruptError(v View, corrupt []string) error {
	names := strings.Join(corrupt, ", ")
	if 2*len(corrupt) >= v.Voters {
		return fmt.Errorf("%w: %s, and too few others are left to go by: find the newest good snapshot (`nodeagent snapshot list`, `nodeagent snapshot verify`) and restore it on all members", ErrCorruptMember, names)
	}
	var remedy []string
	for _, name := range corrupt {
		remedy = append(remedy, fmt.Sprintf("on %s `systemctl stop nodeagent-etcd` and rename etcd's data folder aside, then here `nodeagent etcd replace %s`", name, name))
	}
	return fmt.Errorf("%w: %s, and the cluster answers nothing until that is mended. The alarm is not switched off while the data differ. Replace the member by a copy of the others: %s; then `nodeagent etcd disarm` again",
		ErrCorruptMember, names, strings.Join(remedy, "; "))
}

// Disarm carries the plan out: makes space, switches the alarms off, and returns
// what the cluster then looks like. Killed anywhere, the same call goes on.
//
// While NOSPACE is on etcd takes no claim, so nothing in it keeps two hosts from
// doing this at once. They would do the same in the same order, and neither
// touches a member while another one does not answer, as one that is being
// defragmented.
func Disarm(ctx context.Context, site Site, plan DisarmPlan, told Told) (View, error) {
	if plan.Compare {
		v := Look(ctx, site, true)
		if err := alike(v); err != nil {
			return v, err
		}
		told.say("compare", "the data of all members are alike at revision %d", v.HashRevision)
		if err := disarmKind(ctx, site, AlarmCorrupt, told); err != nil {
			return v, err
		}
	}
	if plan.Space {
		if err := RepairSpace(ctx, site, told); err != nil {
			return Look(ctx, site, false), err
		}
	}
	return Look(ctx, site, false), nil
}

// alike tells whether all members hold the same data.
func alike(v View) error {
	if v.HashError != "" {
		return fmt.Errorf("compare the members' data: %s", v.HashError)
	}
	for _, m := range v.listed() {
		if m.Hash == 0 || m.Hash != v.listed()[0].Hash {
			return fmt.Errorf("%w: at revision %d the data of %s and %s differ, or could not be compared", ErrCorruptMember, v.HashRevision, v.listed()[0].Name, m.Name)
		}
	}
	return nil
}

// RepairSpace makes a cluster that ran out of its quota writable again: it
// compacts the history up to now, defragments every member in turn, sees that
// each has room, and switches NOSPACE off. A restored snapshot that carries the
// alarm needs the same.
func RepairSpace(ctx context.Context, site Site, told Told) error {
	v := Look(ctx, site, false)
	calm := v
	calm.Alarms = nil
	if err := calm.steady(); err != nil {
		return err
	}
	if err := compact(ctx, site.TLS, v, told); err != nil {
		return err
	}
	// Followers compact on their own time, and what they had not yet freed is
	// given back by the next round.
	var threshold float64
	for {
		defrag, err := planDefrag(Look(ctx, site, false), DefragOptions{Threshold: threshold}, DefragPlan{})
		if err != nil {
			return err
		}
		if _, err := defragAll(ctx, site, defrag, told); err != nil {
			return err
		}
		err = roomy(Look(ctx, site, false))
		if err == nil {
			return disarmKind(ctx, site, AlarmNoSpace, told)
		}
		if len(defrag.Steps) == 0 {
			return err
		}
		threshold = 0.1
	}
}

// roomy tells whether every member has room to write: the alarm would be on
// again at once.
func roomy(v View) error {
	for _, m := range v.listed() {
		if m.QuotaUse() >= quotaLimit {
			return fmt.Errorf("%s still takes %.0f %% of its quota of %s after compaction and defragmentation, so the alarm stays on: raise etcd.quota in cluster.toml (at most 8GiB) and apply it, or delete objects, then try again",
				m.Name, 100*m.QuotaUse(), bytesText(m.Quota))
		}
	}
	return nil
}

// compact compacts up to the revision of now, and waits until the space is free
// within the file.
func compact(ctx context.Context, files TLS, v View, told Told) (err error) {
	var revision int64
	for _, m := range v.Members {
		revision = max(revision, m.Revision)
	}
	ctx, cancel := context.WithTimeout(ctx, defragTime)
	defer cancel()
	client, err := connectAny(ctx, files, v)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeClient(client)) }()
	told.say("compact", "the history up to revision %d", revision)
	_, err = client.Compact(ctx, revision, clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compact up to revision %d: %w", revision, err)
	}
	return nil
}

// connectAny connects to a member that serves.
func connectAny(ctx context.Context, files TLS, v View) (*clientv3.Client, error) {
	endpoints := servingEndpoints(v)
	if len(endpoints) == 0 {
		return nil, fmt.Errorf("%w: no member serves", ErrUnsteady)
	}
	if leader, found := v.member(v.Leader); found {
		return dial(ctx, files, leader.Endpoint)
	}
	return dial(ctx, files, endpoints[0])
}

// disarmKind switches off the alarms of one kind, each by its member.
func disarmKind(ctx context.Context, site Site, kind string, told Told) (err error) {
	v := Look(ctx, site, false)
	client, err := connectAny(ctx, site.TLS, v)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeClient(client)) }()
	for _, a := range v.Alarms {
		if a.Kind != kind || kind == AlarmCorrupt && !a.Gone {
			continue
		}
		alarm := &clientv3.AlarmMember{MemberID: a.id, Alarm: pb.AlarmType(pb.AlarmType_value[kind])}
		if err := disarmOne(ctx, client, alarm); err != nil {
			return fmt.Errorf("switch the alarm %s of %s off: %w", kind, a.Member, err)
		}
		told.say("disarm", "%s of %s is off", kind, a.Member)
	}
	return nil
}

func disarmOne(ctx context.Context, client *clientv3.Client, alarm *clientv3.AlarmMember) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	_, err := client.AlarmDisarm(ctx, alarm)
	return err
}
