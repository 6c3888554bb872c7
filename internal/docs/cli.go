package docs

import (
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// cliSource is what stands above the commands in docs/cli.md, and in
// nodeagent(1).
//
//go:embed cli.md
var cliSource string

// CLI makes docs/cli.md: every command with all of its help.
func CLI(root *cobra.Command) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, generated, "the commands' help texts and internal/docs/cli.md")
	b.WriteString(cliSource)
	b.WriteString("\n## Commands\n\n| command | |\n| --- | --- |\n")
	for _, cmd := range Commands(root) {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", cmd.CommandPath(), strings.ReplaceAll(cmd.CommandPath(), " ", "-"), cmd.Short)
	}
	b.WriteString("\n## Flags of all commands\n\n" + flagTable(root.PersistentFlags()) + "\n`--help`, `-h` prints the help of any command.\n")
	for _, cmd := range Commands(root) {
		writeCommand(&b, cmd)
	}
	return []byte(b.String())
}

// Commands are all that people see, the root first, each before those below it.
func Commands(root *cobra.Command) []*cobra.Command {
	root.InitDefaultCompletionCmd()
	var all []*cobra.Command
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		all = append(all, cmd)
		for _, sub := range below(cmd) {
			walk(sub)
		}
	}
	walk(root)
	return all
}

// below are the commands of a command that people see.
func below(cmd *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(cmd.Commands()), func(sub *cobra.Command) bool {
		return !sub.IsAvailableCommand() || sub.Name() == "help"
	})
}

func writeCommand(b *strings.Builder, cmd *cobra.Command) {
	fmt.Fprintf(b, "\n## %s\n\n%s.\n\n```\n%s\n```\n", cmd.CommandPath(), cmd.Short, synopsis(cmd))
	for _, paragraph := range paragraphs(cmd.Long) {
		if cmd.HasParent() || !strings.HasPrefix(paragraph, "Exit codes") { // above for all
			b.WriteString("\n" + prose(paragraph) + "\n")
		}
	}
	if flags := flagTable(ownFlags(cmd)); flags != "" {
		b.WriteString("\n" + flags)
	}
	if cmd.Example != "" {
		fmt.Fprintf(b, "\n```\n%s\n```\n", unindent(cmd.Example))
	}
	if cmd.HasParent() {
		fmt.Fprintf(b, "\n[Exit codes](#exit-codes): %s.\n", exits(cmd))
	}
}

// exits are the exit codes of a command in short.
func exits(cmd *cobra.Command) string {
	codes := []string{"0 done", "1 failed"}
	if cmd.Flags().Lookup("exit-code") != nil {
		codes = append(codes, "2 what `--exit-code` is about")
	}
	switch cmd.Name() {
	case "completion", "explain", "version": // look at no fleet
	default:
		codes = append(codes, "3 the fleet is not valid")
	}
	if cmd.Flags().Lookup("force-lockout") != nil {
		codes = append(codes, "4 a way that is open now would be cut")
	}
	return strings.Join(append(codes, "64 wrong usage"), "; ")
}

// synopsis is how the command is called: one line, and one for its commands.
func synopsis(cmd *cobra.Command) string {
	line := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		line += "\n" + cmd.CommandPath() + " COMMAND"
	}
	return line
}

// ownFlags are those that not every command has.
func ownFlags(cmd *cobra.Command) *pflag.FlagSet {
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if cmd.Root().PersistentFlags().Lookup(f.Name) == nil && f.Name != "help" && !f.Hidden {
			own.AddFlag(f)
		}
	})
	return own
}

func flagTable(flags *pflag.FlagSet) string {
	var b strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		name, usage := flagHelp(f)
		fmt.Fprintf(&b, "| %s | %s |\n", strings.ReplaceAll(code(name), "|", `\|`), prose(usage))
	})
	if b.Len() == 0 {
		return ""
	}
	return "| flag | |\n| --- | --- |\n" + b.String()
}

// flagHelp is how a flag is written, "-o, --output text|json", and what it does.
func flagHelp(f *pflag.Flag) (name, usage string) {
	value, usage := pflag.UnquoteUsage(f)
	name = "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	if value != "" {
		name += " " + value
	}
	switch f.DefValue {
	case "", "false", "0", "0s", "[]":
		return name, usage
	}
	return name, usage + " (default " + f.DefValue + ")"
}

func paragraphs(text string) []string {
	var all []string
	for p := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		all = append(all, strings.TrimSpace(p))
	}
	return all
}

// What is a program's own word in the help texts: a command in quotes, a flag,
// and names with underscores, as variables and keys have them.
var (
	commandWords = regexp.MustCompile(`'((?:nodeagent|snapshot|vault|etcdctl|ssh|age)[^'\n]*)'`)
	flagWords    = regexp.MustCompile(`(^|[\s(])(--[a-z][a-z-]*)`)
	snakeWords   = regexp.MustCompile(`(^|[\s(])([A-Za-z][A-Za-z.]*_[A-Za-z._]*[A-Za-z])`)
)

var escapeMarkdown = strings.NewReplacer("<", `\<`, "*", `\*`, "_", `\_`, "|", `\|`, "[", `\[`)

// prose makes Markdown of a help text, which is plain.
func prose(text string) string {
	text = commandWords.ReplaceAllString(text, "`$1`")
	for _, words := range []*regexp.Regexp{flagWords, snakeWords} {
		text = outsideCode(text, func(s string) string { return words.ReplaceAllString(s, "$1`$2`") })
	}
	return outsideCode(text, escapeMarkdown.Replace)
}

// outsideCode changes what is not between backquotes.
func outsideCode(text string, change func(string) string) string {
	parts := strings.Split(text, "`")
	for i := 0; i < len(parts); i += 2 {
		parts[i] = change(parts[i])
	}
	return strings.Join(parts, "`")
}

func unindent(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "  ")
	}
	return strings.Join(lines, "\n")
}
