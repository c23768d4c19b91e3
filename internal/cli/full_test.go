package cli

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/fault"
	"banger/internal/paths"
)

// answers holds arguments with which a command prints an answer, by the command's path. Words in
// capitals stand for files of the test.
var answers = map[string][]string{
	"banger":                  {"--version"},
	"banger run":              {"-d", "--image", "x", "--name", "new"},
	"banger exec":             {"web", "--", "echo", "hi"},
	"banger ps":               {},
	"banger logs":             {"web"},
	"banger cp":               {"web:FILE", "-"},
	"banger start":            {"dev"},
	"banger stop":             {"web"},
	"banger fork":             {"web"},
	"banger pause":            {"web"},
	"banger resume":           {"web"},
	"banger suspend":          {"web"},
	"banger rm":               {"dev"},
	"banger vm create":        {"--image", "x", "--name", "new"},
	"banger vm kill":          {"web"},
	"banger vm restart":       {"web"},
	"banger vm delete":        {"dev"},
	"banger vm restore":       {"dev", "clean"},
	"banger vm list":          {"-q"},
	"banger vm show":          {"web"},
	"banger vm set":           {"dev", "--memory", "1G"},
	"banger vm rename":        {"dev", "other"},
	"banger vm stats":         {"web"},
	"banger vm ports":         {"web"},
	"banger vm prune":         {"-f"},
	"banger image list":       {},
	"banger image show":       {"debian"},
	"banger image pull":       {"debian"},
	"banger image import":     {"FILE", "--name", "x"},
	"banger image tag":        {"debian", "other"},
	"banger image set":        {"debian", "--template", "auto"},
	"banger image delete":     {"debian"},
	"banger image prune":      {"-y", "--json"},
	"banger kernel list":      {},
	"banger kernel show":      {"debian"},
	"banger kernel pull":      {},
	"banger kernel import":    {"FILE", "--name", "x"},
	"banger kernel tag":       {"debian", "other"},
	"banger kernel delete":    {"debian"},
	"banger kernel prune":     {"-y", "--json"},
	"banger snapshot create":  {"web"},
	"banger snapshot list":    {},
	"banger snapshot show":    {"night"},
	"banger snapshot restore": {"night"},
	"banger snapshot delete":  {"night"},
	"banger snapshot export":  {"-o", "-", "night"},
	"banger snapshot import":  {"SNAPSHOT"},
	"banger template list":    {},
	"banger template show":    {"i1b"},
	"banger template build":   {},
	"banger template delete":  {"i1b"},
	"banger template prune":   {"--all", "-y"},
	"banger disk usage":       {},
	"banger df":               {},
	"banger daemon status":    {},
	"banger daemon logs":      {},
	"banger daemon bundle":    {"--json", "NEW"},
	"banger doctor":           {"--json"},
	"banger config show":      {},
	"banger ssh-config":       {},
	"banger completion":       {"bash"},
	"banger version":          {},
	"banger exit-codes":       {},
	"banger environment":      {},
}

// silent holds the commands that print no answer, or none that a test can have, each with a reason.
var silent = map[string]string{
	"banger ssh":            "it becomes ssh",
	"banger vm proxy":       "it waits for the guest's SSH server, which the fake lacks",
	"banger daemon start":   "it prints nothing",
	"banger daemon stop":    "it prints nothing",
	"banger daemon restart": "it prints nothing",
	"banger daemon recover": "it starts bangerd",
}

// TestUnwrittenAnswer runs every command with a standard output that takes nothing. Each fails with
// a status that the help names. Without this, a program takes a lost answer for an empty one.
func TestUnwrittenAnswer(t *testing.T) {
	seen := map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		path := c.CommandPath()
		seen[path] = true
		args, ok := answers[path]
		_, top := answers["banger "+c.Name()]
		switch {
		case ok || c.HasSubCommands(): // a group prints its help
			t.Run(strings.ReplaceAll(path, " ", "_"), func(t *testing.T) { checkUnwritten(t, c, args) })
		case silent[path] == "" && silent["banger "+c.Name()] == "" && !top:
			t.Errorf("%s is neither in answers nor in silent", path)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(NewCommands())
	for path := range answers {
		if !seen[path] {
			t.Errorf("there is no command %q", path)
		}
	}
}

func checkUnwritten(t *testing.T, c *cobra.Command, args []string) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	run := func(out *os.File) (int, string) {
		home, _ := startFake(t)
		env := []string{"BANGER_HOME=" + home, "PATH=" + os.Getenv("PATH")}
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
		snapshot, quiet := file+".banger", Stdio{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}
		if code := Main([]string{"snapshot", "export", "-o", snapshot, "night"}, quiet, env); code != 0 {
			t.Fatalf("exporting a snapshot: exit %d", code)
		}
		console := paths.At(home).VM("0123456789abcdef").ConsoleLog()
		if err := errors.Join(os.MkdirAll(filepath.Dir(console), 0o700), os.WriteFile(console, []byte("boots\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
		words := strings.Fields(c.CommandPath())[1:]
		for _, a := range args {
			words = append(words, strings.NewReplacer("FILE", file, "SNAPSHOT", snapshot, "NEW", file+".new").Replace(a))
		}
		var stderr bytes.Buffer
		return Main(words, Stdio{In: strings.NewReader(""), Out: out, Err: &stderr}, env), stderr.String()
	}
	taken, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if code, stderr := run(taken); code != 0 && c.Name() != "doctor" {
		t.Fatalf("with a standard output that takes the answer: exit %d: %s", code, stderr)
	}
	if info, err := taken.Stat(); err != nil || info.Size() == 0 {
		t.Fatalf("the command prints no answer: %v", err)
	}
	want := fault.Unavailable.ExitCode()
	if c.Annotations[command.RunsGuest] != "" {
		want = command.ExitFailed
	}
	code, stderr := run(full)
	if code != want {
		t.Errorf("exit %d, want %d", code, want)
	}
	if !strings.Contains(stderr, "no space left on device") {
		t.Errorf("standard error does not say why: %s", stderr)
	}
	if !strings.Contains(stderr, "hint") || strings.Contains(stderr, "banger df") {
		t.Errorf("the hint is not about standard output: %s", stderr)
	}
	if i := slices.Index(args, "--name"); i >= 0 && !strings.Contains(stderr, args[i+1]) {
		t.Errorf("standard error does not name what was made, %s: %s", args[i+1], stderr)
	}
}
