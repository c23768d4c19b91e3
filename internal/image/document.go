package image

import (
	"fmt"
	"io"
	"path"

	"banger/internal/fault"
	"banger/internal/image/rootfs"
	"banger/internal/model"
)

// Bounds of a manifest, an index, a configuration, and of every other answer of a registry that is
// read into memory.
const (
	// maxDocument is in bytes. Registries accept manifests of at least 4 MiB (OCI
	// distribution-spec, "Pushing Manifests").
	maxDocument = 4 << 20
	// maxValues bounds the values in JSON. An empty layer takes 3 bytes there, and 136 in memory.
	maxValues = 100_000
)

// document is a reader that fails when a document is too large to be kept in memory.
type document struct {
	r             io.Reader
	what          string // for the error
	bytes, values int    // so far
}

// Read is io.Reader.
func (d *document) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	d.bytes += n
	for _, c := range p[:n] {
		if c == ',' || c == '{' || c == '[' { // also in strings, which may be refused for it
			d.values++
		}
	}
	switch {
	case d.bytes > maxDocument:
		return 0, rootfs.TooLarge(d.what, model.Bytes(maxDocument))
	case d.values > maxValues:
		return 0, rootfs.TooLarge("the number of values in "+d.what, maxValues)
	}
	return n, err
}

// readAll reads a document of bounded size.
func readAll(r io.Reader, what string) ([]byte, error) {
	data, err := io.ReadAll(&document{r: r, what: what})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	return data, nil
}

func invalid(format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, format, args...)
}

func clean(name string) string { return path.Clean("/" + name) }

// clip shortens a path for an error message.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
