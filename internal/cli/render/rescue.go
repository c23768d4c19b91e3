package render

import (
	"cmp"
	"fmt"

	"banger/internal/cli/ui"
	"banger/internal/model"
)

// Rescue lists the VMs that a recovery has brought back, or could not.
func Rescue(r model.Rescue) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "ID"}, {Title: "NAME", Min: 10}, {Title: "OUTCOME"}, {Title: "DETAIL", Min: 20},
	}}
	for _, v := range r.VMs {
		t.Rows = append(t.Rows, []string{v.ID, cmp.Or(v.Name, "-"), string(v.Outcome), rescueDetail(v)})
	}
	return t
}

func rescueDetail(v model.RescuedVM) string {
	switch {
	case v.Was != "":
		return fmt.Sprintf("was %s, which is another VM's name", v.Was)
	case v.Detail != "" && v.Dir != "":
		return v.Detail + " (" + v.Dir + ")"
	}
	return cmp.Or(v.Detail, v.Dir)
}

// RescueNotes are remarks on a recovery.
func RescueNotes(r model.Rescue) []string {
	var notes []string
	switch r.Database {
	case model.DatabaseWhole:
		notes = append(notes, "the database is whole")
	case model.DatabaseMissing:
		notes = append(notes, "the database was missing")
	case model.DatabaseDamaged:
		notes = append(notes, "the database was damaged")
	case model.DatabaseForeign:
		notes = append(notes, "the database belongs to another home")
	case model.DatabaseOlder:
		notes = append(notes, "the database is older than the VMs")
	}
	if r.Aside != "" {
		notes = append(notes, "the old database is in "+r.Aside)
	}
	if r.Backup != "" {
		notes = append(notes, "used the backup "+r.Backup)
	}
	back := 0
	for _, v := range r.VMs {
		if v.IsBack() {
			back++
		}
	}
	if r.DryRun {
		return append(notes, fmt.Sprintf("%d would be brought back, %d would be kept", back, r.Kept), "nothing was changed")
	}
	return append(notes, fmt.Sprintf("%d brought back, %d kept", back, r.Kept))
}
