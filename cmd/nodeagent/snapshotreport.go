package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
)

// printReport prints what was found in a snapshot that is sound.
func printReport(o *options, r etcdops.Report) {
	trailer := "its sha256 trailer matches"
	if !r.Trailer {
		trailer = "it has no trailer"
	}
	manifest := "its manifest matches"
	if r.Manifest == nil {
		manifest = "it has no manifest"
	}
	fmt.Fprintf(o.stdout, "%s is sound: %s, %s, etcd can open it.\n", r.Path, trailer, manifest)
	fmt.Fprintf(o.stdout, "%s, revision %d, %d keys, storage version %s, members %s.\n",
		sizeOf(r.Stored, r.Size), r.Revision, r.Keys, cmp.Or(r.StorageVersion, "before 3.6"), cmp.Or(strings.Join(r.Members, ", "), "none"))
	fmt.Fprintf(o.stdout, "Signature: %s.\n", r.Signature.Text)
	if r.Manifest != nil {
		o.printOrigin(*r.Manifest)
	}
	if len(r.Alarms) > 0 {
		fmt.Fprintf(o.stdout, "Alarms that a restore would bring back: %s.\n", strings.Join(r.Alarms, ", "))
	}
}

// printOrigin prints where a snapshot comes from, and what a recovery needs
// beside it.
func (o *options) printOrigin(m etcdops.Manifest) {
	fmt.Fprintf(o.stdout, "Taken by %s on %s, of the member %s of the cluster %s (etcd %s).\n",
		m.Host, m.Taken.UTC().Format(time.RFC3339), m.MemberName, m.Cluster, cmp.Or(m.EtcdVersion, "of unknown version"))
	if c := m.Compared; c != nil && len(c.Agree) > 0 {
		fmt.Fprintf(o.stdout, "At revision %d its data had the hash of %s.\n", c.Revision, strings.Join(c.Agree, ", "))
	}
	o.printNotes(m)
	if ids, unknown := m.NeededKeys(); len(ids)+len(unknown) > 0 {
		fmt.Fprintf(o.stdout, "Values in it are encrypted: a restore needs the keys %s.\n", strings.Join(append(ids, unknown...), ", "))
	}
	if v := m.Vault; v != nil {
		fmt.Fprintf(o.stdout, "The fleet's secrets were in Vault at %s, below %s.\n", v.Address, v.Mount)
	}
}

// printNotes prints what somebody who relies on the snapshot should know.
func (o *options) printNotes(m etcdops.Manifest) {
	for _, note := range m.Notes() {
		fmt.Fprintf(o.stdout, "Note: %s.\n", note)
	}
}
