package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/test/s3"
)

// backup is a server with a bucket, without TLS, so that a proxy can be put
// before it.
func backup(t *testing.T, opts ...s3.Option) *s3.Server {
	t.Helper()
	server := s3.Start(t, append(opts, s3.Plain())...)
	server.Bucket("backup", false)
	return server
}

// TestBreaks cuts the way to the store at each request of a copy, in each way in
// which that can be, and for all that follow. What is there is whole at any time,
// and the next run brings what is missing.
func TestBreaks(t *testing.T) {
	t.Parallel()
	server := backup(t)
	clean := newProxy(t, server.URL)
	h := newHost(t, open(t, clean.URL, "", "clean"), mercury, hosts.Retention{Last: 1})
	h.take(2*time.Hour, 100)
	h.copy()
	h.take(time.Hour, smallPart+100)
	type request struct {
		writes bool
		length int64
	}
	var requests []request
	var mu sync.Mutex
	clean.on(func(_ int, r *http.Request) fault {
		mu.Lock()
		defer mu.Unlock()
		requests = append(requests, request{r.Method != http.MethodGet && r.Method != http.MethodHead, r.ContentLength})
		return none
	})
	h.copy()
	if len(requests) < 12 {
		t.Fatalf("a copy makes %d requests; that is too few to be true", len(requests))
	}
	for i, r := range requests {
		breaks(t, server.URL, i+1, "refused", refused)
		if r.writes { // of one that reads it is the same to both
			breaks(t, server.URL, i+1, "unheard", unheard)
		}
		if r.length > 1<<20 {
			breaks(t, server.URL, i+1, "halved", halved)
		}
	}
}

// breaks cuts the way at the nth request of a copy.
func breaks(t *testing.T, url string, n int, how string, f fault) {
	t.Run(fmt.Sprintf("%d %s", n, how), func(t *testing.T) {
		p := newProxy(t, url)
		h := newHost(t, open(t, p.URL, "", fmt.Sprint(n, how)), mercury, hosts.Retention{Last: 1})
		first := h.take(2*time.Hour, 100)
		h.copy()
		second := h.take(time.Hour, smallPart+100)
		var mu sync.Mutex
		broke := ""
		p.on(func(i int, r *http.Request) fault {
			mu.Lock()
			defer mu.Unlock()
			if i < n {
				return none
			}
			broke = describe(r)
			if i == n {
				return f
			}
			return refused
		})
		result, err := Copy(context.Background(), h.copying())
		mu.Lock()
		defer mu.Unlock()
		p.on(nil)
		got := h.whole()
		if err == nil && !slices.Equal(got, []string{second}) {
			t.Errorf("nothing is said of what broke at %s: %+v", broke, result)
		}
		if got := strings.Join(got, " "); got != first && got != second && got != second+" "+first {
			t.Fatalf("after it broke at %s there is %q", broke, got)
		}
		again := h.copy()
		if got := strings.Join(h.whole(), " "); got != second {
			t.Fatalf("after it broke at %s and went on there is %q: %+v", broke, got, again)
		}
		h.unfinished(0)
	})
}

// unfinished checks how many uploads the store has that were not ended.
func (h *host) unfinished(want int) {
	h.t.Helper()
	s := h.place.Store.(*S3)
	list, err := s.unfinished(context.Background(), s.folder(""))
	if err != nil || len(list) != want {
		h.t.Errorf("unfinished uploads: %v, %v, want %d", list, err, want)
	}
}

