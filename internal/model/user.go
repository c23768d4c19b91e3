package model

import "strings"

// A user of an image or a kernel is what needs it: a VM, by its name, or what SnapshotUser and
// LostUser return. No VM's name has a space.
const (
	snapshotUser = "snapshot "
	lostUser     = "lost VM "
	lostIn       = " in "
)

// SnapshotUser names a snapshot as a user.
func SnapshotUser(name string) string { return snapshotUser + name }

// LostUser names a VM without a record as a user. Its directory is in lost/ of the state.
func LostUser(name, dir string) string { return lostUser + name + lostIn + dir }

// HintForUsers says what to do about the users of what shall be deleted.
func HintForUsers(users []string) string {
	var vms, snapshots, lost, do, hints []string
	for _, user := range users {
		if name, ok := strings.CutPrefix(user, snapshotUser); ok {
			snapshots = append(snapshots, name)
		} else if rest, ok := strings.CutPrefix(user, lostUser); ok {
			_, dir, _ := strings.Cut(rest, lostIn)
			lost = append(lost, "'"+strings.ReplaceAll(dir, "'", `'\''`)+"'")
		} else {
			vms = append(vms, user)
		}
	}
	if len(vms) > 0 {
		do = append(do, "banger vm delete "+strings.Join(vms, " "))
	}
	if len(snapshots) > 0 {
		do = append(do, "banger snapshot delete "+strings.Join(snapshots, " "))
	}
	if len(do) > 0 {
		hints = append(hints, "Delete what uses it first: "+strings.Join(do, "; "))
	}
	if len(lost) > 0 {
		hints = append(hints, "To get the lost VMs back: banger daemon stop; banger daemon recover. To delete them: rm -r "+strings.Join(lost, " "))
	}
	return strings.Join(hints, ". ")
}
