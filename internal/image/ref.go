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
	"banger/internal/model"
)

// Ref is a parsed image name.
// "debian:<suite>" with a known suite is a Debian image that this host builds. Any other name is a
// registry reference by docker's rules (docs/internals/images.md).
type Ref struct {
	Name  string // the full name
	Suite string // of a Debian image, or ""
	ref   name.Reference
}

// suites are the Debian releases that "debian:<suite>" builds, by their names in apt's sources.
var suites = []string{"bullseye", "bookworm", "trixie", "forky", "duke", "sid", "oldstable", "stable", "testing", "unstable"}

// DefaultName is the image of a VM without one.
const DefaultName = "debian:bookworm"

const (
	builtPrefix = "debian:"
	// hubAlias is the usual name of name.DefaultRegistry.
	hubAlias = "docker.io"
	maxRef   = 240 // bytes of a full name, escaped as a file name (NAME_MAX minus a prefix)
)

// Parse parses an image name. A bad one is fault.Invalid.
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
		if errors.As(err, &bad) { // it repeats the name
			err = errors.New("it is not a lower-case reference")
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

// ParseNew is Parse for a name that an image is to get. It refuses names that read as ids. Older
// versions accepted such names, and Parse still does, so that they can be deleted.
func ParseNew(s string) (Ref, error) {
	ref, err := Parse(s)
	if err == nil && IDLike(familiar(ref.Name)) {
		return Ref{}, invalid("image name %q reads as an id: it has only hexadecimal digits, %s", clip(s), idRule).
			WithHint("Choose another name, such as mine:v1.")
	}
	return ref, err
}

const idRule = "8 or more, or any number after sha256:"

// IDLike reports whether ref can be taken for an id: see model.IDLike. "sha256:" and 3 or more
// digits are one, too.
func IDLike(ref string) bool {
	return model.IDLike(ref) || strings.HasPrefix(ref, "sha256:") && idPattern.MatchString(ref)
}

// looksBuilt reports whether people may read a full name as that of an image that banger builds:
// docker's image of that name is another one.
func looksBuilt(full string) bool {
	rest := strings.ToLower(full)
	for _, prefix := range []string{name.DefaultRegistry + "/", hubAlias + "/", "library/"} {
		rest = strings.TrimPrefix(rest, prefix)
	}
	return rest == "debian" || strings.HasPrefix(rest, builtPrefix)
}

// familiar is the shortest form of a full name.
func familiar(full string) string {
	short := strings.TrimPrefix(strings.TrimPrefix(full, hubAlias+"/"), "library/")
	if strings.HasPrefix(short, builtPrefix) && !strings.HasPrefix(full, builtPrefix) {
		return full // the short form is another image
	}
	return strings.TrimSuffix(short, ":"+name.DefaultTag)
}

// idPattern is an image's id, or a beginning of one.
var idPattern = regexp.MustCompile(`^(sha256:)?([0-9a-f]{3,64})$`)

// idPrefix returns the id, or its beginning, that s may be.
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

// nameOf makes an image's name from a file's: "root-fs" from "Root FS.tar.gz"; "" if it cannot.
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
