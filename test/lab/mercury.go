package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/servers"
)

// Where things lie on the host that AddMercury makes.
const (
	agentPath    = "/usr/local/bin/nodeagent"
	agentUnit    = "/etc/systemd/system/nodeagent.service"
	programsPath = "/opt/kubernetes/bin"
	imagesPath   = "/opt/kubernetes/images"

	// HelloURL is the Service that DeployHello makes.
	HelloURL = "http://10.96.0.80/"
)

// onHost are the paths on a host.
const onHost = layout.Root("")

// Mercury is the host of the shipped fleet of that name, in a lab.
type Mercury struct{ *Host }

// AddMercury makes the host and gives it nodeagent, the fleet and the server
// programs. It is off, and apart from that as bare as a rented server.
func (l *Lab) AddMercury(ctx context.Context) (*Mercury, error) {
	binds, err := l.binds(ctx)
	if err != nil {
		return nil, err
	}
	// The wire plays the provider's router, the gateway of the host's only
	// route; it leads nowhere.
	if err := l.AddSwitch(ctx, "lan", netip.MustParsePrefix("203.0.113.1/24")); err != nil {
		return nil, err
	}
	host, err := l.AddHost(ctx, HostOptions{
		Name:  "mercury",
		Links: []Link{{Name: "eth0", Switch: "lan"}},
		Binds: binds,
	})
	if err != nil {
		return nil, err
	}
	m := &Mercury{host}
	return m, m.equip(ctx)
}

// binds are the server programs and the image of the test pod. A host sees them
// without a copy: 270 MB that never change.
func (l *Lab) binds(ctx context.Context) ([]Bind, error) {
	programs, err := l.Builder.Programs(ctx)
	if err != nil {
		return nil, err
	}
	images, err := l.Builder.PodImage(ctx)
	if err != nil {
		return nil, err
	}
	return []Bind{{From: programs, To: programsPath}, {From: filepath.Dir(images), To: imagesPath}}, nil
}

// AddMember makes a host of a cluster of several, plugged into a switch, with
// nodeagent and the server programs, and without a fleet. It is off.
func (l *Lab) AddMember(ctx context.Context, name, network string) (*Mercury, error) {
	binds, err := l.binds(ctx)
	if err != nil {
		return nil, err
	}
	host, err := l.AddHost(ctx, HostOptions{Name: name, Links: []Link{{Name: "eth0", Switch: network}}, Binds: binds})
	if err != nil {
		return nil, err
	}
	m := &Mercury{host}
	return m, errors.Join(m.PutAgent(ctx), m.PutFile("/etc/profile.d/lab.sh", []byte(profile), 0o644))
}

// equip puts on the bare host what whoever sets it up would bring.
func (m *Mercury) equip(ctx context.Context) error {
	return errors.Join(m.putFleet(), m.PutAgent(ctx), m.PutFile("/etc/profile.d/lab.sh", []byte(profile), 0o644))
}

// profile makes kubectl and etcdctl work without flags in a shell on the host.
var profile = `export PATH="$PATH:` + programsPath + `"
export KUBECONFIG=` + onHost.Kubeconfig(layout.Admin) + `
export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379
export ETCDCTL_CACERT=` + onHost.Certificate(layout.CertNodeagentEtcdClient).CA + `
export ETCDCTL_CERT=` + onHost.Certificate(layout.CertNodeagentEtcdClient).Cert + `
export ETCDCTL_KEY=` + onHost.Certificate(layout.CertNodeagentEtcdClient).Key + `
`

// Reset makes the host as bare as AddMercury made it. It is off then.
func (m *Mercury) Reset(ctx context.Context) error {
	if err := m.Host.Reset(ctx); err != nil {
		return err
	}
	return m.equip(ctx)
}

// AttachMercury is the host that another process added to the lab.
func (l *Lab) AttachMercury() (*Mercury, error) {
	if host := l.Host("mercury"); host != nil {
		return &Mercury{host}, nil
	}
	return nil, fmt.Errorf("lab %q has no host mercury", l.Name())
}

// PutAgent builds nodeagent and puts it and its unit on the host.
func (m *Mercury) PutAgent(ctx context.Context) error {
	binary, err := m.lab.Builder.Agent(ctx)
	if err != nil {
		return err
	}
	for from, to := range map[string]string{
		binary: agentPath,
		filepath.Join(m.lab.Builder.Root, "cmd", "nodeagent", "nodeagent.service"): agentUnit,
	} {
		if err := m.PutCopy(from, to); err != nil {
			return err
		}
	}
	return nil
}

