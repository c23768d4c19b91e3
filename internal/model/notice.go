package model

import "fmt"

// Notice is what a person should know about an operation that has succeeded, such as a name that
// moved.
type Notice struct {
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"` // what the person can do
}

// NameMoved is the notice that a name now means another thing of a kind, such as "image".
func NameMoved(kind, name, now, before string) Notice {
	return Notice{
		Text: fmt.Sprintf("%s now names %.12s; before, it named %.12s", name, now, before),
		Hint: fmt.Sprintf("To undo this: banger %s tag %.12s %s", kind, before, name),
	}
}

// NameKept is the notice that a thing of a kind did not get a name that nobody asked for.
func NameKept(kind, name, id, why string) Notice {
	return Notice{
		Text: fmt.Sprintf("%s %.12s does not get the name %s: %s", kind, id, name, why),
		Hint: fmt.Sprintf("To give it that name: banger %s tag %.12s %s", kind, id, name),
	}
}
