package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// checkSBOM holds an SBOM against CycloneDX's own schema, and against what the
// binary's build information lists.
func checkSBOM(t *testing.T, sbomPath, binary string) {
	t.Helper()
	text, err := os.ReadFile(sbomPath)
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := bomSchema(t).Validate(value); err != nil {
		t.Errorf("%s does not fit CycloneDX 1.6: %v", sbomPath, err)
	}
	var bom struct {
		Metadata struct {
			Component struct{ Name, Version string }
		}
		Components []struct {
			Name, Version, Purl string
			Licenses            []struct{ License struct{ ID string } }
		}
		Dependencies []struct {
			Ref       string
			DependsOn []string
		}
	}
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	if len(bom.Components) != len(goVersionModules(t, binary))+1 {
		t.Errorf("%d components, want one for each of %d modules and the standard library", len(bom.Components), len(goVersionModules(t, binary)))
	}
	known := map[string]bool{}
	for _, c := range bom.Components {
		known[c.Purl] = true
		if len(c.Licenses) == 0 {
			t.Errorf("%s has no licence", c.Name)
		}
		if want := goVersionModules(t, binary)[c.Name]; c.Name != standard && c.Version != want {
			t.Errorf("%s is of version %s, and in the binary of %q", c.Name, c.Version, want)
		}
	}
	for _, d := range bom.Dependencies {
		for _, on := range d.DependsOn {
			if !known[on] {
				t.Errorf("%s depends on %s, which is no component", d.Ref, on)
			}
		}
	}
}

// goVersionModules are the modules with their versions as "go version -m" tells
// them.
func goVersionModules(t *testing.T, binary string) map[string]string {
	t.Helper()
	out, err := exec.Command("go", "version", "-m", binary).Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) >= 3 && fields[0] == "dep" {
			modules[fields[1]] = fields[2]
		}
	}
	return modules
}

// schemaBase is where the schemas say that they are; nothing is fetched.
const schemaBase = "http://cyclonedx.org/schema/"

// bomSchema is CycloneDX's schema out of the module that SBOMs are written with.
func bomSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	// By the names that they refer to each other by.
	for name, file := range map[string]string{
		"bom-1.6.schema.json": "bom-1.6.schema.json", "spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		text, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "schema", file))
		if err != nil {
			t.Fatal(err)
		}
		defer text.Close()
		value, err := jsonschema.UnmarshalJSON(text)
		if err == nil {
			err = compiler.AddResource(schemaBase+name, value)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile(schemaBase + "bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}
