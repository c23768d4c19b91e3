package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"banger/internal/pattern"
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

var syncName = pattern.Lazy(`^file_sync\[(\d+)\](?:\.(.+))?$`)

// take handles a setting if it belongs to file_sync, and reports whether it does.
func (r *syncReader) take(s setting) bool {
	where := fmt.Sprintf("%s:%d", r.path, s.line)
	if s.name == syncKey {
		if s.kind != arrayValue {
			r.bad("%s: %s must be an array of tables: write [[%s]]", where, syncKey, syncKey)
		}
		return true
	}
	m := syncName().FindStringSubmatch(s.name)
	if m == nil {
		return strings.HasPrefix(s.name, syncKey+".") // below no array, which was reported
	}
	if m[2] == "" {
		if s.kind != tableValue {
			r.bad("%s: %s: must be a table, not %s", where, s.name, s.kind)
			return true
		}
		r.entries = append(r.entries, syncEntry{line: s.line, has: map[string]bool{}})
		return true
	}
	if len(r.entries) == 0 { // below a value that is no table, which was reported
		return true
	}
	if err := r.field(&r.entries[len(r.entries)-1], m[2], s); err != nil {
		r.bad("%s: %s.%w", where, syncKey, err)
	}
	return true
}

// field sets one field of an entry.
func (r *syncReader) field(e *syncEntry, name string, s setting) (err error) {
	want := map[string]valueType{"host": stringValue, "guest": stringValue, "mode": stringValue, "optional": booleanValue}[name]
	switch {
	case want == "":
		return fmt.Errorf("%.100s: unknown key; an entry has host, guest, mode and optional", name)
	case name == "mode" && s.kind == integerValue:
		return errors.New(`mode: must be octal digits in quotes such as "0600", not a number`)
	case s.kind != want:
		return fmt.Errorf("%s: must be %s, not %s", name, want, s.kind)
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

// finish adds the entries to the configuration.
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
		return "", fmt.Errorf("%.200q is a relative path; use an absolute path, or ~/", p)
	case strings.ContainsRune(p, 0):
		return "", fmt.Errorf("%.200q contains a NUL character", p)
	}
	return filepath.Clean(p), nil
}

// guestPath expands ~ to /root, the home directory on the work disk.
func guestPath(p string) (string, error) {
	if p == "~" || strings.HasPrefix(p, "~/") {
		p = "/root" + p[1:]
	}
	switch {
	case !path.IsAbs(p):
		return "", fmt.Errorf("%.200q is a relative path; use an absolute path, or ~/", p)
	case slices.Contains(strings.Split(p, "/"), ".."):
		return "", fmt.Errorf("%.200q contains \"..\"", p)
	case path.Clean(p) == "/":
		return "", errors.New("the guest's root directory cannot be replaced")
	case strings.ContainsRune(p, 0):
		return "", fmt.Errorf("%.200q contains a NUL character", p)
	}
	return path.Clean(p), nil
}

func parseMode(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return 0, fmt.Errorf("%.100q is not an octal mode such as \"0600\"", s)
	}
	return fs.FileMode(n), nil
}
