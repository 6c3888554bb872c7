package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// Apply carries out changes that Diff made. What one change fails at does not
// stop the others. Applied again, or after having been cut off anywhere, the
// next plan has what is left.
func Apply(ctx context.Context, client *api.Client, place Place, changes []plan.Change, rep plan.Reporter) error {
	missing := map[string]bool{} // mounts that could not be made
	return plan.Each(ctx, changes, rep, func(ctx context.Context, c plan.Change) error {
		e, ok := c.Payload.(edit)
		switch {
		case !ok:
			return errors.New("the change is not one of package vault")
		case missing[e.mount()]:
			return fmt.Errorf("%s could not be made", e.mount())
		case e.authority != nil:
			return applyAuthority(ctx, client, *e.authority)
		case e.secret != nil:
			return adoptSecret(ctx, client, place, *e.secret)
		case c.Action == plan.ActionDelete:
			return deleteObject(ctx, client, *e.object)
		case c.Action == plan.ActionCreate:
			err := create(ctx, client, place, *e.object)
			if err != nil && (e.object.Kind == KindEngine || e.object.Kind == KindMethod) {
				missing[e.mount()] = true
			}
			return err
		}
		return update(ctx, client, place, *e.object)
	})
}

func applyAuthority(ctx context.Context, client *api.Client, want Authority) error {
	have, err := readAuthority(ctx, client, want.Name, want.Engine)
	switch {
	case err != nil:
		return err
	case have.Condition == Waiting && want.Signed != "":
		return importSigned(ctx, client, want, time.Now())
	case want.Adopted != nil:
		return adoptAuthority(ctx, client, want, have)
	case have.Condition != Absent:
		return nil // made since it was observed; never replaced
	case want.Offline:
		return makeKey(ctx, client, want)
	}
	return makeRoot(ctx, client, want)
}

func deleteObject(ctx context.Context, client *api.Client, o Object) error {
	if _, err := client.Logical().DeleteWithContext(ctx, o.path()); err != nil {
		return fmt.Errorf("delete %s: %w", o.path(), plain(err))
	}
	return nil
}

func create(ctx context.Context, client *api.Client, place Place, o Object) error {
	switch o.Kind {
	case KindEngine:
		return write(ctx, client, o.path(), mountBody(o.Fields))
	case KindMethod:
		return write(ctx, client, o.path(), mountBody(o.Fields))
	}
	return update(ctx, client, place, o)
}

// mountBody is the request that mounts an engine or a method.
func mountBody(fields Fields) map[string]any {
	body := map[string]any{"type": fields["type"], "description": fields["description"]}
	if ttl := fields["max_lease_ttl"]; ttl != nil {
		body["config"] = map[string]any{"max_lease_ttl": ttl}
	}
	if version := fields["version"]; version != nil {
		body["options"] = map[string]any{"version": version}
	}
	return body
}

func update(ctx context.Context, client *api.Client, place Place, o Object) error {
	body := maps.Clone(map[string]any(o.Fields))
	for name, value := range body {
		if value == nil {
			body[name] = emptyValue(name)
		}
	}
	switch o.Kind {
	case KindEngine, KindMethod:
		delete(body, "type")
		delete(body, "version")
		return write(ctx, client, o.path()+"/tune", body)
	case KindSettings:
		return writeSettings(ctx, client, o.path(), body)
	case KindLogin:
		if o.method() == authCert {
			a, err := readAuthority(ctx, client, loginAuthority, place.Engine(loginAuthority))
			if err != nil {
				return err
			}
			if len(a.Issuers) == 0 {
				return fmt.Errorf("the authority %s has no certificate yet, which the login is checked against", a.Engine)
			}
			body["certificate"] = a.bundle()
		}
	}
	return write(ctx, client, o.path(), body)
}

// emptyValue is nothing in the JSON type that a field has: lists but for some.
func emptyValue(field string) any {
	switch field {
	case "not_after", "bound_subject":
		return ""
	case "bound_claims":
		return map[string]any{}
	}
	return []string{}
}

// settingsPatience is how long a new KV engine may take to become usable.
const settingsPatience = 15 * time.Second

// writeSettings waits for a KV engine that was mounted a moment ago: until it
// has made itself ready it refuses everything with status 400.
func writeSettings(ctx context.Context, client *api.Client, path string, body map[string]any) error {
	ctx, cancel := context.WithTimeout(ctx, settingsPatience)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := write(ctx, client, path, body)
		if err == nil || !strings.Contains(err.Error(), "Upgrading from non-versioned to versioned") {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}
