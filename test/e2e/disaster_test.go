package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/lab"
	"github.com/nodeagent/nodeagent/test/s3"
)

// disasterLimit is for how long a cluster that is lost may be away, from the
// first restore to pods that a Deployment of before has started after.
const disasterLimit = 10 * time.Minute

// storeURL is where the hosts of a cluster reach the S3 server, which runs beside
// the Vault.
const storeURL = "https://192.0.2.5:7070"

const offsite = `
[snapshots.copies.offsite]
endpoint = "` + storeURL + `"
bucket = "snapshots"
ca_file = "/etc/nodeagent/s3.crt"
credentials_file = "/etc/nodeagent/s3.keys"
`

// TestDisaster loses the etcd data of all three hosts of a cluster with
// workloads. One host keeps everything else, one gets another address, one is
// another machine at another address. Each is brought back from the S3 store with
// one command, as docs/guides/disaster-recovery.md has it, and the controllers work
// afterwards.
func TestDisaster(t *testing.T) {
	sideBySide(t)
	c := newTrio(t, newestVault, "", "control-plane", "etcd", "worker")
	c.startStore()
	for _, h := range append([]*lab.Mercury{c.vault}, c.hosts...) {
		c.append(h, "/etc/nodeagent/fleet/cluster.toml", offsite)
	}
	t.Logf("bootstrap:\n%s", c.mustAdmin("pki", "bootstrap"))
	c.enrol()
	c.apply()
	c.nodesReady(2 * time.Minute)
	c.startAgents()
	c.each("import images", func(h *lab.Mercury) error { return h.ImportImages(c.ctx) })
	first := c.hosts[0]
	if err := first.DeployHello(c.ctx); err != nil {
		t.Fatal(err)
	}
	c.scaled(first, 3)
	c.kubectl(first, "create", "configmap", "before", "--from-literal=written=before")
	out, err := c.nodeagent(c.ctx, c.hosts[1], "snapshot", "save")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("save:\n%s", out)
	c.kubectl(first, "create", "configmap", "after", "--from-literal=written=after")

	c.strike()
	c.reach(map[string]string{"n1": "192.0.2.11", "n2": "192.0.2.22", "n3": "192.0.2.23"})
	blocks := guide(t, "disaster-recovery.md", "All data is gone")
	if len(blocks) != 2 {
		t.Fatalf("the guide has %d blocks, not who is let in and the restore", len(blocks))
	}
	c.follow(blocks[0])
	start := time.Now()
	c.follow(blocks[1])
	c.until(3*time.Minute, "an API server", func() error { _, err := first.Kubectl(c.ctx, "get", "--raw", "/readyz"); return err })
	c.scaled(first, 6)
	took := time.Since(start)
	t.Logf("from the first restore to six pods of a Deployment that was there before: %s", took.Round(time.Second))
	if took > disasterLimit {
		t.Errorf("that took longer than %s", disasterLimit)
	}
	c.broughtBack()
	t.Run("one host is left", func(t *testing.T) { goesOnAlone(t, c.with(t)) })
}

// strike takes etcd's data from all hosts, moves the second to another address
// and makes the third another machine. The agents make of it what they can.
func (c *trio) strike() {
	c.t.Helper()
	c.agents("stop")
	c.each("lose etcd's data", func(h *lab.Mercury) error {
		var stop []string
		for _, component := range []string{layout.Kubelet, layout.KubeProxy, layout.ControllerManager, layout.Scheduler, layout.APIServer, layout.Etcd} {
			stop = append(stop, layout.Unit(component))
		}
		if _, err := h.Exec(c.ctx, append([]string{"systemctl", "stop"}, stop...)...); err != nil {
			return err
		}
		lost := []string{onHost.EtcdData(), onHost.Snapshots()}
		if h == c.hosts[2] {
			lost = []string{onHost.State()}
		}
		_, err := h.Exec(c.ctx, append([]string{"rm", "-rf"}, lost...)...)
		return err
	})
	for n, last := range map[int]int{1: 22, 2: 23} {
		h := c.hosts[n]
		c.on(h, "ip", "address", "del", fmt.Sprintf("192.0.2.%d/24", 11+n), "dev", "eth0")
		c.address(h, last)
		for _, other := range append([]*lab.Mercury{c.vault}, c.hosts...) {
			c.on(other, "sed", "-i", fmt.Sprintf(`s/"192\.0\.2\.%d/"192.0.2.%d/`, 11+n, last), "/etc/nodeagent/fleet/"+h.Name()+".toml")
		}
	}
}

