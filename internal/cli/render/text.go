// Package render makes text, tables and lists of properties from what the API returns.
//
// Its functions are pure: the time, the style and the width of the output are arguments. Only Run
// has a state. Lists of properties are pairs for ui.Pairs. Text that comes from guests, images and
// registries is cleaned here, except in tables, which clean their cells themselves.
package render

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"banger/internal/cli/ui"
)

// FirstName returns the first of the names of an item, or a short id if there is none.
func FirstName(names []string, id string) string {
	if len(names) == 0 {
		return ShortHash(id)
	}
	return names[0]
}

// ShortHash returns the first characters of a digest, which are enough for a person.
func ShortHash(id string) string { return id[:min(len(id), 12)] }

func cleanList(list []string, separator string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = ui.Clean(s)
	}
	return strings.Join(out, separator)
}

// quoted writes an argument list, with quotes around the arguments that need them.
func quoted(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = ui.Clean(arg)
		if arg == "" || strings.ContainsAny(arg, " \t\n'\"\\$&|;<>*?()") {
			words[i] = fmt.Sprintf("%q", arg)
		}
	}
	return strings.Join(words, " ")
}

// ShortRef removes Docker Hub's host and its library prefix from a reference, as people write it. A
// reference whose short form means another image keeps them.
func ShortRef(ref string) string {
	if ref == "docker.io/library/debian" || strings.HasPrefix(ref, "docker.io/library/debian:") ||
		strings.HasPrefix(ref, "docker.io/library/sha256:") {
		return ref // the short form is an image that this host builds, or an id
	}
	if rest, ok := strings.CutPrefix(ref, "docker.io/library/"); ok {
		return rest
	}
	rest := strings.TrimPrefix(ref, "docker.io/")
	if host, _, _ := strings.Cut(rest, "/"); strings.ContainsAny(host, ".:") || host == "localhost" || !strings.Contains(rest, "/") {
		return ref // the first component would be a registry, or the rest a name in library/
	}
	return rest
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// FieldNames writes the names of the record's fields with spaces.
func FieldNames(fields []string) string {
	return ui.Clean(strings.ReplaceAll(strings.Join(fields, ", "), "_", " "))
}

func named(ref, id string) string {
	if id == "" {
		return ui.Clean(ref)
	}
	return fmt.Sprintf("%s (%s)", ui.Clean(ref), ui.Clean(id[:min(len(id), 12)]))
}

// imageName is the name of an image in a list, or its id if the name does not mean it any more.
func imageName(ref, id string, moved bool) string {
	if moved {
		return ShortHash(id)
	}
	return ShortRef(ref)
}

// namedImage is named for an image, with a word on a name that does not mean it any more.
func namedImage(ref, id string, moved bool) string {
	if moved {
		return fmt.Sprintf("%s (%s means another image here, or none)", ui.Clean(ShortHash(id)), ui.Clean(ref))
	}
	return named(ref, id)
}

// moment writes a time as its age and its date.
func moment(t *time.Time, now time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s ago (%s)", ui.Age(now.Sub(*t)), t.Local().Format("2006-01-02 15:04:05"))
}

func sortedPairs(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for k, v := range m {
		lines = append(lines, ui.Clean(k+"="+v))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n            ")
}

func age(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return ui.Age(now.Sub(t))
}

// unlessZero returns text, or "" if value is zero: a damaged snapshot may have lost the value.
func unlessZero[T comparable](value T, text string) string {
	var zero T
	if value == zero {
		return ""
	}
	return text
}

// shortID returns the first characters of an id, which are enough for a person.
func shortID(id string) string { return id[:min(len(id), 8)] }
