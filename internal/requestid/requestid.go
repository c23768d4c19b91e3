// Package requestid carries the id of an API request through contexts, so that log lines, errors
// and bug reports about the same request can be matched. It uses the standard library only.
package requestid

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strings"
)

// maxLength bounds an id that a client chose, bytes.
const maxLength = 64

type key struct{}

// New returns a fresh random id of 16 hex digits.
func New() string {
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// Valid reports whether an id from outside may be used: 1 to 64 letters, digits, '.', '_' or '-'.
func Valid(id string) bool {
	return id != "" && len(id) <= maxLength && !strings.ContainsFunc(id, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-", r))
	})
}

// With returns a context that carries the id.
func With(ctx context.Context, id string) context.Context { return context.WithValue(ctx, key{}, id) }

// From returns the id that ctx carries, or "".
func From(ctx context.Context) string {
	id, _ := ctx.Value(key{}).(string)
	return id
}
