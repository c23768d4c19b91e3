package image

import (
	"errors"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"banger/internal/fault"
)

// A Ref is what a person calls an image, understood.
//
// The rules, in this order:
//
//   - "debian:<suite>", where suite is one that banger knows (bookworm, trixie, sid, ...), is a Debian image that is built on this machine. Its full name is itself.
//     The image of that name in the default registry is reached by a longer name: "library/debian:bookworm".
//   - Anything else is a registry reference as docker reads it: the registry is docker.io, the namespace library and the tag latest
//     when they are left out, so "alpine" is "docker.io/library/alpine:latest". Its full name has all of them, or a digest.
//
// Images keep full names; whatever is read is made full first, so every short form means the same image wherever it stands. Names
// that a person gives to an import follow the same rules, and no registry is asked for them.
type Ref struct {
	Name  string // the full name
	Suite string // of a Debian image that is built here, else ""
	ref   name.Reference
}

// suites are the Debian releases that "debian:<suite>" builds, by the names that stand in apt's sources.
var suites = []string{"bullseye", "bookworm", "trixie", "forky", "duke", "sid", "oldstable", "stable", "testing", "unstable"}

// DefaultName is the image of a VM that asks for none.
const DefaultName = "debian:bookworm"

const (
	builtPrefix = "debian:"
	// hubAlias is how people write name.DefaultRegistry.
	hubAlias = "docker.io"
	maxRef   = 240 // bytes of a full name, escaped as a file's (NAME_MAX, less a prefix)
)

// Parse understands a reference. What cannot be one is fault.Invalid.
func Parse(s string) (Ref, error) {
	if len(s) > maxRef {
		return Ref{}, invalid("image name %q is too long", clip(s))
	}
	if suite, ok := strings.CutPrefix(s, builtPrefix); ok {
		for _, known := range suites {
			if suite == known {
				return Ref{Name: s, Suite: suite}, nil
			}
		}
	}
	ref, err := name.ParseReference(s)
	if err == nil && slices.ContainsFunc(strings.Split(s, "/"), func(part string) bool { return strings.Trim(part, ".") == "" }) {
		err = errors.New("a component has dots only")
	}
	if err != nil {
		var bad *name.ErrBadName
		if errors.As(err, &bad) { // it says no more than the name
			err = errors.New("that is no reference, which is in lower case")
		}
		return Ref{}, fault.New(fault.Invalid, "image name %q: %w", s, err).
			WithHint("A name is %s<suite> or a registry reference such as alpine:3 or registry.example/owner/image@sha256:...", builtPrefix)
	}
	full := ref.Name()
	if rest, ok := strings.CutPrefix(full, name.DefaultRegistry+"/"); ok {
		full = hubAlias + "/" + rest
	}
	if len(url.PathEscape(full)) > maxRef {
		return Ref{}, invalid("image name %q is too long", clip(full))
	}
	return Ref{Name: full, ref: ref}, nil
}

// idPattern is an image's id or what it may be shortened to.
var idPattern = regexp.MustCompile(`^(sha256:)?([0-9a-f]{3,64})$`)

// idPrefix returns the id, or the start of one, that s may be.
func idPrefix(s string) (string, bool) {
	m := idPattern.FindStringSubmatch(s)
	if m == nil {
		return "", false
	}
	return m[2], true
}

func isID(s string) bool {
	prefix, ok := idPrefix(s)
	return ok && prefix == s && len(s) == 64
}

var notInNames = regexp.MustCompile(`[^a-z0-9._-]+`)

// nameOf makes an image's name from a file's: "Root FS.tar.gz" gives "root-fs"; "" when nothing fits.
func nameOf(file string) string {
	base := strings.ToLower(filepath.Base(file))
	for _, ext := range []string{".gz", ".tgz", ".zst", ".xz", ".txz", ".bz2", ".tar", ".ext4", ".img", ".raw"} {
		base = strings.TrimSuffix(base, ext)
	}
	base = strings.Trim(notInNames.ReplaceAllString(base, "-"), "-._")
	if _, err := Parse(base); err != nil {
		return ""
	}
	return base
}
