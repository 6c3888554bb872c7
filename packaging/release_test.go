package main

import (
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// TestRelease makes a release of the last commit twice, as somebody would who
// checks one: in clones in folders of other names and depths, under another
// umask, in another time zone and language. It must be the same to the byte, for
// every processor; and then it is looked at.
func TestRelease(t *testing.T) {
	one := release(t, "one", 0o022, "TZ=UTC", "LANG=C")
	two := release(t, "another/place/two", 0o077, "TZ=Asia/Kathmandu", "LANG=de_DE.UTF-8", "USER=somebody", "HOME="+os.Getenv("HOME"))
	sums := readFile(t, filepath.Join(one, sumsFile))
	if other := readFile(t, filepath.Join(two, sumsFile)); other != sums {
		t.Errorf("the same commit gives other bytes in another folder:\n%s\n%s", sums, other)
	}
	check := exec.Command("sha256sum", "--check", "--strict", sumsFile)
	check.Dir = one
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", sumsFile, err, out)
	}
	t.Logf("sha256sum --check:\n%s", sums)
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		binary := only(t, one, "nodeagent-*-linux-"+arch)
		t.Run(arch+"/the binary is static", func(t *testing.T) { checkStatic(t, binary, machine) })
		t.Run(arch+"/the SBOM", func(t *testing.T) { checkSBOM(t, binary+".cdx.json", binary) })
		t.Run(arch+"/the package", func(t *testing.T) { checkPackage(t, only(t, one, "nodeagent_*_"+arch+".deb"), binary) })
		if arch == runtime.GOARCH {
			t.Run(arch+"/it tells how it was built", func(t *testing.T) { checkVersion(t, binary) })
		}
	}
	if notes := readFile(t, filepath.Join(one, "RELEASE-NOTES.md")); !strings.Contains(notes, "\n- ") {
		t.Errorf("the release notes list nothing:\n%s", notes)
	}
}

// release clones the repository and makes a release there; it returns the folder
// with the files.
func release(t *testing.T, name string, umask int, env ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	defer syscall.Umask(syscall.Umask(umask))
	run := func(dir string, args ...string) string {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	root := run(".", "git", "rev-parse", "--show-toplevel")
	run(".", "git", "clone", "--quiet", "--no-local", root, dir)
	run(dir, "make", "release")
	return filepath.Join(dir, "bin", "release")
}

// only is the one file of a folder that matches.
func only(t *testing.T, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s is %q, want one file: %v", pattern, found, err)
	}
	return found[0]
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func checkStatic(t *testing.T, binary string, machine elf.Machine) {
	file, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if file.Machine != machine {
		t.Errorf("%s is for %s, want %s", binary, file.Machine, machine)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s has a segment %s: it is linked with libraries of the machine", binary, p.Type)
		}
	}
}

func checkVersion(t *testing.T, binary string) {
	out, err := exec.Command(binary, "version", "-o", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var facts struct {
		Version, Commit, Tree, Go, Platform string
		Module                              struct{ Path string }
		Dependencies                        struct {
			Count  int
			SHA256 string
		}
	}
	if err := json.Unmarshal(out, &facts); err != nil {
		t.Fatal(err)
	}
	head, err := exec.Command("git", "rev-parse", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(head), facts.Commit) || len(facts.Commit) < 12 || facts.Tree != "clean" {
		t.Errorf("commit %q, tree %q, want a clean %s", facts.Commit, facts.Tree, head)
	}
	if facts.Go != runtime.Version() || facts.Platform != "linux/"+runtime.GOARCH || facts.Module.Path == "" || facts.Version == "devel" {
		t.Errorf("it tells %s", out)
	}
	if want := len(goVersionModules(t, binary)); facts.Dependencies.Count != want || len(facts.Dependencies.SHA256) != 64 {
		t.Errorf("dependencies %+v, want %d", facts.Dependencies, want)
	}
}

// checkPackage looks into the package as dpkg does; it has the binary given.
func checkPackage(t *testing.T, file, binary string) {
	root := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "--raw-extract", file, root).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, out)
	}
	if readFile(t, root+binDir+"/nodeagent") != readFile(t, binary) {
		t.Errorf("%s has another program than %s", file, binary)
	}
	unit := readFile(t, root+unitDir+"/nodeagent.service")
	if !strings.Contains(unit, "\nExecStart=/usr/bin/nodeagent run\n") || strings.Contains(unit, "/usr/local") {
		t.Errorf("the unit is\n%s", unit)
	}
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		if out, err := exec.Command("sh", "-n", filepath.Join(root, "DEBIAN", script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
	for _, file := range []string{"copyright", "changelog.gz", "changelog.Debian.gz", "third-party-notices.gz", "sbom.cdx.json.gz", "../../man/man1/nodeagent.1.gz", "examples/fleets/mercury/mercury.toml"} {
		if readFile(t, filepath.Join(root+docDir, file)) == "" {
			t.Errorf("%s is empty", file)
		}
	}
	if _, err := os.Stat("../LICENSE"); err == nil && strings.Contains(readFile(t, filepath.Join(root+docDir, "copyright")), "not-stated") {
		t.Error("the repository has a LICENSE now, and debian/copyright still says that none is stated")
	}
}

// TestOneSourceForAllProcessors: no file of nodeagent's own is for one processor
// only, so that a build for the tested one speaks for all.
func TestOneSourceForAllProcessors(t *testing.T) {
	list := func(arch string) string {
		cmd := exec.Command("go", "list", "-f", "{{.ImportPath}} {{.GoFiles}} {{.SFiles}}", "./...")
		cmd.Dir, cmd.Env = "..", append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0", "GOARCH="+arch)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if one, other := list("amd64"), list("arm64"); one != other {
		t.Errorf("other files are built for arm64 than for amd64:\n%s\n%s", one, other)
	}
}
