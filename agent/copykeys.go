package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodeagent/nodeagent/etcdops/store"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// The names of an access key's parts in AWS's own files.
const (
	awsAccessKey    = "aws_access_key_id"
	awsSecretKey    = "aws_secret_access_key"
	awsSessionToken = "aws_session_token"
)

// readKeys reads an access key from a file for its owner alone.
func readKeys(path string) (store.Keys, error) {
	content, err := readOwn(path)
	if err != nil {
		return store.Keys{}, err
	}
	fields, err := parseKeys(string(content))
	if err != nil {
		return store.Keys{}, fmt.Errorf("read %s: %w", path, err)
	}
	return completeKeys(fields[awsAccessKey], fields[awsSecretKey], fields[awsSessionToken], path, awsAccessKey, awsSecretKey)
}

// parseKeys reads lines "name = value" of the profile [default], or of no
// profile. Errors do not repeat what a line holds.
func parseKeys(content string) (map[string]string, error) {
	fields, profile := map[string]string{}, "default"
	for i, line := range strings.Split(content, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		if name, ok := strings.CutPrefix(line, "["); ok {
			profile = strings.TrimSpace(strings.TrimSuffix(name, "]"))
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("line %d is not name = value", i+1)
		}
		if profile == "default" {
			fields[strings.ToLower(strings.TrimSpace(key))] = strings.TrimSpace(value)
		}
	}
	return fields, nil
}

// completeKeys are the keys, if none of the two is missing.
func completeKeys(access, secret, token, where, accessName, secretName string) (store.Keys, error) {
	for name, value := range map[string]string{accessName: access, secretName: secret} {
		if value == "" {
			return store.Keys{}, fmt.Errorf("%s has no %s", where, name)
		}
	}
	return store.Keys{AccessKey: access, SecretKey: secret, SessionToken: token}, nil
}

// credentialFiles are where systemd puts a credential: for this process if that
// is the service, else for the service that runs.
func credentialFiles(root layout.Root, name string) []string {
	var list []string
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		list = append(list, filepath.Join(dir, name))
	}
	return append(list, filepath.Join(string(root)+"/run/credentials", Service, name))
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
