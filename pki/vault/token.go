package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
)

// secretMargin is by how much a secret id outlives the token that wraps it, so
// that who unwraps at the last moment can still log in.
const secretMargin = 5 * time.Minute

// Enrolment is a host's way to its first login.
type Enrolment struct {
	Host string `json:"host"`
	// Token is the wrapping token: whoever unwraps it first has the host's
	// login, and a second one is refused, which is how misuse shows.
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// MintEnrolment makes a single-use enrolment token for a host. The secret id
// itself is seen by nobody but who unwraps it. A token that was made before and
// not used stays valid.
func MintEnrolment(ctx context.Context, client *api.Client, spec *hosts.Spec, ttl time.Duration) (Enrolment, error) {
	e, err := mintEnrolment(ctx, client, spec, ttl)
	if err != nil {
		return Enrolment{}, fmt.Errorf("make enrolment token for host %q: %w", spec.Name, err)
	}
	return e, nil
}

func mintEnrolment(ctx context.Context, client *api.Client, spec *hosts.Spec, ttl time.Duration) (Enrolment, error) {
	switch v := spec.PKI.Vault; {
	case v == nil:
		return Enrolment{}, fmt.Errorf("the fleet's issuer is %q, which enrols nobody", spec.PKI.Issuer)
	case len(spec.Roles) == 0:
		return Enrolment{}, errors.New("it has no role, so it needs no certificate and no login")
	case v.Auth == authJWT:
		return Enrolment{}, fmt.Errorf("hosts of this fleet log in with the token in %s and are not enrolled", v.JWTFile)
	case ttl < time.Minute || ttl > EnrolmentMax-secretMargin:
		return Enrolment{}, fmt.Errorf("a life of %s is not between 1m and %s", ttl, EnrolmentMax-secretMargin)
	}
	wrapping, err := client.Clone()
	if err != nil {
		return Enrolment{}, err
	}
	wrapping.SetToken(client.Token())
	wrapping.SetWrappingLookupFunc(func(string, string) string { return seconds(ttl) })
	path := "auth/" + Place(spec.PKI.Vault.Mount).Auth(authAppRole) + "/role/" + spec.Name + "/secret-id"
	secret, err := wrapping.Logical().WriteWithContext(ctx, path, map[string]any{
		"num_uses": 1, "ttl": seconds(ttl + secretMargin),
	})
	switch code := status(err); {
	case code == http.StatusNotFound, code == http.StatusBadRequest:
		return Enrolment{}, fmt.Errorf("%w: if Vault does not know the host, run nodeagent pki bootstrap", plain(err))
	case err != nil:
		return Enrolment{}, plain(err)
	case secret == nil || secret.WrapInfo == nil || secret.WrapInfo.Token == "":
		return Enrolment{}, errors.New("the answer is not wrapped: is something in front of Vault that drops the header X-Vault-Wrap-TTL?")
	}
	wrap := secret.WrapInfo
	return Enrolment{
		Host: spec.Name, Token: wrap.Token, Expires: wrap.CreationTime.Add(time.Duration(wrap.TTL) * time.Second).UTC(),
	}, nil
}
