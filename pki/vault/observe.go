package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"github.com/nodeagent/nodeagent/internal/layout"
)

const (
	typePKI = "pki"
	typeKV  = "kv"
)

// atOnce is how many requests are under way side by side.
const atOnce = 8

// Observe reads what a cluster has in Vault at a place. It never writes. What
// could not be read is named by the error, beside what could.
func Observe(ctx context.Context, client *api.Client, place Place) (State, error) {
	o := &observer{client: client, State: State{Place: place}}
	mountsErr := o.mounts(ctx)
	policiesErr := o.policies(ctx)
	for _, m := range o.mounted {
		mountsErr = errors.Join(mountsErr, o.inside(ctx, m))
	}
	err := errors.Join(mountsErr, policiesErr, o.readAll(ctx))
	slices.SortFunc(o.Objects, compareObjects)
	slices.SortFunc(o.Others, compareObjects)
	return o.State, errors.Join(err, o.authorities(ctx), o.audit(ctx))
}

type observer struct {
	State
	client  *api.Client
	mounted []Object // our engines and methods that are there
	pending []Object // to be read
}

// mounts looks at all engines and methods.
func (o *observer) mounts(ctx context.Context) error {
	engines, err := o.client.Sys().ListMountsWithContext(ctx)
	if err != nil {
		return fmt.Errorf("list engines: %w", plain(err))
	}
	for at, m := range engines {
		o.mount(KindEngine, strings.TrimSuffix(at, "/"), Fields{
			"type": m.Type, "description": m.Description, "max_lease_ttl": m.Config.MaxLeaseTTL, "version": m.Options["version"],
		})
	}
	methods, err := o.client.Sys().ListAuthWithContext(ctx)
	if err != nil {
		return fmt.Errorf("list auth methods: %w", plain(err))
	}
	for at, m := range methods {
		o.mount(KindMethod, strings.TrimSuffix(at, "/"), Fields{"type": m.Type, "description": m.Description})
	}
	slices.SortFunc(o.mounted, compareObjects)
	slices.Sort(o.Above)
	return nil
}

func (o *observer) mount(kind Kind, at string, fields Fields) {
	object := Object{Kind: kind, Mount: at, Fields: normalFields(fields)}
	switch place := string(o.Place); {
	case place == at || strings.HasPrefix(place, at+"/"):
		o.Above = append(o.Above, object.Key())
	case !strings.HasPrefix(at, place+"/"):
	case slices.Contains(o.ours(kind), at):
		o.Objects = append(o.Objects, object)
		o.mounted = append(o.mounted, object)
	default:
		o.Others = append(o.Others, object)
	}
}

// ours are the paths of the engines, or methods, that a place can have.
func (o *observer) ours(kind Kind) []string {
	if kind == KindMethod {
		return []string{o.Place.Auth(authAppRole), o.Place.Auth(authCert), o.Place.Auth(authJWT)}
	}
	paths := []string{o.Place.Secrets()}
	for _, ca := range layout.CAs() {
		paths = append(paths, o.Place.Engine(ca))
	}
	return paths
}

// inside finds out what an engine or method has, to be read.
func (o *observer) inside(ctx context.Context, m Object) error {
	switch m.Fields["type"] {
	case typeKV:
		o.pending = append(o.pending, Object{Kind: KindSettings, Mount: m.Mount})
		return nil
	case typePKI:
		o.pending = append(o.pending, Object{Kind: KindTidy, Mount: m.Mount})
		return o.list(ctx, KindRole, m.Mount, m.Mount+"/roles")
	}
	if m.Kind == KindMethod && m.Fields["type"] == path.Base(m.Mount) {
		return o.list(ctx, KindLogin, m.Mount, strings.TrimSuffix(loginFolder(m.Mount), "/"))
	}
	return nil
}

func (o *observer) list(ctx context.Context, kind Kind, mount, folder string) error {
	names, err := listKeys(ctx, o.client, folder)
	for _, name := range names {
		o.pending = append(o.pending, Object{Kind: kind, Mount: mount, Name: name})
	}
	return err
}

func (o *observer) policies(ctx context.Context) error {
	names, err := listKeys(ctx, o.client, "sys/policies/acl")
	for _, name := range names {
		if strings.HasPrefix(name, o.Place.policyPrefix()) {
			o.pending = append(o.pending, Object{Kind: KindPolicy, Name: name})
		}
	}
	return err
}

