package etcdops

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// takenKey is where the hosts of a cluster tell each other of the last snapshot
// that one of them has taken for all.
const takenKey = "/nodeagent/snapshots/last"

// Taken says of a snapshot what the other hosts need to know of it.
type Taken struct {
	// Host took it, At the time of its manifest; File is where it lies there.
	Host string    `json:"host"`
	At   time.Time `json:"at"`
	File string    `json:"file"`
	// Revision, Size in bytes and SHA256 are those of what etcd sent.
	Revision int64  `json:"revision"`
	Size     int64  `json:"size"`
	SHA256   string `json:"sha256"`
}

// TakenOf describes the snapshot of a manifest that lies in the folder.
func TakenOf(m Manifest, dir string) Taken {
	return Taken{Host: m.Host, At: m.Taken, File: m.Path(dir), Revision: m.Revision, Size: m.Size, SHA256: m.SHA256}
}

// LastTaken asks for the last snapshot that a host has taken for all; the zero
// one where none was. What is there and cannot be understood, as written by a
// later nodeagent, counts as none.
func (c *Claims) LastTaken(ctx context.Context) (Taken, error) {
	last, _, err := c.lastTaken(ctx)
	return last, err
}

func (c *Claims) lastTaken(ctx context.Context) (last Taken, modified int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	answer, err := c.client.Get(ctx, takenKey)
	if err != nil {
		return Taken{}, 0, fmt.Errorf("ask etcd for the last snapshot: %w", err)
	}
	for _, kv := range answer.Kvs {
		modified = kv.ModRevision
		if json.Unmarshal(kv.Value, &last) != nil {
			last = Taken{}
		}
	}
	return last, modified, nil
}

// NoteTaken tells the other hosts of a snapshot. One that is older than what they
// know of is not told; one of theirs from the future, which a wrong clock has
// dated, is replaced.
func (c *Claims) NoteTaken(ctx context.Context, taken Taken, now time.Time) error {
	value, err := json.Marshal(taken)
	if err != nil {
		return fmt.Errorf("note the snapshot: %w", err)
	}
	for {
		last, modified, err := c.lastTaken(ctx)
		if err != nil {
			return err
		}
		if !last.At.Before(taken.At) && !last.At.After(now.Add(clockSlack)) {
			return nil
		}
		written, err := c.putTaken(ctx, string(value), modified)
		if err != nil || written {
			return err
		}
	}
}

// putTaken writes the note, unless another was written since.
func (c *Claims) putTaken(ctx context.Context, value string, modified int64) (written bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	answer, err := c.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(takenKey), "=", modified)).
		Then(clientv3.OpPut(takenKey, value)).Commit()
	if err != nil {
		return false, fmt.Errorf("note the snapshot in etcd: %w", err)
	}
	return answer.Succeeded, nil
}

// Ahead tells whether it is dated so far in the future that a clock must have been
// wrong; see [Entry.Ahead].
func (t Taken) Ahead(now time.Time) bool { return t.At.After(now.Add(clockSlack)) }
