package vault

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/pki"
)

// secretField is the field of a shared secret's entry that holds it, base64.
const secretField = "value"

// Secret implements pki.Issuer. The entry is written only where there has never
// been one (check-and-set 0), so of two hosts that make it at once one wins, and
// the other reads what that wrote. One that was deleted is never made anew:
// what it protects may still be there.
func (i *Issuer) Secret(ctx context.Context, name string, fresh func() ([]byte, error)) ([]byte, error) {
	content, _, err := i.shared(ctx, name, fresh)
	return content, err
}

// shared is Secret, and which version it is.
func (i *Issuer) shared(ctx context.Context, name string, fresh func() ([]byte, error)) (content []byte, version int, err error) {
	a := i.asked(fmt.Sprintf("read secret %q", name), "")
	a.engine = i.place.Secrets()
	path := i.place.Secret(name)
	content, version, err = i.readSecret(ctx, a, path, newest)
	if content != nil || err != nil {
		return content, version, err
	}
	made, err := fresh()
	if err != nil {
		return nil, 0, err
	}
	write := a
	write.what = fmt.Sprintf("keep secret %q", name)
	failed := i.do(ctx, write, func(ctx context.Context, c *conn) error {
		_, err := c.write(ctx, path, map[string]any{
			"data":    map[string]any{secretField: base64.StdEncoding.EncodeToString(made)},
			"options": map[string]any{"cas": 0},
		})
		return err
	})
	// Whatever came of the write, what is there now is the secret: another
	// host's, or our own though the answer was lost. To overwrite an entry is
	// denied by policy before the check-and-set is looked at.
	content, version, err = i.readSecret(ctx, a, path, newest)
	if content == nil && err == nil {
		err = failed
	}
	if content == nil && err == nil {
		err = &pki.Refusal{Cause: pki.CauseUnknown, What: write.what, Err: fmt.Errorf("%s is not there after it was written", path)}
	}
	return content, version, err
}

// newest is the number of whatever version is the last one.
const newest = 0

// readSecret is nil without an error where there has never been one.
func (i *Issuer) readSecret(ctx context.Context, a asked, path string, which int) (content []byte, version int, err error) {
	err = i.do(ctx, a, func(ctx context.Context, c *conn) error {
		answer, err := c.readVersion(ctx, path, which)
		if neverThere(err) {
			return nil
		}
		if err == nil {
			content, err = decodeSecret(answer)
		}
		if err == nil {
			version, err = versionOf(answer)
		}
		return err
	})
	if errors.Is(err, errDeleted) {
		return nil, 0, &pki.Refusal{
			Cause: pki.CauseMissing, What: a.what, Err: fmt.Errorf("%s %w", path, errDeleted),
			Remedy: "bring it back (vault kv undelete); it is never made anew, since what it protects may still be there",
		}
	}
	return content, version, err
}

// versionOf is the number of the version that was read.
func versionOf(answer *api.Secret) (int, error) {
	metadata, _ := answer.Data["metadata"].(map[string]any)
	number, _ := metadata["version"].(json.Number)
	version, err := number.Int64()
	if err != nil || version < 1 {
		return 0, errors.New("the answer names no version")
	}
	return int(version), nil
}

// neverThere tells whether a KV entry has no version at all, which is an answer
// of status 404 with no words.
func neverThere(err error) bool {
	var answer *api.ResponseError
	return errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound && !answer.RawError && len(answer.Errors) == 0
}

var errDeleted = errors.New("was deleted")

func decodeSecret(answer *api.Secret) ([]byte, error) {
	if answer.Data["data"] == nil && answer.Data["metadata"] != nil {
		return nil, errDeleted
	}
	data, _ := answer.Data["data"].(map[string]any)
	value, ok := data[secretField].(string)
	if !ok || value == "" {
		return nil, fmt.Errorf("the entry has no field %q", secretField)
	}
	content, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		// The error of the decoder is about bytes of the value.
		return nil, fmt.Errorf("the entry's field %q is not base64", secretField)
	}
	return content, nil
}
