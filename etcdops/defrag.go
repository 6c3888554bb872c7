package etcdops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// DefragOptions says which members are defragmented.
type DefragOptions struct {
	// Only is the one member that is; empty means all, one after the other.
	Only string
	// Threshold is the fragmentation, 0 to 1, from which one is.
	Threshold float64
}

// DefragPlan is what a defragmentation will do, in order.
type DefragPlan struct {
	Steps []DefragStep `json:"steps"`
	// Skipped are members that stay as they are.
	Skipped []DefragStep `json:"skipped"`
	// Warnings say what to know before.
	Warnings []string `json:"warnings"`
}

// DefragStep is one member's defragmentation.
type DefragStep struct {
	Member string `json:"member"`
	// Leads: the lead is handed to another member first.
	Leads         bool    `json:"leads"`
	DBSize        int64   `json:"dbSize"`
	Free          int64   `json:"free"`
	Fragmentation float64 `json:"fragmentation"`
	Because       string  `json:"because"`
}

// DefragDone is what it came to, sizes in bytes.
type DefragDone struct {
	Member string        `json:"member"`
	Before int64         `json:"before"`
	After  int64         `json:"after"`
	Took   time.Duration `json:"took"`
}

// PlanDefrag decides who is defragmented in which order: followers before the
// leader, the most fragmented first. It is refused with [ErrUnsteady] where not
// all members are well. It is pure.
func PlanDefrag(v View, opts DefragOptions) (DefragPlan, error) {
	plan := DefragPlan{Steps: []DefragStep{}, Skipped: []DefragStep{}, Warnings: []string{}}
	if err := v.steady(); err != nil {
		return plan, err
	}
	if v.alarmed(AlarmNoSpace) {
		return plan, fmt.Errorf("%w: the alarm NOSPACE is on: `nodeagent etcd disarm` defragments and switches it off", ErrUnsteady)
	}
	return planDefrag(v, opts, plan)
}

func planDefrag(v View, opts DefragOptions, plan DefragPlan) (DefragPlan, error) {
	if m, found := v.member(opts.Only); opts.Only != "" && (!found || !m.Listed) {
		return plan, fmt.Errorf("%q is no member of the cluster; `nodeagent etcd members` lists them", opts.Only)
	}
	for _, m := range v.Members {
		if opts.Only != "" && m.Name != opts.Only {
			continue
		}
		step := DefragStep{Member: m.Name, Leads: m.Leader && v.Voters > 1, DBSize: m.DBSize, Free: max(m.DBSize-m.DBInUse, 0), Fragmentation: m.Fragmentation()}
		if m.Fragmentation() < opts.Threshold {
			step.Because = fmt.Sprintf("%.0f %% of its file is free, less than %.0f %%", 100*m.Fragmentation(), 100*opts.Threshold)
			plan.Skipped = append(plan.Skipped, step)
			continue
		}
		step.Because = fmt.Sprintf("%.0f %% of its file is free", 100*m.Fragmentation())
		plan.Steps = append(plan.Steps, step)
	}
	slices.SortStableFunc(plan.Steps, func(a, b DefragStep) int {
		return cmp.Or(cmp.Compare(boolRank(a.Leads), boolRank(b.Leads)), cmp.Compare(b.Fragmentation, a.Fragmentation), cmp.Compare(a.Member, b.Member))
	})
	if len(plan.Steps) > 0 && v.Voters < 3 {
		plan.Warnings = append(plan.Warnings, fmt.Sprintf("with %d voting member(s) the cluster takes no writes while one is defragmented, some seconds for each GiB", v.Voters))
	}
	return plan, nil
}

func boolRank(b bool) int {
	if b {
		return 1
	}
	return 0
}

// defragTime bounds one member's defragmentation.
const defragTime = 15 * time.Minute

// Defrag defragments the plan's members one at a time. Before each one the whole
// cluster has to be steady, and after it again. What was done is returned
// with the error that ended it; the same call goes on.
func Defrag(ctx context.Context, site Site, plan DefragPlan, told Told) (done []DefragDone, err error) {
	if len(plan.Steps) == 0 {
		return nil, nil
	}
	ctx, release, err := takeTurn(ctx, site, Look(ctx, site, false), "etcd defrag", told)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(causeOf(ctx, err), release()) }()
	return defragAll(ctx, site, plan, told)
}

func defragAll(ctx context.Context, site Site, plan DefragPlan, told Told) (done []DefragDone, err error) {
	var finished []string
	v := Look(ctx, site, false)
	for i, step := range plan.Steps {
		if err := v.steady(); err != nil {
			return done, fmt.Errorf("defragment %s: %w", step.Member, err)
		}
		if v.Leader == step.Member && v.Voters > 1 {
			if err := leadElsewhere(ctx, site, v, finished, told); err != nil {
				return done, err
			}
		}
		m, found := v.member(step.Member)
		if !found {
			return done, fmt.Errorf("defragment %s: it is no member any more", step.Member)
		}
		told.say("defrag", "%s, %d of %d: %s, %s of it free", m.Name, i+1, len(plan.Steps), bytesText(m.DBSize), bytesText(m.DBSize-m.DBInUse))
		began := time.Now()
		if err := defragOne(ctx, site.TLS, m.Endpoint); err != nil {
			return done, fmt.Errorf("defragment %s: %w", m.Name, err)
		}
		took := time.Since(began)
		if v, err = awaitSteady(ctx, site); err != nil {
			return done, fmt.Errorf("%s was defragmented, but afterwards: %w", m.Name, err)
		}
		after, _ := v.member(m.Name)
		told.say("defrag", "%s is back and in step: %s after %s", m.Name, bytesText(after.DBSize), took.Round(time.Millisecond))
		finished = append(finished, m.Name)
		done = append(done, DefragDone{Member: m.Name, Before: m.DBSize, After: after.DBSize, Took: took})
	}
	return done, nil
}

// leadElsewhere hands the lead over before the leader's turn, to a member that
// had its turn already where there is one.
func leadElsewhere(ctx context.Context, site Site, v View, finished []string, told Told) error {
	member := v.Leader
	for try := 1; v.Leader == member; try++ {
		leader, _ := v.member(v.Leader)
		next, err := bestFollower(v, finished)
		if err != nil {
			return err
		}
		if err = moveLeader(ctx, site, leader, next, told); err == nil || !lostLead(err) || try == moveTries {
			return err
		}
		v = Look(ctx, site, false)
	}
	return nil
}

func defragOne(ctx context.Context, files TLS, endpoint string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, defragTime)
	defer cancel()
	client, err := dial(ctx, files, endpoint)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeClient(client)) }()
	_, err = client.Defragment(ctx, endpoint)
	return err
}
