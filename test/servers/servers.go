// Package servers builds what the lab's hosts run besides nodeagent: the
// Kubernetes components, etcd, containerd, the image of the test pod, and the
// Debian root folder that every host starts from. It builds the Vault servers
// that tests of certificates run against, and the S3 server that those of
// snapshots do, too.
//
// Everything is built once, into a cache folder outside version control, and
// looked up there afterwards. A product's place in the cache is named by its
// inputs (its pinned versions, sources, build flags and the Go release), so a
// changed input builds anew and a half-finished build is never taken for a
// finished one: builds happen in a temporary folder that is renamed last.
//
// Each server has a Go module of its own in a folder below, so that none of
// its requirements reaches nodeagent's go.mod.
package servers

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// linkerFlags are what a server's programs are linked with.
func (b *Builder) linkerFlags(s *server) (string, error) {
	flags := []string{"-s", "-w"}
	if s.variable == nil {
		return strings.Join(flags, " "), nil
	}
	version, err := b.version(s)
	if err != nil {
		return "", err
	}
	variables := s.variable(version)
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		flags = append(flags, "-X", name+"="+variables[name])
	}
	return strings.Join(flags, " "), nil
}

// A Builder finds products in the cache and builds those that are missing.
type Builder struct {
	Root  string    // of the repository
	Cache string    // folder for everything built
	Log   io.Writer // what is built, how far it is and how long it took
}

// New returns a Builder for the repository that the working directory is in.
// The cache is the folder .cache at its root, or $NODEAGENT_CACHE.
func New(log io.Writer) (*Builder, error) {
	root, err := repositoryRoot()
	if err != nil {
		return nil, err
	}
	cache := os.Getenv("NODEAGENT_CACHE")
	if cache == "" {
		cache = filepath.Join(root, ".cache")
	}
	if cache, err = filepath.Abs(cache); err != nil {
		return nil, fmt.Errorf("find cache folder: %w", err)
	}
	return &Builder{Root: root, Cache: cache, Log: &lineWriter{w: log}}, nil
}

// Programs is a folder with the executables of every server, found or built.
// The folder is complete and does not change: it can be bound into a host.
func (b *Builder) Programs(ctx context.Context) (string, error) {
	dirs, err := b.buildAll(ctx, all)
	if err != nil {
		return "", err
	}
	return b.gather(ctx, dirs)
}

