package boottest

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"banger/internal/testkit"
)

// measureTSC finds the frequency of the host's time stamp counter in kHz: without it a third of emulated guests hang.
func measureTSC(t *testing.T) string {
	t.Helper()
	out, _ := exec.Command("dmesg").Output()
	found := regexp.MustCompile(`tsc: Detected (\d+)\.(\d{3}) MHz`).FindStringSubmatch(string(out))
	testkit.Require(t, "tsc", found != nil, "the kernel's log does not tell the TSC's frequency; set BANGER_TEST_TSC_KHZ")
	return strings.TrimLeft(found[1]+found[2], "0")
}
