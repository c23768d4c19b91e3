package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"banger/internal/model"
)

// Tally adds up what directories take up on the host, as rows. The zero value is empty.
type Tally struct {
	rows []model.UsageRow
	rest model.UsageRow
}

// Add measures a directory, or the one that a symbolic link leads to, and returns its row, which
// may be completed until the next call.
func (t *Tally) Add(kind model.UsageKind, name, dir string) (*model.UsageRow, error) {
	space, err := SpaceBehind(dir)
	if err != nil {
		return nil, err
	}
	t.rows = append(t.rows, space.Row(kind, name))
	return &t.rows[len(t.rows)-1], nil
}

// AddRest measures what is in a directory besides the known names: it is unfinished.
func (t *Tally) AddRest(dir string, known map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("measuring: %w", err)
	}
	for _, entry := range entries {
		if known[entry.Name()] {
			continue
		}
		space, err := SpaceOf(filepath.Join(dir, entry.Name()))
		if err != nil {
			return err
		}
		t.rest.Add(space.Row("", ""))
	}
	return nil
}

// Rows returns the rows in the order of the calls of Add, and one for what is unfinished.
func (t *Tally) Rows() []model.UsageRow {
	t.rest.Kind, t.rest.Name = model.UsageCache, "unfinished"
	return append(t.rows, t.rest)
}