// PutCopy puts a copy of a file of the machine on the host, with its mode.
func (m *Mercury) PutCopy(from, to string) error {
	file, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("put %s on host %q: %w", to, m.name, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("put %s on host %q: %w", to, m.name, err)
	}
	return m.PutReader(to, file, info.Mode().Perm())
}

// putFleet writes the lab's variant of the shipped fleet.
func (m *Mercury) putFleet() error {
	files, err := MercuryFleet(filepath.Join(m.lab.Builder.Root, "hosts", "fleets", "mercury"))
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := m.PutFile(path.Join(onHost.Fleet(), name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Nodeagent runs nodeagent on the host and returns its standard output.
func (m *Mercury) Nodeagent(ctx context.Context, args ...string) (string, error) {
	return m.Exec(ctx, append([]string{agentPath}, args...)...)
}

// Kubectl runs kubectl as the cluster's administrator.
func (m *Mercury) Kubectl(ctx context.Context, args ...string) (string, error) {
	return m.KubectlInput(ctx, nil, args...)
}

// KubectlInput is Kubectl with a standard input.
func (m *Mercury) KubectlInput(ctx context.Context, input io.Reader, args ...string) (string, error) {
	return m.ExecInput(ctx, input, append([]string{programsPath + "/kubectl", "--kubeconfig=" + onHost.Kubeconfig(layout.Admin)}, args...)...)
}

// ImportImages gives the pod images to containerd, since no registry can be
// reached.
func (m *Mercury) ImportImages(ctx context.Context) error {
	_, err := m.Exec(ctx, programsPath+"/ctr", "--namespace", "k8s.io", "images", "import", imagesPath+"/images.tar")
	return err
}

// NodeReady waits until the host's node is Ready.
func (m *Mercury) NodeReady(ctx context.Context) error {
	return Within(ctx, 2*time.Minute, "node "+m.name+" to be Ready", func(ctx context.Context) error {
		out, err := m.Kubectl(ctx, "get", "node", m.name, "-o",
			`jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.message}{end}`)
		if err == nil && !strings.HasPrefix(out, "True ") {
			err = fmt.Errorf("condition Ready is %q", out)
		}
		return err
	})
}

// HelloObjects is a Deployment and a Service of the test image. The address is
// fixed, so that a request needs no look-up.
const HelloObjects = `apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  replicas: 1
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: hello
        image: ` + servers.HelloImage + `
        imagePullPolicy: Never
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec:
  selector: {app: hello}
  clusterIP: 10.96.0.80
  ports: [{port: 80, targetPort: 8080}]
`

// DeployHello makes a Deployment and a Service of the test image.
func (m *Mercury) DeployHello(ctx context.Context) error {
	// The namespace's service account, without which no pod is admitted, comes
	// from the controller manager a moment after the API server.
	return Within(ctx, time.Minute, "the cluster to take a Deployment", func(ctx context.Context) error {
		if _, err := m.Kubectl(ctx, "get", "serviceaccount", "default"); err != nil {
			return err
		}
		_, err := m.KubectlInput(ctx, strings.NewReader(HelloObjects), "apply", "-f", "-")
		return err
	})
}

// ScaleHello gives the Deployment so many replicas and waits until all are ready.
// The watches of the deployment and replica set controllers, the scheduler and the
// kubelets work then: each hears of what the one before wrote.
func (m *Mercury) ScaleHello(ctx context.Context, replicas int, limit time.Duration) error {
	if _, err := m.Kubectl(ctx, "scale", "deployment/hello", fmt.Sprintf("--replicas=%d", replicas)); err != nil {
		return err
	}
	return Within(ctx, limit, fmt.Sprintf("%d pods of the scaled Deployment", replicas), func(ctx context.Context) error {
		out, err := m.Kubectl(ctx, "get", "deployment", "hello", "-o", "jsonpath={.status.readyReplicas} {.status.observedGeneration} {.metadata.generation}")
		if fields := strings.Fields(out); err == nil && (len(fields) != 3 || fields[0] != fmt.Sprint(replicas) || fields[1] != fields[2]) {
			err = fmt.Errorf("ready, observed and wanted generation are %q", out)
		}
		return err
	})
}

// Hello waits until the Service answers, and returns the answer.
func (m *Mercury) Hello(ctx context.Context) (string, error) {
	var answer string
	err := Within(ctx, 2*time.Minute, HelloURL+" to answer", func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // for one attempt
		defer cancel()
		answer, err = m.Get(ctx, HelloURL)
		return err
	})
	return answer, err
}
