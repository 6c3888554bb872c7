package docs

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodeagent/nodeagent/hosts"
)

// commandPages makes the page of every command: nodeagent.1,
// nodeagent-snapshot-save.1.
func commandPages(root *cobra.Command, e Edition) (map[string][]byte, error) {
	pages := map[string][]byte{}
	for _, cmd := range Commands(root) {
		p := newPage(pageName(cmd), "1", "nodeagent", e)
		p.section("Name")
		p.line(`%s \- %s`, escape(pageName(cmd)), escape(strings.ToLower(cmd.Short[:1])+cmd.Short[1:]))
		p.section("Synopsis")
		p.synopsis(cmd)
		p.section("Description")
		for _, paragraph := range paragraphs(cmd.Long) {
			if cmd == root && strings.HasPrefix(paragraph, "Exit codes") {
				continue // in a section of their own
			}
			p.line(".PP\n%s", roffText(prose(paragraph)))
		}
		p.flags("Options", ownFlags(cmd))
		p.commands(cmd)
		if cmd == root {
			p.flags("Options of all commands", root.PersistentFlags())
			if err := p.markdown(cliSource[strings.Index(cliSource, "## "):]); err != nil {
				return nil, err
			}
		}
		if cmd != root {
			p.section("Exit codes")
			p.line("%s.", roffText(exits(cmd)))
		}
		if cmd.Example != "" {
			p.section("Examples")
			p.example(unindent(cmd.Example))
		}
		p.seeAlso(cmd)
		pages[pageName(cmd)+".1"] = []byte(p.String())
	}
	return pages, nil
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

func (p *page) synopsis(cmd *cobra.Command) {
	for i, line := range strings.Split(synopsis(cmd), "\n") {
		if i > 0 {
			p.line(".br")
		}
		p.line("%s%s", bold(cmd.CommandPath()), escape(strings.TrimPrefix(line, cmd.CommandPath())))
	}
}

func (p *page) flags(title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	p.section(title)
	flags.VisitAll(func(f *pflag.Flag) {
		name, usage := flagHelp(f)
		p.tagged(bold(name), roffText(prose(usage)))
	})
}

func (p *page) commands(cmd *cobra.Command) {
	if !cmd.HasAvailableSubCommands() {
		return
	}
	p.section("Commands")
	for _, sub := range below(cmd) {
		p.tagged(`\fB`+escape(pageName(sub))+`\fR(1)`, escape(sub.Short))
	}
}

// seeAlso names the page above, those beside, and that of the files.
func (p *page) seeAlso(cmd *cobra.Command) {
	p.section("See also")
	var pages []string
	if cmd.HasParent() {
		pages = append(pages, pageName(cmd.Parent()))
		for _, sibling := range below(cmd.Parent()) {
			if sibling != cmd && cmd.Parent().HasParent() {
				pages = append(pages, pageName(sibling))
			}
		}
	}
	for i, name := range pages {
		pages[i] = `\fB` + escape(name) + `\fR(1)`
	}
	pages = append(pages, bold("nodeagent-spec")+"(5)")
	p.line("%s", strings.Join(pages, ",\n"))
}

// specPage makes nodeagent-spec(5) of what docs/spec.md is made of.
func specPage(e Edition) ([]byte, error) {
	p := newPage("nodeagent-spec", "5", "nodeagent", e)
	p.section("Name")
	p.line(`nodeagent\-spec \- the files of a fleet: cluster.toml and HOST.toml`)
	text, err := withKeys(keyList)
	if err != nil {
		return nil, err
	}
	p.section("Description")
	if err := p.markdown(text); err != nil {
		return nil, err
	}
	p.section("See also")
	p.line("%s(1),\n%s(1),\n%s(1),\n%s(7)", bold("nodeagent"), bold("nodeagent-validate"), bold("nodeagent-explain"), bold("systemd.time"))
	return []byte(p.String()), nil
}

// keyList is the keys of one table, one block of roff: blank lines would end it.
func keyList(keys []*hosts.Key) string {
	p := &page{}
	for _, k := range keys {
		what := k.Type() + ", in "
		switch k.File {
		case "cluster":
			what += "cluster.toml"
		case "host":
			what += "a host's file"
		default:
			what += "any file"
		}
		p.tagged(bold(k.Path), `\fI`+escape(what+"; since "+k.Since)+`\fR`)
		p.line(".br\n%s", roffText(k.Sentence()))
		if u := k.WhenUnset(); u == "required" {
			p.line("Required.")
		} else if u != "" {
			p.line("Default: %s.", roffText(u))
		}
		if isTable(k) {
			p.line(".RS\n.sp\n.EX\n%s\n.EE\n.RE", verbatim(k.Snippet()))
		} else {
			p.line("Example: %s.", bold(hosts.TOML(k.Example)))
		}
	}
	return strings.TrimRight(p.String(), "\n")
}
