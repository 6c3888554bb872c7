package hosts

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// A fleet is kept in version control and read by many, so no secret may stand
// in it. Secrets are recognised by the name of their key and by their look.
// Their values never appear in a problem.

// secretWords end the names of keys that hold secrets; "_" joins two words.
var secretWords = []string{
	"token", "password", "passwd", "passphrase", "secret",
	"private_key", "secret_key", "preshared_key", "pre_shared_key", "psk",
	"secret_id", "api_key", "access_key", "encryption_key", "credentials",
}

// secretValue is the look of a secret: PEM private keys, Vault's service,
// batch and recovery tokens (and the short form before 1.10), age identities,
// and a password within a URL.
var secretValue = regexp.MustCompile(
	`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----` +
		`|(^|[^A-Za-z0-9.])hv[sbr]\.[A-Za-z0-9_-]+` +
		`|^s\.[A-Za-z0-9]{24}$` +
		`|AGE-SECRET-KEY-1` +
		`|[a-z][a-z0-9+.-]*://[^/@\s:]*:[^/@\s]+@`)

// words splits a key's name at _, -, . and at changes from small to capital
// letters, and joins the words in lower case with "_".
func words(name string) string {
	var b strings.Builder
	var previous rune
	for _, r := range name {
		switch {
		case r == '-' || r == '.' || r == ' ' || r == '_':
			r = '_'
		case unicode.IsUpper(r) && (unicode.IsLower(previous) || unicode.IsDigit(previous)):
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
		previous = r
	}
	return b.String()
}

// isSecretName tells whether a key of that name holds a secret: private_key,
// privateKey, registryToken; not token_file, which only says where one is.
func isSecretName(name string) bool {
	w := words(name)
	return slices.ContainsFunc(secretWords, func(secret string) bool {
		return w == secret || strings.HasSuffix(w, "_"+secret) || w == strings.ReplaceAll(secret, "_", "")
	})
}

// checkSecrets reports every secret below the node, whether its key is known
// or not.
func (f *findings) checkSecrets(n *node, name string) {
	for key, child := range n.table {
		f.checkSecrets(child, key)
	}
	for _, item := range n.list {
		f.checkSecrets(item, name)
	}
	if n.table != nil || n.list != nil {
		return
	}
	if _, truth := n.value.(bool); isSecretName(name) && !truth && n.value != "" {
		f.at(n, "is a secret by its name: a fleet must not hold secrets; nodeagent makes keys on the host, and everything else is kept in Vault")
		return
	}
	if s, ok := n.value.(string); ok && secretValue.MatchString(s) {
		f.at(n, "holds what looks like a secret (private key, token or password): a fleet must not hold secrets; nodeagent makes keys on the host, and everything else is kept in Vault")
	}
}

// lineMayHoldSecret tells whether a line of a file that is no TOML may hold a
// secret, so that no message quotes from it.
func lineMayHoldSecret(line string) bool {
	name, _, _ := strings.Cut(line, "=")
	return secretValue.MatchString(line) || isSecretName(strings.Trim(strings.TrimSpace(name), `"'`))
}
