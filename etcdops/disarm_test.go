package etcdops

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A cluster that has run into its quota, by a history that nobody needs, takes
// writes again.
func TestDisarmNoSpace(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			r := newRing(t, n)
			for _, node := range r.Nodes {
				node.Server.Quota = 8 << 20
				node.start()
			}
			r.settle()
			client := r.client(r.Nodes[0])
			var err error
			value := strings.Repeat("x", 100<<10)
			for range 1000 {
				if _, err = client.Put(t.Context(), "/one", value); err != nil {
					break
				}
			}
			if !errors.Is(err, rpctypes.ErrNoSpace) {
				t.Fatalf("the quota was not reached: %v", err)
			}
			v := r.until("the alarm", func(v View) bool { return v.alarmed(AlarmNoSpace) })
			plan, err := PlanDisarm(v)
			if err != nil || !plan.Space || plan.Compare || len(plan.Steps) != n+2 {
				t.Fatalf("plan %+v, %v", plan, err)
			}
			var h heard
			after, err := Disarm(t.Context(), r.site(), plan, h.told)
			if err != nil || len(after.Alarms) > 0 {
				t.Fatalf("%v, alarms %+v\n%s", err, after.Alarms, strings.Join(h.lines, "\n"))
			}
			if _, err := client.Put(t.Context(), "/two", "x"); err != nil {
				t.Errorf("a write afterwards: %v", err)
			}
			if plan, err := PlanDisarm(r.look()); err != nil || len(plan.Steps) > 0 {
				t.Errorf("a second plan %+v, %v", plan, err)
			}
		})
	}
}

// Where the data themselves fill the quota the alarm stays on, for it would be
// back at once.
func TestDisarmStaysWhereThereIsNoRoom(t *testing.T) {
	r := newRing(t, 1)
	r.Nodes[0].Server.Quota = 8 << 20
	r.Nodes[0].start()
	r.settle()
	r.fillUp()
	plan, err := PlanDisarm(r.until("the alarm", func(v View) bool { return v.alarmed(AlarmNoSpace) }))
	if err != nil {
		t.Fatal(err)
	}
	after, err := Disarm(t.Context(), r.site(), plan, nil)
	if err == nil || !strings.Contains(err.Error(), "raise etcd.quota") || !after.alarmed(AlarmNoSpace) {
		t.Errorf("error %v, alarms %+v", err, after.Alarms)
	}
}

// fillUp writes until the quota is reached by what is alive: not by free pages,
// of which there are more or fewer, as etcd happens to commit.
func (r *ring) fillUp() {
	r.t.Helper()
	client := r.client(r.Nodes[0])
	value := strings.Repeat("x", 100<<10)
	for i := 0; ; i++ {
		_, err := client.Put(r.t.Context(), fmt.Sprint("/", i), value)
		if err == nil {
			continue
		}
		if !errors.Is(err, rpctypes.ErrNoSpace) {
			r.t.Fatalf("the quota was not reached: %v", err)
		}
		if _, err := client.Defragment(r.t.Context(), r.Nodes[0].Member.ClientURL); err != nil {
			r.t.Fatal(err)
		}
		if roomy(r.until("the alarm", func(v View) bool { return v.alarmed(AlarmNoSpace) })) != nil {
			return
		}
		if _, err := client.AlarmDisarm(r.t.Context(), &clientv3.AlarmMember{}); err != nil {
			r.t.Fatal(err)
		}
	}
}

// CORRUPT is never just switched off: the member is replaced, and then the
// others have to hold the same data.
func TestDisarmCorrupt(t *testing.T) {
	r := startRing(t, 3)
	r.fill("/registry/", 100)
	v := r.look()
	m3, _ := v.member("m3")
	raise(t, r.client(r.Nodes[0]), pb.AlarmType_CORRUPT, m3.id)
	v = r.until("the alarm", func(v View) bool { return v.alarmed(AlarmCorrupt) })
	_, err := PlanDisarm(v)
	if !errors.Is(err, ErrCorruptMember) || !strings.Contains(err.Error(), "etcd replace m3") {
		t.Fatalf("plan: %v", err)
	}
	r.node("m3").kill()
	client := r.client(r.Nodes[0])
	eventually(t, "m3 to be removed", func() error {
		// What is asked while the lead changes is never answered.
		ctx, cancel := context.WithTimeout(t.Context(), answerTimeout)
		defer cancel()
		_, err := client.MemberRemove(ctx, m3.id)
		if errors.Is(err, rpctypes.ErrMemberNotFound) {
			err = nil
		}
		return err
	})
	site := r.site()
	site.Members = site.Members[:2] // as after the member's replacement all are there
	v = Look(t.Context(), site, false)
	plan, err := PlanDisarm(v)
	if err != nil || !plan.Compare {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	after, err := Disarm(t.Context(), site, plan, nil)
	if err != nil || len(after.Alarms) > 0 {
		t.Errorf("%v, alarms %+v", err, after.Alarms)
	}
	r.fill("/registry/more/", 1)
}

func TestPlanDisarmGivesUp(t *testing.T) {
	v := wellView().change(func(v *View) {
		v.Alarms = []AlarmView{{Kind: AlarmCorrupt, Member: "m1", id: 1}, {Kind: AlarmCorrupt, Member: "m2", id: 2}}
	})
	if _, err := PlanDisarm(v); !errors.Is(err, ErrCorruptMember) || !strings.Contains(err.Error(), "restore") {
		t.Errorf("two of three corrupt: %v", err)
	}
	v = wellView().change(func(v *View) {
		v.Alarms = []AlarmView{{Kind: AlarmNoSpace, Member: "m1", id: 1}}
		v.Members[1].Answers = false
	})
	if _, err := PlanDisarm(v); !errors.Is(err, ErrUnsteady) {
		t.Errorf("no space and a member down: %v", err)
	}
}
