package api

import (
	"context"
	"net/http"
	"time"
	"unicode/utf8"

	"banger/internal/model"
)

// Bounds of an ExecCall.
const (
	MaxExecStdin     = 1 << 20                // bytes
	MaxExecOutput    = 4 << 20                // bytes of each output that can be asked for
	DefaultExecBytes = 1 << 20                // bytes of each output that are kept if MaxOutput is unset
	DefaultExecTime  = 10 * time.Minute       // if Timeout is unset
	MaxExecTime      = 7 * 24 * time.Hour     // longer timeouts are mistaken units
	MaxExecBody      = 6*MaxExecStdin + 1<<20 // bytes of the request, whatever JSON makes of standard input
	ExitTimedOut     = 124                    // exit code of a command whose time was over, as timeout(1)
)

// ExecCall asks for one command in a running VM and for its whole result. It is the JSON body of
// the operation exec without an upgrade. The command ends when the client closes its connection.
type ExecCall struct {
	Argv        []string      `json:"argv"`                                   // the program, looked up in the guest's PATH, and its arguments
	Env         []string      `json:"env,omitempty"`                          // NAME=VALUE, added to the VM's environment
	User        string        `json:"user,omitempty"`                         // a name or uid, optionally with :group; the VM's if unset
	Workdir     string        `json:"workdir,omitempty"`                      // the VM's if unset
	Stdin       string        `json:"stdin,omitempty"`                        // standard input as text; at most 1 MiB
	StdinBase64 []byte        `json:"stdin_base64,omitempty"`                 // standard input as base64, instead of stdin
	Timeout     time.Duration `json:"timeout,omitempty" format:"nanoseconds"` // nanoseconds; 10 minutes if unset
	MaxOutput   model.Bytes   `json:"max_output,omitempty"`                   // bytes kept of each output; 1 MiB if unset, at most 4 MiB
}

// ExecResult is how a command ended and what it wrote.
type ExecResult struct {
	Code     int        `json:"code"`                // exit status; 128+n after signal n; 124 if the time was over
	Signal   string     `json:"signal,omitempty"`    // "SIGKILL", if a signal ended the command
	TimedOut bool       `json:"timed_out,omitempty"` // the time was over before the command ended
	Stdout   ExecOutput `json:"stdout"`
	Stderr   ExecOutput `json:"stderr"`
}

// ExecOutput is the beginning of what a command wrote. Valid UTF-8 is in text, and anything else in
// base64, so that no byte is changed. Only one of the two is set.
type ExecOutput struct {
	Text      string `json:"text,omitempty"`
	Base64    []byte `json:"base64,omitempty"`
	Truncated bool   `json:"truncated,omitempty"` // the command wrote more than was kept
	Missing   int64  `json:"missing,omitempty"`   // bytes that were not kept
}

// NewExecOutput describes data, after which missing bytes were not kept.
func NewExecOutput(data []byte, missing int64) ExecOutput {
	out := ExecOutput{Truncated: missing > 0, Missing: missing}
	if utf8.Valid(data) {
		out.Text = string(data)
	} else {
		out.Base64 = data
	}
	return out
}

// Bytes returns what the command wrote, as far as it was kept.
func (o ExecOutput) Bytes() []byte {
	if o.Base64 != nil {
		return o.Base64
	}
	return []byte(o.Text)
}

// ExecCall runs a command in a running VM to its end and returns its output. The end of ctx ends
// the command. For streams, a terminal or signals use Exec.
func (c *Client) ExecCall(ctx context.Context, ref string, call ExecCall) (ExecResult, error) {
	return ask[ExecResult](ctx, c, query{method: http.MethodPost, target: target("vms", ref, "exec", nil), in: call})
}
