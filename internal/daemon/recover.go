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
	"banger/internal/store"
)

// Recover brings records back while no daemon runs, for `banger daemon recover`. The mode is
// api.RecoverPlan or api.RecoverDo. With api.RecoverCheck it only checks the records, for
// `banger doctor`. It writes an api.Recovered to out.
func Recover(ctx context.Context, layout paths.Layout, mode string, out io.Writer) error {
	result, err := recoverHome(ctx, layout, mode)
	answer := api.Recovered{Problem: api.ProblemOf(err)}
	if err == nil {
		answer.Result = &result
	}
	return errors.Join(err, json.NewEncoder(out).Encode(answer))
}

func recoverHome(ctx context.Context, layout paths.Layout, mode string) (result model.Rescue, err error) {
	switch mode {
	case api.RecoverPlan, api.RecoverDo:
	case api.RecoverCheck:
		return result, checkRecords(ctx, layout)
	default:
		return result, fault.New(fault.Invalid, "--recover: %q is not %s, %s or %s", mode, api.RecoverPlan, api.RecoverDo, api.RecoverCheck)
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

// checkRecords returns why a daemon would not start with the records that there are. It changes
// nothing. A daemon that works has checked them.
func checkRecords(ctx context.Context, layout paths.Layout) error {
	isAtWork := func() bool {
		daemon, err := home.Holder(layout)
		return err == nil && daemon.PID != 0
	}
	if isAtWork() {
		return nil
	}
	err := errors.Join(home.CheckDatabase(layout), checkMachines(layout))
	if err == nil && hasDatabase(layout) {
		err = store.OnCopy(ctx, layout.Database(), func(s *store.Store) error {
			return checkCurrent(ctx, s, layout, func(ctx context.Context, db home.Records, keys home.Keys) error {
				return home.Look(ctx, layout, db, keys)
			})
		})
	}
	if err != nil && isAtWork() { // it may have changed what was compared
		return nil
	}
	return err
}

// hasDatabase reports whether there is more than SQLite's empty file.
func hasDatabase(layout paths.Layout) bool {
	info, err := os.Stat(layout.Database())
	return err == nil && info.Size() > 0
}
