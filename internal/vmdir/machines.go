package vmdir

import (
	"fmt"
	"path/filepath"

	"banger/internal/home"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/vmm/process"
)

// Machine is a machine of a home that runs.
type Machine struct {
	ID      string
	Name    string // of its VM; "" if no copy of a record says it
	PID     int
	Trouble []string // what is wrong with its files
}

// Machines looks for the machines of a home that run, also those whose files were removed. It needs
// no daemon and no record.
func Machines(layout paths.Layout) ([]Machine, error) {
	found, err := process.Machines(model.IsID)
	if err != nil {
		return nil, fmt.Errorf("looking for machines: %w", err)
	}
	own, err := home.ID(layout.State)
	if err != nil {
		return nil, err
	}
	if dir := home.RuntimeElsewhere(layout); dir != "" { // this caller has another XDG_RUNTIME_DIR
		layout.Runtime = dir
	}
	var list []Machine
	for _, p := range found {
		id := filepath.Base(p.Dir)
		m, files := Machine{ID: id, PID: p.PID}, layout.VM(id)
		runtime := filepath.Dir(filepath.Dir(p.Dir))
		here := runtime == real(layout.Runtime)
		if there, err := home.ID(runtime); !here && (err != nil || there == "" || there != own) {
			continue // another home's
		}
		switch {
		case !here:
			m.Trouble = append(m.Trouble, "its run directory is "+p.Dir+", which is not in the runtime directory "+layout.Runtime)
		case p.Gone:
			m.Trouble = append(m.Trouble, "its run directory "+p.Dir+" was removed, so that nothing can reach the machine")
		}
		if !IsUnrecorded(files) { // otherwise nothing in it is a user's
			if IsMissing(files) {
				m.Trouble = append(m.Trouble, "the VM's directory "+files.Dir+" is missing")
			}
			m.Trouble = append(m.Trouble, otherDisks(p.PID, files)...)
		}
		if c, err := Read(files, id); err == nil {
			m.Name = c.VM.Spec.Name
		}
		list = append(list, m)
	}
	return list, nil
}

// otherDisks lists the disks of which a VMM has another file open.
func otherDisks(pid int, files paths.VM) (trouble []string) {
	id, err := process.Identify(pid)
	if err != nil {
		return nil
	}
	p, err := process.Open(id)
	if err != nil {
		return nil
	}
	defer p.Close()
	disks := []string{files.SystemDisk(), files.WorkDisk()}
	others, _ := p.Others(disks...) // nobody can tell of the rest
	for _, path := range disks {
		other, is := others[path]
		if !is || other == "" && path != files.SystemDisk() { // or no work disk
			continue
		}
		what := path + " was removed or is another file than the VM has open"
		if other != "" {
			what += " as " + other
		}
		trouble = append(trouble, what)
	}
	return trouble
}

// real returns a directory's path without symbolic links, also of one that does not exist.
func real(dir string) string {
	if path, err := filepath.EvalSymlinks(dir); err == nil {
		return path
	}
	if parent := filepath.Dir(dir); parent != dir {
		return filepath.Join(real(parent), filepath.Base(dir))
	}
	return dir
}
