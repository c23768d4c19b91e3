package image

import (
	"fmt"
	"io"
	"path"

	"banger/internal/fault"
	"banger/internal/image/rootfs"
	"banger/internal/model"
)

// maxDocument bounds a manifest, an index or a configuration, in bytes.
const maxDocument = 8 << 20

// readAll reads a document of at most maxDocument bytes.
func readAll(r io.Reader, what string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	if len(data) > maxDocument {
		return nil, rootfs.TooLarge(what, model.Bytes(maxDocument))
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
