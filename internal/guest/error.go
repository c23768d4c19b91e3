package guest

import (
	"encoding/json"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/guest/relay"
)

// replyError makes a fault of an error answer. An answer that no agent of ours sends is
// Unavailable.
func replyError(status int, body []byte) error {
	var e proto.Error
	if status < 400 || json.Unmarshal(body, &e) != nil || !known(fault.Kind(e.Kind)) {
		return fault.New(fault.Unavailable, "the agent answers with status %d", status)
	}
	msg := relay.Clean(e.Msg)
	if msg == "" {
		msg = "the agent gives no reason"
	}
	err := fault.New(fault.Kind(e.Kind), "%s", msg)
	if e.Full {
		return err.WithHint("%s", fullHint)
	}
	return err
}

// fullHint is for a guest that has filled one of its disks. The host writes it: a guest's text
// is never shown as advice.
const fullHint = "A disk of the VM is full. Remove files in the VM, or enlarge the disk: " +
	"`banger vm set VM --disk-size SIZE` for /, --work-disk-size for /root."

// known reports whether a kind is one of package fault's.
func known(k fault.Kind) bool {
	switch k {
	case fault.NotFound, fault.Exists, fault.Invalid, fault.WrongState, fault.Locked, fault.Denied,
		fault.Unsupported, fault.Unavailable, fault.Canceled, fault.Internal:
		return true
	}
	return false
}
