package model

// State is where a VM is in its life.
type State string

// The states. The table transitions holds which state may follow which.
const (
	Creating  State = "creating"  // the record exists; what it names is being made
	Stopped   State = "stopped"   //
	Starting  State = "starting"  //
	Running   State = "running"   //
	Pausing   State = "pausing"   //
	Paused    State = "paused"    // in memory, its vCPUs halted
	Suspended State = "suspended" // on disk
	Stopping  State = "stopping"  //
	Deleting  State = "deleting"  //
	// Broken means that something of the VM could not be removed. Deletion and start-up recovery
	// try again.
	Broken State = "broken"
	Failed State = "error" // a start failed and left nothing; it can be started again
	// Recovering is shown and never stored: the daemon has started, and finds out what is true.
	Recovering State = "recovering"
)

// transitions holds which state may follow which. Every change of a VM's state is checked by it.
var transitions = map[State][]State{
	Creating:  {Stopped, Deleting, Broken},
	Stopped:   {Starting, Suspended, Deleting},
	Failed:    {Starting, Stopped, Suspended, Deleting},
	Starting:  {Running, Failed, Stopped, Suspended, Broken},
	Running:   {Stopping, Stopped, Pausing, Deleting, Broken},
	Pausing:   {Paused, Running, Suspended, Stopped, Broken},
	Paused:    {Running, Pausing, Stopping, Stopped, Deleting, Broken},
	Suspended: {Starting, Pausing, Stopped, Deleting, Broken},
	Stopping:  {Stopped, Running, Broken},
	Deleting:  {Broken},
	Broken:    {Stopped, Deleting},
}

// May reports whether state to may follow s.
func (s State) May(to State) bool {
	for _, next := range transitions[s] {
		if next == to {
			return true
		}
	}
	return false
}

// Live reports whether a VMM process may exist for a VM in this state.
func (s State) Live() bool {
	switch s {
	case Starting, Running, Pausing, Paused, Stopping, Deleting, Broken, Recovering:
		return true
	}
	return false
}

// Phrase words the state for a sentence: what follows "the VM is".
func (s State) Phrase() string {
	if s == Failed { // a noun
		return "in state error"
	}
	return string(s)
}

// Between reports whether a VM is in this state only during an operation. If start-up finds a VM in
// it, a crash cut that operation off.
func (s State) Between() bool {
	switch s {
	case Creating, Starting, Pausing, Stopping, Deleting:
		return true
	}
	return false
}
