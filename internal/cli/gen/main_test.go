package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/testkit"
)

const docs = "../../../docs"

func TestTheReferenceIsFresh(t *testing.T) {
	for dir, pages := range pages() {
		entries, err := os.ReadDir(filepath.Join(docs, dir))
		if err != nil {
			t.Fatalf("%v: run `make docs`", err)
		}
		for _, e := range entries {
			if _, ok := pages[e.Name()]; !ok {
				t.Errorf("%s/%s belongs to no command: run `make docs`", dir, e.Name())
			}
		}
		for name, want := range pages {
			got, err := os.ReadFile(filepath.Join(docs, dir, name))
			if err != nil || string(got) != want {
				t.Errorf("%s/%s is out of date: run `make docs`", dir, name)
			}
		}
	}
}

func TestManPagesAreGoodRoff(t *testing.T) {
	testkit.RequireTool(t, "groff")
	for name, page := range pages()["man"] {
		if strings.HasPrefix(page, ".so ") {
			continue
		}
		cmd := exec.Command("groff", "-man", "-Tutf8", "-ww")
		cmd.Stdin = strings.NewReader(page)
		var problems strings.Builder
		cmd.Stderr = &problems
		if err := cmd.Run(); err != nil || problems.Len() > 0 {
			t.Errorf("groff finds problems in %s: %v\n%s", name, err, &problems)
		}
	}
}

func TestEveryCommandHasItsPage(t *testing.T) {
	man := pages()["man"]
	for _, name := range []string{"banger.1", "banger-run.1", "banger-vm-run.1", "banger-image-pull.1", "banger-daemon-status.1", "banger-ssh-config.1"} {
		if man[name] == "" {
			t.Errorf("there is no %s", name)
		}
	}
	if man["banger-vm-proxy.1"] != "" {
		t.Error("a hidden command has a page")
	}
	for name, page := range pages()["cli"] {
		for _, link := range strings.Split(page, "](")[1:] {
			link, _, _ = strings.Cut(link, ")")
			file, anchor, _ := strings.Cut(link, "#")
			target := page
			if file != "" {
				target = pages()["cli"][file]
			}
			if target == "" || anchor != "" && !hasHeading(target, anchor) {
				t.Errorf("%s: the link %s leads nowhere", name, link)
			}
		}
	}
}

// hasHeading reports whether a page has a heading that Markdown gives this anchor.
func hasHeading(page, anchor string) bool {
	for line := range strings.Lines(page) {
		if title, ok := strings.CutPrefix(line, "## "); ok && strings.ReplaceAll(strings.TrimSpace(title), " ", "-") == anchor {
			return true
		}
	}
	return false
}
