package cli

import (
	"strings"
	"testing"
	"time"

	"banger/internal/cli/ui"
	"banger/internal/model"
)

func TestTemplateTable(t *testing.T) {
	now := time.Now()
	being := model.Template{Key: "u" + strings.Repeat("0a", 12), Kind: model.TemplateUniversal, Building: true, Created: now, LastUsed: now}
	ready := model.Template{Key: "i" + strings.Repeat("1b", 12), Kind: model.TemplateImage, Image: "alpine:3", Standby: 2, Created: now, LastUsed: now}
	for _, c := range []struct {
		templates []model.Template
		columns   int
		last      []string
	}{
		{[]model.Template{being}, 9, []string{"being made"}},
		{[]model.Template{being, ready}, 10, []string{"0", "2"}},
	} {
		table := templateTable(c.templates, now)
		if len(table.Columns) != c.columns {
			t.Errorf("%d columns, want %d: STANDBY is shown only if a machine is on standby", len(table.Columns), c.columns)
		}
		for i, row := range table.Rows {
			if len(row) != c.columns || row[c.columns-1] != c.last[i] {
				t.Errorf("row %q has not %d cells with %q as the last", row, c.columns, c.last[i])
			}
		}
	}
	pairs := templatePairs(ready, ui.Style{}, now)
	if got := pairs[len(pairs)-1]; got != [2]string{"on standby", "2"} {
		t.Errorf("the last line of the details is %q, want the number on standby", got)
	}
}
