// Package config is what a person can set once instead of with every command: config.toml, the BANGER_* environment and
// flags, in rising precedence over the defaults.
//
// One table (keys.go) says what can be set. Reading, the environment's names, the rows of `banger config show` and docs/config.md all come
// from it. Whatever is wrong is refused, all of it at once, with the place and the reason: a setting that is silently not
// taken is worse than none.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
)

// maxFile bounds the configuration file: a person writes it.
const maxFile = 1 << 20

// Config is the effective configuration.
type Config struct {
	// What a new VM is when a command does not say.
	Image        string
	Kernel       string
	VCPUs        int
	Memory       model.Bytes
	DiskSize     model.Bytes
	WorkDiskSize model.Bytes // 0: no work disk
	Net          model.NetMode

	// How VMs are run.
	Driver      string        // "auto" or a driver's name
	Accel       string        // "auto", "kvm" or "tcg"
	QEMU        string        // program; "" looks for it in PATH
	BootTimeout time.Duration // 0 leaves it to the driver
	StopTimeout time.Duration

	// How starts are made fast.
	Templates      bool
	TemplateBudget model.Bytes // 0: no bound
	Standby        int

	LogLevel slog.Level

	GitIdentity bool        // give guests the host's git user.name and user.email
	FileSync    []SyncEntry // files to put into every guest

	origins map[string]string // by key; missing for defaults
}

// SyncEntry is one file or folder to put into every guest.
type SyncEntry struct {
	Host     string      // absolute path on the host
	Guest    string      // absolute path in the guest
	Mode     fs.FileMode // permission bits; 0: those on the host
	Optional bool        // a missing Host is no error
}

// Row is one setting as a person is shown it.
type Row struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // "default", "file /…/config.toml:12", "env BANGER_VCPUS", "flag --vcpu"
	Doc    string `json:"doc"`
}

// Load reads the file at path, if there is one, and puts the environment and then overrides, which are texts by key, on top. environ is
// os.LookupEnv but in tests; an empty variable is as good as none. The error is of kind fault.Invalid and holds everything that is wrong,
// a line each, or says why the file cannot be read.
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
			return nil, fmt.Errorf("the default of %s: %w", k.name, err) // a bug, which the tests find
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
			WithHint("`banger config show` lists the keys and what they mean once these are corrected; so does docs/config.md")
	}
	return l.c, nil
}

// read returns what is in the file, nothing if there is none.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadable(err)
	}
	defer f.Close()
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
	if errors.Is(err, fs.ErrPermission) {
		kind = fault.Denied
	}
	return fault.New(kind, "reading the configuration: %w", err)
}

// loader collects settings and what is wrong with them.
type loader struct {
	c    *Config
	errs []error
}

func (l *loader) bad(format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf(format, args...))
}

// set takes a setting from origin; where leads the message if it is no good.
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

// String shows the entry as TOML.
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