// TestPasses gets over what passes by itself.
func TestPasses(t *testing.T) {
	t.Parallel()
	p := newProxy(t, backup(t).URL)
	h := newHost(t, open(t, p.URL, "", "x"), mercury, hosts.Retention{Last: 1})
	name := h.take(time.Hour, smallPart+1)
	var mu sync.Mutex
	seen := map[string]bool{}
	p.on(func(n int, r *http.Request) fault { // each request once in three ways
		mu.Lock()
		defer mu.Unlock()
		for _, f := range []fault{refused, unheard} {
			if key := fmt.Sprint(f, r.Method, r.URL.RequestURI()); !seen[key] {
				seen[key] = true
				return f
			}
		}
		return none
	})
	if result := h.copy(); len(result.Brought) != 1 || result.Brought[0] != name {
		t.Errorf("%+v", result)
	}
	h.whole()
	p.on(nil)
	h.copy() // ends what was begun twice, because the answer was lost
	h.unfinished(0)
}

// TestResumes goes on with the parts that are there, and clears away what nobody
// wants any more, of this host alone.
func TestResumes(t *testing.T) {
	t.Parallel()
	p := newProxy(t, backup(t).URL)
	s := open(t, p.URL, "", "x")
	ours, theirs := newHost(t, s, mercury, hosts.Retention{Last: 1}), newHost(t, s, Owner{"c", "venus"}, hosts.Retention{Last: 1})
	ours.take(time.Hour, 3*smallPart+1)
	theirs.take(time.Hour, smallPart+1)
	breakAt := func(part string) {
		p.on(func(_ int, r *http.Request) fault {
			if r.Method == http.MethodPut && r.URL.Query().Get("partNumber") >= part {
				return refused
			}
			return none
		})
	}
	for _, c := range []struct {
		h    *host
		part string
	}{{ours, "3"}, {theirs, "2"}} {
		breakAt(c.part)
		if _, err := Copy(context.Background(), c.h.copying()); err == nil {
			t.Fatal("nothing broke")
		}
	}
	ours.unfinished(2)
	var sent []string
	p.on(func(_ int, r *http.Request) fault {
		if part := r.URL.Query().Get("partNumber"); r.Method == http.MethodPut && part != "" {
			sent = append(sent, part)
		}
		return none
	})
	ours.copy()
	if got := strings.Join(sent, " "); got != "3 4" {
		t.Errorf("parts %s were sent again, want 3 4", got)
	}
	ours.whole()
	ours.unfinished(1)
	// A newer one takes the place of the one whose upload broke off.
	theirs.take(time.Minute, 10)
	theirs.copy()
	theirs.unfinished(0)
	if got := theirs.whole(); len(got) != 1 {
		t.Errorf("there are %v", got)
	}
}

// TestRubbish takes no answer for good that is not one of S3, says so, and
// believes nothing of it.
func TestRubbish(t *testing.T) {
	t.Parallel()
	server := backup(t)
	list := `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>backup</Name><Prefix>`
	for what, c := range map[string]struct {
		body   string
		header http.Header
		want   string
	}{
		"a page":            {body: "<!DOCTYPE html><html><body>Sign in to the network</body></html>", want: "the answer is not one of S3"},
		"a page of XHTML":   {body: `<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head/></html>`, want: "nothing between it and this host"},
		"XML that is cut":   {body: list, want: ""},
		"nothing":           {want: ""},
		"less than it says": {body: list, header: http.Header{"Content-Length": {"100000"}}, want: ""},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, open(t, server.URL, "", what[:3]+strings.Repeat("x", len(what))), mercury, hosts.Retention{Last: 1})
			name := h.take(time.Hour, smallPart+1)
			h.copy()
			good := h.place.Store
			h.take(time.Minute, 10)
			rubbish := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				for key, values := range c.header {
					w.Header()[key] = values
				}
				_, _ = io.WriteString(w, c.body)
			}))
			defer rubbish.Close()
			s := open(t, rubbish.URL, "", good.(*S3).at.Prefix)
			h.place.Store = s
			result, err := Copy(context.Background(), h.copying())
			if err == nil || !strings.Contains(err.Error(), c.want) || len(result.Deleted)+len(result.Brought) > 0 || len(result.Missing) != 1 {
				t.Errorf("copy: %+v, %v", result, err)
			}
			t.Log(err)
			for _, n := range []int{10, smallPart + 10} {
				content, meta := some(n)
				if err := s.Put(context.Background(), "c/x.db", bytes.NewReader(content), meta, func(int64, int64) {}); err == nil {
					t.Errorf("%d bytes are taken for put", n)
				} else {
					t.Log(err)
				}
			}
			if has, err := s.Has(context.Background(), "c/x.db", metaOf(nil)); has {
				t.Errorf("it has what is not there: %v", err)
			}
			dir := t.TempDir()
			e := entryAt(mercury, time.Hour)
			e.Manifest.Stored = etcdops.Stored{Size: 10, SHA256: strings.Repeat("0", 64)}
			if _, err := Fetch(context.Background(), s, e, dir, func(int64, int64) {}); err == nil {
				t.Error("a snapshot is fetched")
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("what was fetched left %v", left)
			}
			h.place.Store = good
			if got := h.whole(); len(got) != 1 || got[0] != name {
				t.Errorf("afterwards there are %v", got)
			}
		})
	}
}

