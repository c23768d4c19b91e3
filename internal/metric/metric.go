// Package metric counts what the daemon does and writes the counts in Prometheus' text format.
//
// A Set is made once and handed to whoever has something to count. Its methods cost one lock and
// one lookup; everything else happens at a scrape. All methods work on a nil Set, which counts
// nothing.
//
// The format is written by hand (text.go) rather than with prometheus/client_golang: the library
// adds six modules, 0.7 MB and 1 to 2 ms to each start of bangerd, which a command may be waiting
// for.
//
// Invariants: every metric has a help line and a unit in its name; label values come from closed
// sets; a metric has at most maxSeries series, and later label values are counted under "other".
//
// Locks: each vector has one mutex, Set.bytes has another. Both are leaves: nothing else is
// locked while one is held, except that a scrape computes host bytes under Set.bytes.
package metric

import (
	"time"

	"banger/internal/step"
)

// Set holds the metrics of one daemon. It is safe for concurrent use.
type Set struct {
	starts       *vector
	startSteps   *vector
	startErrors  *vector
	forks        *vector
	children     *vector
	forkPauses   *vector
	standby      *vector
	agent        *vector
	requests     *vector
	bytes        hostBytes
	began        time.Time
	version, gov string
}

// New returns an empty set. The versions are banger's and Go's; began is when the process began.
func New(version, goVersion string, began time.Time) *Set {
	// Histogram bounds, seconds.
	starts := []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}
	steps := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	pauses := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	agent := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	return &Set{
		version: version, gov: goVersion, began: began,
		starts: newHistogram("banger_vm_start_duration_seconds",
			"Time from the first step of a VM's start to the last, for starts that succeeded, by origin.",
			starts, "origin"),
		startSteps: newHistogram("banger_vm_start_step_duration_seconds",
			"Time of each step of a VM's start, for starts that succeeded, by origin and step.",
			steps, "origin", "step"),
		startErrors: newCounter("banger_vm_start_failures_total",
			"VM starts that failed, by the step that failed.", "step"),
		forks:    newCounter("banger_forks_total", "Forks of VMs, whatever their number of children."),
		children: newCounter("banger_fork_children_total", "VMs made by forks."),
		forkPauses: newHistogram("banger_fork_pause_seconds",
			"Time that a parent VM was paused for a fork.", pauses),
		standby: newCounter("banger_standby_requests_total",
			"VM starts that asked for a standby machine, by result: hit or miss.", "result"),
		agent: newHistogram("banger_agent_round_trip_seconds",
			"Time from a request to an agent until its answer's head, by the agent's route.", agent, "route"),
		requests: newCounter("banger_api_requests_total",
			"API requests that were answered, by route, method and HTTP status code.", "route", "method", "code"),
	}
}

// StartDone counts a VM's start that succeeded: what it began with ("boot", "template", "fork",
// ...), its duration from the first step to the last, and its steps.
func (s *Set) StartDone(origin string, took time.Duration, steps []step.Record) {
	if s == nil {
		return
	}
	s.starts.observe(took.Seconds(), origin)
	for _, record := range steps {
		s.startSteps.observe(record.Duration.Seconds(), origin, record.Name)
	}
}

// StartFailed counts a VM's start that failed at the named step, "" if it failed outside all steps.
func (s *Set) StartFailed(step string) {
	if s == nil {
		return
	}
	if step == "" {
		step = "none"
	}
	s.startErrors.add(1, step)
}

// Forked counts a fork: the number of children that were made, and how long the parent was paused
// (0 if it was halted before).
func (s *Set) Forked(children int, pause time.Duration) {
	if s == nil {
		return
	}
	s.forks.add(1)
	s.children.add(float64(max(children, 0)))
	if pause > 0 {
		s.forkPauses.observe(pause.Seconds())
	}
}

// Standby counts a start that asked the standby pool for a machine. Do not call it if the pool is
// off.
func (s *Set) Standby(hit bool) {
	if s == nil {
		return
	}
	if hit {
		s.standby.add(1, "hit")
	} else {
		s.standby.add(1, "miss")
	}
}

// AgentRoundTrip counts one answered request to an agent. The route is a path without its query.
func (s *Set) AgentRoundTrip(route string, took time.Duration) {
	if s == nil {
		return
	}
	s.agent.observe(took.Seconds(), route)
}

// Request counts one API request. The route is the pattern that matched, not the path.
func (s *Set) Request(route, method string, code int) {
	if s == nil {
		return
	}
	s.requests.add(1, route, method, statusText(code))
}
