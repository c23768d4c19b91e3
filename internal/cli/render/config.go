package render

import (
	"banger/internal/cli/ui"
	"banger/internal/config"
)

// Settings lists the configuration. The meanings of keys are for people only: if columns is 0,
// because the output is no terminal, the table leaves them out.
func Settings(rows []config.Row, columns int) ui.Table {
	paintOrigin := func(s ui.Style, origin string) string {
		if origin == "default" {
			return s.Dim(origin)
		}
		return s.Cyan(origin)
	}
	t := ui.Table{Columns: []ui.Column{
		{Title: "KEY", Paint: ui.Style.Bold}, {Title: "VALUE", Min: 10}, {Title: "FROM", Min: 10, Paint: paintOrigin},
		{Title: "MEANING", Min: 16, Drop: 1, Paint: ui.Style.Dim},
	}}
	for _, r := range rows {
		t.Rows = append(t.Rows, []string{r.Key, r.Value, r.Origin, r.Doc})
	}
	if columns == 0 {
		t.Columns = t.Columns[:3]
		for i := range t.Rows {
			t.Rows[i] = t.Rows[i][:3]
		}
	}
	return t
}
