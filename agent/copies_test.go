package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/etcdops/store"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/s3"
)

func TestSplitRef(t *testing.T) {
	for ref, want := range map[string][2]string{
		"offsite:latest": {"offsite", "latest"}, "offsite:c/h/x.db": {"offsite", "c/h/x.db"}, "local:x.db": {"local", "x.db"},
		"x.db": {}, "./a:b": {}, "/mnt/a:b": {}, ":x": {}, "offsite:": {},
	} {
		place, name, ok := SplitRef(ref)
		if place != want[0] || name != want[1] || ok != (want[0] != "") {
			t.Errorf("%s: %q, %q, %t, want %q", ref, place, name, ok, want)
		}
	}
}

// TestReadKeys reads what AWS's own tools write, refuses what others can read, and
// tells no secret.
func TestReadKeys(t *testing.T) {
	const secret = "very-secret"
	good := "aws_access_key_id = AK\naws_secret_access_key=" + secret + "\n"
	for name, c := range map[string]struct {
		content string
		mode    os.FileMode
		want    store.Keys
		err     string
	}{
		"no profile":      {content: good, want: store.Keys{AccessKey: "AK", SecretKey: secret}},
		"default profile": {content: "# x\n[default]\r\n" + good + "aws_session_token = tok\n[other]\naws_access_key_id = other\n", want: store.Keys{AccessKey: "AK", SecretKey: secret, SessionToken: "tok"}},
		"another profile": {content: "[other]\n" + good, err: "has no aws_"},
		"half of it":      {content: "aws_access_key_id = AK", err: "has no aws_secret_access_key"},
		"no such lines":   {content: "AK:" + secret, err: "line 1 is not name = value"},
		"nothing":         {err: "it is empty"},
		"for others":      {content: good, mode: 0o644, err: "others than its owner"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			if c.mode == 0 {
				c.mode = 0o600
			}
			if err := os.WriteFile(path, []byte(c.content), c.mode); err != nil {
				t.Fatal(err)
			}
			keys, err := readKeys(path)
			if keys != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v, %v, want %q", keys, err, c.err)
			}
			for _, text := range []string{fmt.Sprint(keys, err), fmt.Sprintf("%v %+v %#v", keys, keys, keys)} {
				if strings.Contains(text, secret) {
					t.Errorf("the secret is in %q", text)
				}
			}
		})
	}
}

// TestCopyPause grows with failures up to an hour, and spreads hosts.
func TestCopyPause(t *testing.T) {
	for failed, want := range map[int]time.Duration{0: copyEvery, 1: time.Minute, 2: 2 * time.Minute, 4: 8 * time.Minute, 7: time.Hour, 1000: time.Hour} {
		if least, most := copyPause(failed, 0), copyPause(failed, 1); least != want/2 || most != want {
			t.Errorf("after %d failures: %s to %s, want up to %s", failed, least, most, want)
		}
	}
}

// copying is a host with snapshots, a bucket and a share.
type copying struct {
	*Host
	t      *testing.T
	server *s3.Server
	share  string
	log    *logged
	now    time.Time
}

// logged is what was logged.
type logged struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.String(), text)
}

