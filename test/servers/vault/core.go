package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/vault"
)

// engines and methods are what can be mounted, by the name that Vault has for
// it. Its own (sys, identity, cubbyhole, token) are always there.
var (
	engines = map[string]logical.Factory{"pki": pki.Factory, "kv": kv.Factory}
	methods = map[string]logical.Factory{"approle": approle.Factory, "cert": cert.Factory, "jwt": jwt.Factory}
)

// newCore makes a Vault core over the folder; it is sealed.
func newCore(dir, address string, logger hclog.Logger) (*vault.Core, error) {
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	storage, err := file.NewFileBackend(map[string]string{"path": data}, logger.Named("storage"))
	if err != nil {
		return nil, fmt.Errorf("open data folder %s: %w", data, err)
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		StorageType:        "file",
		BuiltinRegistry:    registry{},
		LogicalBackends:    engines,
		CredentialBackends: methods,
		AuditBackends:      map[string]audit.Factory{"file": auditFile},
		Logger:             logger,
		DisableMlock:       true, // a test's secrets may be swapped out
		RedirectAddr:       address,
		ClusterName:        "nodeagent-test",
	})
	if err != nil {
		return nil, fmt.Errorf("make core over %s: %w", data, err)
	}
	return core, nil
}

// keys is what initialising gave. It lies beside the data in keys.json.
type keys struct {
	RootToken string `json:"root_token"`
	UnsealKey string `json:"unseal_key"` // hexadecimal
}

// open initialises the core if its folder is new, returning the keys only
// then, and unseals it unless it is to stay sealed.
func open(ctx context.Context, core *vault.Core, o options) (fresh keys, err error) {
	name := filepath.Join(o.dir, "keys.json")
	initialized, err := core.Initialized(ctx)
	if err != nil {
		return keys{}, fmt.Errorf("ask whether Vault is initialised: %w", err)
	}
	var have keys
	if initialized {
		have, err = readKeys(name)
	} else {
		have, err = initialize(ctx, core, name)
		fresh = have
	}
	if err != nil || o.sealed {
		return fresh, err
	}
	key, err := hex.DecodeString(have.UnsealKey)
	if err != nil {
		return keys{}, fmt.Errorf("read unseal key in %s: %w", name, err)
	}
	unsealed, err := core.Unseal(key)
	if err == nil && !unsealed {
		err = errors.New("Vault stays sealed with the key of its folder")
	}
	if err != nil {
		return keys{}, fmt.Errorf("unseal: %w", err)
	}
	return fresh, nil
}

// initialize makes the one key and the root token. A server that is killed
// between Vault's writing and the file's leaves a folder that nobody can
// unseal; readKeys says so.
func initialize(ctx context.Context, core *vault.Core, name string) (keys, error) {
	result, err := core.Initialize(ctx, &vault.InitParams{
		BarrierConfig: &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
	})
	if err != nil {
		return keys{}, fmt.Errorf("initialise Vault: %w", err)
	}
	made := keys{RootToken: result.RootToken, UnsealKey: hex.EncodeToString(result.SecretShares[0])}
	content, err := json.Marshal(made)
	if err != nil {
		return keys{}, fmt.Errorf("write keys: %w", err)
	}
	if err := writeFile(name, content); err != nil {
		return keys{}, fmt.Errorf("write keys: %w", err)
	}
	return made, nil
}

func readKeys(name string) (have keys, err error) {
	content, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return keys{}, fmt.Errorf("read keys: %w; the start that initialised Vault did not end, remove the folder and begin anew", err)
	}
	if err == nil {
		err = json.Unmarshal(content, &have)
	}
	if err != nil {
		return keys{}, fmt.Errorf("read keys in %s: %w", name, err)
	}
	return have, nil
}

// writeFile writes a file that only its owner reads, whole or not at all.
func writeFile(name string, content []byte) error {
	temp := name + ".new"
	if err := os.WriteFile(temp, content, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, name)
}

// registry answers which plugins are built in. Vault asks it in its plugin
// catalog, and takes the factories themselves from the core's configuration.
type registry struct{}

func plugins(kind consts.PluginType) map[string]logical.Factory {
	switch kind {
	case consts.PluginTypeSecrets:
		return engines
	case consts.PluginTypeCredential:
		return methods
	}
	return nil
}

func (registry) Contains(name string, kind consts.PluginType) bool {
	return plugins(kind)[name] != nil
}

func (r registry) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	factory := plugins(kind)[name]
	return func() (any, error) { return factory, nil }, factory != nil
}

func (registry) Keys(kind consts.PluginType) (names []string) {
	for name := range plugins(kind) {
		names = append(names, name)
	}
	return names
}

func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, kind)
}

// IsBuiltinEntPlugin belongs to the interface of later releases.
func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
