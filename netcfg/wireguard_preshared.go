package netcfg

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// PresharedFile is what a preshared key's file holds: a key, for which Digest
// stands, or why it cannot be used. A peer whose file is not there has no
// preshared key: to remove the file is how one is taken away.
//
// A digest is an HMAC-SHA256 of the key under the host's private key, cut to 48
// bits: it tells keys apart on one host, and tells nobody else anything even of
// a key that people made up.
type PresharedFile struct {
	Digest  string
	Problem string
}

// presharedEdit is what is to be done about a peer's preshared key: nothing, to
// set the one of a file, or to remove it.
type presharedEdit struct {
	file    string
	remove  bool
	problem string // it cannot be done
}

func (e presharedEdit) set() bool { return e.file != "" || e.remove }

// diffPreshared compares the preshared keys of a peer and returns what the peer
// has afterwards.
func diffPreshared(have *WireGuard, h, w *WireGuardPeer) (edit presharedEdit, after string) {
	file, there := have.PresharedFiles[w.PresharedFile]
	switch {
	case w.PresharedKey != "" && h.PresharedKey == w.PresharedKey:
		return edit, h.PresharedKey
	case w.PresharedKey != "" && file.Digest != w.PresharedKey:
		return presharedEdit{problem: fmt.Sprintf("the preshared key that the peer had, %s, is not in %q any more", w.PresharedKey, w.PresharedFile)}, ""
	case there && file.Problem != "":
		return presharedEdit{problem: file.Problem}, ""
	case there && file.Digest != h.PresharedKey:
		return presharedEdit{file: w.PresharedFile}, file.Digest
	case !there && h.PresharedKey != "":
		return presharedEdit{remove: true}, ""
	}
	return edit, h.PresharedKey
}

// presharedDigest returns what stands for a preshared key; "" for the zero key,
// which is none.
func presharedDigest(host, preshared wgtypes.Key) string {
	if preshared == (wgtypes.Key{}) {
		return ""
	}
	if host == (wgtypes.Key{}) {
		host = noHostKey()
	}
	mac := hmac.New(sha256.New, host[:])
	mac.Write([]byte("nodeagent preshared key"))
	mac.Write(preshared[:])
	return "hmac:" + hex.EncodeToString(mac.Sum(nil)[:6])
}

// noHostKey stands for the key of a host that has none yet: a digest then holds
// for one process.
var noHostKey = sync.OnceValue(func() (key wgtypes.Key) {
	_, _ = rand.Read(key[:]) // never fails (crypto/rand)
	return key
})

// maxPreshared is more than a file with a key and a newline holds.
const maxPreshared = 200

// readPreshared reads a preshared key. Errors never hold what the file holds.
func readPreshared(path string) (wgtypes.Key, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return wgtypes.Key{}, fmt.Errorf("read preshared key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return wgtypes.Key{}, fmt.Errorf("read preshared key: %w", err)
	case !info.Mode().IsRegular():
		return wgtypes.Key{}, fmt.Errorf("read preshared key %q: it is not a file", path)
	case info.Mode().Perm()&0o077 != 0:
		return wgtypes.Key{}, fmt.Errorf("read preshared key %q: its mode is %#o, so that others than its owner may have read it; make a new key (wg genpsk) and chmod 600 the file", path, info.Mode().Perm())
	}
	content, err := io.ReadAll(io.LimitReader(f, maxPreshared))
	if err != nil {
		return wgtypes.Key{}, fmt.Errorf("read preshared key: %w", err)
	}
	key, err := wgtypes.ParseKey(strings.TrimSpace(string(content)))
	if err != nil || key == (wgtypes.Key{}) {
		return wgtypes.Key{}, fmt.Errorf("read preshared key %q: it is not a preshared key (base64 of 32 bytes, as wg genpsk prints it)", path)
	}
	return key, nil
}

// readPresharedFiles reads the files of all wanted peers.
func readPresharedFiles(want *WireGuard, host wgtypes.Key) map[string]PresharedFile {
	var files map[string]PresharedFile
	for _, p := range want.Peers {
		if p.PresharedFile == "" {
			continue
		}
		key, err := readPreshared(p.PresharedFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if files == nil {
			files = map[string]PresharedFile{}
		}
		file := PresharedFile{Digest: presharedDigest(host, key)}
		if err != nil {
			file.Problem = err.Error()
		}
		files[p.PresharedFile] = file
	}
	return files
}

// A preshared key that a change takes off the device is kept in a file, so that
// a change that is undone leads back to it: the file that it came from may hold
// another one by then.
const keptPreshared = 4 // for each peer

func keptFolder(folder string) string { return filepath.Join(folder, "preshared") }

// keptPath is the file of a kept key: mode 0600, named after the peer's public
// key and what stands for the preshared one.
func keptPath(folder string, peer wgtypes.Key, digest string) string {
	return filepath.Join(keptFolder(folder), hex.EncodeToString(peer[:8])+"-"+strings.TrimPrefix(digest, "hmac:")+".psk")
}

// keepPreshared keeps the preshared keys of the peers that the device has now
// and that choose picks.
func keepPreshared(folder, device string, choose func(wgtypes.Key) bool) error {
	d, err := readWireGuardNamed(device)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keep preshared keys of wireguard device %q: %w", device, err)
	}
	host, err := readWireGuardKey(folder)
	if err != nil {
		return err
	}
	if host == (wgtypes.Key{}) {
		host = d.privateKey
	}
	for _, p := range d.peers {
		if p.preshared == (wgtypes.Key{}) || !choose(p.publicKey) {
			continue
		}
		if err := writeKept(folder, p, presharedDigest(host, p.preshared)); err != nil {
			return fmt.Errorf("keep preshared key of wireguard peer %s: %w", p.publicKey, err)
		}
	}
	return nil
}

func writeKept(folder string, p peerReading, digest string) error {
	if err := atomicfile.MkdirAll(keptFolder(folder), 0o700); err != nil {
		return err
	}
	path := keptPath(folder, p.publicKey, digest)
	if err := atomicfile.Write(path, []byte(p.preshared.String()+"\n"), 0o600); err != nil {
		return err
	}
	return pruneKept(path)
}

// pruneKept removes the oldest of a peer's kept keys. The one just written is
// the newest.
func pruneKept(written string) error {
	peer, _, _ := strings.Cut(filepath.Base(written), "-")
	files, err := filepath.Glob(filepath.Join(filepath.Dir(written), peer+"-*.psk"))
	if err != nil || len(files) <= keptPreshared {
		return err
	}
	ages := make(map[string]int64, len(files))
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			ages[f] = info.ModTime().UnixNano()
		}
	}
	slices.SortFunc(files, func(a, b string) int { return int(max(-1, min(1, ages[b]-ages[a]))) })
	var failed []error
	for _, f := range files[keptPreshared:] {
		failed = append(failed, atomicfile.Remove(f))
	}
	return errors.Join(failed...)
}
