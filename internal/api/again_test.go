package api

import (
	"context"
	"errors"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/model"
)

// TestAskAgain: the daemon ends before it answers. A request that only reads is sent once more, to
// the next daemon. No other request is.
func TestAskAgain(t *testing.T) {
	const vms = "HTTP/1.1 200 OK\nContent-Length: 2\nConnection: close\n\n[]"
	refused := fault.New(fault.WrongState, "it does not start")
	for name, c := range map[string]struct {
		next     string // the answer of the next daemon
		again    error  // why there is none
		ask      func(*Client) error
		says     string // the error; "": none
		attempts int
	}{
		"a list":                   {vms, nil, listVMs, "", 1},
		"a list, and it ends, too": {"", nil, listVMs, "went away", 1},
		"a list without a daemon":  {"", refused, listVMs, "it does not start", 1},
		"a change": {vms, nil, func(c *Client) error {
			_, err := c.VMs().Rename(t.Context(), "a", "b")
			return err
		}, "went away", 0},
		"a start": {vms, nil, func(c *Client) error {
			_, err := c.VMs().Start(t.Context(), "a", model.Start{}, nil)
			return err
		}, "went away", 0},
	} {
		t.Run(name, func(t *testing.T) {
			client, next, attempts := answering(t, ""), answering(t, c.next), 0
			client.t.again = func(context.Context) (*transport, error) {
				attempts++
				if c.again != nil {
					return nil, c.again
				}
				return next.t, nil
			}
			err := c.ask(client)
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("the answer is %v, want %q", err, c.says)
			}
			if c.again != nil && !errors.Is(err, c.again) {
				t.Errorf("the answer is %v, want %v", err, c.again)
			}
			if attempts != c.attempts {
				t.Errorf("the next daemon was asked %d times, want %d", attempts, c.attempts)
			}
		})
	}
}

func listVMs(c *Client) error {
	_, err := c.VMs().List(context.Background())
	return err
}