// buildAll finds or builds servers and returns their folders.
//
// Builds follow each other: side by side, each would compile the standard
// library for itself. The sources of all are fetched meanwhile.
func (b *Builder) buildAll(ctx context.Context, servers []server) (dirs []string, err error) {
	fetching, stop := context.WithCancel(ctx)
	defer stop()
	for i := range servers[1:] {
		go b.fetch(fetching, &servers[i+1])
	}
	for i := range servers {
		dir, err := b.build(ctx, &servers[i])
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// VaultVersions are the versions that Vault takes, the oldest first: "v1.13.0".
func (b *Builder) VaultVersions() (versions []string, err error) {
	for i := range vaults {
		version, err := b.version(&vaults[i])
		if err != nil {
			return nil, err
		}
		versions = append(versions, version)
	}
	return versions, nil
}

// Vault is the executable of a Vault server (see test/servers/vault), found or
// built. It is static, so a lab host can run a copy of it.
func (b *Builder) Vault(ctx context.Context, version string) (string, error) {
	s, err := b.vault(version)
	if err != nil {
		return "", err
	}
	dir, err := b.build(ctx, s)
	return filepath.Join(dir, s.programs[0].names[0]), err
}

// Vaults is a folder with the Vault servers of every version, found or built. The
// vault command is built after them, of what they have compiled already.
func (b *Builder) Vaults(ctx context.Context) (string, error) {
	if _, err := b.buildAll(ctx, append(slices.Clone(vaults), vaultAgent)); err != nil {
		return "", err
	}
	return filepath.Join(b.Cache, "servers", "vault"), nil
}

// FindVault is what Vault returns, if it was built before.
func (b *Builder) FindVault(version string) (string, error) {
	s, err := b.vault(version)
	if err != nil {
		return "", err
	}
	return b.find(s, "Vault server "+version, "vault")
}

// find is the first program of a server that was built before. The error says
// what builds it: the product of test/servers/build.
func (b *Builder) find(s *server, what, product string) (string, error) {
	key, err := b.key(s)
	if err != nil {
		return "", err
	}
	file := filepath.Join(b.Cache, "servers", s.name, key, s.programs[0].names[0])
	if _, err := os.Stat(file); err != nil {
		return "", fmt.Errorf("the %s is not built; build it with: go run ./test/servers/build %s", what, product)
	}
	return file, nil
}

// Etcds builds the older releases of etcd that are missing, and returns the folder
// that all are in.
func (b *Builder) Etcds(ctx context.Context) (string, error) {
	if _, err := b.buildAll(ctx, etcds); err != nil {
		return "", err
	}
	return filepath.Join(b.Cache, "servers", "etcd"), nil
}

// FindEtcd is the executable of an older etcd, "3.5", if it was built before.
func (b *Builder) FindEtcd(minor string) (string, error) {
	i := slices.IndexFunc(etcds, func(s server) bool { return s.modfile == "v"+minor+".mod" })
	if i < 0 {
		return "", fmt.Errorf("no etcd %q", minor)
	}
	return b.find(&etcds[i], "etcd "+minor, "etcds")
}

// S3 is the executable of the S3 server, found or built. It is static, so a lab
// host can run a copy of it.
func (b *Builder) S3(ctx context.Context) (string, error) {
	dir, err := b.build(ctx, &versitygw)
	return filepath.Join(dir, versitygw.programs[0].names[0]), err
}

// FindS3 is what S3 returns, if it was built before.
func (b *Builder) FindS3() (string, error) {
	return b.find(&versitygw, "S3 server", "s3")
}

// VaultAgent is the executable of the whole vault command, found or built.
func (b *Builder) VaultAgent(ctx context.Context) (string, error) {
	dir, err := b.build(ctx, &vaultAgent)
	return filepath.Join(dir, vaultAgent.programs[0].names[0]), err
}

// FindVaultAgent is what VaultAgent returns, if it was built before.
func (b *Builder) FindVaultAgent() (string, error) {
	return b.find(&vaultAgent, "vault command", "vault")
}

// ReleasedVaultAgent is the same program as those who release it compile it.
func (b *Builder) ReleasedVaultAgent(ctx context.Context) (string, error) {
	dir, err := b.build(ctx, asReleased(vaultAgent))
	return filepath.Join(dir, vaultAgent.programs[0].names[0]), err
}

// ReleasedEtcd is a folder with etcd, etcdctl and etcdutl, compiled in the same way.
func (b *Builder) ReleasedEtcd(ctx context.Context) (string, error) {
	return b.build(ctx, asReleased(etcd))
}

// Released is what nodeagent is measured beside, in a folder of the cache.
func (b *Builder) Released(ctx context.Context) (string, error) {
	_, agent := b.ReleasedVaultAgent(ctx)
	_, etcd := b.ReleasedEtcd(ctx)
	return filepath.Join(b.Cache, "servers"), errors.Join(agent, etcd)
}

func (b *Builder) vault(version string) (*server, error) {
	versions, err := b.VaultVersions()
	if err != nil {
		return nil, err
	}
	i := slices.Index(versions, version)
	if i < 0 {
		return nil, fmt.Errorf("no Vault server %q; there are %s", version, strings.Join(versions, ", "))
	}
	return &vaults[i], nil
}

// gather links the programs of all servers into one folder. Hard links: the
// folder is complete by itself and takes no space.
func (b *Builder) gather(ctx context.Context, dirs []string) (string, error) {
	key := sha256.New()
	for _, dir := range dirs {
		fmt.Fprintln(key, dir)
	}
	return b.cached(ctx, "programs", hex.EncodeToString(key.Sum(nil))[:16], "", func(dir string) error {
		for _, from := range dirs {
			entries, err := os.ReadDir(from)
			if err != nil {
				return err
			}
			for _, entry := range entries {
				if err := linkEntry(filepath.Join(from, entry.Name()), filepath.Join(dir, entry.Name())); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func linkEntry(from, to string) error {
	if target, err := os.Readlink(from); err == nil {
		return os.Symlink(target, to)
	}
	return os.Link(from, to)
}

// key names a server's product: its version, then a hash over everything that
// goes into it.
func (b *Builder) key(s *server) (string, error) {
	dir := b.moduleDir(s)
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", fmt.Errorf("list sources of %s: %w", s.name, err)
	}
	slices.Sort(files)
	modfile := b.modfile(s)
	files = append(files, modfile, strings.TrimSuffix(modfile, ".mod")+".sum")
	flags, err := b.linkerFlags(s)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOARCH, flags, s.compiler, s.tags, s.programs)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read source of %s: %w", s.name, err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", filepath.Base(file), len(content), content)
	}
	version, err := b.version(s)
	if err != nil {
		return "", err
	}
	return version + "-" + hex.EncodeToString(sum.Sum(nil))[:16], nil
}

// version reads the server's version from its mod file.
func (b *Builder) version(s *server) (string, error) {
	file := b.modfile(s)
	content, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read version of %s: %w", s.name, err)
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && fields[0] == s.module && strings.HasPrefix(fields[1], "v") {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("read version of %s: %s requires no %s", s.name, file, s.module)
}

func (b *Builder) moduleDir(s *server) string {
	return filepath.Join(b.Root, "test", "servers", s.name)
}

func (b *Builder) modfile(s *server) string {
	return filepath.Join(b.moduleDir(s), cmp.Or(s.modfile, "go.mod"))
}

// repositoryRoot walks up from the working directory to nodeagent's go.mod.
func repositoryRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find repository: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(strings.TrimSpace(string(content)), "module github.com/nodeagent/nodeagent\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find repository: no folder above %s is nodeagent's; run this inside a clone of it", start)
		}
	}
}
