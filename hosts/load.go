package hosts

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// clusterTOML is the file that all hosts share.
const clusterTOML = "cluster.toml"

// Load reads the fleet in the folder dir: cluster.toml, which all hosts share,
// and one <host>.toml for each host; the file's name is the host's name.
// Hidden files and files of other kinds are ignored.
//
// For each host the two files are joined. Tables are merged key by key, lists
// are joined with cluster.toml's entries first, and any other value of the
// host's file replaces cluster.toml's. Settings of the whole cluster are
// accepted in cluster.toml only, a host's own in its file only.
//
// A fleet with anything wrong in it is no fleet: the error is then an
// *InvalidError with every problem. A folder that cannot be read is an
// ordinary error.
func Load(dir string) (*Fleet, error) { return Source{Dir: dir}.Load() }

// unwrapPath takes the path off an error that is about to be named with it.
func unwrapPath(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}

// LoadFS is Load for a folder of a file system, such as an embedded fleet.
func LoadFS(fsys fs.FS, dir string) (*Fleet, error) {
	l := loader{findings: &findings{}}
	return l.loadFS(fsys, dir)
}

func (l *loader) loadFS(fsys fs.FS, dir string) (*Fleet, error) {
	if err := l.readFiles(fsys, dir); err != nil {
		return nil, err
	}
	specs := l.load()
	if len(l.problems) > 0 {
		return nil, &InvalidError{Dir: dir, Problems: sorted(l.problems)}
	}
	return &Fleet{Dir: dir, Hosts: specs, Warnings: sorted(l.warnings)}, nil
}

// Host returns the spec of the host with the given name. The error of a name
// that the fleet does not have lists those that it has.
func (f *Fleet) Host(name string) (*Spec, error) {
	var names []string
	for _, h := range f.Hosts {
		if h.Name == name {
			return h, nil
		}
		names = append(names, h.Name)
	}
	return nil, fmt.Errorf("find host %q in fleet %q: it has %s; add %s.toml for it, or name one of these", name, f.Dir, strings.Join(names, ", "), name)
}

// loader is one load of a fleet.
type loader struct {
	*findings
	cluster *node // nil where cluster.toml is missing or no TOML
	hosts   []*draft
	broken  bool // a file is missing or no TOML: the whole cannot be judged
	digest  string

	// binaries and cniBinaries are the machine's, see Source.
	binaries, cniBinaries string
}

// readFiles reads and parses every file of the folder, in the order of names.
func (l *loader) readFiles(fsys fs.FS, dir string) error {
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return fmt.Errorf("list %q: %w; name a folder that can be read", dir, unwrapPath(err))
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	sum := sha256.New()
	found := false
	for _, entry := range entries {
		file := entry.Name()
		if entry.IsDir() || strings.HasPrefix(file, ".") || path.Ext(file) != ".toml" {
			if !entry.IsDir() && !strings.HasPrefix(file, ".") && strings.EqualFold(path.Ext(file), ".toml") {
				l.warn(file, nil, "", "is ignored: the files of a fleet end in .toml, in small letters")
			}
			continue
		}
		tree, problem, content, err := readTree(fsys, file, path.Join(dir, file))
		if err != nil {
			return err
		}
		// Names and lengths are part of the digest, so that no two different
		// fleets have the same input.
		for _, part := range [][]byte{[]byte(file), content} {
			var length [8]byte
			binary.BigEndian.PutUint64(length[:], uint64(len(part)))
			sum.Write(length[:])
			sum.Write(part)
		}
		found = found || file == clusterTOML
		l.add(file, tree, problem)
	}
	l.digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	if !found {
		l.broken = true
		l.problems = append(l.problems, Problem{File: clusterTOML, Reason: "is missing: a fleet is a folder with " + clusterTOML + " and one file for each host"})
	}
	return nil
}

// add takes in one parsed file and checks it by itself.
func (l *loader) add(file string, tree *node, problem *Problem) {
	scope, name := hostFile, strings.TrimSuffix(file, ".toml")
	switch {
	case file == clusterTOML:
		scope = clusterFile
	case !isLabel(name) || name == "localhost":
		l.broken = true
		l.problems = append(l.problems, Problem{File: file, Reason: fmt.Sprintf("the file's name is the host's name, but %s is not one: use lower-case letters, digits and dashes, at most 63", quote(name))})
	}
	if problem != nil {
		l.broken = true
		l.problems = append(l.problems, *problem)
		return
	}
	l.checkSecrets(tree, "")
	checker{l.findings, scope}.check(tree, schema())
	if scope == clusterFile {
		l.cluster = tree
		return
	}
	l.hosts = append(l.hosts, &draft{findings: l.findings, file: file, tree: tree, spec: &Spec{Name: name}})
}

// load joins, completes and checks the hosts. What it returns is valid only if
// no problem was found.
func (l *loader) load() []*Spec {
	if !l.broken && len(l.hosts) == 0 {
		l.problems = append(l.problems, Problem{File: clusterTOML, Reason: "the fleet has no host: add a file <host>.toml beside this one"})
		return nil
	}
	if l.broken {
		return nil
	}
	// Files are read in the order of their names, in which "a-b.toml" comes
	// before "a.toml".
	slices.SortFunc(l.hosts, func(a, b *draft) int { return strings.Compare(a.spec.Name, b.spec.Name) })
	for _, d := range l.hosts {
		d.tree = join(l.cluster, d.tree)
		d.spec.Defined = map[string]string{}
		d.tree.defined(d.spec.Defined, "")
		delete(d.spec.Defined, "")
		d.spec.Digest = l.digest
		d.read()
	}
	f := l.facts()
	f.binaries, f.cniBinaries = cmp.Or(l.binaries, defaultBinaries), cmp.Or(l.cniBinaries, defaultCNIBinaries)
	for _, d := range l.hosts {
		d.fillDefaults(f)
	}
	l.checkCluster(f)
	for _, d := range l.hosts {
		d.checkHost(f)
	}
	l.checkFleet(f)
	specs := make([]*Spec, len(l.hosts))
	shared := share(l.hosts)
	for i, d := range l.hosts {
		d.derive(shared)
		specs[i] = d.spec
	}
	if len(l.problems) == 0 {
		l.checkLockOut(f)
	}
	return specs
}

// facts are what a host's defaults and checks need to know of the whole.
type facts struct {
	controlPlanes, members, workers []*draft
	playing                         int // hosts with any role
	rolesKnown                      bool
	all                             []*draft
	binaries, cniBinaries           string // folders of programs, where a spec names none
}

func (l *loader) facts() facts {
	f := facts{rolesKnown: true, all: l.hosts}
	for _, d := range l.hosts {
		f.rolesKnown = f.rolesKnown && d.ok("host.roles") && d.has("host.roles")
		if len(d.spec.Roles) > 0 {
			f.playing++
		}
		if d.spec.Has(RoleControlPlane) {
			f.controlPlanes = append(f.controlPlanes, d)
		}
		if d.spec.Has(RoleEtcd) {
			f.members = append(f.members, d)
		}
		if d.spec.Has(RoleWorker) {
			f.workers = append(f.workers, d)
		}
	}
	return f
}
