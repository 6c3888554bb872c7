package etcdops

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/servers"
)

// silentAddress is one at which connections are neither taken nor refused, as
// where the network is cut.
func silentAddress(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // more than it has room for
		full, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(full) })
		if err := unix.Connect(full, name); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("https://127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
}

// What another host looks like, and what somebody has to say of it.
func TestFence(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	id, _, err := dataCluster(h.Root.EtcdData())
	if err != nil {
		t.Fatal(err)
	}
	closed := fmt.Sprintf("https://127.0.0.1:%d", servers.ReservePort(t))
	silent := silentAddress(t)
	waiting := &Starter{Root: layout.Root(t.TempDir()), Peer: h.Files}
	waiting.Self = Member{Name: "w", PeerURL: fmt.Sprintf("https://127.0.0.1:%d", servers.ReservePort(t)), ClientURL: closed}
	waiting.Members = []Member{waiting.Self, {Name: "x", PeerURL: closed}}
	if err := waiting.Permit(t.Context(), 0); !errors.Is(err, ErrHeld) {
		t.Fatal(err)
	}
	defer waiting.Close()
	var looks sync.WaitGroup
	for name, tc := range map[string]struct {
		member Member
		id     string
		want   OtherState
	}{
		"nothing runs":           {Member{PeerURL: closed, ClientURL: closed}, id, OtherStopped},
		"nodeagent waits":        {waiting.Self, id, OtherStopped},
		"etcd of this cluster":   {h.Members[0], id, OtherSame},
		"etcd of another one":    {h.Members[0], "1234", OtherAlive},
		"nobody answers":         {Member{PeerURL: silent, ClientURL: silent}, id, OtherSilent},
		"something else listens": {Member{PeerURL: h.endpoint(), ClientURL: closed}, id, OtherAlive},
		"a port is filtered":     {Member{PeerURL: closed, ClientURL: silent}, id, OtherStopped},
		"the clients' port":      {Member{PeerURL: silent, ClientURL: h.endpoint()}, "1234", OtherAlive},
	} {
		looks.Go(func() {
			got := lookAtOthers(t.Context(), h.Files, h.Files, []Member{tc.member}, tc.id)[0]
			if got.State != tc.want {
				t.Errorf("%s: %+v, want %s", name, got, tc.want)
			}
		})
	}
	looks.Wait()
	others := func(state OtherState) []Other { return []Other{{Member: Member{Name: "n2"}, State: state}} }
	for name, tc := range map[string]struct {
		others []Other
		fenced []string
		want   string
	}{
		"stopped":                 {others(OtherStopped), nil, ""},
		"same":                    {others(OtherSame), nil, ""},
		"alive":                   {others(OtherAlive), nil, "stop it on every host"},
		"alive, said to be off":   {others(OtherAlive), []string{"n2"}, "stop it on every host"},
		"silent":                  {others(OtherSilent), nil, "--fenced n2"},
		"silent, said to be off":  {others(OtherSilent), []string{"n2"}, ""},
		"of no host of the fleet": {others(OtherStopped), []string{"n9"}, "no other etcd host of that name"},
	} {
		err := judgeFence(tc.others, tc.fenced)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}
