package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/nodeagent/nodeagent/test/lab"
	"github.com/nodeagent/nodeagent/test/servers"
)

// tour tells the user where the demo is and shows what it runs.
type tour struct {
	start time.Time
	step  int
	host  *lab.Mercury
}

const steps = 8

// up runs the whole demo. A demo that runs already is taken on from there:
// every step can be done twice.
func up(ctx context.Context) error {
	d := &tour{start: time.Now()}
	for _, part := range []func(context.Context) error{
		d.build, d.boot, d.plan, d.apply, d.pod, d.snapshot, d.keep, d.look,
	} {
		if err := part(ctx); err != nil {
			return fmt.Errorf("%w\n\nThe demo stops here. Look around with: make demo-shell; go on with: make demo; remove it with: make demo-clean", err)
		}
	}
	return nil
}

// say announces the next step.
func (d *tour) say(format string, args ...any) {
	d.step++
	fmt.Printf("\n[%d/%d, %s] %s\n", d.step, steps, time.Since(d.start).Round(time.Second), fmt.Sprintf(format, args...))
}

// build makes what is not in the cache, side by side.
func (d *tour) build(ctx context.Context) error {
	d.say("Building nodeagent, and the servers and the Debian root folder of the host unless they are in the cache.")
	builder, err := servers.New(os.Stdout)
	if err != nil {
		return err
	}
	builds := []func(context.Context) (string, error){builder.Programs, builder.PodImage, builder.RootFS, builder.Agent}
	errs := make([]error, len(builds))
	var wg sync.WaitGroup
	for i, build := range builds {
		wg.Go(func() { _, errs[i] = build(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// boot starts a bare host, or finds the one that runs.
func (d *tour) boot(ctx context.Context) error {
	l, err := lab.Attach(labName, os.Stdout)
	if err == nil {
		if host, err := l.AttachMercury(); err == nil && host.Running() {
			d.say("The host mercury of an earlier demo runs; giving it the newly built nodeagent and going on with it.")
			d.host = host
			return host.PutAgent(ctx)
		}
		fmt.Println("An earlier demo's host is off; removing it.")
		if err := l.Close(ctx); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	d.say("Booting a bare Debian host, mercury, with its own systemd and network. It gets the nodeagent binary and a fleet of two TOML files.")
	if l, err = lab.Open(ctx, lab.Options{Name: labName, Keep: true, Log: os.Stdout}); err != nil {
		return err
	}
	if d.host, err = l.AddMercury(ctx); err != nil {
		return err
	}
	if err := d.host.Boot(ctx); err != nil {
		return err
	}
	return d.run(ctx, "ls", "-l", "/usr/local/bin/nodeagent", "/etc/nodeagent/fleet", "/opt/kubernetes/bin")
}

func (d *tour) plan(ctx context.Context) error {
	d.say("What is different between the host and its spec? A plan writes nothing.")
	if err := d.run(ctx, "nodeagent", "validate", "/etc/nodeagent/fleet"); err != nil {
		return err
	}
	fmt.Println("\nmercury# nodeagent plan")
	out, err := d.host.Nodeagent(ctx, "plan")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	const shown = 30
	if len(lines) > shown {
		lines = append(lines[:shown], fmt.Sprintf("… and %d more lines", len(lines)-shown))
	}
	fmt.Println("  " + strings.Join(lines, "\n  "))
	return nil
}

func (d *tour) apply(ctx context.Context) error {
	d.say("Making it so: kernel, network, certificates, etcd, containerd and the Kubernetes components.")
	if err := d.run(ctx, "nodeagent", "apply"); err != nil {
		return err
	}
	return d.host.NodeReady(ctx)
}

func (d *tour) pod(ctx context.Context) error {
	d.say("Running a pod behind a Service. Its image is a small static program, imported since no registry is needed.")
	if err := d.host.ImportImages(ctx); err != nil {
		return err
	}
	if err := d.host.DeployHello(ctx); err != nil {
		return err
	}
	answer, err := d.host.Hello(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("\nGET %s from the host:\n  %s", lab.HelloURL, answer)
	return nil
}

func (d *tour) snapshot(ctx context.Context) error {
	d.say("Taking a snapshot of etcd, checked while it streams.")
	if err := d.run(ctx, "nodeagent", "snapshot"); err != nil {
		return err
	}
	return d.table(ctx, "nodeagent", "snapshot", "list")
}

// keep leaves the host in the hands of the service.
func (d *tour) keep(ctx context.Context) error {
	d.say("From here on nodeagent runs as a systemd service and keeps the host so.")
	if err := d.run(ctx, "systemctl", "enable", "nodeagent.service"); err != nil {
		return err
	}
	// Restarted, not only started: a second demo has built another binary.
	return d.run(ctx, "systemctl", "restart", "nodeagent.service")
}

func (d *tour) look(ctx context.Context) error {
	d.say("How the host is now.")
	if err := d.table(ctx, "nodeagent", "status"); err != nil {
		return err
	}
	for _, args := range [][]string{{"get", "nodes", "-o", "wide"}, {"get", "deployments,services,pods", "-A", "-o", "wide"}} {
		fmt.Printf("\nmercury# kubectl %s\n", strings.Join(args, " "))
		out, err := d.host.Kubectl(ctx, args...)
		if err != nil {
			return err
		}
		fmt.Print(indent(out))
	}
	fmt.Printf(`
Done after %s. The host goes on running.
  make demo-shell    look around on it: nodeagent status, kubectl get pods -A, journalctl -u nodeagent.
                     Break something, such as: ip address flush dev eth0; systemctl stop nodeagent-etcd;
                     and see it repaired: journalctl -fu nodeagent
  make demo          go through the steps again, with nodeagent built anew
  make demo-clean    remove the host and all it left
`, time.Since(d.start).Round(time.Second))
	return nil
}

// run shows a command on the host and what it prints, as it prints it.
func (d *tour) run(ctx context.Context, args ...string) error {
	return d.show(ctx, args, args)
}

// table shows a command that prints tables on terminals only: script(1) gives
// it one. Colours it has where the demo itself runs on a terminal.
func (d *tour) table(ctx context.Context, args ...string) error {
	onTerminal := []string{"script", "--quiet", "--return", "--command", strings.Join(args, " "), "/dev/null"}
	if !term.IsTerminal(int(os.Stdout.Fd())) {
		onTerminal = append([]string{"env", "NO_COLOR=1"}, onTerminal...)
	}
	return d.show(ctx, args, onTerminal)
}

// show prints the words of a command, carries it out and prints what it prints.
func (d *tour) show(ctx context.Context, words, args []string) error {
	fmt.Printf("\nmercury# %s\n", strings.Join(words, " "))
	cmd, err := d.host.Command(ctx, args...)
	if err != nil {
		return err
	}
	out := &indenter{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return fmt.Errorf("%s answered exit code %d", strings.Join(words, " "), exit.ExitCode())
		}
		return fmt.Errorf("%s: %w", strings.Join(words, " "), err)
	}
	return nil
}

// indenter prints lines two columns to the right, as they come.
type indenter struct{ inLine bool }

func (i *indenter) Write(p []byte) (int, error) {
	// Terminals end lines with a carriage return, too.
	for line := range strings.Lines(strings.ReplaceAll(string(p), "\r\n", "\n")) {
		if !i.inLine {
			line = "  " + line
		}
		i.inLine = !strings.HasSuffix(line, "\n")
		if _, err := os.Stdout.WriteString(line); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func indent(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString("  " + line)
	}
	return out.String()
}
