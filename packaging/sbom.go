package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func printSBOM(ctx context.Context, o options, w io.Writer) error {
	text, err := sbom(ctx, o)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// sbom tells in CycloneDX 1.6 which modules the binary was linked with, by its
// own word, which of them imports which, and their licences.
func sbom(ctx context.Context, o options) ([]byte, error) {
	l, err := linkedInto(ctx, o.binary, o.root)
	if err != nil {
		return nil, err
	}
	texts, err := legalOf(l)
	if err != nil {
		return nil, err
	}
	binary, err := os.ReadFile(o.binary)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	encoder := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	if err := encoder.EncodeVersion(bill(l, texts, sha256.Sum256(binary), o), cdx.SpecVersion1_6); err != nil {
		return nil, fmt.Errorf("write SBOM of %s: %w", o.binary, err)
	}
	return b.Bytes(), nil
}

// bill is the SBOM as a value.
func bill(l linked, texts legal, sum [sha256.Size]byte, o options) *cdx.BOM {
	version := cmp.Or(plainVersion(o.version), l.own.Version)
	main := cdx.Component{
		Type: cdx.ComponentTypeApplication, Name: "nodeagent", Version: version,
		BOMRef: ref(l.own.Path, version), PackageURL: ref(l.own.Path, version),
		Hashes:     &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
		Properties: buildProperties(l),
	}
	bom := cdx.NewBOM()
	bom.SerialNumber = serial(sum)
	bom.Metadata = &cdx.Metadata{
		Timestamp:  o.epoch.Format(time.RFC3339),
		Lifecycles: &[]cdx.Lifecycle{{Phase: cdx.LifecyclePhasePostBuild}},
		Component:  &main,
	}
	components := []cdx.Component{}
	dependencies := []cdx.Dependency{{Ref: main.BOMRef, Dependencies: l.refs(l.modules[l.own.Path])}}
	for _, m := range l.sorted() {
		components = append(components, component(m, texts[m.path]))
		dependencies = append(dependencies, cdx.Dependency{Ref: ref(m.path, m.version), Dependencies: l.refs(m)})
	}
	bom.Components, bom.Dependencies = &components, &dependencies
	return bom
}

// component is one module.
func component(m *module, texts []legalText) cdx.Component {
	licenses := cdx.Licenses{}
	for _, id := range licenceIDs(texts) {
		licenses = append(licenses, cdx.LicenseChoice{License: &cdx.License{ID: id}})
	}
	c := cdx.Component{
		Type: cdx.ComponentTypeLibrary, Name: m.path, Version: m.version, Scope: cdx.ScopeRequired,
		BOMRef: ref(m.path, m.version), PackageURL: ref(m.path, m.version), Licenses: &licenses,
	}
	if m.sum != "" {
		// Not a hash of any one file, so it stands in no field for those.
		c.Properties = &[]cdx.Property{{Name: "nodeagent:go.sum", Value: m.sum}}
	}
	return c
}

// refs are the references to what a module imports.
func (l linked) refs(m *module) *[]string {
	refs := []string{}
	for _, path := range m.needs {
		refs = append(refs, ref(l.modules[path].path, l.modules[path].version))
	}
	return &refs
}

// buildProperties are the settings of the build that change what is in the
// binary.
func buildProperties(l linked) *[]cdx.Property {
	properties := []cdx.Property{{Name: "nodeagent:build:go", Value: l.info.GoVersion}}
	for _, s := range l.info.Settings {
		switch s.Key {
		case "GOOS", "GOARCH", "CGO_ENABLED", "-trimpath", "vcs.revision", "vcs.time", "vcs.modified":
			properties = append(properties, cdx.Property{Name: "nodeagent:build:" + strings.TrimPrefix(s.Key, "-"), Value: s.Value})
		}
	}
	return &properties
}

// ref is the package URL of a module, which serves as its reference, too:
// https://github.com/package-url/purl-spec, type golang.
func ref(path, version string) string {
	version = strings.TrimPrefix(version, "go") // of the standard library
	return "pkg:golang/" + path + "@" + url.QueryEscape(version)
}

// serial is the SBOM's number, a UUID (version 8, RFC 9562) out of the binary's
// digest: the same binary has the same one.
func serial(sum [sha256.Size]byte) string {
	id := sum[:16]
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
