package model

import "cmp"

// Rescue is what a recovery of records has found and done, or would do.
type Rescue struct {
	DryRun   bool          `json:"dry_run"`
	Database DatabaseState `json:"database"`
	Backup   string        `json:"backup,omitempty"` // the backup of the database that was used
	Aside    string        `json:"aside,omitempty"`  // where the old database was moved
	Kept     int           `json:"kept"`             // VMs whose records are as they were
	VMs      []RescuedVM   `json:"vms"`              // all others
}

// DatabaseState is what a recovery found of the database.
type DatabaseState string

// The states of a database.
const (
	DatabaseWhole   DatabaseState = "whole"
	DatabaseMissing DatabaseState = "missing"
	DatabaseDamaged DatabaseState = "damaged" // the whole file, or some of its records
	DatabaseForeign DatabaseState = "foreign" // of another home
	DatabaseOlder   DatabaseState = "older"   // than the VMs: somebody put an old one back
)

// RescuedVM is what became of one VM.
type RescuedVM struct {
	ID      string        `json:"id"`
	Name    string        `json:"name,omitempty"`
	Was     string        `json:"was,omitempty"` // the former name, which another VM has
	Outcome RescueOutcome `json:"outcome"`
	Dir     string        `json:"dir,omitempty"` // its directory afterwards
	Detail  string        `json:"detail,omitempty"`
}

// RescueOutcome is what became of a VM.
type RescueOutcome string

// The outcomes.
const (
	Rebuilt  RescueOutcome = "rebuilt"  // from the copy of the record in its directory
	Restored RescueOutcome = "restored" // from the backup of the database
	Unclear  RescueOutcome = "damaged"  // neither can be read; its directory was left alone
	Orphaned RescueOutcome = "lost"     // no record is known; its directory is among the lost ones
	Vanished RescueOutcome = "gone"     // the backup has a record, but there is no directory
	Replaced RescueOutcome = "replaced" // it runs, and its files were moved or replaced
)

// IsBack reports whether the VM's record came back, or would.
func (v RescuedVM) IsBack() bool { return v.Outcome == Rebuilt || v.Outcome == Restored }

// NotBack names the VMs whose directory was found and whose records did not come back. A VM of
// which only a backup knows was most likely deleted after the backup.
func (r Rescue) NotBack() []string {
	var names []string
	for _, v := range r.VMs {
		if v.Outcome == Unclear || v.Outcome == Orphaned {
			names = append(names, cmp.Or(v.Name, v.ID))
		}
	}
	return names
}
