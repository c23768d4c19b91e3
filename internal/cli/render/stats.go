package render

import (
	"fmt"
	"time"

	"banger/internal/cli/ui"
	"banger/internal/model"
)

// CPUShares returns the CPU time since the last sample as a share of one CPU, by VM.
func CPUShares(before, now []model.Stats, elapsed time.Duration) map[string]float64 {
	shares := map[string]float64{}
	for _, old := range before {
		for _, s := range now {
			if s.ID == old.ID && s.CPU >= old.CPU && elapsed > 0 {
				shares[s.ID] = float64(s.CPU-old.CPU) / float64(elapsed)
			}
		}
	}
	return shares
}

// Stats lists the resource usage of VMs. A VM without a share shows its CPU time.
func Stats(stats []model.Stats, shares map[string]float64) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "NAME", Min: 10, Paint: ui.Style.Bold},
		{Title: "STATE", Paint: paintState, Drop: 5},
		{Title: "CPU", Right: true},
		{Title: "MEM", Right: true},
		{Title: "DISK", Right: true, Drop: 1},
		{Title: "GUEST MEM", Right: true, Drop: 2},
		{Title: "LOAD", Right: true, Drop: 3},
		{Title: "PROCS", Right: true, Drop: 4},
		{Title: "RX/TX", Right: true, Drop: 6},
	}}
	for _, s := range stats {
		cpu := ui.Duration(s.CPU)
		if share, ok := shares[s.ID]; ok {
			cpu = fmt.Sprintf("%.1f%%", share*100)
		}
		memory, load, procs, traffic := "-", "-", "-", "-"
		if g := s.Guest; g != nil {
			memory = fmt.Sprintf("%v/%v", model.Bytes(g.MemUsed), model.Bytes(g.MemTotal))
			load = fmt.Sprintf("%.2f", g.Load[0])
			procs = fmt.Sprint(g.Processes)
			traffic = fmt.Sprintf("%v/%v", model.Bytes(g.NetRxBytes), model.Bytes(g.NetTxBytes))
		}
		t.Rows = append(t.Rows, []string{s.Name, string(s.State), cpu, s.Memory.String(), s.Disk.String(), memory, load, procs, traffic})
	}
	return t
}
