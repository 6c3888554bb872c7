package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// sumsFile is the name of the file that holds the sums.
const sumsFile = "SHA256SUMS"

// printSums prints the SHA-256 of each file of a folder, as sha256sum -c reads.
func printSums(_ context.Context, o options, w io.Writer) error {
	entries, err := os.ReadDir(o.out) // sorted
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || e.Name() == sumsFile {
			continue
		}
		sum, err := sumFile(filepath.Join(o.out, e.Name()))
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s  %s\n", sum, e.Name()); err != nil {
			return err
		}
	}
	return nil
}

func sumFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", hash.Sum(nil)), nil
}
