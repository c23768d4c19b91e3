package api

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"syscall"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
)

// The modes of bangerd --recover.
const (
	RecoverPlan = "plan" // says what it would do
	RecoverDo   = "do"
	// RecoverCheck only says whether a daemon would start with the records that there are.
	RecoverCheck = "check"
)

// Recovered is what bangerd --recover writes to standard output.
type Recovered struct {
	Result  *model.Rescue `json:"result,omitempty"`
	Problem *Problem      `json:"problem,omitempty"`
}

// Recover has bangerd bring records back. It needs a stopped daemon, because a daemon does not
// start without its records. bangerd is the only program that contains a database.
func Recover(ctx context.Context, mode string) (model.Rescue, error) {
	program, err := paths.Program("bangerd")
	if err != nil {
		return model.Rescue{}, fault.New(fault.Unavailable, "starting bangerd: %w", err).
			WithHint("Run `make build`, or install bangerd next to banger.")
	}
	cmd := exec.CommandContext(ctx, program, "--recover="+mode)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Dir = "/"
	cmd.Env = daemonEnv(os.Environ())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	exit := cmd.Run()
	var answer Recovered
	switch err := json.Unmarshal(out.Bytes(), &answer); {
	case err == nil && answer.Problem != nil:
		return model.Rescue{}, answer.Problem.Err()
	case err == nil && answer.Result != nil:
		return *answer.Result, nil
	}
	return model.Rescue{}, fault.New(fault.Internal, "running bangerd --recover: it ended without an answer: %w", exit)
}

// CheckRecords returns why a daemon would not start with the home's records. It changes nothing.
func CheckRecords(ctx context.Context) error {
	_, err := Recover(ctx, RecoverCheck)
	return err
}
