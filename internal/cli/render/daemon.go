package render

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/model"
)

// Status lists the state of a running daemon.
func Status(s api.Status, style ui.Style, now time.Time) [][2]string {
	driver := s.Driver
	if s.Accel != "" {
		driver += " with " + s.Accel
	}
	if s.AccelWhy != "" {
		driver += ": " + s.AccelWhy
	}
	advice := make([]string, len(s.Recommendations))
	for i, r := range s.Recommendations {
		advice[i] = ui.Clean(fmt.Sprintf("%s: %d (%s)", r.Kind, r.Value, r.Reason))
	}
	return [][2]string{
		{"state", style.Green("running") + ", up " + ui.Age(now.Sub(s.Started))},
		{"process", fmt.Sprint(s.PID)},
		{"version", ui.Clean(s.Version.Version)},
		{"machines", ui.Clean(driver)},
		{"advice", strings.Join(advice, "\n          ")},
		{"vms", countVMs(s.VMs)},
		{"memory", s.RSS.String()},
		{"socket", ui.Clean(s.Socket)},
		{"state in", ui.Clean(s.State)},
		{"log", ui.Clean(s.Log)},
	}
}

func countVMs(counts map[model.State]int) string {
	var parts []string
	for state, n := range counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, ui.Clean(string(state))))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
