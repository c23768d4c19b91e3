package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/internal/cli/command"
)

// TestMain makes the test binary act as banger if a script calls it by that name.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"banger": func() {
			os.Exit(Main(os.Args[1:], command.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Environ()))
		},
	})
}

// noRaceSleep keeps programs with the race detector from sleeping for a second before they exit.
const noRaceSleep = "GORACE=atexit_sleep_ms=0"

// TestScripts runs testdata/script/*.txtar, each with a fake daemon of its own. It adds two
// commands to testscript's: "status N CMD..." runs a command and checks its exit status, and "ages
// FILE" replaces times in an output, so that it can be compared.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		UpdateScripts:      os.Getenv("BANGER_TEST_UPDATE") != "",
		RequireUniqueNames: true,
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Setup: func(env *testscript.Env) error {
			home, _ := startFake(env.T().(testing.TB))
			env.Setenv("BANGER_HOME", home)
			env.Setenv("TERM", "xterm")
			env.Vars = append(env.Vars, noRaceSleep)
			banger, err := exec.LookPath("banger")
			if err != nil {
				return err
			}
			env.Setenv("BANGER_BIN", filepath.Dir(banger))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": scriptStatus,
			"ages":   scriptAges,
		},
	})
}

func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N CMD [ARG...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("%s ended with %v, want exit status %s\n%s%s", strings.Join(args[1:], " "), err, args[0], ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

var (
	moments = regexp.MustCompile(`\S+( \S+)? ago \(.*?\)`)
	seconds = regexp.MustCompile(`\b2h 1[01]m\b`)
)

func scriptAges(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := moments.ReplaceAllString(ts.ReadFile(name), "MOMENT")
		text = seconds.ReplaceAllString(text, "2h 10m")
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}