// readAll reads what was found, several at a time.
func (o *observer) readAll(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(atOnce)
	var lock sync.Mutex
	var failed []error
	for _, object := range o.pending {
		group.Go(func() error {
			fields, err := readObject(ctx, o.client, object)
			lock.Lock()
			defer lock.Unlock()
			object.Fields = fields
			switch {
			case err != nil:
				failed = append(failed, err)
			case fields == nil: // gone since it was listed
			case o.named(object):
				o.Objects = append(o.Objects, object)
			default:
				o.Others = append(o.Others, object)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return errors.Join(failed...)
}

// named tells whether an object in an engine or method of ours carries a name,
// and a login a policy, that we give.
func (o *observer) named(object Object) bool {
	switch object.Kind {
	case KindRole:
		host, certificate, _ := strings.Cut(object.Name, ".")
		return host != "" && slices.Contains(certificates, certificate) ||
			object.Mount == o.Place.Engine(layout.CAK8sClient) && slices.Contains(personalRoles, object.Name)
	case KindPolicy:
		if slices.ContainsFunc(personalRoles, func(role string) bool { return object.Name == o.Place.PersonalPolicy(role) }) {
			return true
		}
		return !strings.ContainsAny(strings.TrimPrefix(object.Name, o.Place.policyPrefix()), ":/.")
	case KindLogin:
		policies, _ := object.Fields["token_policies"].([]string)
		return slices.Contains(policies, o.Place.Policy(object.Name))
	}
	return true
}

// certificates are the second halves of our roles' names.
var certificates = []string{
	layout.CertEtcdServer, layout.CertEtcdPeer, layout.CertAPIServerEtcdClient, layout.CertNodeagentEtcdClient,
	layout.CertAPIServer, layout.CertAPIServerKubeletClient, layout.CertFrontProxyClient, layout.CertKubeletServer,
	layout.CertKubeletClient, layout.CertControllerManagerClient, layout.CertControllerManagerServer,
	layout.CertSchedulerClient, layout.CertSchedulerServer, layout.CertKubeProxy, layout.CertAdmin,
	layout.CertNodeagent, "ephemeral",
}

// readObject reads an object's fields; nil where there is none.
func readObject(ctx context.Context, client *api.Client, object Object) (Fields, error) {
	data, err := read(ctx, client, object.path())
	if err != nil || data == nil {
		return nil, err
	}
	if object.Kind == KindLogin {
		switch path.Base(object.Mount) {
		case authCert:
			if bundle, _ := data["certificate"].(string); bundle != "" {
				data["certificate"] = fingerprint(bundle)
			}
		case authAppRole:
			id, err := read(ctx, client, object.path()+"/role-id")
			if err != nil {
				return nil, err
			}
			data["role_id"] = id["role_id"]
		}
	}
	return normalFields(data), nil
}

func (o *observer) authorities(ctx context.Context) error {
	var failed []error
	for _, ca := range layout.CAs() {
		a := Authority{Name: ca, Engine: o.Place.Engine(ca)}
		if engine := o.object(Object{Kind: KindEngine, Mount: a.Engine}); engine != nil && engine.Fields["type"] == typePKI {
			var err error
			if a, err = readAuthority(ctx, o.client, ca, a.Engine); err != nil {
				failed = append(failed, err)
			}
		}
		o.Authorities = append(o.Authorities, a)
	}
	return errors.Join(failed...)
}

// audit looks at the audit devices; not to be let is no error, as it is advice
// alone that depends on it.
func (o *observer) audit(ctx context.Context) error {
	devices, err := o.client.Sys().ListAuditWithContext(ctx)
	if status(err) == http.StatusForbidden {
		o.AuditHidden = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("list audit devices: %w", plain(err))
	}
	for at := range devices {
		o.Audit = append(o.Audit, strings.TrimSuffix(at, "/"))
	}
	slices.Sort(o.Audit)
	return nil
}

// read answers the data at a path; nil where there is nothing.
func read(ctx context.Context, client *api.Client, path string) (map[string]any, error) {
	secret, err := client.Logical().ReadWithContext(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, plain(err))
	}
	if secret == nil {
		return nil, nil
	}
	return secret.Data, nil
}

// listKeys answers the names below a path, sorted; none where there is nothing.
func listKeys(ctx context.Context, client *api.Client, path string) ([]string, error) {
	secret, err := client.Logical().ListWithContext(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", path, plain(err))
	}
	if secret == nil {
		return nil, nil
	}
	keys, _ := secret.Data["keys"].([]any)
	names := make([]string, 0, len(keys))
	for _, key := range keys {
		names = append(names, fmt.Sprint(key))
	}
	slices.Sort(names)
	return names, nil
}

func write(ctx context.Context, client *api.Client, path string, data map[string]any) error {
	if _, err := client.Logical().WriteWithContext(ctx, path, data); err != nil {
		return fmt.Errorf("write %s: %w", path, plain(err))
	}
	return nil
}

// seconds is a duration as Vault reads it.
func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int64(d/time.Second)) }
