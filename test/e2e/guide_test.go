package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// guideLine is a line of a block of a guide.
type guideLine struct {
	command string
	fails   bool // the guide says that it exits with 1
}

// guide is the blocks of a section of a file in docs/guides, or of all of it. What
// stands behind a command, after three spaces, is said to the reader.
func guide(t *testing.T, file, section string) (blocks [][]guideLine) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "docs", "guides", file))
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	if section != "" {
		_, rest, ok := strings.Cut(text, "\n## "+section+"\n")
		if !ok {
			t.Fatalf("%s has no section %q", file, section)
		}
		text, _, _ = strings.Cut(rest, "\n## ")
	}
	for n, part := range strings.Split(text, "```") {
		if n%2 == 0 {
			continue
		}
		var block []guideLine
		for line := range strings.Lines(strings.TrimSpace(part)) {
			command, said, _ := strings.Cut(line, "   ")
			block = append(block, guideLine{strings.TrimSpace(command), strings.HasPrefix(strings.TrimSpace(said), "exits with 1")})
		}
		blocks = append(blocks, block)
	}
	return blocks
}

// check compares how a line ended with what the guide says of it.
func (l guideLine) check(t *testing.T, out string, err error, took time.Duration) {
	t.Helper()
	t.Logf("%s (%v, after %s):\n%s", l.command, err, took.Round(time.Second), out)
	if l.fails != (err != nil) {
		t.Fatalf("%s: the guide says that it fails: %t; it ended with %v", l.command, l.fails, err)
	}
}

// follow runs the lines of a block as the host's root, in its folder, and returns
// what the last one printed.
func (h *host) follow(block []guideLine) (out string) {
	h.t.Helper()
	for _, line := range block {
		start := time.Now()
		var err error
		out, err = h.Exec(h.ctx, "sh", "-c", "cd /root; . /etc/profile; "+line.command)
		line.check(h.t, out, err, time.Since(start))
	}
	return out
}

// follow runs the lines of a block where the administrator sits.
func (c *trio) follow(block []guideLine) {
	c.t.Helper()
	for _, line := range block {
		start := time.Now()
		out, err := c.vault.Exec(c.ctx, "sh", "-c", "cd /root; export VAULT_TOKEN="+c.token+"; "+line.command)
		line.check(c.t, out, err, time.Since(start))
	}
}

// reach lets the administrator come into the hosts by ssh, by their names.
func (c *trio) reach(addresses map[string]string) {
	c.t.Helper()
	config := "Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
	for name, address := range addresses {
		config += fmt.Sprintf("Host %s\n  HostName %s\n", name, address)
	}
	c.put(c.vault, "/root/.ssh/config", config)
	c.on(c.vault, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519")
	key := c.on(c.vault, "cat", "/root/.ssh/id_ed25519.pub")
	c.each("let the administrator in", func(h *lab.Mercury) error {
		if err := h.PutFile("/root/.ssh/authorized_keys", []byte(key+"\n"), 0o600); err != nil {
			return err
		}
		_, err := h.Exec(c.ctx, "systemctl", "enable", "--now", "ssh.service")
		return err
	})
}
