package config

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// syncReader collects the entries of file_sync.
type syncReader struct {
	*loader
	path, home string
	entries    []syncEntry
}

type syncEntry struct {
	SyncEntry
	line int
	has  map[string]bool
}

var syncName = regexp.MustCompile(`^file_sync\[(\d+)\](?:\.(.+))?$`)

// take takes a setting if it belongs to file_sync.
func (r *syncReader) take(s setting) bool {
	where := fmt.Sprintf("%s:%d", r.path, s.line)
	if s.name == syncKey {
		if s.kind != listValue {
			r.bad("%s: %s is a list: write [[%s]]", where, syncKey, syncKey)
		}
		return true
	}
	m := syncName.FindStringSubmatch(s.name)
	if m == nil {
		return strings.HasPrefix(s.name, syncKey+".") // of what is no list, which was said
	}
	if m[2] == "" {
		if s.kind != tableValue {
			r.bad("%s: %s: a %s where a table belongs", where, s.name, s.kind)
			return true
		}
		r.entries = append(r.entries, syncEntry{line: s.line, has: map[string]bool{}})
		return true
	}
	if len(r.entries) == 0 { // below a value that is no table, which was said
		return true
	}
	if err := r.field(&r.entries[len(r.entries)-1], m[2], s); err != nil {
		r.bad("%s: %s.%w", where, syncKey, err)
	}
	return true
}

// field takes one field of an entry.
func (r *syncReader) field(e *syncEntry, name string, s setting) (err error) {
	want := map[string]valueType{"host": textValue, "guest": textValue, "mode": textValue, "optional": booleanValue}[name]
	switch {
	case want == "":
		return fmt.Errorf("%.100s: unknown key; an entry has host, guest, mode and optional", name)
	case name == "mode" && s.kind == integerValue:
		return fmt.Errorf(`mode: a number where octal digits in quotes belong, such as "0600"`)
	case s.kind != want:
		return fmt.Errorf("%s: a %s where %s belongs", name, s.kind, want)
	}
	e.has[name] = true
	switch name {
	case "host":
		e.Host, err = hostPath(s.text, r.home)
	case "guest":
		e.Guest, err = guestPath(s.text)
	case "mode":
		e.Mode, err = parseMode(s.text)
	case "optional":
		e.Optional = s.text == "true"
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// finish puts the entries into the configuration.
func (r *syncReader) finish() {
	for i, e := range r.entries {
		for _, name := range []string{"host", "guest"} {
			if !e.has[name] {
				r.bad("%s:%d: %s: %s is missing", r.path, e.line, syncKey, name)
			}
		}
		r.c.FileSync = append(r.c.FileSync, e.SyncEntry)
		r.c.origins[fmt.Sprintf("%s[%d]", syncKey, i)] = fmt.Sprintf("file %s:%d", r.path, e.line)
	}
}

func hostPath(p, home string) (string, error) {
	if p == "~" || strings.HasPrefix(p, "~/") {
		if !filepath.IsAbs(home) {
			return "", fmt.Errorf("%.200q needs HOME, which is not set", p)
		}
		p = filepath.Join(home, p[1:])
	}
	switch {
	case !filepath.IsAbs(p):
		return "", fmt.Errorf("%.200q is relative; write it from / or ~/ on", p)
	case strings.ContainsRune(p, 0):
		return "", fmt.Errorf("%.200q holds a NUL", p)
	}
	return filepath.Clean(p), nil
}

// guestPath expands ~ to /root, the home that the work disk holds.
func guestPath(p string) (string, error) {
	if p == "~" || strings.HasPrefix(p, "~/") {
		p = "/root" + p[1:]
	}
	switch {
	case !path.IsAbs(p):
		return "", fmt.Errorf("%.200q is relative; write it from / or ~/ on", p)
	case slices.Contains(strings.Split(p, "/"), ".."):
		return "", fmt.Errorf("%.200q leads upwards by \"..\" in it", p)
	case path.Clean(p) == "/":
		return "", fmt.Errorf("the guest's / itself cannot be replaced")
	case strings.ContainsRune(p, 0):
		return "", fmt.Errorf("%.200q holds a NUL", p)
	}
	return path.Clean(p), nil
}

func parseMode(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return 0, fmt.Errorf("%.100q is not permission bits in octal, such as \"0600\"", s)
	}
	return fs.FileMode(n), nil
}
