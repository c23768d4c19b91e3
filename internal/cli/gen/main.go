// Command gen writes the reference of banger's commands from the commands themselves: Markdown to
// docs/cli and manual pages to docs/man. go generate runs it in the directory of package cli.
//
// It does not use cobra's generators, because they need three more modules and make pages that are
// harder to read.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"banger/internal/cli"
)

func main() {
	if err := run(filepath.Join("..", "..", "docs")); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// run writes the files below docs and removes the pages of commands that no longer exist.
func run(docs string) error {
	for dir, pages := range pages() {
		dir = filepath.Join(docs, dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		old, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, entry := range old {
			if _, ok := pages[entry.Name()]; !ok {
				if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
					return err
				}
			}
		}
		for name, text := range pages {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// pages returns the whole reference: directory, file name, content.
func pages() map[string]map[string]string {
	return map[string]map[string]string{
		"cli": markdown(cli.NewCommands()),
		"man": manPages(cli.NewCommands()),
	}
}
