package agent

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the import path of the repository's root.
const module = "github.com/nodeagent/nodeagent/"

// mayImport lists, for each package, the packages of this module that it may
// import: the directions in docs/design.md.
var mayImport = map[string][]string{
	"internal/plan":       {},
	"internal/layout":     {},
	"internal/atomicfile": {},
	"internal/calendar":   {},
	"internal/golden":     {},
	"internal/confirm":    {"internal/atomicfile"},
	"hosts":               {"internal/calendar", "internal/layout"},
	"netcfg":              domainMayImport,
	"pki":                 domainMayImport,
	"pki/vault":           append([]string{"pki"}, domainMayImport...),
	"pki/proof":           append([]string{"pki"}, domainMayImport...),
	"etcdops":             domainMayImport,
	"etcdops/store":       append([]string{"etcdops"}, domainMayImport...),
	"internal/kernel":     domainMayImport,
	"internal/names":      domainMayImport,
	"internal/units":      domainMayImport,
	"internal/cluster":    domainMayImport,
	"internal/kube":       append([]string{"internal/units"}, domainMayImport...),
	"agent": append([]string{
		"netcfg", "pki", "pki/vault", "pki/proof", "etcdops", "etcdops/store", "internal/kernel", "internal/names", "internal/units", "internal/kube", "internal/cluster",
		"internal/confirm",
	}, domainMayImport...),
	"cmd/nodeagent": {
		"agent", "hosts", "etcdops", "etcdops/store", "netcfg", "pki", "pki/vault", "internal/confirm", "internal/plan", "internal/layout",
		"internal/docs", // with the build tag docgen alone
		"internal/embedfleet",
	},
	"internal/docs": {"hosts"},
	// What nix/ is made and checked with.
	"nix/nar":             {},
	"nix/options":         {"hosts", "internal/atomicfile"},
	"nix/vendorhash":      {"internal/atomicfile", "nix/nar"},
	"internal/embedfleet": {},
}

var domainMayImport = []string{"hosts", "internal/plan", "internal/layout", "internal/atomicfile", "internal/calendar"}

func TestImportDirections(t *testing.T) {
	for pkg, allowed := range mayImport {
		files, err := filepath.Glob(filepath.Join("..", pkg, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) == 0 {
			t.Errorf("package %s has no files", pkg)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, imported := range importsOf(t, file) {
				if !slices.Contains(allowed, imported) {
					t.Errorf("%s imports %s; package %s may import %v", file, imported, pkg, allowed)
				}
			}
		}
	}
}

// importsOf returns the packages of this module that a file imports, relative
// to the module's root.
func importsOf(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var imports []string
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if rest, ok := strings.CutPrefix(path, module); ok {
			imports = append(imports, rest)
		}
	}
	return imports
}

// TestEveryPackageHasADirection keeps mayImport complete.
func TestEveryPackageHasADirection(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && path != ".." || entry.Name() == "test" || entry.Name() == "testdata") {
			return filepath.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); entry.IsDir() && path != ".." && err == nil {
			return filepath.SkipDir // a module of its own, which nothing here imports
		}
		if entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		pkg, err := filepath.Rel("..", filepath.Dir(path))
		if err != nil {
			return err
		}
		if _, ok := mayImport[pkg]; !ok {
			t.Errorf("package %s is not in mayImport", pkg)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
