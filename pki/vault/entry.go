package vault

import (
	"context"
	"fmt"

	"github.com/nodeagent/nodeagent/pki"
)

// snapshotEntry is the entry of an access key among the cluster's secrets.
func snapshotEntry(name string) string { return "snapshots/" + name }

// SnapshotEntry reads the fields of an entry with the access key of a store of
// snapshots. People write it; no host may. Fields that are no text are left out.
func (i *Issuer) SnapshotEntry(ctx context.Context, name string) (map[string]string, error) {
	a := i.asked(fmt.Sprintf("read secret %q", snapshotEntry(name)), "")
	a.engine = i.place.Secrets()
	path := i.place.Secret(snapshotEntry(name))
	fields := map[string]string{}
	missing := false
	err := i.do(ctx, a, func(ctx context.Context, c *conn) error {
		answer, err := c.read(ctx, path)
		if missing = neverThere(err); missing {
			return nil
		}
		if err != nil {
			return err
		}
		data, _ := answer.Data["data"].(map[string]any)
		for key, value := range data {
			if text, ok := value.(string); ok {
				fields[key] = text
			}
		}
		return nil
	})
	if missing {
		return nil, &pki.Refusal{
			Cause: pki.CauseMissing, What: a.what, Err: fmt.Errorf("there is no entry %s", path),
			Remedy: fmt.Sprintf("vault kv put -cas=0 -mount=%s %s access_key=… secret_key=…", i.place.Secrets(), snapshotEntry(name)),
		}
	}
	return fields, err
}