// broughtBack checks what is there after the restore.
func (c *trio) broughtBack() {
	c.t.Helper()
	first := c.hosts[0]
	if got := c.kubectl(first, "get", "configmap", "before", "-o", "jsonpath={.data.written}"); got != "before" {
		c.t.Errorf("configmap before says %q", got)
	}
	if out, err := first.Kubectl(c.ctx, "get", "configmap", "after"); err == nil || !strings.Contains(err.Error(), "NotFound") {
		c.t.Errorf("configmap after was written after the snapshot, and is there: %s (%v)", out, err)
	}
	members, err := c.etcdctl(first, "member", "list")
	if err != nil || strings.Count(members, "started") != 3 {
		c.t.Errorf("etcd members (%v):\n%s", err, members)
	}
	for n, address := range []string{"192.0.2.11", "192.0.2.22", "192.0.2.23"} {
		if !strings.Contains(members, "https://"+address+":2380") {
			c.t.Errorf("no etcd member at %s:\n%s", address, members)
		}
		got := c.kubectl(first, "get", "node", c.hosts[n].Name(), "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
		if got != address {
			c.t.Errorf("node %s has the address %q, not %s", c.hosts[n].Name(), got, address)
		}
	}
	c.nodesReady(2 * time.Minute)
	c.converged(2 * time.Minute)
	if _, err := first.Hello(c.ctx); err != nil {
		c.t.Error(err)
	}
}

// scaled scales the Deployment, through a host.
func (c *trio) scaled(h *lab.Mercury, replicas int) {
	c.t.Helper()
	if err := h.ScaleHello(c.ctx, replicas, 5*time.Minute); err != nil {
		c.t.Fatal(err)
	}
}

func (c *trio) kubectl(h *lab.Mercury, args ...string) string {
	c.t.Helper()
	out, err := h.Kubectl(c.ctx, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// append adds to a file of a host.
func (c *trio) append(h *lab.Mercury, path, text string) {
	c.t.Helper()
	c.put(h, path, c.on(h, "cat", path)+text)
}

// startStore starts the S3 server beside the Vault, with an empty bucket, and
// tells every host of it.
func (c *trio) startStore() {
	c.t.Helper()
	program, err := c.lab.Builder.S3(c.ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	const serverPath, keyPath, buckets, metadata = "/usr/local/bin/versitygw", "/etc/s3.key", "/srv/s3/buckets", "/srv/s3/metadata"
	certFile, keyFile := s3.Certificate(c.t, c.t.TempDir(), net.IPv4(192, 0, 2, 5))
	read := func(path string) string {
		content, err := os.ReadFile(path)
		if err != nil {
			c.t.Fatal(err)
		}
		return string(content)
	}
	if err := c.vault.PutCopy(program, serverPath); err != nil {
		c.t.Fatal(err)
	}
	c.put(c.vault, keyPath, read(keyFile))
	for _, h := range append([]*lab.Mercury{c.vault}, c.hosts...) {
		c.put(h, "/etc/nodeagent/s3.crt", read(certFile))
		keys := fmt.Sprintf("aws_access_key_id = %s\naws_secret_access_key = %s\n", s3.AccessKey, s3.SecretKey)
		if err := h.PutFile("/etc/nodeagent/s3.keys", []byte(keys), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	c.on(c.vault, "mkdir", "-p", buckets, metadata)
	c.on(c.vault, slices.Concat([]string{
		"systemd-run", "--quiet", "--unit=s3", "--setenv=ROOT_ACCESS_KEY=" + s3.AccessKey, "--setenv=ROOT_SECRET_KEY=" + s3.SecretKey,
		serverPath, "--port", "192.0.2.5:7070", "--region", s3.Region, "--quiet", "--cert", "/etc/nodeagent/s3.crt", "--key", keyPath,
		"posix", "--sidecar", metadata, buckets,
	})...)
	client := s3.Connect(c.t, storeURL, certFile, c.lab.DialWire)
	c.until(time.Minute, "the S3 server", func() error {
		ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second)
		defer cancel()
		return client.MakeBucket(ctx, "snapshots", minio.MakeBucketOptions{Region: s3.Region})
	})
}