// TestStalls gives a server up that hangs, at whatever it hangs.
func TestStalls(t *testing.T) {
	t.Parallel()
	p := newProxy(t, backup(t).URL)
	for what, hangs := range map[string]func(r *http.Request) bool{
		"at a listing": func(r *http.Request) bool { return r.URL.Query().Has("list-type") },
		"at a part":    func(r *http.Request) bool { return r.URL.Query().Get("partNumber") == "2" },
		"at the end":   func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Query().Has("uploadId") },
	} {
		t.Run(what, func(t *testing.T) {
			patient := open(t, p.URL, "", what)
			s, err := openS3(patient.at, Keys{AccessKey: s3.AccessKey, SecretKey: s3.SecretKey}, 500*time.Millisecond, smallPart)
			if err != nil {
				t.Fatal(err)
			}
			h := newHost(t, s, mercury, hosts.Retention{Last: 1})
			h.take(time.Hour, smallPart+1)
			p.on(func(_ int, r *http.Request) fault {
				if hangs(r) {
					_, _ = io.Copy(io.Discard, r.Body)
					<-r.Context().Done()
					return refused
				}
				return none
			})
			_, err = Copy(context.Background(), h.copying())
			if !errors.Is(err, ErrStalled) || !strings.Contains(err.Error(), "is http://127.0.0.1") {
				t.Errorf("error %v, want %v", err, ErrStalled)
			}
			p.on(nil)
			h.place.Store = patient
			h.copy()
			if len(h.whole()) != 1 {
				t.Error("it is not there in the end")
			}
			h.unfinished(0)
		})
	}
}

// TestServerStops has the server itself hang, and come back.
func TestServerStops(t *testing.T) {
	t.Parallel()
	server := s3.Start(t)
	server.Bucket("backup", false)
	at := open(t, server.URL, server.CAFile, "x").at
	s, err := openS3(at, Keys{AccessKey: s3.AccessKey, SecretKey: s3.SecretKey}, 500*time.Millisecond, smallPart)
	if err != nil {
		t.Fatal(err)
	}
	server.Freeze()
	if _, err := s.List(context.Background(), ""); !errors.Is(err, ErrStalled) {
		t.Errorf("a server that hangs: %v", err)
	}
	server.Stop()
	if _, err := s.List(context.Background(), ""); err == nil || errors.Is(err, ErrStalled) {
		t.Errorf("a server that is not there: %v", err)
	}
	server.Restart()
	if got := names(t, s, ""); got != nil {
		t.Errorf("there are %v", got)
	}
}

