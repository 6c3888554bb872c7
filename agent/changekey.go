package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/cluster"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

// KeyChange is what a person asks for when a key is changed.
type KeyChange struct {
	// Name is pki.KeyServiceAccount or pki.KeyEncryption.
	Name string
	Back bool
	// Overlap is for how long the old service account key verifies; zero for the
	// default.
	Overlap time.Duration
	// Tell hears of the steps; see pki.KeyCoordinator.
	Tell func(step pki.KeyDo, c pki.Change, late []pki.Use, left int)
}

// ChangeLocalKey leads the change of a key of a cluster of one host, on that
// host, and lets it follow. It takes the host's locks for a step at a time: the
// wait for the last token may be a day long.
func (h *Host) ChangeLocalKey(ctx context.Context, change KeyChange, rep plan.Reporter) error {
	if h.Spec().PKI.Issuer != pki.IssuerLocal {
		return fmt.Errorf("change key %q on this host: its issuer is %q", change.Name, h.Spec().PKI.Issuer)
	}
	c := pki.KeyCoordinator{
		Keys: lockedKeys{&pki.LocalKeys{Root: h.root}, h}, Store: pki.LocalChanges{Root: h.root}, Secrets: h.Secrets(),
		Poll: localPoll, Overlap: change.Overlap, Tell: change.Tell,
		Uses: func(ctx context.Context, name string) ([]pki.Use, error) {
			r, err := h.Report(ctx)
			if err != nil {
				return nil, err
			}
			return pki.KeyUses([]*hosts.Spec{h.Spec()}, map[string]pki.Report{r.Host: r}, name, r.At), nil
		},
		Follow: func(ctx context.Context) error { return h.followLocked(ctx, rep) },
	}
	return c.Run(ctx, change.Name, change.Back)
}

// followLocked converges what follows a change, under a lock of its own.
func (h *Host) followLocked(ctx context.Context, rep plan.Reporter) error {
	lock, err := Acquire(ctx, h.root, FollowDomains(), lockPatience)
	if err != nil {
		return err
	}
	before := h.locked
	h.Holds(lock)
	defer func() { h.locked = before }()
	result, err := h.Converge(ctx, FollowDomains(), rep)
	return errors.Join(err, result.Err(), lock.Release())
}

// lockedKeys are local keys that are written under the host's lock.
type lockedKeys struct {
	pki.KeyStore
	host *Host
}

func (l lockedKeys) WriteKey(ctx context.Context, name string, content []byte, version int) error {
	return l.host.exclusively(ctx, DomainPKI, func() error { return l.KeyStore.WriteKey(ctx, name, content, version) })
}

// ChangeVaultKey leads the change of a key in Vault, with an administrator's
// client. The hosts follow by themselves. Secrets are needed for the encryption
// key alone: those of any control plane.
func ChangeVaultKey(ctx context.Context, client *api.Client, fleet *hosts.Fleet, secrets pki.Secrets, change KeyChange) error {
	changer, err := vault.NewChanger(client, fleet)
	if err != nil {
		return err
	}
	c := pki.KeyCoordinator{
		Keys: changer, Store: changer, Secrets: secrets, Poll: vaultPoll, Overlap: change.Overlap, Tell: change.Tell,
		Uses: func(ctx context.Context, name string) ([]pki.Use, error) {
			reports, err := changer.Reports(ctx)
			if err != nil {
				return nil, err
			}
			return pki.KeyUses(fleet.Hosts, reports, name, time.Now()), nil
		},
	}
	return c.Run(ctx, change.Name, change.Back)
}

// Secrets are those of the cluster, as this control plane reaches them.
func (h *Host) Secrets() pki.Secrets { return storedSecrets{h} }

// storedSecrets looks into etcd with kube-apiserver's certificate, which every
// control plane has, and writes through the host's own API server.
type storedSecrets struct{ host *Host }

