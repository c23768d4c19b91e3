package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/home"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/rescue"
)

// Recover brings records back while no daemon runs, for `banger daemon recover`. The mode is
// api.RecoverPlan or api.RecoverDo. It writes an api.Recovered to out.
func Recover(ctx context.Context, layout paths.Layout, mode string, out io.Writer) error {
	result, err := recoverHome(ctx, layout, mode)
	answer := api.Recovered{Problem: api.ProblemOf(err)}
	if err == nil {
		answer.Result = &result
	}
	return errors.Join(err, json.NewEncoder(out).Encode(answer))
}

func recoverHome(ctx context.Context, layout paths.Layout, mode string) (result model.Rescue, err error) {
	if mode != api.RecoverPlan && mode != api.RecoverDo {
		return result, fault.New(fault.Invalid, "--recover: %q is neither %s nor %s", mode, api.RecoverPlan, api.RecoverDo)
	}
	if _, err := os.Stat(layout.State); errors.Is(err, fs.ErrNotExist) {
		return result, fault.New(fault.NotFound, "there is nothing to recover: %s does not exist", layout.State)
	}
	waiting, cancel := context.WithTimeout(ctx, lockTimeout)
	held, err := home.Acquire(waiting, layout)
	cancel()
	if err != nil {
		return result, fmt.Errorf("recovering needs a stopped daemon: %w", err)
	}
	defer func() { err = errors.Join(err, held.Release()) }()
	if err := held.CheckState(); err != nil {
		return result, err
	}
	return rescue.Run(ctx, held.Layout(), mode == api.RecoverPlan)
}
