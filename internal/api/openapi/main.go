// Command openapi writes the API's OpenAPI 3.1 document from the table of operations and the wire
// types.
//
//	go generate ./internal/api
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	out := flag.String("o", "openapi.json", "the file to write")
	flag.Parse()
	if err := run(*out); err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	document, err := build(root)
	if err != nil {
		return err
	}
	return os.WriteFile(out, document, 0o644)
}

// moduleRoot returns the directory of go.mod, below which the comments are read.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("looking for go.mod: there is none here or above")
		}
	}
}
