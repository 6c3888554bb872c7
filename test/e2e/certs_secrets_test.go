package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// auditLog is Vault's own record of every request, on its host, with nothing
// in it hidden: what was sent to Vault inside TLS.
const auditLog = "/var/log/vault-audit.json"

// thief hears everything that hosts send, to each other and to themselves, and
// reads their journals and Vault's record. He knows by their content what he
// looks for: every private key and every shared secret that lay on a host at
// one of the moments when they were gathered, and every token that Vault gave.
type thief struct {
	*trio
	dir      string
	captures map[string]*lab.Capture // by file, that still run
	heard    int                     // captures begun

	mu       sync.Mutex
	keys     map[string][]byte // what is secret in a key, by where it lay
	journals map[string]string
}

// The canaries are sent and logged for the thief to find: if he does not, he
// would find nothing else either.
const (
	wireCanary    = "canary on the wire"
	loopCanary    = "canary on the loopback of "
	journalCanary = "canary in the journal of "
)

// eavesdrop begins before the hosts have any secret.
func (c *trio) eavesdrop() *thief {
	c.t.Helper()
	th := &thief{trio: c, dir: c.t.TempDir(), captures: map[string]*lab.Capture{}, keys: map[string][]byte{}, journals: map[string]string{}}
	file := filepath.Join(th.dir, "wire")
	wire, err := c.lab.CaptureWire(file)
	if err != nil {
		c.t.Fatal(err)
	}
	th.captures[file] = wire
	for _, h := range append([]*lab.Mercury{c.vault}, c.hosts...) {
		if err := th.follow(h); err != nil {
			c.t.Fatal(err)
		}
	}
	_, err = c.vaultClient(c.token).Logical().WriteWithContext(c.ctx, "sys/audit/everything", map[string]any{
		"type": "file", "options": map[string]any{"file_path": auditLog, "log_raw": "true"},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(th.stop)
	return th
}

// follow hears what the host says to itself, until its next boot.
func (th *thief) follow(h *lab.Mercury) error {
	th.mu.Lock()
	th.heard++
	file := filepath.Join(th.dir, fmt.Sprintf("%s-%d", h.Name(), th.heard))
	th.mu.Unlock()
	loop, err := h.CaptureLoopback(file)
	if err != nil {
		return err
	}
	th.mu.Lock()
	th.captures[file] = loop
	th.mu.Unlock()
	return within(th.ctx, time.Minute, "the host to have a journal and a network", func() error {
		_, err := h.Exec(th.ctx, "logger", journalCanary+h.Name())
		return errors.Join(err, h.Whisper(th.ctx, "127.0.0.1:9", loopCanary+h.Name()), h.Whisper(th.ctx, "192.0.2.254:9", wireCanary))
	})
}

// stop ends the captures that are left.
func (th *thief) stop() { th.end("") }

// leave ends what is heard of a host before it boots again.
func (th *thief) leave(h *lab.Mercury) { th.end(h.Name() + "-") }

func (th *thief) end(prefix string) {
	th.mu.Lock()
	defer th.mu.Unlock()
	for file, capture := range th.captures {
		if !strings.HasPrefix(filepath.Base(file), prefix) {
			continue
		}
		delete(th.captures, file)
		if frames, bytes, err := capture.Stop(); err != nil {
			th.t.Errorf("capture %s: %v", filepath.Base(file), err)
		} else {
			th.t.Logf("heard %s: %d frames, %d MiB", filepath.Base(file), frames, bytes>>20)
		}
	}
}

// gather notes the keys that lie on the hosts now, and their journals.
func (th *thief) gather() {
	for _, h := range append([]*lab.Mercury{th.vault}, th.hosts...) {
		if h.Running() {
			th.gatherFrom(h)
		}
	}
}

func (th *thief) gatherFrom(h *lab.Mercury) {
	journal, err := h.Exec(th.ctx, "journalctl", "--no-pager", "-o", "cat")
	if err != nil {
		th.t.Errorf("read journal of %s: %v", h.Name(), err)
	}
	th.mu.Lock()
	defer th.mu.Unlock()
	th.journals[h.Name()] += journal
	for _, dir := range []string{"var/lib/nodeagent/pki", "var/lib/nodeagent/enrolment", "var/lib/nodeagent/operations", "root"} {
		err := filepath.WalkDir(filepath.Join(h.Root(), dir), func(name string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return nil // what goes while it is looked at, or is not there
			}
			content, err := os.ReadFile(name)
			if err != nil {
				return nil
			}
			for i, secret := range secretsIn(content) {
				where := fmt.Sprintf("%s:%s #%d %x", h.Name(), strings.TrimPrefix(name, h.Root()), i, secret[:4])
				th.keys[where] = secret
			}
			return nil
		})
		if err != nil {
			th.t.Error(err)
		}
	}
}

// encoded finds what kubeconfigs and nodeagent's notes hold of PEM.
var encoded = regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/=]+`)

// atRest finds a key of Kubernetes' encryption at rest.
var atRest = regexp.MustCompile(`"?secret"?: "?([A-Za-z0-9+/]{43}=)`)

