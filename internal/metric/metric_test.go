package metric

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/step"
)

func filled() *Set {
	s := New("v1", "go1", time.Unix(1000, 0))
	s.StartDone("template", 240*time.Millisecond, []step.Record{
		{Name: "vmm", Duration: 30 * time.Millisecond}, {Name: "prepare/work-disk", Duration: time.Microsecond},
	})
	s.StartDone("boot", 3*time.Minute, nil)
	s.StartFailed("agent")
	s.StartFailed("")
	s.Forked(3, 20*time.Millisecond)
	s.Forked(1, 0)
	s.Standby(true)
	s.Standby(false)
	s.Standby(true)
	s.AgentRoundTrip("/v1/exec", 2*time.Millisecond)
	s.Request("/v1/vms/{ref}", "GET", 200)
	s.Request("/v1/vms/{ref}", "GET", 200)
	s.Request("other", "GET", 9999)
	return s
}

func scrape(t *testing.T, s *Set, src Source) string {
	t.Helper()
	var out bytes.Buffer
	if err := s.Write(t.Context(), &out, src); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestWrite(t *testing.T) {
	got := scrape(t, filled(), Source{
		VMs:       func() map[string]int { return map[string]int{"running": 2, "stopped": 0} },
		HostBytes: func(context.Context) (map[string]int64, error) { return map[string]int64{"vm": 4096}, nil },
	})
	for _, line := range []string{
		`banger_build_info{version="v1",goversion="go1"} 1`,
		`banger_vms{state="running"} 2`,
		`banger_vms{state="stopped"} 0`,
		`banger_vm_start_duration_seconds_bucket{origin="template",le="0.1"} 0`,
		`banger_vm_start_duration_seconds_bucket{origin="template",le="0.25"} 1`,
		`banger_vm_start_duration_seconds_bucket{origin="boot",le="120"} 0`,
		`banger_vm_start_duration_seconds_bucket{origin="boot",le="+Inf"} 1`,
		`banger_vm_start_duration_seconds_sum{origin="boot"} 180`,
		`banger_vm_start_duration_seconds_count{origin="boot"} 1`,
		`banger_vm_start_step_duration_seconds_count{origin="template",step="prepare/work-disk"} 1`,
		`banger_vm_start_failures_total{step="agent"} 1`,
		`banger_vm_start_failures_total{step="none"} 1`,
		`banger_forks_total 2`,
		`banger_fork_children_total 4`,
		`banger_fork_pause_seconds_count 1`,
		`banger_standby_requests_total{result="hit"} 2`,
		`banger_standby_requests_total{result="miss"} 1`,
		`banger_agent_round_trip_seconds_count{route="/v1/exec"} 1`,
		`banger_api_requests_total{route="/v1/vms/{ref}",method="GET",code="200"} 2`,
		`banger_api_requests_total{route="other",method="GET",code="other"} 1`,
		`banger_host_bytes{kind="vm"} 4096`,
		`process_start_time_seconds 1000`,
	} {
		if !strings.Contains(got, "\n"+line+"\n") {
			t.Errorf("the scrape lacks the line %s", line)
		}
	}
}

var (
	headLine   = regexp.MustCompile(`^# (HELP|TYPE) ([a-z_]+) (.+)$`)
	sampleLine = regexp.MustCompile(`^([a-z_]+)(\{(?:[a-z]+="(?:[^"\\\n]|\\.)*",?)+\})? (\S+)$`)
)

// TestConventions checks each line's form, that each metric has help and type before its samples,
// and that names end in a unit or in _total.
func TestConventions(t *testing.T) {
	s := filled()
	s.Request("a\\b\"c\nd", "GET", 200)
	help, kind := map[string]bool{}, map[string]string{}
	for line := range strings.Lines(scrape(t, s, Source{VMs: func() map[string]int { return nil }})) {
		line = strings.TrimSuffix(line, "\n")
		if m := headLine.FindStringSubmatch(line); m != nil {
			if m[1] == "HELP" {
				help[m[2]] = true
			} else {
				kind[m[2]] = m[3]
			}
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("no sample: %q", line)
			continue
		}
		if _, err := strconv.ParseFloat(m[3], 64); err != nil {
			t.Errorf("no number in %q", line)
		}
		name := m[1]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && kind[base] == "histogram" {
				name = base
			}
		}
		if !help[name] || kind[name] == "" {
			t.Errorf("%s has no help or type before its samples", name)
		}
	}
	for name, k := range kind {
		if k == "counter" && !strings.HasSuffix(name, "_total") {
			t.Errorf("the counter %s does not end in _total", name)
		}
		if k == "histogram" && !strings.HasSuffix(name, "_seconds") {
			t.Errorf("the histogram %s does not end in _seconds", name)
		}
	}
	if len(kind) < 15 {
		t.Errorf("only %d metrics were written", len(kind))
	}
}

func TestSeriesAreBounded(t *testing.T) {
	s := New("", "", time.Now())
	for i := range 3 * maxSeries {
		s.Request(fmt.Sprint(i), "GET", 200)
	}
	got := scrape(t, s, Source{})
	if n := strings.Count(got, "\nbanger_api_requests_total{"); n != maxSeries+1 {
		t.Errorf("%d series were written, want %d", n, maxSeries+1)
	}
	want := fmt.Sprintf(`banger_api_requests_total{route="other",method="other",code="other"} %d`, 2*maxSeries)
	if !strings.Contains(got, want) {
		t.Errorf("the scrape lacks %s", want)
	}
}

func TestHostBytesAreComputedOnce(t *testing.T) {
	s := New("", "", time.Now())
	calls := 0
	src := Source{HostBytes: func(context.Context) (map[string]int64, error) {
		calls++
		return map[string]int64{"image": int64(calls)}, nil
	}}
	for range 3 {
		if got := scrape(t, s, src); !strings.Contains(got, `banger_host_bytes{kind="image"} 1`) {
			t.Errorf("the first result was not kept:\n%s", got)
		}
	}
	if calls != 1 {
		t.Errorf("host bytes were computed %d times in a minute", calls)
	}
	s.bytes.at = time.Now().Add(-2 * bytesEvery)
	src.HostBytes = func(context.Context) (map[string]int64, error) { return nil, errors.New("no") }
	if got := scrape(t, s, src); strings.Contains(got, "banger_host_bytes") {
		t.Error("host bytes were written although they could not be computed")
	}
}

func TestNilSetCountsNothing(t *testing.T) {
	var s *Set
	s.StartDone("boot", 1, nil)
	s.StartFailed("x")
	s.Forked(1, 1)
	s.Standby(true)
	s.AgentRoundTrip("/", 1)
	s.Request("/", "GET", 200)
}

func TestConcurrentUse(t *testing.T) {
	s := New("", "", time.Now())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				s.Standby(true)
				s.AgentRoundTrip("/v1/hello", time.Millisecond)
			}
		})
	}
	wg.Go(func() { scrape(t, s, Source{}) })
	wg.Wait()
	if got := scrape(t, s, Source{}); !strings.Contains(got, `banger_standby_requests_total{result="hit"} 800`) {
		t.Error("counts were lost")
	}
}

func BenchmarkAgentRoundTrip(b *testing.B) {
	s := New("", "", time.Now())
	for b.Loop() {
		s.AgentRoundTrip("/v1/hello", time.Millisecond)
	}
}
