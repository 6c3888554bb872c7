package etcdops

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestSaveGoesByTheSocket: the host's own member is saved by its socket, and over
// TLS where it is not that member who answers there.
func TestSaveGoesByTheSocket(t *testing.T) {
	t.Parallel()
	h, other := startHost(t), startHost(t)
	put(t, h, "a")
	for name, tc := range map[string]struct {
		socket string
		want   string
	}{
		"its own":               {h.Server.Socket, socketURL(h.Server.Socket)},
		"none":                  {"", h.endpoint()},
		"not there":             {socketPath(t), h.endpoint()},
		"left by one that died": {deadSocket(t), h.endpoint()},
		"no socket at all":      {h.Files.CA, h.endpoint()},
		"nobody answers":        {muteSocket(t), h.endpoint()},
		"of another cluster":    {other.Server.Socket, h.endpoint()},
		"with a path too long":  {socketPath(t) + strings.Repeat("x", 108), h.endpoint()},
	} {
		t.Run(name, func(t *testing.T) {
			opts := h.saveOptions()
			opts.Dir, opts.Site.Socket = t.TempDir(), tc.socket
			m, err := Save(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			if m.Endpoint != tc.want || m.MemberName != "m1" {
				t.Errorf("%s was saved from %s, want m1 from %s", m.MemberName, m.Endpoint, tc.want)
			}
			if report, err := Verify(t.Context(), m.Path(opts.Dir), VerifyOptions{}); err != nil || report.Keys != 1 {
				t.Errorf("%d keys in it, %v", report.Keys, err)
			}
		})
	}
}

// TestSocketCarriesTheStream: not the manifest alone says so. By TCP not even half
// of the database comes through.
func TestSocketCarriesTheStream(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	fill(t, h, 8, 256<<10)
	opts := h.saveOptions()
	opts.Stall = 5 * time.Second
	opts.Site.Local = proxy(t, h.endpoint(), 1<<20)
	m, err := Save(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if m.Endpoint != socketURL(h.Server.Socket) || m.Size < 2<<20 {
		t.Errorf("%s came from %s", bytesText(m.Size), m.Endpoint)
	}
}

// TestSocketIsTheOwnMembersAlone: in a cluster of three a follower is saved. The
// socket serves where that one is the host's own, and where it is the socket of
// this member and not of another one.
func TestSocketIsTheOwnMembersAlone(t *testing.T) {
	t.Parallel()
	r := startRing(t, 3)
	v := r.settle()
	leader, followers := "", []string(nil)
	for _, m := range v.Members {
		if m.Leader {
			leader = m.Name
		} else {
			followers = append(followers, m.Name)
		}
	}
	for name, tc := range map[string]struct{ self, socket, want string }{
		"a follower's own":           {followers[0], followers[0], socketURL(r.node(followers[0]).Server.Socket)},
		"a follower with the other":  {followers[0], followers[1], r.node(followers[0]).Member.ClientURL},
		"a follower with the leader": {followers[1], leader, r.node(followers[1]).Member.ClientURL},
		"the leader's own":           {leader, leader, ""}, // a follower is saved, over the network
	} {
		t.Run(name, func(t *testing.T) {
			opts := r.saveOptions(tc.self)
			opts.Dir, opts.Site.Socket = t.TempDir(), r.node(tc.socket).Server.Socket
			m, err := Save(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			if want := tc.want; want != "" && (m.Endpoint != want || m.MemberName != tc.self) || want == "" && !strings.HasPrefix(m.Endpoint, "https://") {
				t.Errorf("%s was saved from %s, want %s from %s", m.MemberName, m.Endpoint, tc.self, want)
			}
		})
	}
}

// TestSocketOutlivesAKill: what a member that was killed leaves in the way, the
// next one of that host takes away.
func TestSocketOutlivesAKill(t *testing.T) {
	t.Parallel()
	r := startRing(t, 1)
	own := r.Nodes[0]
	own.kill()
	if info, err := os.Lstat(own.Server.Socket); err != nil || info.Mode().Type() != os.ModeSocket {
		t.Fatalf("a killed member leaves no socket: %v, %v", info, err)
	}
	own.start()
	r.settle()
	if m, err := Save(t.Context(), r.saveOptions("m1")); err != nil || m.Endpoint != socketURL(own.Server.Socket) {
		t.Errorf("saved from %s, %v", m.Endpoint, err)
	}
}

// TestOpenAsksForTheCluster: members of two clusters may have the same id, which
// comes of a token and a URL.
func TestOpenAsksForTheCluster(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	v := Look(t.Context(), h.site(), false)
	_, err := open(t.Context(), h.site(), v.Members[0], "beef")
	if want := "the cluster " + v.ClusterID + " answers, not beef"; err == nil || strings.Count(err.Error(), want) != 2 {
		t.Errorf("error %v, want %q of both ways", err, want)
	}
}

// TestOpenSaysWhatFailed: where neither way leads to the member, both reasons are
// told, but for a socket that is not there, as with every member before it had one.
func TestOpenSaysWhatFailed(t *testing.T) {
	t.Parallel()
	dead := deadSocket(t)
	site := Site{TLS: makeCerts(t, t.TempDir()), Self: "m1"}
	for socket, told := range map[string]bool{dead: true, dead + ".gone": false} {
		site.Socket = socket
		got, err := open(t.Context(), site, MemberView{Name: "m1", Endpoint: "https://127.0.0.1:1"}, "c")
		if err == nil || got.client != nil || !strings.Contains(err.Error(), "https://127.0.0.1:1") || strings.Contains(err.Error(), socketURL(socket)) != told {
			t.Errorf("with the socket %s: %v", socket, err)
		}
	}
}

// deadSocket is the path of a socket on which nobody listens any more.
func deadSocket(t *testing.T) string {
	t.Helper()
	path := socketPath(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// muteSocket is one that takes connections and answers none.
func muteSocket(t *testing.T) string {
	t.Helper()
	path := socketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { c.Close() })
		}
	}()
	return path
}