// secretsIn is what is secret in each key that a file holds.
func secretsIn(content []byte) (list [][]byte) {
	for _, text := range encoded.FindAll(content, -1) {
		if inner, err := base64.StdEncoding.DecodeString(string(text)); err == nil {
			list = append(list, secretsIn(inner)...)
		}
	}
	for _, found := range atRest.FindAllSubmatch(content, -1) {
		if secret, err := base64.StdEncoding.DecodeString(string(found[1])); err == nil {
			list = append(list, secret)
		}
	}
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			return list
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
				continue // not a private key
			}
		}
		switch key := key.(type) {
		case *ecdsa.PrivateKey:
			if scalar, err := key.Bytes(); err == nil {
				list = append(list, scalar)
			}
		case ed25519.PrivateKey:
			list = append(list, key.Seed())
		case *rsa.PrivateKey:
			list = append(list, key.D.Bytes(), key.Primes[0].Bytes(), key.Primes[1].Bytes())
		}
	}
}

// search looks for every secret in everything that was heard and read.
func (th *thief) search(t *testing.T) {
	th.gather()
	th.stop()
	record, err := th.vault.GetFile(auditLog)
	if err != nil {
		t.Fatal(err)
	}
	tokens := tokensIn(t, record)
	if len(th.keys) < 40 || len(tokens) < 10 {
		t.Errorf("the thief knows %d keys and %d tokens, which are too few to be all", len(th.keys), len(tokens))
	}
	keys := newSearch()
	for where, secret := range th.keys {
		keys.addKey(where, secret)
	}
	th.readRecord(t, keys, record)

	all := newSearch()
	for where, secret := range th.keys {
		all.addKey(where, secret)
	}
	for token := range tokens {
		all.addText("a token of Vault "+token[:6], token)
	}
	all.addText(wireCanary, wireCanary)
	for _, h := range append([]*lab.Mercury{th.vault}, th.hosts...) {
		all.addText(loopCanary+h.Name(), loopCanary+h.Name())
		all.addText(journalCanary+h.Name(), journalCanary+h.Name())
	}
	heard := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(th.dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	look := func(where string, found map[string]bool) {
		for what := range found {
			heard[what] = true
			if !strings.HasPrefix(what, "canary ") {
				t.Errorf("%s has %s", where, what)
			}
		}
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		look("the capture "+filepath.Base(file), all.in(content))
	}
	for host, journal := range th.journals {
		look("the journal of "+host, all.deep([]byte(journal)))
	}
	canaries := []string{wireCanary}
	for _, h := range append([]*lab.Mercury{th.vault}, th.hosts...) {
		canaries = append(canaries, loopCanary+h.Name(), journalCanary+h.Name())
	}
	for _, canary := range canaries {
		if !heard[canary] {
			t.Errorf("the thief has not heard %q, so he might have missed more", canary)
		}
	}
	t.Logf("%d keys and %d tokens looked for in %d captures, %d journals and %d requests to Vault",
		len(th.keys), len(tokens), len(files), len(th.journals), bytes.Count(record, []byte("\n")))
}

// readRecord searches what was sent to Vault. It keeps the secrets that all
// control planes share, and is shown the key of a certificate that is to be
// revoked: nothing else may be found there, nor these anywhere else.
func (th *thief) readRecord(t *testing.T, keys *search, record []byte) {
	kept, shown := 0, 0
	for line := range bytes.Lines(record) {
		for where := range keys.deep(line) {
			var entry struct{ Request struct{ Path string } }
			if err := json.Unmarshal(line, &entry); err != nil {
				t.Fatal(err)
			}
			path := entry.Request.Path
			switch {
			case strings.HasPrefix(path, place+"/secrets/data/") && strings.Contains(where, "/pki/keys/"):
				kept++
			case strings.HasSuffix(path, "/k8s-client/revoke-with-key") && strings.Contains(where, "n2:") && strings.Contains(where, "/certs/admin/"):
				shown++
			default:
				t.Errorf("a request to %s of Vault has the key %s", path, where)
			}
		}
	}
	if kept == 0 || shown == 0 {
		t.Errorf("of the keys that Vault was to have %d were found in its record, and %d that were revoked: the search is blind", kept, shown)
	}
}

// tokensIn are the tokens and secret ids in Vault's record.
func tokensIn(t *testing.T, record []byte) map[string]bool {
	tokens := map[string]bool{}
	var walk func(key string, value any)
	walk = func(key string, value any) {
		switch value := value.(type) {
		case map[string]any:
			for k, v := range value {
				walk(k, v)
			}
		case []any:
			for _, v := range value {
				walk(key, v)
			}
		case string:
			if (key == "client_token" || key == "token" || key == "secret_id") && len(value) >= 20 {
				tokens[value] = true
			}
		}
	}
	for line := range bytes.Lines(record) {
		var entry any
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatalf("%v in Vault's record: %.200s", err, line)
		}
		walk("", entry)
	}
	return tokens
}
