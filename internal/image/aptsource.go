package image

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/internal/regular"
)

// aptSource is one entry of apt's sources, in either format (sources.list(5)).
type aptSource struct {
	types, uris, suites, components []string
	// options are all other fields, with their names in the deb822 format.
	options []aptOption
}

type aptOption struct{ name, value string }

// debianComponents are the archive areas of Debian (Debian policy, section 2.2). Archives of others
// may use Debian's suite names, but have other areas.
var debianComponents = []string{"main", "contrib", "non-free", "non-free-firmware"}

// maxAptSource bounds a file of apt's sources, bytes.
const maxAptSource = 4 << 20

// readAptSources reads the sources below an apt directory in apt's order: sources.list, then
// sources.list.d by name.
func readAptSources(dir string) ([]aptSource, error) {
	files := []string{filepath.Join(dir, "sources.list")}
	more, err := filepath.Glob(filepath.Join(dir, "sources.list.d", "*"))
	if err != nil {
		return nil, err
	}
	var sources []aptSource
	for _, file := range append(files, more...) {
		data, err := regular.Read(file, maxAptSource)
		switch {
		case os.IsNotExist(err):
			continue
		case err != nil:
			return nil, fmt.Errorf("reading apt's sources: %w", err)
		case strings.HasSuffix(file, ".list"):
			sources = append(sources, parseOneLine(string(data))...)
		case strings.HasSuffix(file, ".sources"):
			sources = append(sources, parseDeb822(string(data))...)
		}
	}
	return sources, nil
}

// oneLineNames are the options of the one-line format that have another name in deb822.
var oneLineNames = map[string]string{"arch": "Architectures", "lang": "Languages", "target": "Targets", "signed-by": "Signed-By"}

// parseOneLine reads lines such as "deb [signed-by=/k.gpg] http://host/debian bookworm main". It
// skips bad lines, which apt itself reports.
func parseOneLine(text string) []aptSource {
	var sources []aptSource
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest = strings.TrimSpace(rest)
		s := aptSource{types: []string{kind}}
		if strings.HasPrefix(rest, "[") {
			options, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				continue
			}
			for _, option := range strings.Fields(options) {
				name, value, _ := strings.Cut(option, "=")
				if long := oneLineNames[strings.ToLower(name)]; long != "" {
					name = long
				}
				s.options = append(s.options, aptOption{name, strings.ReplaceAll(value, ",", " ")})
			}
			rest = after
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			continue
		}
		s.uris, s.suites, s.components = fields[:1], fields[1:2], fields[2:]
		sources = append(sources, s)
	}
	return sources
}

// parseDeb822 reads stanzas of fields. A line that starts with a blank continues a field.
func parseDeb822(text string) []aptSource {
	var sources []aptSource
	for _, stanza := range stanzas(text) {
		var s aptSource
		enabled := true
		for _, field := range stanza {
			words := strings.Fields(field.value)
			switch strings.ToLower(field.name) {
			case "types":
				s.types = words
			case "uris":
				s.uris = words
			case "suites":
				s.suites = words
			case "components":
				s.components = words
			case "enabled":
				enabled = !slices.Contains([]string{"no", "false", "off", "0", "without", "disable"}, strings.ToLower(strings.TrimSpace(field.value)))
			default:
				s.options = append(s.options, field)
			}
		}
		if enabled && len(s.uris) > 0 && len(s.suites) > 0 {
			sources = append(sources, s)
		}
	}
	return sources
}

func stanzas(text string) [][]aptOption {
	var all [][]aptOption
	var now []aptOption
	sc := bufio.NewScanner(strings.NewReader(text + "\n\n"))
	for sc.Scan() {
		line := sc.Text()
		name, value, isField := strings.Cut(line, ":")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			if len(now) > 0 {
				all = append(all, now)
			}
			now = nil
		case (line[0] == ' ' || line[0] == '\t') && len(now) > 0:
			now[len(now)-1].value += "\n" + line
		case isField:
			now = append(now, aptOption{strings.TrimSpace(name), strings.TrimSpace(value)})
		}
	}
	return all
}

// forSuite returns the sources of one Debian release: its packages, updates and security fixes. It
// drops vendors' archives with Debian's suite names, because those packages belong to the host.
func forSuite(sources []aptSource, suite string) []aptSource {
	wanted := []string{suite, suite + "-updates", suite + "-security", suite + "/updates"}
	if other := map[string]string{"sid": "unstable", "unstable": "sid"}[suite]; other != "" {
		wanted = append(wanted, other)
	}
	var found []aptSource
	for _, s := range sources {
		s.types = keep(s.types, []string{"deb"})
		s.suites = keep(s.suites, wanted)
		s.components = keep(s.components, debianComponents)
		if len(s.types) > 0 && len(s.suites) > 0 && slices.Contains(s.components, "main") {
			found = append(found, s)
		}
	}
	return found
}

// hasRelease reports whether the sources contain the release itself, not only its updates.
func hasRelease(sources []aptSource) bool {
	return slices.ContainsFunc(sources, func(s aptSource) bool {
		return slices.ContainsFunc(s.suites, func(name string) bool { return !strings.ContainsAny(name, "-/") })
	})
}

func keep(words, wanted []string) []string {
	var kept []string
	for _, w := range words {
		if slices.Contains(wanted, w) {
			kept = append(kept, w)
		}
	}
	return kept
}

// deb822 writes sources in the deb822 format.
func deb822(sources []aptSource) string {
	var b strings.Builder
	for i, s := range sources {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "Types: %s\nURIs: %s\nSuites: %s\nComponents: %s\n",
			strings.Join(s.types, " "), strings.Join(s.uris, " "), strings.Join(s.suites, " "), strings.Join(s.components, " "))
		for _, o := range s.options {
			fmt.Fprintf(&b, "%s: %s\n", o.name, o.value)
		}
	}
	return b.String()
}
