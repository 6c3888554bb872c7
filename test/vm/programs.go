package vm

import (
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// libraryDirs is where Debian keeps its libraries, in a root with /usr merged.
var libraryDirs = []string{"usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd", "usr/lib/systemd"}

// merged are the links of a root file system with /usr merged.
var merged = map[string]string{"/bin": "usr/bin", "/sbin": "usr/sbin", "/lib": "usr/lib", "/lib64": "usr/lib64"}

// AddPrograms adds programs of a Debian root folder under their own paths
// (below /usr), with the libraries and the loader that they need.
func (i Image) AddPrograms(rootDir string, programs ...string) error {
	root, err := os.OpenRoot(rootDir)
	if err != nil {
		return err
	}
	defer root.Close()
	for link, target := range merged {
		i.Link(link, target)
	}
	for _, program := range programs {
		if err := i.addELF(root, program); err != nil {
			return fmt.Errorf("put %s of the root folder into the image: %w", program, err)
		}
	}
	return nil
}

// AddFiles adds the files of a folder of a Debian root folder.
func (i Image) AddFiles(rootDir, folder string) error {
	entries, err := os.ReadDir(filepath.Join(rootDir, folder))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Type().IsRegular() {
			i.Copy("/"+path.Join(folder, entry.Name()), filepath.Join(rootDir, folder, entry.Name()), 0o644)
		}
	}
	return nil
}

// addELF adds a program or library, and what it needs in turn.
func (i Image) addELF(root *os.Root, name string) error {
	to := "/" + name
	if _, ok := i[to]; ok {
		return nil
	}
	file, err := open(root, name)
	if err != nil {
		return err
	}
	defer file.Close()
	content, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	i.Write(to, content, 0o755)
	binary, err := elf.NewFile(file)
	if err != nil {
		return err
	}
	needed, err := binary.ImportedLibraries()
	if err != nil {
		return err
	}
	if loader := interpreter(binary); loader != "" {
		// /lib64/… is usr/lib64/… in a merged root.
		if err := i.addELF(root, path.Join("usr", loader)); err != nil {
			return err
		}
	}
	for _, library := range needed {
		found, err := findLibrary(root, library)
		if err != nil {
			return err
		}
		if err := i.addELF(root, found); err != nil {
			return err
		}
	}
	return nil
}

// open opens a file of the root folder, or the one that it is a link to: a link
// to an absolute path, such as the loader's, means a path of that folder.
func open(root *os.Root, name string) (*os.File, error) {
	if target, err := root.Readlink(name); err == nil && path.IsAbs(target) {
		name = target[1:]
	}
	return root.Open(name)
}

// interpreter is the loader that a program names, or "".
func interpreter(binary *elf.File) string {
	section := binary.Section(".interp")
	if section == nil {
		return ""
	}
	content, err := section.Data()
	if err != nil || len(content) < 2 {
		return ""
	}
	return string(content[:len(content)-1])
}

func findLibrary(root *os.Root, name string) (string, error) {
	for _, dir := range libraryDirs {
		found := path.Join(dir, name)
		if _, err := root.Stat(found); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("library %s is in none of %v", name, libraryDirs)
}

// unneeded are the modules that no test could load for want of a device.
var unneeded = map[string]bool{
	"gpu": true, "infiniband": true, "scsi": true, "nvme": true, "hv": true, "xen": true,
	"hid": true, "usb": true, "media": true, "target": true, "md": true, "mtd": true,
}

// AddModules adds the kernel's modules and their lists, from a folder as
// servers.Builder.Kernel makes it. The lists name all, the files leave out
// drivers of devices that a virtual machine of ours does not have.
func (i Image) AddModules(kernelDir, release string) error {
	dir := filepath.Join(kernelDir, "lib/modules", release)
	drivers := filepath.Join(dir, "kernel/drivers")
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if filepath.Dir(name) == drivers && unneeded[d.Name()] {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		inside, err := filepath.Rel(kernelDir, name)
		if err != nil {
			return err
		}
		i.Copy("/usr/"+filepath.ToSlash(inside), name, 0o644)
		return nil
	})
}
