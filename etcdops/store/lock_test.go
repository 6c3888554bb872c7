package store

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/test/s3"
)

// TestObjectLock keeps what the bucket keeps, says so, and fails at nothing.
func TestObjectLock(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := s3.Start(t, s3.Versions())
	server.Bucket("backup", true)
	client := server.Client()
	days, unit, mode := uint(1), minio.Days, minio.Compliance
	if err := client.SetBucketObjectLockConfig(ctx, "backup", &mode, &days, &unit); err != nil {
		t.Fatal(err)
	}
	s := open(t, server.URL, server.CAFile, "x")
	h := newHost(t, s, mercury, hosts.Retention{Last: 1})
	older := h.take(2*time.Hour, smallPart+10)
	h.copy()
	newer := h.take(time.Hour, 10)
	result := h.copy()
	if len(result.Brought) != 1 || len(result.Deleted) > 0 || len(result.Locked) != 1 || result.Locked[0].Name != older {
		t.Fatalf("with a lock of the bucket: %+v", result)
	}
	if got := h.whole(); len(got) != 2 || got[0] != newer {
		t.Errorf("there are %v", got)
	}
	// The server tells the end of a lock that the object has of its own.
	until := time.Now().Add(48 * time.Hour).UTC().Truncate(time.Second)
	opts := minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until}
	if err := client.PutObjectRetention(ctx, "backup", "x/"+mercury.Dir()+"/"+older, opts); err != nil {
		t.Fatal(err)
	}
	if result := h.copy(); len(result.Locked) != 1 || result.Has != 2 || !result.Locked[0].Until.Equal(until) {
		t.Errorf("the second run: %+v, want it locked until %s", result, until)
	}
	if err := s.Delete(ctx, mercury.Dir()+"/"+newer); !errors.As(err, new(*KeptError)) {
		t.Errorf("delete one that is locked: %v", err)
	}
}

// TestLockRefused tells a refusal because of a lock, as stores word it, from
// others.
func TestLockRefused(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]bool{
		"Access Denied because object protected by object lock.": true, // Amazon
		"Object is WORM protected and cannot be overwritten":     true, // MinIO
		"Access Denied.": false,
		"User is not authorized to perform: s3:DeleteObject on resource": false,
	} {
		if got := lockRefused(minio.ErrorResponse{Code: minio.AccessDenied, Message: message, StatusCode: http.StatusForbidden}); got != want {
			t.Errorf("%q is because of a lock: %t, want %t", message, got, want)
		}
	}
}

// TestVersions deletes what a bucket that keeps versions keeps of an object, and
// does not only hide it.
func TestVersions(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := s3.Start(t, s3.Versions())
	server.Bucket("backup", false)
	client := server.Client()
	if err := client.EnableVersioning(ctx, "backup"); err != nil {
		t.Fatal(err)
	}
	s := open(t, server.URL, server.CAFile, "x")
	put(t, s, "a.db", []byte("first"))
	put(t, s, "a.db", []byte("second"))
	put(t, s, "b.db", []byte("other"))
	if got := string(contentOf(t, s, "a.db", 0)); got != "second" {
		t.Errorf("it is %q", got)
	}
	if err := s.Delete(ctx, "a.db"); err != nil {
		t.Fatal(err)
	}
	var left []string
	for o := range client.ListObjects(ctx, "backup", minio.ListObjectsOptions{WithVersions: true, Recursive: true}) {
		left = append(left, o.Key)
	}
	if len(left) != 1 || left[0] != "x/b.db" {
		t.Errorf("left are %v, want one version of the other object alone", left)
	}
}

// TestHeaders asks the store for the encryption that the spec says, signs each
// body, and tells what the object is.
func TestHeaders(t *testing.T) {
	t.Parallel()
	p := newProxy(t, backup(t).URL)
	var mu sync.Mutex
	var seen []http.Header
	p.on(func(_ int, r *http.Request) fault {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodPut || r.Method == http.MethodPost && r.URL.Query().Has("uploads") {
			seen = append(seen, r.Header.Clone())
		}
		return refused
	})
	for encryption, want := range map[string]string{hosts.EncryptionNone: "", hosts.EncryptionS3: "AES256", hosts.EncryptionKMS: "aws:kms"} {
		at := open(t, p.URL, "", "").at
		at.Encryption, at.KMSKey = encryption, "the-key"
		s, err := openS3(at, Keys{AccessKey: s3.AccessKey, SecretKey: s3.SecretKey}, time.Minute, smallPart)
		if err != nil {
			t.Fatal(err)
		}
		content, meta := some(10)
		mu.Lock()
		seen = nil
		mu.Unlock()
		if err := s.Put(context.Background(), "x.db", strings.NewReader(string(content)), meta, func(int64, int64) {}); err == nil {
			t.Fatal("nothing broke")
		}
		mu.Lock()
		sent := slices.Clone(seen)
		mu.Unlock()
		if len(sent) == 0 {
			t.Fatal("nothing was sent")
		}
		for _, h := range sent {
			if got := h.Get("X-Amz-Server-Side-Encryption"); got != want {
				t.Errorf("encryption %s: the header is %q, want %q", encryption, got, want)
			}
			if key := h.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"); (key == "the-key") != (encryption == hosts.EncryptionKMS) {
				t.Errorf("encryption %s: the key is %q", encryption, key)
			}
			if h.Get("X-Amz-Content-Sha256") != meta.SHA256 || h.Get(headerChecksum) == "" || h.Get("X-Amz-Meta-Sha256") != meta.SHA256 || h.Get("X-Amz-Meta-Cluster") != "mercury" {
				t.Errorf("encryption %s: headers %v", encryption, h)
			}
			for key, values := range h {
				if strings.Contains(strings.Join(values, " "), s3.SecretKey) {
					t.Errorf("the secret is in the header %s", key)
				}
			}
		}
	}
}