// secretsFolder is where a kube-apiserver keeps Secrets, by namespace and name.
// Where the fleet has it look elsewhere, a wrong guess would find no Secret, and
// the key that all of them need would be dropped.
func secretsFolder(spec *hosts.Spec) (string, error) {
	args := spec.Kubernetes.ExtraArgs[layout.APIServer]
	for _, flag := range []string{"etcd-servers", "etcd-servers-overrides", "storage-backend", "encryption-provider-config"} {
		if args[flag] != "" {
			return "", fmt.Errorf("look at Secrets: the spec has kube-apiserver keep them elsewhere (--%s): nodeagent cannot count them", flag)
		}
	}
	return "/" + strings.Trim(cmp.Or(args["etcd-prefix"], "/registry"), "/") + "/secrets/", nil
}

// list is the paths in etcd of the Secrets that are not encrypted with the key,
// without the folder.
func (s storedSecrets) list(ctx context.Context, key string) ([]string, error) {
	spec := s.host.Spec()
	if !spec.Has(hosts.RoleControlPlane) {
		return nil, fmt.Errorf("look at Secrets: host %q has not the role control-plane: run this on one that has", spec.Name)
	}
	folder, err := secretsFolder(spec)
	if err != nil {
		return nil, err
	}
	files := s.host.root.Certificate(layout.CertAPIServerEtcdClient)
	list, err := etcdops.NotBeginning(ctx, etcdops.TLS{Cert: files.Cert, Key: files.Key, CA: s.host.root.Trust(layout.CAEtcdServer)},
		etcdEndpoints(spec), folder, []byte("k8s:enc:secretbox:v1:"+key+":"))
	for i := range list {
		list[i] = strings.TrimPrefix(list[i], folder)
	}
	return list, err
}

// Left implements pki.Secrets.
func (s storedSecrets) Left(ctx context.Context, key string) (int, error) {
	list, err := s.list(ctx, key)
	return len(list), err
}

// Rewrite implements pki.Secrets. It goes on past one that is refused, so that
// as few as possible are left.
func (s storedSecrets) Rewrite(ctx context.Context, key string) error {
	list, err := s.list(ctx, key)
	if err != nil {
		return err
	}
	client, err := s.host.administrator()
	if err != nil {
		return err
	}
	defer client.Close()
	var failed []error
	for _, path := range list {
		namespace, name, ok := strings.Cut(path, "/")
		if !ok {
			failed = append(failed, fmt.Errorf("%s in etcd's Secrets is none of a namespace", path))
			continue
		}
		if err := cluster.RewriteSecret(ctx, client, namespace, name); err != nil {
			failed = append(failed, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(failed) >= maxRefused {
			return errors.Join(append(failed, errors.New("and perhaps more"))...)
		}
	}
	return errors.Join(failed...)
}

// maxRefused is after how many refused Secrets no further one is tried.
const maxRefused = 10

// encryptionInUse tells why the host's API server does not use the encryption
// configuration on disk; empty where it does. It reads the file again once a
// minute. Only a change is worth the question: with one key there is no other
// to be used.
func (h *Host) encryptionInUse(ctx context.Context, keys []string) string {
	if len(keys) < 2 {
		return ""
	}
	path := h.root.EncryptionConfig()
	content, err := os.ReadFile(path)
	if err != nil {
		return firstLine(err.Error())
	}
	info, err := os.Stat(path)
	if err != nil {
		return firstLine(err.Error())
	}
	client, err := h.administrator()
	if err != nil {
		return firstLine(err.Error())
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, observePatience)
	defer cancel()
	loaded, err := cluster.EncryptionConfig(ctx, client)
	if err != nil {
		return firstLine(err.Error())
	}
	return judgeLoaded(loaded, content, info.ModTime())
}

// judgeLoaded compares what an API server has read with the file. One that does
// not say what it has read has done so since the file was written, or has not.
func judgeLoaded(loaded cluster.Loaded, content []byte, written time.Time) string {
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	if loaded.Digest == digest || loaded.Digest == "" && loaded.At.After(written) {
		return ""
	}
	return "kube-apiserver has not read the encryption configuration again yet, which it does once a minute"
}
