package image

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"banger/internal/disk"
	"banger/internal/regular"
)

// names is the directory with the names of images: a file per full name, which holds the id.
type names string

// maxName bounds the file of a name, bytes: an id.
const maxName = 1 << 10

// all reads all names with their ids.
func (n names) all() (map[string]string, error) {
	files, err := os.ReadDir(string(n))
	if err != nil {
		return nil, fmt.Errorf("listing the names of images: %w", err)
	}
	all := make(map[string]string, len(files))
	for _, f := range files {
		name, err := url.PathUnescape(f.Name())
		if err != nil || strings.HasPrefix(f.Name(), disk.TempPrefix) || !f.Type().IsRegular() {
			continue
		}
		data, err := regular.Read(filepath.Join(string(n), f.Name()), maxName)
		if err != nil {
			continue // deleted meanwhile
		}
		if id := strings.TrimSpace(string(data)); isID(id) {
			all[name] = id
		}
	}
	return all, nil
}

func (n names) file(name string) string { return filepath.Join(string(n), url.PathEscape(name)) }
