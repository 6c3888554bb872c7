package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
)

// NewClient returns the client of an administrator, who is known by VAULT_TOKEN
// or by the file that `vault login` leaves. Address and CA are the fleet's
// unless the environment names others (VAULT_ADDR, VAULT_CACERT, …): people
// reach Vault by other ways than hosts do. Hosts never use this client.
func NewClient(spec *hosts.Vault) (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, fmt.Errorf("read VAULT_… from the environment: %w", config.Error)
	}
	if os.Getenv(api.EnvVaultAddress) == "" {
		config.Address = spec.Address
	}
	if spec.CAFile != "" && os.Getenv(api.EnvVaultCACert) == "" && os.Getenv(api.EnvVaultCAPath) == "" {
		if err := config.ConfigureTLS(&api.TLSConfig{CACert: spec.CAFile}); err != nil {
			return nil, fmt.Errorf("read Vault's CA %q: %w: VAULT_CACERT names another file", spec.CAFile, err)
		}
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("make client of Vault at %s: %w", config.Address, err)
	}
	if client.Token() == "" {
		token, err := loginFile()
		if err != nil {
			return nil, err
		}
		client.SetToken(token)
	}
	return client, nil
}

// loginFile is the token that `vault login` left in the home folder.
func loginFile() (string, error) {
	home, err := os.UserHomeDir()
	if err == nil {
		var content []byte
		content, err = os.ReadFile(filepath.Join(home, ".vault-token"))
		if token := strings.TrimSpace(string(content)); err == nil && token != "" {
			return token, nil
		}
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = errors.New("there is none")
	}
	return "", fmt.Errorf("find an administrator's token: %w: set VAULT_TOKEN, or run vault login", err)
}
