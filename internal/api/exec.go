package api

import (
	"time"
	"unicode/utf8"

	"banger/internal/model"
)

// Bounds of an ExecCall.
const (
	MaxExecStdin     = 1 << 20                // bytes
	MaxExecOutput    = 4 << 20                // bytes of each output that can be asked for
	DefaultExecBytes = 1 << 20                // bytes of each output, if MaxOutput is unset
	DefaultExecTime  = 10 * time.Minute       // if Timeout is unset
	MaxExecTime      = 7 * 24 * time.Hour     // a longer timeout is probably a wrong unit
	MaxExecBody      = 6*MaxExecStdin + 1<<20 // bytes; JSON may write a byte of input as six
	ExitTimedOut     = 124                    // exit code after a timeout, as timeout(1)
)

// ExecCall asks for one command in a running VM and for its complete result. It is the JSON body of
// the operation exec without an upgrade. If the client closes its connection, the command ends.
type ExecCall struct {
	// Program (looked up in the guest's PATH), arguments.
	Argv []string `json:"argv"`
	// NAME=VALUE, added to the VM's environment.
	Env []string `json:"env,omitempty"`
	// A name or uid, optionally with :group; the VM's if unset.
	User    string `json:"user,omitempty"`
	Workdir string `json:"workdir,omitempty"` // the VM's if unset
	// Standard input as text; at most 1 MiB.
	Stdin string `json:"stdin,omitempty"`
	// Standard input as base64, instead of stdin.
	StdinBase64 []byte `json:"stdin_base64,omitempty"`
	// Nanoseconds; 10 minutes if unset.
	Timeout time.Duration `json:"timeout,omitempty" format:"nanoseconds"`
	// Bytes kept of each output; 1 MiB if unset, at most 4 MiB.
	MaxOutput model.Bytes `json:"max_output,omitempty"`
}

// ExecResult says how a command ended and what it wrote.
type ExecResult struct {
	// Exit status; 128+n after signal n; 124 if the time was over.
	Code     int        `json:"code"`
	Signal   string     `json:"signal,omitempty"`    // "SIGKILL", if a signal ended the command
	TimedOut bool       `json:"timed_out,omitempty"` // the time was over before the command ended
	Stdout   ExecOutput `json:"stdout"`
	Stderr   ExecOutput `json:"stderr"`
}

// ExecOutput is the beginning of what a command wrote. Valid UTF-8 is in text, anything else is in
// base64, so that no byte is changed. Only one of the two fields is set.
type ExecOutput struct {
	Text      string `json:"text,omitempty"`
	Base64    []byte `json:"base64,omitempty"`
	Truncated bool   `json:"truncated,omitempty"` // the command wrote more than was kept
	Missing   int64  `json:"missing,omitempty"`   // bytes that were not kept
}

// NewExecOutput describes an output of which data was kept and missing more bytes were not.
func NewExecOutput(data []byte, missing int64) ExecOutput {
	out := ExecOutput{Truncated: missing > 0, Missing: missing}
	if utf8.Valid(data) {
		out.Text = string(data)
	} else {
		out.Base64 = data
	}
	return out
}

// Bytes returns the part of the output that was kept.
func (o ExecOutput) Bytes() []byte {
	if o.Base64 != nil {
		return o.Base64
	}
	return []byte(o.Text)
}
