// Command gen writes the reference of banger's commands, docs/cli in Markdown and docs/man as man pages, from the commands themselves. It is
// run by go generate, in the folder of package cli.
//
// cobra's own generators are not used: they make a page of what the tree looks like, with three more modules; these make pages to read.
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

// run brings the files below docs up to date. Pages of commands that are no more are removed.
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

// pages is all the reference: folder, file name, content.
func pages() map[string]map[string]string {
	return map[string]map[string]string{
		"cli": markdown(cli.NewCommands()),
		"man": manPages(cli.NewCommands()),
	}
}
