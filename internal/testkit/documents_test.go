package testkit

import (
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// markdownLink is an inline link without a title, which is the only kind that the documents use.
var markdownLink = regexp.MustCompile(`\]\(([^()\s]+)\)`)

// TestDocumentLinks checks that each relative link of a document leads to a file, and to a heading
// if it names one.
func TestDocumentLinks(t *testing.T) {
	documents := findDocuments(t)
	if !slices.Contains(documents, "README.md") || !slices.Contains(documents, "docs/cli/vm.md") {
		t.Fatalf("the search for documents misses some of them: %q", documents)
	}
	for _, name := range documents {
		for _, link := range linksOf(readDocument(t, name)) {
			checkLink(t, name, link)
		}
	}
}

// findDocuments lists the Markdown files of the source tree, relative to its root.
func findDocuments(t *testing.T) []string {
	t.Helper()
	var found []string
	root := os.DirFS(SourceRoot())
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", ".cache", "bin", "testdata"}, d.Name()):
			return fs.SkipDir
		case filepath.Ext(name) == ".md":
			found = append(found, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func readDocument(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(SourceRoot(), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// prose returns the lines of a document that are not in a fenced or indented block of code.
func prose(document string) []string {
	var lines []string
	fenced := false
	for line := range strings.Lines(document) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
			continue
		}
		if !fenced && !strings.HasPrefix(line, "    ") {
			lines = append(lines, strings.TrimRight(line, "\n"))
		}
	}
	return lines
}

func linksOf(document string) []string {
	var links []string
	for _, line := range prose(document) {
		for _, match := range markdownLink.FindAllStringSubmatch(line, -1) {
			links = append(links, match[1])
		}
	}
	return links
}

func checkLink(t *testing.T, from, link string) {
	t.Helper()
	target, err := url.Parse(link)
	if err != nil {
		t.Errorf("%s: the link %q is no URL: %v", from, link, err)
		return
	}
	if target.Scheme != "" {
		return
	}
	name := from
	if target.Path != "" {
		name = filepath.Join(filepath.Dir(from), target.Path)
	}
	if _, err := os.Stat(filepath.Join(SourceRoot(), name)); err != nil {
		t.Errorf("%s: the link %q leads to no file: %v", from, link, err)
		return
	}
	if target.Fragment != "" && !slices.Contains(anchorsOf(readDocument(t, name)), target.Fragment) {
		t.Errorf("%s: the link %q leads to no heading of %s", from, link, name)
	}
}

var notInAnchors = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// anchorsOf lists the anchors that Git hosts derive from headings: lower case, hyphens for spaces,
// no punctuation.
func anchorsOf(document string) []string {
	var anchors []string
	for _, line := range prose(document) {
		if heading := strings.TrimLeft(line, "#"); heading != line && strings.HasPrefix(heading, " ") {
			anchor := notInAnchors.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"))
		}
	}
	return anchors
}

// TestDocumentAnchors checks the rule for anchors against anchors that Git hosts are known to make.
func TestDocumentAnchors(t *testing.T) {
	document := "# A run, from start to end\n```\n# no heading\n```\n## `vm fork`\n#no heading\n"
	if got, want := anchorsOf(document), []string{"a-run-from-start-to-end", "vm-fork"}; !slices.Equal(got, want) {
		t.Errorf("the anchors are %q, want %q", got, want)
	}
}
