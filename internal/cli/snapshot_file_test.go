package cli

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"banger/internal/fault"
)

// TestExportCutOff ends an export without a reason, as when the daemon dies. No file may be left.
func TestExportCutOff(t *testing.T) {
	dir := t.TempDir()
	stream := exported{t.Context(), io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF))}
	_, err := writeWhole(filepath.Join(dir, "night.banger"), stream)
	if fault.KindOf(err) != fault.Unavailable || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the error is %v of kind %s, want an unexpected end of kind unavailable", err, fault.KindOf(err))
	}
	if hint := fault.HintOf(err); !strings.Contains(hint, "daemon logs") {
		t.Errorf("the hint %q does not name the daemon's log", hint)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the incomplete file is left: %v, %v", entries, err)
	}
}
