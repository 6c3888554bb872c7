package store

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/test/s3"
)

// uploaderVariable makes the test binary copy as a process of its own, so that it
// can be killed.
const uploaderVariable = "NODEAGENT_TEST_UPLOADER"

// uploading is what the process is told.
type uploading struct {
	URL, Prefix, Folder, Dir, Memory string
}

func uploader() {
	var u uploading
	if err := json.Unmarshal([]byte(os.Getenv(uploaderVariable)), &u); err != nil {
		panic(err)
	}
	var s Store = NewFolder(u.Folder)
	if u.URL != "" {
		at := hosts.S3{Endpoint: u.URL, Bucket: "backup", Region: s3.Region, Prefix: u.Prefix, PathStyle: true}
		bucket, err := openS3(at, Keys{AccessKey: s3.AccessKey, SecretKey: s3.SecretKey}, time.Minute, smallPart)
		if err != nil {
			panic(err)
		}
		s = bucket
	}
	_, err := Copy(context.Background(), Copying{
		Place: Place{Name: "offsite", Where: "there", Store: s, Keep: hosts.Retention{Last: 1}}, Owner: mercury, Local: u.Dir, Memory: u.Memory, Now: noon,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestKilled kills the uploading process at each of its requests, before the
// server hears of it, which is after it has done the one before. Nothing half is to
// be seen, and the next run brings what is missing.
func TestKilled(t *testing.T) {
	t.Parallel()
	server := backup(t)
	for n, ended := 1, false; !ended; n++ {
		p := newProxy(t, server.URL)
		prefix := fmt.Sprint(n)
		h := newHost(t, open(t, p.URL, "", prefix), mercury, hosts.Retention{Last: 1})
		first := h.take(2*time.Hour, 100)
		h.copy()
		second := h.take(time.Hour, smallPart+100)
		var at string
		reached, gone := make(chan struct{}), make(chan struct{})
		p.on(func(i int, r *http.Request) fault {
			if i != n {
				return none
			}
			at = describe(r)
			close(reached)
			<-gone
			return refused
		})
		ended = !h.killed(uploading{URL: p.URL, Prefix: prefix, Dir: h.dir, Memory: h.memory}, reached, gone)
		p.on(nil)
		if got := strings.Join(h.whole(), " "); got != first && got != second && got != second+" "+first {
			t.Fatalf("killed at request %d (%s): there is %q", n, at, got)
		}
		h.copy()
		if got := strings.Join(h.whole(), " "); got != second {
			t.Fatalf("killed at request %d (%s): in the end there is %q", n, at, got)
		}
		h.unfinished(0)
		if n > 40 {
			t.Fatal("it makes ever more requests")
		}
		if ended && n < 12 {
			t.Fatalf("it made %d requests; that is too few to be true", n)
		}
	}
}

// killed runs the process and kills it when it has reached its end; false is that
// it came to its own before.
func (h *host) killed(u uploading, reached, gone chan struct{}) bool {
	h.t.Helper()
	defer close(gone)
	text, err := json.Marshal(u)
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), uploaderVariable+"="+string(text))
	cmd.Stderr = h.t.Output()
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			h.t.Fatalf("the process failed: %v", err)
		}
		return false
	case <-reached:
	case <-time.After(2 * time.Minute):
		_ = cmd.Process.Kill()
		h.t.Fatal("the process hangs")
	}
	_ = cmd.Process.Kill()
	<-done
	return true
}
