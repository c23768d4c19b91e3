// Package config loads the configuration: defaults, config.toml, BANGER_* environment variables and
// flags. A later source overrides an earlier one.
//
// The table in keys.go defines all settings. The names of environment variables, the rows of
// `banger config show` and docs/config.md come from it. Load reports all errors at once, each with
// its place, because a setting that is silently ignored is worse than none.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"banger/internal/fault"
	"banger/internal/home"
	"banger/internal/model"
	"banger/internal/regular"
)

// maxFile bounds the configuration file: a person writes it.
const maxFile = 1 << 20

// Config is the effective configuration.
type Config struct {
	// Properties of a new VM whose flags are unset.
	Image        string
	Kernel       string
	VCPUs        int
	Memory       model.Bytes
	DiskSize     model.Bytes
	WorkDiskSize model.Bytes // 0: no work disk
	Net          model.NetMode

	// The program that runs VMs.
	Driver      string        // "auto" or a driver's name
	Accel       string        // "auto", "kvm" or "tcg"
	Confine     string        // "auto" or "off"
	QEMU        string        // path or name; "" for the usual name
	BootTimeout time.Duration // 0: the driver's own
	StopTimeout time.Duration

	// Templates and machines on standby.
	Templates      bool
	TemplateBudget model.Bytes // 0: no limit
	Standby        int

	DiskReserve model.Reserve // of the host's file system; below it, VMs that write are held

	LogLevel  slog.Level
	LogFormat string // "text" or "json"

	MetricsListen string // loopback address and port; "" for none

	GitIdentity bool        // give guests the host's git user.name and user.email
	FileSync    []SyncEntry // files to copy into every guest

	origins map[string]string // by key; defaults have none
}

// SyncEntry is one file or directory to copy into every guest.
type SyncEntry struct {
	Host     string      // absolute path on the host
	Guest    string      // absolute path in the guest
	Mode     fs.FileMode // permission bits; 0: those of Host
	Optional bool        // Host may be missing
}

// Row is one setting as `banger config show` prints it.
type Row struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // "default", "file PATH:12", "env BANGER_VCPUS" or "flag --vcpu"
	Doc    string `json:"doc"`
}

// Load reads the file at path, if it exists, then environment variables with environ, which has the
// form of os.LookupEnv, then overrides: values by key. An empty variable counts as unset. An error
// of kind fault.Invalid has a line for each invalid setting.
func Load(path string, environ func(string) (string, bool), overrides map[string]string) (*Config, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	return load(path, data, environ, overrides)
}

func load(path string, data []byte, environ func(string) (string, bool), overrides map[string]string) (*Config, error) {
	l := &loader{c: &Config{origins: map[string]string{}}}
	for _, k := range keys {
		if err := k.set(l.c, k.def); err != nil {
			return nil, fmt.Errorf("the default of %s: %w", k.name, err) // a bug
		}
	}
	home, _ := environ("HOME")
	l.file(path, data, home)
	for _, k := range keys {
		if text, ok := environ(k.env()); ok && text != "" {
			l.set(k, text, "env "+k.env(), "environment "+k.env())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		k, ok := keyNamed(name)
		if !ok {
			l.bad("%s cannot be set", name)
			continue
		}
		l.set(k, overrides[name], "flag --"+k.flagName(), "--"+k.flagName())
	}
	if len(l.errs) > 0 {
		return nil, fault.New(fault.Invalid, "%w", errors.Join(l.errs...)).
			WithHint("Correct these errors. docs/config.md describes all keys.")
	}
	return l.c, nil
}

// read returns the contents of the file, or nil if there is none.
func read(path string) ([]byte, error) {
	f, err := regular.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadable(err)
	}
	defer f.Close()
	if err := home.CheckFile(f); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, unreadable(err)
	}
	if len(data) > maxFile {
		return nil, fault.New(fault.Invalid, "reading the configuration: %s is larger than %v", path, model.Bytes(maxFile))
	}
	return data, nil
}

func unreadable(err error) error {
	kind := fault.Internal
	switch {
	case errors.Is(err, fs.ErrPermission):
		kind = fault.Denied
	case fault.KindOf(err) == fault.Damaged: // no regular file
		kind = fault.Invalid
	}
	return fault.New(kind, "reading the configuration: %w", err)
}

// loader collects settings and errors.
type loader struct {
	c    *Config
	errs []error
}

func (l *loader) bad(format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf(format, args...))
}

// set sets a setting from origin. where begins the message if the value is invalid.
func (l *loader) set(k key, text, origin, where string) {
	if err := k.set(l.c, text); err != nil {
		l.bad("%s: %w", where, err)
		return
	}
	l.c.origins[k.name] = origin
}

// Rows returns all settings in the table's order, and then the entries of file_sync.
func (c *Config) Rows() []Row {
	var rows []Row
	for _, k := range keys {
		rows = append(rows, Row{Key: k.name, Value: k.text(c), Origin: c.origin(k.name), Doc: k.doc})
	}
	if len(c.FileSync) == 0 {
		rows = append(rows, Row{Key: syncKey, Value: "[]", Origin: c.origin(syncKey), Doc: syncDoc})
	}
	for i, e := range c.FileSync {
		name := fmt.Sprintf("%s[%d]", syncKey, i)
		rows = append(rows, Row{Key: name, Value: e.String(), Origin: c.origin(name), Doc: syncDoc})
	}
	return rows
}

func (c *Config) origin(name string) string {
	if o := c.origins[name]; o != "" {
		return o
	}
	return "default"
}

// String returns the entry as TOML.
func (e SyncEntry) String() string {
	parts := []string{fmt.Sprintf("host = %q", e.Host), fmt.Sprintf("guest = %q", e.Guest)}
	if e.Mode != 0 {
		parts = append(parts, fmt.Sprintf(`mode = "%04o"`, e.Mode))
	}
	if e.Optional {
		parts = append(parts, "optional = true")
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}
