package main

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
)

// What completes words on the command line reads files alone: never the
// network, and nothing that takes root. Where it can read nothing it proposes
// nothing.

var shells = []string{"bash", "zsh", "fish"}

func newCompletion(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a script with which a shell completes nodeagent's commands",
		Long: `completion prints a script for a shell. With it the tabulator key completes commands
and flags and, from the fleet's files, hosts, certificates, CAs, domains, places and files
of snapshots, and the keys that 'nodeagent explain' knows. It asks nobody over the network
and needs no root; what only root can read it does not propose to others.`,
		Example: `  source <(nodeagent completion bash)                    for this session
  nodeagent completion bash > /usr/share/bash-completion/completions/nodeagent
  nodeagent completion zsh > "${fpath[1]}/_nodeagent"
  nodeagent completion fish > ~/.config/fish/completions/nodeagent.fish`,
		Args: oneOf("shell", shells), ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(o.stdout, true)
			case "zsh":
				return root.GenZshCompletion(o.stdout)
			default:
				return root.GenFishCompletion(o.stdout, true)
			}
		},
	}
}

// upTo limits what completes arguments to the first few of them.
func upTo(n int, complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, typed)
	}
}

// completeHost proposes the fleet's hosts.
func (o *options) completeHost(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return o.hostsThat(args, func(*hosts.Spec) bool { return true })
}

// completeMember proposes the fleet's hosts with etcd.
func (o *options) completeMember(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return o.hostsThat(args, func(s *hosts.Spec) bool { return s.Has(hosts.RoleEtcd) })
}

// completeMembers proposes the next of a list with commas in between.
func (o *options) completeMembers(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	before := typed[:strings.LastIndexByte(typed, ',')+1]
	names, directive := o.hostsThat(strings.Split(before, ","), func(s *hosts.Spec) bool { return s.Has(hosts.RoleEtcd) })
	for i := range names {
		names[i] = before + names[i]
	}
	return names, directive
}

// hostsThat lists hosts of the fleet with their roles, those left out that are
// named already.
func (o *options) hostsThat(named []string, wanted func(*hosts.Spec) bool) ([]string, cobra.ShellCompDirective) {
	fleet, err := o.load()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, h := range fleet.Hosts {
		if !wanted(h) || slices.Contains(named, h.Name) {
			continue
		}
		var roles []string
		for _, r := range h.Roles {
			roles = append(roles, string(r))
		}
		names = append(names, described(h.Name, strings.Join(roles, ", ")))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// described adds what shells show beside a proposal.
func described(word, description string) string {
	if description == "" {
		return word
	}
	return word + "\t" + description
}

// completeSnapshot proposes places with what is known of them without asking
// anybody, and files of the shell's own.
func (o *options) completeSnapshot(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	if strings.Contains(typed, "/") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	spec, err := o.quietSpec()
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	refs := o.placed(hosts.LocalCopy, spec.Snapshots.Destination)
	for _, c := range spec.Snapshots.Copies {
		refs = append(refs, o.placed(c.Name, c.Folder)...)
	}
	return refs, cobra.ShellCompDirectiveDefault
}

// placed lists PLACE:latest and, where the place is a folder that can be read,
// PLACE:NAME of each snapshot in it, the newest first.
func (o *options) placed(place, folder string) []string {
	refs := []string{described(place+":latest", "the newest good one")}
	if folder == "" {
		return refs
	}
	entries, err := etcdops.List(folder)
	if err != nil {
		return refs
	}
	for _, e := range entries {
		refs = append(refs, described(place+":"+filepath.Base(e.Path), e.Taken.Format("2006-01-02 15:04")+", "+bytes(e.Size)))
	}
	return refs
}