// TestRefusals says what to do about what stores refuse.
func TestRefusals(t *testing.T) {
	t.Parallel()
	server := s3.Start(t)
	server.Bucket("backup", false)
	plain := backup(t)
	good := open(t, server.URL, server.CAFile, "").at
	keys := Keys{AccessKey: s3.AccessKey, SecretKey: s3.SecretKey}
	otherCA, _ := s3.Certificate(t, t.TempDir())
	with := func(change func(*hosts.S3)) hosts.S3 {
		at := good
		change(&at)
		return at
	}
	skewed := newProxy(t, plain.URL)
	skewed.on(func(_ int, r *http.Request) fault {
		r.Header.Set("X-Amz-Date", time.Now().UTC().Add(-time.Hour).Format("20060102T150405Z"))
		return none
	})
	for what, c := range map[string]struct {
		at   hosts.S3
		keys Keys
		want error
		text string
	}{
		"no such bucket":        {with(func(at *hosts.S3) { at.Bucket = "elsewhere" }), keys, ErrNoStore, `make the bucket "elsewhere"`},
		"another secret":        {good, Keys{AccessKey: s3.AccessKey, SecretKey: "wrong"}, ErrDenied, "its secret is another one"},
		"an unknown key":        {good, Keys{AccessKey: "nobody", SecretKey: "wrong"}, ErrDenied, "does not know the access key nobody"},
		"another CA":            {with(func(at *hosts.S3) { at.CAFile = otherCA }), keys, nil, "as ca_file"},
		"no CA":                 {with(func(at *hosts.S3) { at.CAFile = "" }), keys, nil, "as ca_file"},
		"another name":          {with(func(at *hosts.S3) { at.Endpoint = strings.Replace(at.Endpoint, "127.0.0.1", "127.0.0.2", 1) }), keys, nil, ""},
		"no TLS over there":     {with(func(at *hosts.S3) { at.Endpoint = strings.Replace(plain.URL, "http:", "https:", 1) }), keys, nil, "is that the right port"},
		"a clock that is wrong": {with(func(at *hosts.S3) { at.Endpoint, at.CAFile = skewed.URL, "" }), keys, ErrClock, "set the clock"},
	} {
		t.Run(what, func(t *testing.T) {
			s, err := openS3(c.at, c.keys, 10*time.Second, smallPart)
			if err != nil {
				t.Fatal(err)
			}
			_, listErr := s.List(context.Background(), "")
			content, meta := some(10)
			for _, err := range []error{listErr, s.Put(context.Background(), "x.db", bytes.NewReader(content), meta, func(int64, int64) {})} {
				if err == nil || c.want != nil && !errors.Is(err, c.want) && !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), c.text) {
					t.Errorf("error %v, want %v and %q", err, c.want, c.text)
				}
				if err != nil && strings.Contains(err.Error(), s3.SecretKey) {
					t.Errorf("the secret is in %v", err)
				}
			}
		})
	}
}

// TestMemory brings a snapshot there and back in memory that does not depend on
// its size.
func TestMemory(t *testing.T) {
	server := s3.Start(t)
	server.Bucket("backup", false)
	at := open(t, server.URL, server.CAFile, "").at
	s, err := OpenS3(at, Keys{AccessKey: s3.AccessKey, SecretKey: s3.SecretKey})
	if err != nil {
		t.Fatal(err)
	}
	const size = 96 << 20
	file := filepath.Join(t.TempDir(), "x.db")
	content, _ := some(1 << 20)
	whole := bytes.Repeat(content, size>>20)
	meta := metaOf(whole)
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	whole = nil
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// What is in use counts, and not what waits to be collected: that may be as much
	// as the tests hold.
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	var peak uint64
	look := func(int64, int64) {
		runtime.ReadMemStats(&now)
		peak = max(peak, now.HeapAlloc)
	}
	if err := s.Put(context.Background(), "x.db", f, meta, look); err != nil {
		t.Fatal(err)
	}
	sum := newSum(io.Discard)
	if err := sum.readFrom(context.Background(), s, "x.db", size, look); err != nil || sum.hex() != meta.SHA256 {
		t.Fatalf("read back: %v", err)
	}
	if grown := int64(peak) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("memory grew by %d bytes", grown)
	} else {
		t.Logf("memory grew by %d KiB", grown>>10)
	}
}
