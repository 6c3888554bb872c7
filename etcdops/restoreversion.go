package etcdops

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/etcd/api/v3/version"
)

// checkVersion refuses data that is newer than the etcd that would open it.
func (p *RestorePlan) checkVersion(ctx context.Context, opts RestoreOptions) error {
	if err := versionFits(p.Snapshot.StorageVersion, version.Version, "this nodeagent restores"); err != nil {
		return err
	}
	if opts.EtcdBinary == "" {
		return nil
	}
	installed, err := binaryVersion(ctx, opts.EtcdBinary)
	if err != nil {
		return err
	}
	return versionFits(p.Snapshot.StorageVersion, installed, fmt.Sprintf("%q reads", opts.EtcdBinary))
}

func versionFits(storage, reader, what string) error {
	if storage == "" {
		return nil
	}
	data, err := semver.NewVersion(storage)
	if err != nil {
		return fmt.Errorf("read storage version %q of the snapshot: %w", storage, err)
	}
	limit, err := semver.NewVersion(reader)
	if err != nil {
		return fmt.Errorf("read etcd version %q: %w", reader, err)
	}
	if data.Major > limit.Major || data.Major == limit.Major && data.Minor > limit.Minor {
		return fmt.Errorf("the snapshot has the data format of etcd %d.%d, %s up to %d.%d: install a newer one first", data.Major, data.Minor, what, limit.Major, limit.Minor)
	}
	return nil
}

var etcdVersionLine = regexp.MustCompile(`(?m)^etcd Version: (\S+)`)

func binaryVersion(ctx context.Context, binary string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %q for its version: %w", binary, err)
	}
	found := etcdVersionLine.FindSubmatch(out)
	if found == nil {
		return "", fmt.Errorf("ask %q for its version: it answered %.100q", binary, out)
	}
	return string(found[1]), nil
}
