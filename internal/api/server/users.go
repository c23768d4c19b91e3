package server

import (
	"strings"

	"banger/internal/fault"
)

// Users knows the users of images and kernels.
type Users interface {
	// References prevents new users of images and kernels while f runs. The maps hold the users by
	// the id of what they use.
	References(f func(images, kernels map[string][]string) error) error
}

// by returns a function that finds the users of an id.
func by(users map[string][]string) func(id string) []string {
	return func(id string) []string { return users[id] }
}

// unused calls remove. If remove refuses because of users, the hint says what to delete first.
func unused(users map[string][]string, remove func(inUse func(id string) []string) error) error {
	var found []string
	err := remove(func(id string) []string {
		found = users[id]
		return found
	})
	if err == nil || len(found) == 0 {
		return err
	}
	var vms, snapshots, lost, first []string
	for _, user := range found {
		if name, ok := strings.CutPrefix(user, "snapshot "); ok { // no VM's name has a space
			snapshots = append(snapshots, name)
		} else if name, ok := strings.CutPrefix(user, "lost VM "); ok {
			lost = append(lost, name)
		} else {
			vms = append(vms, user)
		}
	}
	const back = "`banger daemon recover` brings the lost VMs back, or remove their directories in lost/ of the state directory: "
	for i, do := range []string{"banger vm delete ", "banger snapshot delete ", back} {
		if names := [][]string{vms, snapshots, lost}[i]; len(names) > 0 {
			first = append(first, do+strings.Join(names, " "))
		}
	}
	return fault.New(fault.KindOf(err), "%w", err).WithHint("Delete what uses it first: %s", strings.Join(first, "; "))
}
