package model

// State is where a VM is in its life.
type State string

// The states. The table below says which may follow which.
const (
	Creating  State = "creating"  // the record exists, what it names is being made
	Stopped   State = "stopped"   //
	Starting  State = "starting"  //
	Running   State = "running"   //
	Pausing   State = "pausing"   //
	Paused    State = "paused"    // in memory, its vCPUs halted
	Suspended State = "suspended" // on disk
	Stopping  State = "stopping"  //
	Deleting  State = "deleting"  //
	Broken    State = "broken"    // something of it could not be taken away; deleting or start-up recovery tries again
	Failed    State = "error"     // a start failed and left nothing behind; it can be started again
)

// transitions says which state may follow which. Every change of a VM's state goes through it.
var transitions = map[State][]State{
	Creating:  {Stopped, Deleting, Broken},
	Stopped:   {Starting, Deleting},
	Failed:    {Starting, Stopped, Deleting},
	Starting:  {Running, Failed, Stopped, Suspended, Broken},
	Running:   {Stopping, Stopped, Pausing, Deleting, Broken},
	Pausing:   {Paused, Running, Suspended, Stopped, Broken},
	Paused:    {Running, Pausing, Stopping, Stopped, Deleting, Broken},
	Suspended: {Starting, Stopped, Deleting, Broken},
	Stopping:  {Stopped, Running, Broken},
	Deleting:  {Broken},
	Broken:    {Stopped, Deleting},
}

// May tells whether to may follow s.
func (s State) May(to State) bool {
	for _, next := range transitions[s] {
		if next == to {
			return true
		}
	}
	return false
}

// Live tells whether a VMM process may exist for a VM in this state.
func (s State) Live() bool {
	switch s {
	case Starting, Running, Pausing, Paused, Stopping, Deleting, Broken:
		return true
	}
	return false
}

// Between tells whether a VM should be in this state only while an operation is under way; found at start-up, the state says
// that a crash cut the operation off.
func (s State) Between() bool {
	switch s {
	case Creating, Starting, Pausing, Stopping, Deleting:
		return true
	}
	return false
}
