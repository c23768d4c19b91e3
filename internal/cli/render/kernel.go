package render

import (
	"time"

	"banger/internal/cli/ui"
	"banger/internal/model"
)

// Kernels lists kernels, with a row for each of their names.
func Kernels(kernels []model.Kernel, now time.Time) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "NAME", Min: 10, Paint: ui.Style.Bold}, {Title: "ID", Drop: 2, Paint: ui.Style.Dim},
		{Title: "VERSION", Min: 12}, {Title: "ARCH", Drop: 3}, {Title: "SIZE", Right: true}, {Title: "AGE", Drop: 1},
	}}
	for _, k := range kernels {
		names := k.Names
		if len(names) == 0 {
			names = []string{"-"}
		}
		for _, name := range names {
			t.Rows = append(t.Rows, []string{
				name, ShortHash(k.ID), k.Version, k.Arch, k.Size.String(), ui.Age(now.Sub(k.Created)),
			})
		}
	}
	return t
}

// Kernel lists a kernel's properties.
func Kernel(k model.Kernel, style ui.Style, now time.Time) [][2]string {
	return [][2]string{
		{"name", style.Bold(cleanList(k.Names, ", "))},
		{"id", k.ID},
		{"version", ui.Clean(k.Version)},
		{"source", ui.Clean(k.Source)},
		{"arch", ui.Clean(k.Arch)},
		{"size", k.Size.String()},
		{"created", moment(&k.Created, now)},
		{"vmlinuz", ui.Clean(k.Vmlinuz)},
		{"vmlinux", ui.Clean(k.Vmlinux)},
		{"config", ui.Clean(k.Config)},
		{"modules", ui.Clean(k.Modules)},
	}
}