func newCopying(t *testing.T) *copying {
	server := s3.Start(t)
	server.Bucket("backup", false)
	root := layout.Root(t.TempDir())
	key := filepath.Join(t.TempDir(), "key")
	content := "aws_access_key_id = " + s3.AccessKey + "\naws_secret_access_key = " + s3.SecretKey + "\n"
	if err := os.WriteFile(key, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &copying{t: t, server: server, share: filepath.Join(t.TempDir(), "share"), log: &logged{}, now: time.Now().UTC().Truncate(time.Second)}
	keep := hosts.Retention{Last: 2}
	c.Host = &Host{root: root, log: slog.New(slog.NewTextHandler(c.log, nil)), looks: make(chan struct{}, 1), saved: make(chan struct{}, 1)}
	c.spec.Store(&hosts.Spec{Name: "h", Cluster: "c", Roles: []hosts.Role{hosts.RoleEtcd}, Digest: "1", Snapshots: hosts.Snapshots{
		Destination: root.Snapshots(), Keep: hosts.Retention{Last: 1},
		Copies: []hosts.Copy{
			{Name: "bucket", Keep: keep, S3: &hosts.S3{Endpoint: server.URL, CAFile: server.CAFile, Bucket: "backup", Region: s3.Region, PathStyle: true, CredentialsFile: key}},
			{Name: "share", Keep: keep, Folder: c.share},
		},
	}})
	if err := os.MkdirAll(root.Snapshots(), 0o700); err != nil {
		t.Fatal(err)
	}
	return c
}

// take makes a snapshot of an age, and returns its name.
func (c *copying) take(age time.Duration) string {
	c.t.Helper()
	m := etcdops.Manifest{
		Format: etcdops.ManifestFormat, Cluster: "c", Host: "h", Taken: c.now.Add(-age), ClusterID: "1", Size: 2,
		// Of "1\n".
		Stored: etcdops.Stored{Size: 2, SHA256: "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865"},
	}
	text, err := json.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	file := m.Path(c.root.Snapshots())
	if err := errors.Join(os.WriteFile(file, []byte("1\n"), 0o600), os.WriteFile(etcdops.ManifestName(file), text, 0o600)); err != nil {
		c.t.Fatal(err)
	}
	return m.Name()
}

// local are the names in the host's own folder.
func (c *copying) local() []string {
	c.t.Helper()
	entries, err := etcdops.List(c.root.Snapshots())
	if err != nil {
		c.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, filepath.Base(e.Path))
	}
	return names
}

// at are the names at a place.
func (c *copying) at(place string) []string {
	c.t.Helper()
	list, err := c.Copies().List(context.Background(), place)
	if err != nil || list[0].Error != "" {
		c.t.Fatalf("list %s: %v %v", place, err, list)
	}
	var names []string
	for _, e := range list[0].Entries {
		names = append(names, filepath.Base(e.Path))
	}
	return names
}

func (c *copying) await(what string, done func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s did not come; the log:\n%s", what, c.log.String())
		}
		<-time.After(20 * time.Millisecond)
	}
}

