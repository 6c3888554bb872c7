package etcdops

import (
	"net"
	"path/filepath"
	"testing"
)

// An etcd that is being stopped listens for a moment and says nothing of use.
func TestFenceWaitsForWhatSettles(t *testing.T) {
	t.Parallel()
	files := makeCerts(t, filepath.Join(t.TempDir(), "certs"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for range 6 { // some are knocks
			if connection, err := l.Accept(); err == nil {
				connection.Close()
			}
		}
		l.Close()
	}()
	address := "https://" + l.Addr().String()
	others := lookAtOthers(t.Context(), files, files, []Member{{Name: "m2", PeerURL: address, ClientURL: address}}, "1")
	if len(others) != 1 || others[0].State != OtherStopped {
		t.Errorf("seen as %+v", others)
	}
}
