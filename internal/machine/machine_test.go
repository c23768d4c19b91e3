package machine

import (
	"testing"

	"banger/internal/fault"
	"banger/internal/vmm"
)

// TestEnded: the message of a panic is the guest's, and reads as the guest's.
func TestEnded(t *testing.T) {
	for exit, want := range map[vmm.Exit]string{
		{Reason: vmm.ExitUnknown}:                                "the machine ended (unknown)",
		{Reason: vmm.ExitPanic}:                                  "the machine ended (panic)",
		{Reason: vmm.ExitPanic, Detail: "oops\n\x1b[2Jerror: x"}: "the machine ended (panic): the guest reports: oops error: x",
		{Reason: vmm.ExitCrashed, Detail: "no room", Full: true}: "the machine ended (crashed): no room",
		{Reason: vmm.ExitCrashed, Detail: "SIGSEGV"}:             "the machine ended (crashed): SIGSEGV",
	} {
		err := Ended(exit)
		if err.Error() != want {
			t.Errorf("the end %+v becomes %q, want %q", exit, err, want)
		}
		if hint := fault.HintOf(err); (hint != "") != exit.Full {
			t.Errorf("the end %+v has the hint %q", exit, hint)
		}
		if kind := fault.KindOf(err); kind != fault.Unavailable {
			t.Errorf("the end %+v is of kind %q, want %q", exit, kind, fault.Unavailable)
		}
	}
}
