package vmm

import (
	"slices"
	"time"

	"banger/internal/fault"
)

// Info describes what a driver would run on this host.
type Info struct {
	Version  string
	Path     string
	Accel    string        // AccelKVM or AccelTCG
	Why      string        // why this accelerator, for a person
	Grace    time.Duration // how long a guest may take to boot with it
	Features Features

	Recommendations []Recommendation
}

// How a guest's instructions are run.
const (
	AccelKVM = "kvm" // by the CPU
	AccelTCG = "tcg" // translated: the first run of code in a process costs many times the next one
)

// Feature is something that a driver offers and that no optional interface expresses. The package
// comment says which questions an interface answers.
type Feature string

// The features.
const (
	FeatureUserNet     Feature = "user network"                      // machines may have a NICUser
	FeatureTap         Feature = "tap network"                       // machines may have a NICTap
	FeatureWire        Feature = "wire network"                      // machines may have a NICWire
	FeatureTellsReboot Feature = "telling a reboot from a power-off" // see ExitReason
)

// Features is a set of features.
type Features []Feature

// Has reports whether f is in the set.
func (fs Features) Has(f Feature) bool { return slices.Contains(fs, f) }

// Require returns fault.Unsupported if f is not in the set. driver names the driver in the message.
func (fs Features) Require(driver string, f Feature) error {
	if fs.Has(f) {
		return nil
	}
	return fault.New(fault.Unsupported, "the driver %s does not support: %s", driver, f)
}

// Feature returns the feature that a driver must have for a NIC of this kind.
func (k NICKind) Feature() Feature {
	switch k {
	case NICTap:
		return FeatureTap
	case NICWire:
		return FeatureWire
	}
	return FeatureUserNet
}

// Recommendation is a driver's advice for choosing a default. A choice of the user takes
// precedence.
type Recommendation struct {
	Kind   RecommendationKind
	Value  int
	Reason string // for a person
}

// RecommendationKind is what a recommendation is about. It is a text for a person, too.
type RecommendationKind string

// MaxVCPUsWithInit is how many virtual CPUs a guest should have at most if its image has an init of
// its own, such as systemd.
const MaxVCPUsWithInit RecommendationKind = "virtual CPUs of a guest whose image has an init, at most"

// Recommended returns the recommendation of that kind, if there is one.
func (i Info) Recommended(kind RecommendationKind) (Recommendation, bool) {
	for _, r := range i.Recommendations {
		if r.Kind == kind {
			return r, true
		}
	}
	return Recommendation{}, false
}
