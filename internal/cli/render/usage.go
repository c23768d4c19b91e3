package render

import (
	"strconv"

	"banger/internal/cli/ui"
	"banger/internal/model"
)

// usageKinds are the kinds in the order of their rows, with the names of these.
var usageKinds = []struct {
	kind model.UsageKind
	name string
}{
	{model.UsageVM, "VMs"}, {model.UsageImage, "images"}, {model.UsageKernel, "kernels"}, {model.UsageSnapshot, "snapshots"},
	{model.UsageTemplate, "templates"}, {model.UsageCache, "caches"}, {model.UsageLost, "lost VMs"},
}

// UsageByKind sums up the disk usage of each kind of item.
func UsageByKind(u model.DiskUsage) ui.Table {
	t := usageTable(ui.Column{Title: "KIND", Paint: ui.Style.Bold}, ui.Column{Title: "COUNT", Right: true, Drop: 3})
	for _, k := range usageKinds {
		var sum model.UsageRow
		count := 0
		for _, row := range u.Rows {
			if row.Kind == k.kind {
				sum.Add(row)
				count++
			}
		}
		if k.kind == model.UsageLost && count == 0 { // as on nearly every host
			continue
		}
		t.Rows = append(t.Rows, append([]string{k.name, strconv.Itoa(count)}, usageCells(sum)...))
	}
	t.Rows = append(t.Rows, append([]string{"all", ""}, usageCells(u.Total)...))
	return t
}

// UsageByName lists the disk usage of each item.
func UsageByName(u model.DiskUsage) ui.Table {
	t := usageTable(ui.Column{Title: "KIND", Drop: 3}, ui.Column{Title: "NAME", Min: 12, Paint: ui.Style.Bold})
	for _, row := range u.Rows {
		name := row.Name
		switch row.Kind {
		case model.UsageImage:
			name = ShortRef(name)
		case model.UsageTemplate:
			name = ShortHash(name)
		}
		t.Rows = append(t.Rows, append([]string{string(row.Kind), name}, usageCells(row)...))
	}
	t.Rows = append(t.Rows, append([]string{"", "all"}, usageCells(u.Total)...))
	return t
}

// usageTable returns a table whose last columns are filled by usageCells.
func usageTable(first ...ui.Column) ui.Table {
	return ui.Table{Columns: append(first, ui.Column{Title: "SIZE", Right: true, Drop: 2}, ui.Column{Title: "OWN", Right: true},
		ui.Column{Title: "SHARED", Right: true}, ui.Column{Title: "RECLAIMABLE", Right: true, Drop: 1})}
}

func usageCells(r model.UsageRow) []string {
	return []string{r.Apparent.String(), r.Own.String(), r.Shared.String(), r.Reclaimable.String()}
}
