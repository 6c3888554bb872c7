package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// Apply carries out changes that Diff made, in their order, and goes on past
// those that fail. Originals are on disk before the first sysctl is changed.
func Apply(ctx context.Context, sys *System, changes []plan.Change, rep plan.Reporter) error {
	a := applier{sys: sys, changes: changes}
	return plan.Each(ctx, changes, rep, a.apply)
}

type applier struct {
	sys     *System
	changes []plan.Change
	kept    bool
}

func (a *applier) apply(_ context.Context, c plan.Change) error {
	switch p := c.Payload.(type) {
	case loadModule:
		return a.sys.load(p.module)
	case setParameter:
		return a.sys.setParameter(p)
	case setSysctl:
		if err := a.keepOriginals(); err != nil {
			return err
		}
		return a.sys.setSysctl(p.name, p.value)
	case revertSysctl:
		return a.sys.revertSysctl(p)
	case putBack:
		return a.sys.setSysctl(p.name, p.value)
	}
	return fmt.Errorf("apply %s: not a change of this domain", c)
}

// keepOriginals writes down, once and for all sysctls that are about to be
// changed, the values that they have now. It runs after the modules are loaded,
// since those bring keys. A value that is kept already is left as it is: what
// is there now may be nodeagent's own.
func (a *applier) keepOriginals() error {
	if a.kept {
		return nil
	}
	originals, err := LoadOriginals(a.sys.Root)
	if err != nil {
		return err
	}
	added := false
	for _, c := range a.changes {
		p, ok := c.Payload.(setSysctl)
		if !ok {
			continue
		}
		if _, ok := originals[p.name]; ok {
			continue
		}
		value, exists, err := a.sys.readSysctl(p.name)
		if err != nil || !exists || sameValue(value, p.value) {
			continue // setting it meets the same error and names it
		}
		originals[p.name] = value
		added = true
	}
	if added {
		if err := originals.save(a.sys.Root); err != nil {
			return err
		}
	}
	a.kept = true
	return nil
}

// setSysctl writes a value and reads it back.
func (s *System) setSysctl(name, value string) error {
	is, exists, err := s.readSysctl(name)
	if err != nil {
		return err
	}
	if !exists {
		return fmt.Errorf("write sysctl %q: the running kernel has no such key%s", name, missingHint(name))
	}
	if sameValue(is, value) {
		return nil
	}
	path, err := s.sysctlPath(name)
	if err != nil {
		return err
	}
	// The newline makes a write of the empty value one, too.
	if err := writeKernelFile(path, value+"\n"); err != nil {
		return fmt.Errorf("write sysctl %q: %w%s", name, err, writeHint(err))
	}
	is, _, err = s.readSysctl(name)
	if err != nil {
		return err
	}
	if !sameValue(is, value) {
		return fmt.Errorf("write sysctl %q: wrote %q, the kernel made it %q; write the value in the spec as the kernel prints it", name, value, normalise(is))
	}
	return nil
}

// revertSysctl puts an original back and then forgets it, in this order: killed
// in between, the next run does both again. A key that is gone has nothing to
// be put back to.
func (s *System) revertSysctl(p revertSysctl) error {
	_, exists, err := s.readSysctl(p.name)
	if err != nil {
		return err
	}
	if exists {
		if err := s.setSysctl(p.name, p.value); err != nil {
			return err
		}
	}
	originals, err := LoadOriginals(s.Root)
	if err != nil {
		return err
	}
	if _, ok := originals[p.name]; !ok {
		return nil
	}
	delete(originals, p.name)
	return originals.save(s.Root)
}

func (s *System) setParameter(p setParameter) error {
	if p.refusal != "" {
		return errors.New(p.refusal)
	}
	names := s.aliasOf(p.module)
	if len(names) == 0 {
		names = []string{p.module}
	}
	path := filepath.Join(s.Sys, "module", names[0], "parameters", p.parameter)
	if err := writeKernelFile(path, p.value+"\n"); err != nil {
		return fmt.Errorf("write parameter %q of module %q: %w%s", p.parameter, p.module, err, writeHint(err))
	}
	is, err := s.observeParameter(names[0], p.parameter)
	if err != nil {
		return err
	}
	if !is.Hidden && !sameParameter(p.value, is.Value) {
		return fmt.Errorf("write parameter %q of module %q: wrote %q, the kernel made it %q", p.parameter, p.module, p.value, is.Value)
	}
	return nil
}

// writeKernelFile writes a value with one write(2), as the kernel wants it, to
// a file that must be there.
func writeKernelFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func writeHint(err error) string {
	switch {
	case errors.Is(err, syscall.EROFS):
		return "; the file system is mounted read-only here, as in containers: make it writable (mount -o remount,rw /proc/sys) or set the value on the machine itself"
	case errors.Is(err, os.ErrPermission):
		return "; this needs root, and a sysctl that belongs to the whole machine cannot be set from a container"
	case errors.Is(err, syscall.EINVAL):
		return "; the kernel does not take this value"
	}
	return ""
}

func isNotDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

// bringers are the modules that bring sysctls, by the beginning of the name.
var bringers = []struct{ prefix, module string }{
	{"net.bridge.", "br_netfilter"},
	{"net.netfilter.nf_conntrack", "nf_conntrack"},
	{"net.nf_conntrack_max", "nf_conntrack"},
	{"net.netfilter.nf_flowtable", "nf_flow_table"},
	{"net.netfilter.nf_log", "nf_log_syslog"},
	{"net.ipv4.vs.", "ip_vs"},
	{"net.ipv6.", "ipv6"},
	{"net.mpls.", "mpls_router"},
	{"net.sctp.", "sctp"},
	{"net.rds.", "rds"},
	{"net.vrf.", "vrf"},
	{"fs.nfs.", "nfs"},
	{"fs.fuse.", "fuse"},
	{"dev.raid.", "md_mod"},
}

// missingHint says what probably brings a sysctl that is not there.
func missingHint(name string) string {
	parts := strings.Split(name, ".")
	if len(parts) == 5 && parts[0] == "net" && (parts[2] == "conf" || parts[2] == "neigh") && parts[3] != "all" && parts[3] != "default" {
		return fmt.Sprintf("; it comes with the link %s, which is not there or has no such setting", strings.ReplaceAll(parts[3], "/", "."))
	}
	for _, b := range bringers {
		if strings.HasPrefix(name, b.prefix) {
			return fmt.Sprintf("; the module %s probably brings it: add it to the kernel's modules in the spec", b.module)
		}
	}
	return "; check the spelling, or whether a module that brings it is missing from the spec"
}
