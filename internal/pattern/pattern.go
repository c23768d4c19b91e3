// Package pattern compiles regular expressions at their first use. The CLI links most packages and
// uses few of their expressions, and some take a tenth of a millisecond each.
package pattern

import (
	"regexp"
	"sync"
)

// Lazy returns a function that compiles the expression when it is first called. It panics if the
// expression is wrong. The function is safe for concurrent use.
func Lazy(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
