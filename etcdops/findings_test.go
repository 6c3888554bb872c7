package etcdops

import (
	"strings"
	"testing"
)

// wellView is a view of three members in which nothing is wrong.
func wellView() View {
	v := View{ClusterID: "c", Quorum: true}
	for i, name := range []string{"m1", "m2", "m3"} {
		want := Member{Name: name, PeerURL: "https://" + name + ":2380", ClientURL: "https://" + name + ":2379"}
		v.Members = append(v.Members, MemberView{
			Name: name, ID: name, id: uint64(i + 1), Fleet: &want, Listed: true, Started: true,
			PeerURLs: []string{want.PeerURL}, ClientURLs: []string{want.ClientURL}, Endpoint: want.ClientURL,
			Answers: true, HasLeader: true, Leader: i == 0, Version: "3.7.3", Storage: "3.7",
			DBSize: 100 << 20, DBInUse: 90 << 20, Quota: 8 << 30, RaftIndex: 5000, RaftApplied: 5000, RaftTerm: 2, Revision: 4000,
		})
	}
	v.finish()
	return v
}

// change edits a member of a view and sums it up again.
func (v View) change(edit func(v *View)) View {
	edit(&v)
	v.Voters, v.Serving, v.Leader = 0, 0, ""
	v.finish()
	return v
}

func TestFindings(t *testing.T) {
	if list := wellView().Findings(); len(list) > 0 {
		t.Fatalf("findings where all is well: %+v", list)
	}
	for name, test := range map[string]struct {
		edit    func(v *View)
		problem bool
		member  string
		text    string
	}{
		"behind":      {func(v *View) { v.Members[1].RaftApplied = 100 }, true, "m2", "4900 entries behind"},
		"hashes":      {func(v *View) { v.Members[0].Hash, v.Members[1].Hash, v.Members[2].Hash = 7, 7, 8 }, true, "", "m1, m2: 7; m3: 8"},
		"hash error":  {func(v *View) { v.HashError = "m2 has compacted" }, true, "", "could not be compared: m2 has compacted"},
		"quota near":  {func(v *View) { v.Members[2].Quota = 120 << 20 }, false, "m3", "83 % of its quota"},
		"quota full":  {func(v *View) { v.Members[2].Quota = 104 << 20 }, true, "m3", "96 % of its quota"},
		"fragmented":  {func(v *View) { v.Members[2].DBInUse = 20 << 20 }, false, "m3", "80 % of its database file"},
		"versions":    {func(v *View) { v.Members[2].Version = "3.6.8" }, false, "", "m1, m2: 3.7.3; m3: 3.6.8"},
		"corrupt":     {func(v *View) { v.Alarms = []AlarmView{{Kind: AlarmCorrupt, Member: "m2", id: 2}} }, true, "m2", "its data differ"},
		"learner":     {func(v *View) { v.Members[2].Learner = true }, false, "m3", "no vote"},
		"even":        {func(v *View) { v.Members = v.Members[:2] }, false, "", "2 voting members bear no more failures than 1"},
		"half answer": {func(v *View) { v.Members[1].Error = "no alarms" }, true, "m2", "did not answer everything: no alarms"},
	} {
		list := wellView().change(test.edit).Findings()
		found := false
		for _, f := range list {
			found = found || f.Problem == test.problem && f.Member == test.member && strings.Contains(f.Text, test.text)
		}
		if !found {
			t.Errorf("%s: %+v has no finding %q of %q", name, list, test.text, test.member)
		}
		if Healthy(list) == test.problem {
			t.Errorf("%s: healthy is %t: %+v", name, Healthy(list), list)
		}
	}
}
