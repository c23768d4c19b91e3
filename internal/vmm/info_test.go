package vmm_test

import (
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/vmm"
)

func TestFeatures(t *testing.T) {
	fs := vmm.Features{vmm.FeatureUserNet}
	if err := fs.Require("x", vmm.NICUser.Feature()); err != nil {
		t.Errorf("a feature of the set is refused: %v", err)
	}
	err := fs.Require("x", vmm.NICTap.Feature())
	if fault.KindOf(err) != fault.Unsupported || !strings.Contains(err.Error(), "the driver x") {
		t.Errorf("a missing feature is not refused with the driver's name: %v", err)
	}
}

func TestRecommended(t *testing.T) {
	want := vmm.Recommendation{Kind: vmm.MaxVCPUsWithInit, Value: 1, Reason: "because"}
	info := vmm.Info{Recommendations: []vmm.Recommendation{{Kind: "other", Value: 7}, want}}
	if got, ok := info.Recommended(vmm.MaxVCPUsWithInit); !ok || got != want {
		t.Errorf("a recommendation is not found by its kind: %+v, %v", got, ok)
	}
	if got, ok := (vmm.Info{}).Recommended(vmm.MaxVCPUsWithInit); ok {
		t.Errorf("a driver without recommendations recommends %+v", got)
	}
}
