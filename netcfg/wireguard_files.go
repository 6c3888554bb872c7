package netcfg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// readWireGuardKey returns the host's private key, zero where there is none.
// Errors never hold what the file holds.
func readWireGuardKey(folder string) (wgtypes.Key, error) {
	path := wireGuardKey(folder)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return wgtypes.Key{}, nil
	}
	if err != nil {
		return wgtypes.Key{}, fmt.Errorf("read wireguard key: %w", err)
	}
	key, err := wgtypes.ParseKey(strings.TrimSpace(string(content)))
	if err != nil || key == (wgtypes.Key{}) {
		return wgtypes.Key{}, fmt.Errorf("read wireguard key %q: it is not a private key (base64 of 32 bytes); restore it, or move it aside to have another made", path)
	}
	return key, nil
}

// apply makes the key and writes it. Where the device has one already, as after
// a lost state folder, that one is kept: the fleet knows its public half.
func (o makeWireGuardKey) apply(ctx context.Context, _ *System) error {
	key, err := readWireGuardKey(o.folder)
	if err != nil {
		return err
	}
	if key == (wgtypes.Key{}) {
		if key, err = o.keyOfDevice(); err != nil {
			return err
		}
		if key == (wgtypes.Key{}) {
			if key, err = wgtypes.GeneratePrivateKey(); err != nil {
				return fmt.Errorf("make wireguard key: %w", err)
			}
		}
		if err := edit(ctx, func() error { return writeWireGuardKey(o.folder, key) }); err != nil {
			return fmt.Errorf("keep wireguard key: %w", err)
		}
	}
	if o.declared != (wgtypes.Key{}) && o.declared != key.PublicKey() {
		return fmt.Errorf("the fleet declares the public key of another private key, %s: %s", o.declared, declareKey(key.PublicKey()))
	}
	return nil
}

func writeWireGuardKey(folder string, key wgtypes.Key) error {
	if err := atomicfile.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	return atomicfile.Write(wireGuardKey(folder), []byte(key.String()+"\n"), 0o600)
}

// endpointsVersion is the version of the record's shape.
const endpointsVersion = 1

// endpoints is the record of the endpoints of the spec that were last set, by
// public key. The device itself only knows where a peer was last heard from,
// which differs once it roamed. A record that is lost or unreadable costs that
// the endpoints are set once more, and so it is no error.
type endpoints map[string]string

type endpointsFile struct {
	Version   int       `json:"version"`
	Device    string    `json:"device"`
	Endpoints endpoints `json:"endpoints"`
}

func endpointsPath(folder string) string { return filepath.Join(folder, "endpoints.json") }

func readEndpoints(folder, device string) endpoints {
	var file endpointsFile
	content, err := os.ReadFile(endpointsPath(folder))
	if err != nil || json.Unmarshal(content, &file) != nil ||
		file.Version != endpointsVersion || file.Device != device || file.Endpoints == nil {
		return endpoints{}
	}
	return file.Endpoints
}

// endpointRecorder gathers what one Apply notes, so that a thousand peers are
// one write and not a thousand. An Apply that is killed before it loses only
// that the endpoints are set once more.
type endpointRecorder struct {
	mu      sync.Mutex
	holding bool
	pending []noted
	last    struct { // the record that was last read
		path, device string
		file         os.FileInfo
		record       map[wgtypes.Key]recordedEndpoint
	}
}

// recordedEndpoint is an endpoint of the record; host is set where it is a name.
type recordedEndpoint struct {
	endpoint, host string
	port           uint16
}

// byKey takes the record apart. Keys that are none are left out: no device has
// such a peer.
func (e endpoints) byKey() map[wgtypes.Key]recordedEndpoint {
	record := make(map[wgtypes.Key]recordedEndpoint, len(e))
	for text, endpoint := range e {
		if key, err := wgtypes.ParseKey(text); err == nil {
			r := recordedEndpoint{endpoint: endpoint}
			if host, port, ok := nameOf(endpoint); ok {
				r.host, r.port = host, port
			}
			record[key] = r
		}
	}
	return record
}

// read is readEndpoints, but reads a file only once: a record is replaced and
// never written over. The caller does not change what it gets.
func (r *endpointRecorder) read(folder, device string) map[wgtypes.Key]recordedEndpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	path := endpointsPath(folder)
	file, err := os.Stat(path)
	if err != nil {
		return nil
	}
	l := &r.last
	same := l.file != nil && l.path == path && l.device == device && os.SameFile(l.file, file) &&
		l.file.Size() == file.Size() && l.file.ModTime().Equal(file.ModTime())
	if !same {
		l.path, l.device, l.file, l.record = path, device, file, readEndpoints(folder, device).byKey()
	}
	return l.record
}

type noted struct {
	folder, device, peer, endpoint string
}

// recordEndpoint notes the endpoint that was set for a peer; "" forgets it.
func (sys *System) recordEndpoint(folder, device string, key wgtypes.Key, endpoint string) error {
	r := &sys.recorder
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(r.pending, noted{folder, device, key.String(), endpoint})
	if r.holding {
		return nil
	}
	return r.flush()
}

// hold makes recordEndpoint gather until the returned function is called.
func (r *endpointRecorder) hold() (flush func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holding = true
	return func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.holding = false
		return r.flush()
	}
}

// flush writes what was gathered, a file for each folder in turn; of several
// devices the last one's record stands, as there is one device.
func (r *endpointRecorder) flush() error {
	var failed []error
	for len(r.pending) > 0 {
		first := r.pending[0]
		record, changed := readEndpoints(first.folder, first.device), false
		var rest []noted
		for _, n := range r.pending {
			switch {
			case n.folder != first.folder || n.device != first.device:
				rest = append(rest, n)
				continue
			case record[n.peer] == n.endpoint:
				continue
			case n.endpoint == "":
				delete(record, n.peer)
			default:
				record[n.peer] = n.endpoint
			}
			changed = true
		}
		r.pending = rest
		if changed {
			failed = append(failed, writeEndpoints(first.folder, first.device, record))
		}
	}
	return errors.Join(failed...)
}

func writeEndpoints(folder, device string, record endpoints) error {
	content, err := json.MarshalIndent(endpointsFile{endpointsVersion, device, record}, "", "  ")
	if err == nil {
		err = atomicfile.MkdirAll(folder, 0o700)
	}
	if err == nil {
		err = atomicfile.Write(endpointsPath(folder), append(content, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("record wireguard endpoint: %w", err)
	}
	return nil
}
