package cluster_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/internal/cluster"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/certs"
)

const twoKeys = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox:
      keys:
      - {name: two, secret: OTg3NjU0MzIxMDk4NzY1NDMyMTA5ODc2NTQzMjEwOTg=}
      - {name: one, secret: MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=}
  - identity: {}
`

// testRewrite: an API server says when it has read another configuration, and
// an empty patch has it store a Secret with the new key, its content unchanged.
func testRewrite(ctx context.Context, t *testing.T, plane controlPlane) {
	const amount = 130 // more than a page of etcd's answers
	api := plane.raw(t).Resource(secrets).Namespace("default")
	for i := range amount {
		_, err := api.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": fmt.Sprintf("many-%03d", i)},
			"stringData": map[string]any{"k": fmt.Sprint("value ", i)}, "immutable": i%2 == 0,
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	if others := plane.notBy(ctx, t, "one"); len(others) != 0 {
		t.Fatalf("not encrypted with the key in use: %v", others)
	}
	before := len(plane.notBy(ctx, t, "two"))
	if before < amount {
		t.Fatalf("%d Secrets are in etcd, want %d", before, amount)
	}
	admin := plane.admin(t)
	loaded, err := cluster.EncryptionConfig(ctx, admin)
	content, readErr := os.ReadFile(plane.root.EncryptionConfig())
	if err != nil || readErr != nil || loaded.Digest != fmt.Sprintf("sha256:%x", sha256.Sum256(content)) || loaded.At.IsZero() {
		t.Fatalf("in use is %+v, %v", loaded, err)
	}
	certs.Put(t, plane.root.EncryptionConfig(), []byte(twoKeys))
	written := time.Now()
	plane.waitLoaded(ctx, t, admin, fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(twoKeys))))
	t.Logf("the other configuration was in use after %s", time.Since(written).Round(time.Second))

	began := time.Now()
	for _, path := range plane.notBy(ctx, t, "two") {
		namespace, name, _ := strings.Cut(path, "/")
		if err := cluster.RewriteSecret(ctx, admin, namespace, name); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d Secrets were written anew in %s", before, time.Since(began).Round(time.Millisecond))
	if left := plane.notBy(ctx, t, "two"); len(left) != 0 {
		t.Errorf("left are %v", left)
	}
	one, err := api.Get(ctx, "many-007", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if value, _, _ := unstructured.NestedString(one.Object, "data", "k"); value != "dmFsdWUgNw==" {
		t.Errorf("a Secret was changed: %q", value)
	}
	if err := cluster.RewriteSecret(ctx, admin, "default", "gone"); err != nil {
		t.Errorf("one that is gone: %v", err)
	}
	scheduler := plane.connect(t, cluster.Files(plane.root.Certificate(layout.CertSchedulerClient)))
	if err := cluster.RewriteSecret(ctx, scheduler, "default", "many-007"); err == nil || !strings.Contains(err.Error(), "cannot patch resource") {
		t.Errorf("the scheduler may: %v", err)
	}
}

// notBy are the Secrets in etcd that the key has not encrypted.
func (p controlPlane) notBy(ctx context.Context, t *testing.T, key string) []string {
	t.Helper()
	files := p.root.Certificate(layout.CertAPIServerEtcdClient)
	const folder = "/registry/secrets/"
	list, err := etcdops.NotBeginning(ctx, etcdops.TLS{Cert: files.Cert, Key: files.Key, CA: p.root.Trust(layout.CAEtcdServer)},
		[]string{fmt.Sprintf("https://127.0.0.1:%d", p.spec.Etcd.ClientPort)}, folder, []byte("k8s:enc:secretbox:v1:"+key+":"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		list[i] = strings.TrimPrefix(list[i], folder)
	}
	return list
}

func (p controlPlane) waitLoaded(ctx context.Context, t *testing.T, admin *cluster.Client, digest string) {
	t.Helper()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		loaded, err := cluster.EncryptionConfig(ctx, admin)
		if err != nil {
			t.Fatal(err)
		}
		if loaded.Digest == digest {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("in use is still %+v", loaded)
		case <-tick.C:
		}
	}
}
