package guest

import (
	"context"
	"io"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/guest/relay"
)

// IO holds a command's standard streams. A nil Stdin is empty; a nil writer discards.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Exec runs a command to its end. The end of ctx hangs up on the command. Stdin may still be
// blocked in a Read when Exec returns.
func (c *Client) Exec(ctx context.Context, req proto.ExecRequest, streams IO) (proto.Exit, error) {
	conn, err := c.Upgrade(ctx, "/v1/exec")
	if err != nil {
		return proto.Exit{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	req.Stdin = streams.Stdin != nil
	command, err := relay.Start(conn, req)
	if err != nil {
		return proto.Exit{}, err
	}
	stdin := command.Stdin()
	if streams.Stdin != nil {
		go func() {
			io.Copy(stdin, streams.Stdin)
			stdin.Close()
		}()
	}
	defer stdin.Close()
	exit, err := command.Collect(streams.Stdout, streams.Stderr, stdin)
	if ctx.Err() != nil {
		err = fault.New(fault.Canceled, "running a command in the guest: %w", context.Cause(ctx))
	}
	return exit, err
}

// ParseExit reads the payload of the frame that ends a command, for a caller of Upgrade.
func ParseExit(payload []byte) (proto.Exit, error) { return relay.ParseExit(payload) }
