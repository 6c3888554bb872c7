package etcdops

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// Agreement is what all hosts of a fleet have to restore with, to the letter,
// so that what comes out is one cluster. It holds no secret.
type Agreement struct {
	Format int `json:"format"` // AgreementFormat
	// Digest is over everything below it that a cluster is made of; two hosts
	// with the same digest restore the same.
	Digest  string    `json:"digest"`
	Planned time.Time `json:"planned"`
	// Cluster is the fleet's name of the cluster; ClusterID the id of the etcd
	// cluster that comes out, hexadecimal.
	Cluster   string         `json:"cluster"`
	ClusterID string         `json:"clusterID"`
	Token     string         `json:"token"`
	Members   []AgreedMember `json:"members"`
	// RevisionBump is 0 where revisions stay as they are.
	RevisionBump uint64         `json:"revisionBump"`
	Snapshot     AgreedSnapshot `json:"snapshot"`
}

// AgreedMember is one of the members that the restored cluster begins with.
type AgreedMember struct {
	Name    string `json:"name"`
	PeerURL string `json:"peerURL"`
}

// AgreedSnapshot says which snapshot. SHA256 (hexadecimal) is of what etcd sent;
// the rest is for people, and Path where to look for it first.
type AgreedSnapshot struct {
	SHA256   string `json:"sha256"`
	Path     string `json:"path"`
	Size     int64  `json:"size"`
	Revision int64  `json:"revision"`
	Keys     int64  `json:"keys"`
}

// AgreementFormat is the version of the file of an agreement.
const AgreementFormat = 1

// ErrDisagree is the error of a host that would restore something else than the
// others do.
var ErrDisagree = errors.New("this is not what the hosts have to agree on")

// digest is short enough to be compared by eye or told on the telephone, and
// long enough (48 bits) that no two restores of a fleet have the same by chance.
func (a Agreement) digest() string {
	sum := sha256.New()
	fmt.Fprintf(sum, "nodeagent restore 1\n%s\n%s\n%s\n%d\n", a.Snapshot.SHA256, a.Cluster, a.Token, a.RevisionBump)
	for _, m := range a.Members {
		fmt.Fprintf(sum, "%s=%s\n", m.Name, m.PeerURL)
	}
	text := hex.EncodeToString(sum.Sum(nil))
	return text[:4] + "-" + text[4:8] + "-" + text[8:12]
}

// deriveToken makes the token of a restore of all members out of what they
// restore and how often they have tried: each host finds the same one by itself.
func deriveToken(snapshot, cluster string, members []Member, bump uint64, attempt int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "nodeagent token 1\n%s\n%s\n%s\n%d\n%d\n", snapshot, cluster, initialCluster(members), bump, attempt))
	return "restored-" + hex.EncodeToString(sum[:8])
}

// Agreement is the part of the plan that all hosts have to share.
func (p RestorePlan) Agreement() Agreement {
	a := Agreement{
		Format: AgreementFormat, Planned: p.Planned, Cluster: p.Cluster, ClusterID: p.ClusterID, Token: p.Token, RevisionBump: p.RevisionBump,
		Snapshot: AgreedSnapshot{SHA256: p.Snapshot.SHA256, Path: p.Snapshot.Path, Size: p.Snapshot.Size, Revision: p.Snapshot.Revision, Keys: p.Snapshot.Keys},
	}
	for _, m := range p.Members {
		a.Members = append(a.Members, AgreedMember{m.Name, m.PeerURL})
	}
	a.Digest = a.digest()
	return a
}

// WriteAgreement writes it into a file, for the other hosts.
func WriteAgreement(path string, a Agreement) error {
	content, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return fmt.Errorf("write plan %q: %w", path, err)
	}
	if err := atomicfile.Write(path, append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("write plan %q: %w", path, err)
	}
	return nil
}

// ReadAgreement reads what WriteAgreement wrote, and refuses what was changed
// since.
func ReadAgreement(path string) (Agreement, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return Agreement{}, fmt.Errorf("read plan: %w", err)
	}
	var a Agreement
	if err := json.Unmarshal(content, &a); err != nil {
		return Agreement{}, fmt.Errorf("read plan %q: %w", path, err)
	}
	if a.Format != AgreementFormat {
		return Agreement{}, fmt.Errorf("read plan %q: it has the format %d, this nodeagent reads %d: use the same nodeagent on all hosts", path, a.Format, AgreementFormat)
	}
	if a.Digest != a.digest() {
		return Agreement{}, fmt.Errorf("read plan %q: its digest is %s, what it says has %s: it was changed or damaged; write it again with --plan-out", path, a.Digest, a.digest())
	}
	return a, nil
}