// TestKeepCopies brings snapshots to every place while the daemon runs. One that
// is away keeps none of the others back, is said once, and holds what it lacks in
// the host's own folder until it has it.
func TestKeepCopies(t *testing.T) {
	c := newCopying(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	older, newer := c.take(2*time.Hour), c.take(time.Hour)
	var copier copier
	copier.follow(ctx, c.Host)
	defer copier.stop()
	share := func() CopyStatus { return c.Copies().Status()[1] }
	c.await("the bucket's copy", func() bool { return len(c.Copies().Status()[0].Snapshots) == 2 })
	c.await("the share's failure", func() bool { return share().Failed == 1 })
	if problems := share().problems(); len(problems) != 1 || !strings.Contains(problems[0], "mount the share") {
		t.Errorf("problems %v, want one that says to mount the share", problems)
	}
	if _, _, err := c.Copies().PruneLocal(ctx, c.now); err != nil || !slices.Equal(c.local(), []string{newer, older}) {
		t.Errorf("the host keeps %v (%v), want what the share lacks, too", c.local(), err)
	}
	c.copySoon()
	c.await("another try", func() bool { return share().Failed == 2 })
	if n := c.log.count("snapshots are not brought to a further place"); n != 1 {
		t.Errorf("the failure is logged %d times, want once", n)
	}
	if err := os.Mkdir(c.share, 0o700); err != nil {
		t.Fatal(err)
	}
	newest := c.take(time.Minute)
	c.copySoon()
	c.await("the share's copy", func() bool { return slices.Equal(share().Snapshots, []string{newest, newer}) })
	for _, place := range []string{"bucket", "share"} {
		if got := c.at(place); !slices.Equal(got, []string{newest, newer}) {
			t.Errorf("%s has %v, want %v", place, got, []string{newest, newer})
		}
	}
	if n := c.log.count("brought to a further place again"); n != 1 {
		t.Errorf("the end of the failure is logged %d times, want once:\n%s", n, c.log.String())
	}
	if _, _, err := c.Copies().PruneLocal(ctx, c.now); err != nil || !slices.Equal(c.local(), []string{newest}) {
		t.Errorf("the host keeps %v (%v), want the newest alone", c.local(), err)
	}
	copier.stop()
	if text := c.log.String(); strings.Contains(text, s3.SecretKey) {
		t.Error("the secret is in the log")
	}
}

// TestFetchSnapshot makes a file of what people write, and leaves none behind.
func TestFetchSnapshot(t *testing.T) {
	c := newCopying(t)
	ctx := context.Background()
	older, newer := c.take(2*time.Hour), c.take(time.Hour)
	if _, err := c.Copies().Copy(ctx, CopyOptions{Only: []string{"bucket"}}); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"some/file.db": "some/file.db", "local:" + older: c.root.Snapshots() + "/" + older, "local:latest": c.root.Snapshots() + "/" + newer,
		"bucket:latest": newer, "bucket:" + older: older,
	} {
		path, done, err := c.FetchSnapshot(ctx, ref, nil)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		fetched := strings.HasPrefix(ref, "bucket:")
		if path != want && !(fetched && filepath.Base(path) == want) {
			t.Errorf("%s is %s, want %s", ref, path, want)
		}
		if fetched {
			if content, err := os.ReadFile(path); err != nil || string(content) != "1\n" {
				t.Errorf("%s: fetched %q, %v", ref, content, err)
			}
			if _, err := os.Stat(etcdops.ManifestName(path)); err != nil {
				t.Error(err)
			}
			// Whoever fetches meanwhile leaves it alone.
			if _, other, err := c.FetchSnapshot(ctx, ref, nil); err != nil || other() != nil {
				t.Errorf("a second one at once: %v", err)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("a second one took it away: %v", err)
			}
		}
		if err := done(); err != nil {
			t.Error(err)
		}
	}
	// What a crash left goes.
	left := filepath.Join(c.root.Scratch(), "fetched", "snapshot-left")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, done, err := c.FetchSnapshot(ctx, "bucket:latest", nil); err != nil || done() != nil {
		t.Fatal(err)
	}
	if rest, err := os.ReadDir(filepath.Dir(left)); err != nil || len(rest) > 0 {
		t.Errorf("left are %v, %v", rest, err)
	}
	for ref, want := range map[string]string{"bucket:no.db": "not found", "nowhere:latest": `has local, bucket, share`, "share:latest": "mount the share"} {
		if _, _, err := c.FetchSnapshot(ctx, ref, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
	}
}

// TestCredential takes an access key from systemd's credentials.
func TestCredential(t *testing.T) {
	c := newCopying(t)
	spec := *c.Spec()
	at := *spec.Snapshots.Copies[0].S3
	file := at.CredentialsFile
	at.CredentialsFile, at.Credential = "", "s3"
	spec.Snapshots.Copies = []hosts.Copy{{Name: "bucket", S3: &at, Keep: hosts.Retention{Last: 1}}}
	c.spec.Store(&spec)
	c.take(time.Hour)
	_, err := c.Copies().Copy(context.Background(), CopyOptions{})
	if err == nil || !strings.Contains(err.Error(), "LoadCredential") || c.Copies().Status()[0].Failed != 1 {
		t.Errorf("without the credential: %v, %+v", err, c.Copies().Status())
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(string(c.root), "run", "credentials", Service)
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "s3"), content, 0o400)); err != nil {
		t.Fatal(err)
	}
	if results, err := c.Copies().Copy(context.Background(), CopyOptions{}); err != nil || results[0].Has != 1 {
		t.Errorf("with the credential: %v, %+v", err, results)
	}
}
