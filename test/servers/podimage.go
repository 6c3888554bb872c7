package servers

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// The images in the archive that PodImage makes. No registry is reachable
// from a lab host, so its pods run what was imported from the archive.
const (
	// PauseImage holds each pod's namespaces.
	PauseImage = "registry.k8s.io/pause:3.10.1"
	// DefaultPauseImage is PauseImage under the name that containerd 2.4 uses
	// unless it is told another.
	DefaultPauseImage = "registry.k8s.io/pause:3.10.2"
	// HelloImage answers HTTP on port 8080.
	HelloImage = "nodeagent.test/hello:1"
)

// PodImage is a docker-archive file with PauseImage and HelloImage, found or
// built; "ctr -n k8s.io images import" takes it. Both are one static program
// in one layer and differ in what they start it as.
func (b *Builder) PodImage(ctx context.Context) (string, error) {
	source := filepath.Join(b.Root, "test", "servers", "podimage", "main.go")
	content, err := os.ReadFile(source)
	if err != nil {
		return "", fmt.Errorf("build pod image: %w", err)
	}
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), PauseImage, DefaultPauseImage, HelloImage)
	sum.Write(content)
	key := hex.EncodeToString(sum.Sum(nil))[:16]
	dir, err := b.cached(ctx, "podimage", key, "a few seconds", func(dir string) error {
		program := filepath.Join(dir, "hello")
		if err := b.goBuild(ctx, "podimage", b.Root, &server{}, "./test/servers/podimage", program); err != nil {
			return err
		}
		return packImages(program, filepath.Join(dir, "images.tar"))
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "images.tar"), nil
}

// imageManifest is an entry of a docker archive's manifest.json.
type imageManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// packImages writes the archive with both images of one program.
func packImages(program, out string) (err error) {
	layer, err := packLayer(program)
	if err != nil {
		return fmt.Errorf("pack layer of %s: %w", program, err)
	}
	layerName := digest(layer) + "/layer.tar"
	file, err := os.Create(out)
	if err != nil {
		return fmt.Errorf("pack images: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	archive := tar.NewWriter(file)
	if err := addFile(archive, layerName, 0o644, layer); err != nil {
		return fmt.Errorf("pack images: %w", err)
	}
	var manifest []imageManifest
	for _, image := range []struct {
		entrypoint string
		tags       []string
	}{
		{"/pause", []string{PauseImage, DefaultPauseImage}},
		{"/hello", []string{HelloImage}},
	} {
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH,
			"os":           "linux",
			"config":       map[string]any{"Entrypoint": []string{image.entrypoint}, "WorkingDir": "/"},
			"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
		})
		if err != nil {
			return fmt.Errorf("pack images: %w", err)
		}
		name := digest(config) + ".json"
		if err := addFile(archive, name, 0o644, config); err != nil {
			return fmt.Errorf("pack images: %w", err)
		}
		manifest = append(manifest, imageManifest{Config: name, RepoTags: image.tags, Layers: []string{layerName}})
	}
	index, err := json.Marshal(manifest)
	if err != nil {
		return fmt.Errorf("pack images: %w", err)
	}
	if err := addFile(archive, "manifest.json", 0o644, index); err != nil {
		return fmt.Errorf("pack images: %w", err)
	}
	return archive.Close()
}

// packLayer is a layer with the program under both names.
func packLayer(program string) ([]byte, error) {
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	if err := addFile(archive, "hello", 0o755, content); err != nil {
		return nil, err
	}
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: "pause", Linkname: "hello", Mode: 0o755}); err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return layer.Bytes(), nil
}

func addFile(archive *tar.Writer, name string, mode int64, content []byte) error {
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
