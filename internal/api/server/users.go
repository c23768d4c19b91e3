package server

import (
	"banger/internal/fault"
	"banger/internal/model"
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
	return fault.New(fault.KindOf(err), "%w", err).WithHint("%s", model.HintForUsers(found))
}