// agree fills in what all hosts share: from the agreement if there is one, else
// from the options, and checks it against what somebody expects.
func (p *RestorePlan) agree(opts RestoreOptions) error {
	p.Cluster = opts.Cluster
	if !opts.KeepRevision {
		p.RevisionBump = DefaultRevisionBump
	}
	p.Token = opts.Token
	switch {
	case opts.Agreed != nil:
		p.RevisionBump, p.Token = opts.Agreed.RevisionBump, opts.Agreed.Token
	case p.Token == "" && (len(p.Members) > 1 || opts.Attempt > 0):
		p.Token = deriveToken(p.Snapshot.SHA256, p.Cluster, p.Members, p.RevisionBump, cmp.Or(opts.Attempt, 1))
	case p.Token == "":
		p.Token = "restored-" + p.ID
	}
	var err error
	if p.ClusterID, err = newClusterID(p.Members, p.Token); err != nil {
		return fmt.Errorf("work out the id of the new cluster: %w", err)
	}
	p.Digest = p.Agreement().Digest
	if opts.Agreed != nil {
		if err := p.compare(*opts.Agreed); err != nil {
			return err
		}
	}
	if want := opts.Digest; want != "" && plainDigest(want) != plainDigest(p.Digest) {
		return fmt.Errorf("%w: the digest is %s here, and %s was expected: compare snapshot, fleet and options with those of the other hosts", ErrDisagree, p.Digest, want)
	}
	return nil
}

// plainDigest is a digest however somebody has typed it.
func plainDigest(text string) string {
	return strings.ToLower(strings.NewReplacer("-", "", " ", "").Replace(text))
}

// compare says in what the plan differs from the agreement.
func (p *RestorePlan) compare(a Agreement) error {
	mine := p.Agreement()
	var differ []error
	if mine.Snapshot.SHA256 != a.Snapshot.SHA256 {
		differ = append(differ, fmt.Errorf("%w: %q has the SHA-256 %s, the plan is for %s (revision %d, %d keys, %q)",
			ErrDisagree, mine.Snapshot.Path, mine.Snapshot.SHA256, a.Snapshot.SHA256, a.Snapshot.Revision, a.Snapshot.Keys, filepath.Base(a.Snapshot.Path)))
	}
	if mine.Cluster != a.Cluster {
		differ = append(differ, fmt.Errorf("%w: this host belongs to the cluster %q, the plan is for %q", ErrDisagree, mine.Cluster, a.Cluster))
	}
	if !slices.Equal(mine.Members, a.Members) {
		differ = append(differ, fmt.Errorf("%w: by this host's fleet the members are %s, by the plan %s: put the same fleet on every host and plan again",
			ErrDisagree, agreedText(mine.Members), agreedText(a.Members)))
	}
	return errors.Join(differ...)
}

func agreedText(members []AgreedMember) string {
	pairs := make([]string, len(members))
	for i, m := range members {
		pairs[i] = m.Name + "=" + m.PeerURL
	}
	return strings.Join(pairs, ",")
}

// checkToken refuses a token that was used before: the ids of members are made
// of it, so a peer that still runs with old data could rejoin, and a member that
// has forgotten what it agreed to would be taken for the one that agreed.
func (p *RestorePlan) checkToken(opts RestoreOptions) error {
	used, err := usedTokens(opts.Root)
	if err != nil {
		return err
	}
	if len(used) == 0 && len(p.Members) > 1 && opts.Token == "" && !Initialised(opts.Root) {
		p.warn("this host remembers no earlier restore: if this very snapshot was restored on this fleet before, take an --attempt that was not taken then, on every host")
	}
	used[opts.Cluster] = "the cluster was first made with it"
	why, found := used[p.Token]
	if !found {
		return nil
	}
	remedy := "choose one that was never used, the same on every host"
	if opts.Token == "" {
		remedy = fmt.Sprintf("if all hosts are to restore this snapshot once more, take --attempt %d on every one of them", cmp.Or(opts.Attempt, 1)+1)
	}
	if len(p.Members) == 1 {
		remedy = "leave it out, and a fresh one is made"
	}
	return fmt.Errorf("token %q is not new (%s): %s", p.Token, why, remedy)
}

// tokensPath is the file of the tokens with which restored data was live on this
// host, one a line. Folders that bear them in their marks may be gone.
func tokensPath(root layout.Root) string { return filepath.Join(etcdDir(root), "restore-tokens") }

// usedTokens are the tokens that may not be used again, and why.
func usedTokens(root layout.Root) (map[string]string, error) {
	used := map[string]string{}
	content, err := os.ReadFile(tokensPath(root))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the tokens of earlier restores: %w", err)
	}
	for line := range strings.Lines(string(content)) {
		used[strings.TrimSpace(line)] = "this host was restored with it before"
	}
	old, err := filepath.Glob(root.EtcdData() + ".*")
	if err != nil {
		return nil, err
	}
	for _, dir := range append(old, root.EtcdData()) {
		m, err := readMark(dir)
		if err != nil {
			return nil, err
		}
		if m.Token != "" {
			used[m.Token] = fmt.Sprintf("an earlier restore made %q with it", dir)
		}
	}
	return used, nil
}

// spendToken notes that the restored data becomes live now. From here on etcd may
// have taken part in votes with it.
func spendToken(root layout.Root, token string) error {
	content, err := os.ReadFile(tokensPath(root))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("note the token of the restore: %w", err)
	}
	for line := range strings.Lines(string(content)) {
		if strings.TrimSpace(line) == token {
			return nil
		}
	}
	if err := atomicfile.Write(tokensPath(root), append(content, token+"\n"...), 0o600); err != nil {
		return fmt.Errorf("note the token of the restore: %w", err)
	}
	return nil
}
