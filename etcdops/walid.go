package etcdops

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"google.golang.org/protobuf/proto"
)

// dataCluster reads the ids (hexadecimal) of the cluster and of the member whose
// data lies in the folder: every write-ahead log file begins with them. It serves
// while etcd runs, too. Without data the error is fs.ErrNotExist.
func dataCluster(dataDir string) (cluster, self string, err error) {
	logs, err := filepath.Glob(filepath.Join(dataDir, "member", "wal", "*.wal"))
	if err != nil {
		return "", "", err
	}
	if len(logs) == 0 {
		return "", "", fmt.Errorf("etcd's data in %q: %w", dataDir, fs.ErrNotExist)
	}
	first := slices.Min(logs)
	f, err := os.Open(first)
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	decoder := wal.NewDecoder(fileutil.NewFileReader(f))
	var record walpb.Record
	for range 2 { // a checksum goes before
		if err := decoder.Decode(&record); err != nil {
			return "", "", fmt.Errorf("read of which cluster %q is: %w", first, err)
		}
		if record.GetType() != wal.MetadataType {
			decoder.UpdateCRC(record.GetCrc())
			continue
		}
		var ids etcdserverpb.Metadata
		if err := proto.Unmarshal(record.Data, &ids); err != nil {
			return "", "", fmt.Errorf("read of which cluster %q is: %w", first, err)
		}
		return idText(ids.GetClusterID()), idText(ids.GetNodeID()), nil
	}
	return "", "", fmt.Errorf("read of which cluster %q is: it does not begin as etcd's logs do", first)
}
