package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/requestid"
)

// TestLookInside runs commands by the plain call of the API, and looks for them in metrics, logs
// and a bundle.
func TestLookInside(t *testing.T) {
	h := warm(t)
	h.WriteConfig(t, "log_level = \"debug\"\nlog_format = \"json\"\n")
	ok(t, h, "run", "-d", "--name", "box", "-e", "TOKEN=planted-in-the-env", "--net", "none")
	client := api.Dial(filepath.Join(h.Dir, "run", "bangerd.sock"))
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	got, err := client.Guests().Call(requestid.With(ctx, "my-request"), "box", api.ExecCall{
		Argv: []string{"sh", "-c", "cat; echo $A $PWD >&2; exit 3"}, Env: []string{"A=1"}, Workdir: "/tmp", StdinBase64: all,
	})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "exit code", got.Code, 3)
	equal(t, "standard error", string(got.Stderr.Bytes()), "1 /tmp\n")
	if !bytes.Equal(got.Stdout.Bytes(), all) {
		t.Errorf("the bytes came back as %+v", got.Stdout)
	}
	got, err = client.Guests().Call(ctx, "box", api.ExecCall{Argv: []string{"sh", "-c", "yes | head -c 3000000"}, MaxOutput: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "bytes that were not kept", got.Stdout.Missing, 3_000_000-1<<20)
	got, err = client.Guests().Call(ctx, "box", api.ExecCall{Argv: []string{"sh", "-c", "echo before; sleep 100"}, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "exit code after the timeout", got.Code, api.ExitTimedOut)
	equal(t, "output before the timeout", got.Stdout.Text, "before\n")
	got, err = client.Guests().Call(ctx, "box", api.ExecCall{Argv: []string{"sh", "-c", "kill -9 $$"}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "signal", got.Signal, "SIGKILL")
	if _, err = client.Guests().Call(ctx, "nobody", api.ExecCall{Argv: []string{"x"}}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a command in no VM: %v", err)
	}

	metrics, err := client.Daemon().Metrics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`banger_vms\{state="running"\} 1`, `banger_agent_round_trip_seconds_count\{route="/v1/exec"\} [4-9]`,
		`banger_api_requests_total\{route="/v1/vms/\{ref\}/exec",method="POST",code="200"\} 4`, `banger_host_bytes\{kind="vm"\} [1-9]`,
	} {
		if !regexp.MustCompile(`(?m)^` + line).Match(metrics) {
			t.Errorf("the metrics lack %s:\n%s", line, metrics)
		}
	}
	log, err := os.ReadFile(filepath.Join(h.Dir, "state", "bangerd.log"))
	if err != nil {
		t.Fatal(err)
	}
	matches(t, string(log), `"operation":"exec".*"request":"my-request"`)
	matches(t, string(log), `"msg":"step".*"request":"`)

	bundle := filepath.Join(h.Dir, "report.tar.gz")
	has(t, ok(t, h, "daemon", "bundle", bundle), "records/vms.json", "console.log", "goroutines.txt")
	text := run(t, h, "tar", "-xzOf", bundle)
	has(t, text, `"TOKEN": "(removed)"`, "banger_vms", "goroutine ")
	if strings.Contains(text, "planted-in-the-env") {
		t.Error("the bundle holds a value of the VM's environment")
	}
	ok(t, h, "rm", "-f", "box")
}
