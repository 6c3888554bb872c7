package etcdops

import (
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// problems are the texts of what is wrong, "member: text".
func problems(v View) []string {
	var list []string
	for _, f := range v.Findings() {
		if f.Problem {
			list = append(list, f.Member+": "+f.Text)
		}
	}
	return list
}

func hasProblem(v View, member, part string) bool {
	return slices.ContainsFunc(problems(v), func(p string) bool {
		return strings.HasPrefix(p, member+":") && strings.Contains(p, part)
	})
}

func TestLookWell(t *testing.T) {
	r := startRing(t, 3)
	r.fill("/registry/", 300)
	// etcd notes it some time after the cluster's version is agreed on.
	r.until("the storage version to be noted", func(v View) bool {
		return !slices.ContainsFunc(v.Members, func(m MemberView) bool { return m.Storage == "" })
	})
	v := Look(t.Context(), r.site(), true)
	if list := problems(v); len(list) > 0 {
		t.Fatalf("problems of a healthy cluster: %q", list)
	}
	if v.Voters != 3 || v.Serving != 3 || v.Bears != 1 || !v.Quorum || v.Leader == "" || v.ClusterID == "" || v.HashRevision == 0 {
		t.Errorf("view = %+v", v)
	}
	for _, m := range v.Members {
		if m.Version == "" || m.Storage == "" || m.DBSize == 0 || m.DBInUse == 0 || m.Quota == 0 || m.Hash == 0 || m.Hash != v.Members[0].Hash || m.Fleet == nil {
			t.Errorf("member = %+v", m)
		}
	}
}

func TestLookAtTrouble(t *testing.T) {
	r := startRing(t, 3)
	m3 := r.node("m3")
	m3.kill()
	v := r.until("m3 to be missed", func(v View) bool { return v.Serving == 2 && v.Quorum })
	if !hasProblem(v, "m3", "does not answer") || !hasProblem(v, "", "no further member may fail") || v.Bears != 0 {
		t.Errorf("with one of three down: %q, bears %d", problems(v), v.Bears)
	}
	r.node("m2").kill()
	v = r.until("the quorum to be lost", func(v View) bool { return v.Serving == 0 })
	if v.Quorum || !hasProblem(v, "", "there is no quorum") || v.Voters != 3 || !hasProblem(v, "m1", "has no leader") {
		t.Errorf("with two of three down: %q", problems(v))
	}
	r.node("m1").kill()
	if v = r.look(); !hasProblem(v, "", "no member of the cluster answers") || len(v.Members) != 3 {
		t.Errorf("with all down: %q", problems(v))
	}
	for _, n := range r.Nodes {
		n.start()
	}
	r.settle()
}

// The fleet and the member list can disagree in each way there is.
func TestLookComparesWithTheFleet(t *testing.T) {
	r := startRing(t, 3)
	site := r.site()
	site.Members = slices.Clone(site.Members[:2]) // m3 is a stranger
	site.Members[1].PeerURL = "https://127.0.0.1:1"
	site.Members = append(site.Members, Member{Name: "m4", PeerURL: "https://127.0.0.1:2", ClientURL: "https://127.0.0.1:3"})
	v := Look(t.Context(), site, false)
	for member, part := range map[string]string{"m2": "the fleet says https://127.0.0.1:1", "m3": "no host of the fleet", "m4": "the cluster does not"} {
		if !hasProblem(v, member, part) {
			t.Errorf("%s: no problem with %q in %q", member, part, problems(v))
		}
	}
	if m3, _ := v.member("m3"); !m3.Answers || m3.Fleet != nil {
		t.Errorf("the stranger was not asked: %+v", m3)
	}
	if v.Voters != 3 || v.Serving != 3 {
		t.Errorf("%d of %d serve, want 3 of 3", v.Serving, v.Voters)
	}
}

// A second cluster in a member's place is told apart.
func TestLookSeesASecondCluster(t *testing.T) {
	r := startRing(t, 3)
	m3 := r.node("m3")
	m3.kill()
	m3.wipe()
	m3.Server.InitialCluster, m3.Server.Token = m3.Member.Name+"="+m3.Member.PeerURL, "other"
	m3.start()
	v := r.until("the second cluster to answer", func(v View) bool { m, _ := v.member("m3"); return m.OtherCluster != "" })
	if !hasProblem(v, "m3", "another cluster") || v.Voters != 3 || v.Serving != 2 {
		t.Errorf("%q, %d of %d serve", problems(v), v.Serving, v.Voters)
	}
}

func TestLookSeesALearnerAndAlarms(t *testing.T) {
	r := startRing(t, 1)
	client := r.client(r.Nodes[0])
	raise(t, client, pb.AlarmType_NOSPACE, r.look().Members[0].id)
	added, err := client.MemberAddAsLearner(t.Context(), []string{"https://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	v := r.look()
	if !hasProblem(v, "m1", "NOSPACE") {
		t.Errorf("no alarm in %q", problems(v))
	}
	if v.Voters != 1 || len(v.Members) != 2 || !hasProblem(v, idText(added.Member.ID), "has not started yet") {
		t.Errorf("%d voters, %q", v.Voters, problems(v))
	}
}

// raise switches an alarm on, as a member does that finds a reason.
func raise(t testing.TB, client *clientv3.Client, kind pb.AlarmType, member uint64) {
	t.Helper()
	_, err := pb.NewMaintenanceClient(client.ActiveConnection()).Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: member, Alarm: kind})
	if err != nil {
		t.Fatal(err)
	}
}
