package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/etcdops"
)

// errUnwell makes a command that has printed what is wrong answer exitFailed.
var errUnwell = errors.New("the etcd cluster is not well")

func newEtcdStatus(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell how every etcd member is, seen from this host",
		Long: `status asks every member of the fleet, and every one that the cluster has beside, for
its state: version, size of its database and how much of that is used, how far it is
behind the leader, alarms. It says whether the fleet and the cluster's own list of
members agree, whether there is a quorum and how many further failures it bears.

With --hash every member hashes all of its keys at one revision, which tells whether
they hold the same data. It reads the whole database of each.

It answers 0 when all is well, 1 when something is not.`,
		Example: `  nodeagent etcd status
  nodeagent etcd status --hash
  nodeagent etcd status -o json | jq '.findings[] | select(.problem)'`,
		Args: noArgs,
	}
	hash := cmd.Flags().Bool("hash", false, "compare the members' data by a hash at one revision")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		host, err := o.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		wait := newWaiting(o, "asking the members")
		view, err := host.LookAtEtcd(cmd.Context(), *hash)
		wait.close()
		if err != nil {
			return err
		}
		findings := view.Findings()
		if err := o.printEtcd(view, findings); err != nil {
			return err
		}
		if !etcdops.Healthy(findings) {
			return errUnwell
		}
		return nil
	}
	return cmd
}

func (o *options) printEtcd(v etcdops.View, findings []etcdops.Finding) error {
	if o.json() {
		return printJSON(o, struct {
			etcdops.View
			Healthy  bool              `json:"healthy"`
			Findings []etcdops.Finding `json:"findings"`
		}{v, etcdops.Healthy(findings), nonNil(findings)})
	}
	out := newScreen(o.stdout)
	if err := out.section("etcd", etcdRows(out, v)); err != nil {
		return err
	}
	if err := out.section("members", memberRows(out, v)); err != nil {
		return err
	}
	var rows [][]string
	for _, f := range findings {
		text := f.Text
		if f.Member != "" {
			text = f.Member + ": " + text
		}
		if f.Remedy != "" {
			text += " (" + f.Remedy + ")"
		}
		rows = append(rows, []string{out.verdict(!f.Problem, "warning", "problem"), text})
	}
	if len(rows) == 0 {
		return nil
	}
	return out.section("findings", rows)
}

func etcdRows(out screen, v etcdops.View) [][]string {
	bears := fmt.Sprintf("%d of %d voting members serve; %s", v.Serving, v.Voters, out.verdict(v.Quorum, bearsText(v.Bears), "no quorum"))
	rows := [][]string{
		{"cluster", cmp.Or(v.ClusterID, "unknown")},
		{"leader", cmp.Or(v.Leader, "none")},
		{"quorum", bears},
	}
	if v.HashRevision != 0 {
		rows = append(rows, []string{"hashes", fmt.Sprintf("compared at revision %d", v.HashRevision)})
	}
	return rows
}

func bearsText(n int) string {
	switch {
	case n <= 0:
		return "no further failure is borne"
	case n == 1:
		return "1 further failure is borne"
	}
	return fmt.Sprintf("%d further failures are borne", n)
}

func memberRows(out screen, v etcdops.View) [][]string {
	var rows [][]string
	if out.table {
		rows = append(rows, []string{"MEMBER", "ROLE", "VERSION", "SIZE", "FREE", "QUOTA", "LAG", "LATENCY", "HASH", "STATE"})
	}
	for _, m := range v.Members {
		row := []string{m.Name, memberRole(m), "-", "-", "-", "-", "-", "-", "-"}
		if m.Answers {
			row = []string{
				m.Name, memberRole(m), m.Version, bytes(m.DBSize), percent(m.Fragmentation()), "-",
				fmt.Sprint(m.Lag), m.Latency.Round(100 * time.Microsecond).String(), "-",
			}
			if m.Quota > 0 {
				row[5] = percent(m.QuotaUse())
			}
			if m.Hash != 0 {
				row[8] = fmt.Sprintf("%08x", m.Hash)
			}
		}
		rows = append(rows, append(row, out.verdict(m.InStep(), "in step", memberState(m))))
	}
	return rows
}

func memberRole(m etcdops.MemberView) string {
	switch {
	case !m.Listed:
		return "absent"
	case m.Leader:
		return "leader"
	case m.Learner:
		return "learner"
	}
	return "follower"
}

func memberState(m etcdops.MemberView) string {
	switch {
	case m.OtherCluster != "":
		return "of another cluster"
	case !m.Answers && m.Listed && !m.Started:
		return "not started yet"
	case !m.Answers:
		return "does not answer"
	case !m.HasLeader:
		return "has no leader"
	}
	return "is behind"
}

func percent(share float64) string { return fmt.Sprintf("%.0f%%", 100*share) }

func newEtcdMembers(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "members",
		Short: "List the members of the etcd cluster with their ids",
		Long: `members prints the cluster's own list of members, as a member in reach has it, with
those that only the fleet has. An id is what etcdctl takes.`,
		Example: `  nodeagent etcd members
  nodeagent etcd members -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			host, err := o.open(cmd)
			if err != nil {
				return err
			}
			defer host.Close()
			wait := newWaiting(o, "asking the members")
			view, err := host.LookAtEtcd(cmd.Context(), false)
			wait.close()
			if err != nil {
				return err
			}
			if view.ClusterID == "" {
				return withHint(errors.New("no member of the cluster answers"), "`nodeagent etcd status` tells why")
			}
			return o.printMembers(view)
		},
	}
}

func (o *options) printMembers(v etcdops.View) error {
	if o.json() {
		type member struct {
			ID         string   `json:"id,omitempty"`
			Name       string   `json:"name"`
			Role       string   `json:"role"`
			Started    bool     `json:"started"`
			Answers    bool     `json:"answers"`
			InFleet    bool     `json:"inFleet"`
			PeerURLs   []string `json:"peerURLs"`
			ClientURLs []string `json:"clientURLs"`
		}
		var members []member
		for _, m := range v.Members {
			members = append(members, member{m.ID, m.Name, memberRole(m), m.Started, m.Answers, m.Fleet != nil, nonNil(m.PeerURLs), nonNil(m.ClientURLs)})
		}
		return printJSON(o, map[string]any{"clusterID": v.ClusterID, "members": nonNil(members)})
	}
	out := newScreen(o.stdout)
	var rows [][]string
	if out.table {
		rows = append(rows, []string{"ID", "NAME", "ROLE", "STARTED", "PEER URLS", "CLIENT URLS"})
	}
	for _, m := range v.Members {
		started := "no"
		if m.Started {
			started = "yes"
		}
		rows = append(rows, []string{
			cmp.Or(m.ID, "-"), m.Name, memberRole(m), started,
			cmp.Or(strings.Join(m.PeerURLs, ","), "-"), cmp.Or(strings.Join(m.ClientURLs, ","), "-"),
		})
	}
	return out.rows(rows)
}
